"""The recommendation: a value for every parameter at the target, with its interval, reason and evidence.

It refuses, with the reason, where a value would be a guess.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any

from pydantic import BaseModel, ConfigDict

from hpsearch.conditions import active_values
from hpsearch.events import TrialState
from hpsearch.plan import architecture
from hpsearch.state import SearchState
from hpsearch.surface import Estimate, Surface
from hpsearch.targets import ResolvedTarget
from hpsearch.transfer.proof import can_predict, fit_search, proof_result
from hpsearch.transfer.pruning import PruningReport, pruning_report
from hpsearch.transfer.reach import broken_sizes_warning, is_at_edge, refusal
from hpsearch.transfer.stability import StabilityEdge, stability_edges
from hpsearch.transfer.status import Status, decide, drift_is_told
from hpsearch.trials_table import observations
from search_spaces.errors import UserError
from search_spaces.parameter import Parameter


class Frozen(BaseModel):
    """Base of the parts of a recommendation."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Recommended(Frozen):
    """One parameter at the target."""

    value: float
    low80: float
    high80: float
    low95: float
    high95: float
    status: Status
    reason: str
    damage: float  # expected cost of this value, as a fraction of the loss
    damage_bound90: float


class Evidence(Frozen):
    """What the recommendation rests on."""

    trials: int
    observations: int
    settings: int
    sizes: tuple[int, ...]  # non-embedding parameters
    flops: int
    pruned: int
    diverged: int
    noise: float  # relative sd of a run's loss over seeds
    ledger_seq: int


class Recommendation(Frozen):
    """All that a training lead carries away. Fractions are of the loss."""

    search: str
    target: str
    target_params: int  # non-embedding
    target_tokens: float
    parameters: dict[str, Recommended]
    expected_regret: float
    regret_bound90: float
    predicted_loss: float
    predicted_loss_low80: float
    predicted_loss_high80: float
    reach_params: float  # target over largest measured
    reach_tokens: float
    exponents: dict[str, dict[str, dict[str, float]]]
    backtest: dict[str, Any] | None
    proof: dict[str, Any] | None
    stability: tuple[StabilityEdge, ...]  # of each size, smallest first
    pruning: PruningReport
    evidence: Evidence
    warnings: tuple[str, ...]
    refused: str | None


def recommend(state: SearchState, target: ResolvedTarget) -> Recommendation:
    """Fits the surface to all of a search and reads it at the target.

    Raises:
        UserError: too little was measured to fit anything.
    """
    if not can_predict(state):
        raise UserError(
            f"{state.spec.name}: too few finished measurements to recommend from; resume or widen the search"
        )
    surface = fit_search(state, proof=True)
    params, tokens = target.architecture.params, target.tokens
    estimates = surface.optimum(params, tokens)
    searched = _searched(state, surface, estimates, target)
    values = {name: recommended.value for name, recommended in searched.items()}
    regret = surface.expected_regret(params, tokens, values)
    loss = surface.predict_loss(params, tokens, values)
    proof = proof_result(state, surface.noise_fraction)
    return Recommendation(
        search=state.spec.name,
        target=target.name,
        target_params=params,
        target_tokens=tokens,
        parameters={**searched, **_fixed(state)},
        expected_regret=regret.mean,
        regret_bound90=regret.bound90,
        predicted_loss=loss.median,
        predicted_loss_low80=loss.low80,
        predicted_loss_high80=loss.high80,
        reach_params=params / surface.sweep.settings[:, 0].max(),
        reach_tokens=tokens / surface.sweep.settings[:, 1].max(),
        exponents={name: asdict(exponents) for name, exponents in surface.exponents.items()},
        backtest={name: asdict(tested) for name, tested in surface.backtest.items()} or None,
        proof=asdict(proof[0]) if proof else None,
        stability=stability_edges(observations(state, proof=True)),
        pruning=pruning_report(state, surface),
        evidence=_evidence(state, surface),
        warnings=tuple(_warnings(state, surface, target, values)),
        refused=refusal(surface, params, tokens) or None,
    )


def _held(surface: Surface, parameter: Parameter, value: float) -> float:
    """A value that may be used: only a parameter whose drift the trials tell may leave its searched range."""
    free = drift_is_told(surface, parameter) and not parameter.values and not parameter.integer
    return value if free else parameter.nearest(value)


def _searched(
    state: SearchState, surface: Surface, estimates: Mapping[str, Estimate], target: ResolvedTarget
) -> dict[str, Recommended]:
    parameters, space = state.spec.parameters, state.spec.space
    best = {parameter.name: _held(surface, parameter, estimates[parameter.name].value) for parameter in parameters}
    recommended = {}
    for parameter, value in zip(parameters, active_values(space, best).values(), strict=True):
        if value != best[parameter.name]:
            recommended[parameter.name] = _settled(value, f"off, as {_text(space[parameter.name].when)} does not hold")
            continue
        estimate = estimates[parameter.name]
        decided = decide(surface, parameter, value, target.architecture.params, target.tokens)
        recommended[parameter.name] = Recommended(
            value=value,
            low80=_held(surface, parameter, estimate.low80),
            high80=_held(surface, parameter, estimate.high80),
            low95=_held(surface, parameter, estimate.low95),
            high95=_held(surface, parameter, estimate.high95),
            **asdict(decided),
        )
    return recommended


def _fixed(state: SearchState) -> dict[str, Recommended]:
    """What the user fixed comes back as it was: the searched values hold beside it."""
    fixed = [name for name in state.spec.parameter_names if name not in state.spec.space]
    reason = {name: "in the search file" if name in state.spec.fixed else "hpsearch's default" for name in fixed}
    return {name: _settled(state.spec.value(name), reason[name]) for name in fixed}


def _settled(value: float, reason: str) -> Recommended:
    """A value that no trial was asked about."""
    return Recommended(
        value=value,
        low80=value,
        high80=value,
        low95=value,
        high95=value,
        status=Status.FIXED,
        reason=reason,
        damage=0.0,
        damage_bound90=0.0,
    )


def _text(condition: Mapping[str, tuple[float, ...]]) -> str:
    """`qk_norm = 0 and beta2 = 0.95 or 0.99`"""
    return " and ".join(f"{name} = {' or '.join(f'{v:g}' for v in allowed)}" for name, allowed in condition.items())


def _evidence(state: SearchState, surface: Surface) -> Evidence:
    states = [trial.state for trial in state.trials.values()]
    return Evidence(
        trials=len(states),
        observations=surface.num_observations,
        settings=surface.num_settings,
        sizes=tuple(sorted({int(size) for size in surface.sweep.settings[:, 0]})),
        flops=state.spent_flops,
        pruned=states.count(TrialState.PRUNED),
        diverged=states.count(TrialState.DIVERGED),
        noise=surface.noise_fraction,
        ledger_seq=state.seq,
    )


def _warnings(
    state: SearchState, surface: Surface, target: ResolvedTarget, values: Mapping[str, float]
) -> Iterator[str]:
    parameters = state.spec.parameters
    sizes = len(set(surface.sweep.settings[:, 0]))
    if sizes < 3:
        yield f"{sizes} sizes measured: the drift with N cannot be checked; use three or more"
    untold = [p.name for p in parameters if not p.freezable and not drift_is_told(surface, p)]
    if untold:
        yield f"{', '.join(untold)}: the trials do not tell the drift, only the prior does; held to the searched range"
    for parameter in parameters:
        at_edge = [] if parameter.freezable else _sizes_at_edge(state, surface, parameter)
        if at_edge:
            where = ", ".join(f"{params:,.0f}" for params in at_edge)
            yield f"{parameter.name}: the optimum lies at the edge of the searched range at N = {where}; widen it"
    yield from broken_sizes_warning(surface)
    for name, tested in surface.backtest.items():
        if not tested.inside:
            yield (
                f"{name}: predicted from the smaller sizes it missed the fitted optimum at N = {tested.params:,.0f} "
                f"({tested.fitted:.3g} outside [{tested.predicted.low80:.3g}, {tested.predicted.high80:.3g}])"
            )
    batch_sequences = values.get("batch_sequences", 0) or state.spec.value("batch_sequences")
    batch_tokens = round(batch_sequences) * state.spec.context_tokens
    if target.published_batch_tokens and target.published_batch_tokens != batch_tokens:
        yield (
            f"batch: measured at {batch_tokens:,} tokens a step, {target.name} was trained with "
            f"{target.published_batch_tokens:,}; the learning rate holds for the measured one"
        )
    unlike = target.unlike(architecture(state.spec, len(state.spec.ladder) - 1))
    if unlike:
        yield f"parts: {target.name} has {', '.join(unlike)}; give the search a model of these parts, or trust it less"
    if state.closed is None or not state.closed.complete:
        yield "the search is not complete; `hpsearch resume` first"


def _sizes_at_edge(state: SearchState, surface: Surface, parameter: Parameter) -> list[float]:
    """The sizes of the ladder at whose longest budget the optimum lies near an end of the range, or beyond it."""
    centers = {
        params: parameter.coordinate(parameter.nearest(surface.optimum(params, tokens)[parameter.name].median))
        for params, tokens in _largest_settings(state, surface)
    }
    return [n for n, center in centers.items() if is_at_edge(center, parameter.bounds)]


def _largest_settings(state: SearchState, surface: Surface) -> list[tuple[float, float]]:
    """The longest budget of each size of the ladder."""
    sizes = {state.spec.architecture(proxy).params for proxy in state.spec.ladder}
    longest: dict[float, float] = {}
    for params, tokens in surface.sweep.settings:
        if int(params) in sizes:
            longest[params] = max(tokens, longest.get(params, 0.0))
    return sorted(longest.items())
