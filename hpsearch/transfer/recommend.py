"""The recommendation: a value for every parameter at the target, with its interval, reason and evidence.

It refuses, with the reason, where a value would be a guess.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from hpsearch.conditions import active_values
from hpsearch.domains import SEARCHABLE
from hpsearch.events import TrialState
from hpsearch.freeze_stage import FreezeAudit, freeze_audit
from hpsearch.plan import architecture, run_config, weight_decay_of
from hpsearch.state import SearchState
from hpsearch.surface import Estimate, Priors, Surface
from hpsearch.surface_stability import stability
from hpsearch.targets import ResolvedTarget
from hpsearch.transfer.advice import (
    Alternative,
    Comparison,
    EarlyLoss,
    NextTrial,
    Reach,
    TieSet,
    alternatives,
    best_next_trial,
    compared,
    early_loss,
    model_error_share,
    predicted_loss,
    tie_set,
)
from hpsearch.transfer.part import Part
from hpsearch.transfer.proof import can_predict, fit_search, proof_result
from hpsearch.transfer.pruning import PruningReport, pruning_report
from hpsearch.transfer.reach import broken_sizes_warning, is_at_edge, reach, refusal
from hpsearch.transfer.scaling_laws import critical_batch
from hpsearch.transfer.stability import StabilityEdge, stability_edges
from hpsearch.transfer.status import Status, decide, drift_is_told
from hpsearch.trials_table import observations
from search_spaces.errors import UserError
from search_spaces.parameter import Parameter
from trials.parametrization import Rule
from trials.trial import DecayConvention


class Recommended(Part):
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
    tie_set: TieSet | None  # null of what is fixed, or off


class Block(Part):
    """What moves together at the target, in the units in which it does."""

    batch_tokens: int  # of lowest loss; that the loss is no worse, and time is saved, is another batch:
    critical_batch_tokens: float  # Kaplan et al. 2020 at the predicted loss: a trade of time against compute
    warmup_tokens: int
    weight_decay: float
    timescale: float | None  # of weight decay, B / (lr wd D), a fraction of the run; None without decay


class Evidence(Part):
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


class Recommendation(Part):
    """All that a training lead carries away. Fractions are of the loss."""

    search: str
    target: str
    target_params: int  # non-embedding
    target_tokens: float
    parameters: dict[str, Recommended]
    block: Block
    expected_regret: float
    regret_bound90: float
    model_error_share: float  # of the expected regret, what the hold-out says that the form cannot do
    compare: Comparison | None  # the user's own configuration
    alternatives: dict[str, Alternative]  # published laws, the published rate, the largest size's best copied
    predicted_loss: float
    predicted_loss_low80: float
    predicted_loss_high80: float
    early_loss: EarlyLoss
    reach: Reach
    priors: dict[str, float]  # weight of each hypothesis
    exponents: dict[str, dict[str, dict[str, float]]]
    backtest: dict[str, Any] | None
    proof: dict[str, Any] | None
    stability: tuple[StabilityEdge, ...]  # of each size, smallest first
    stability_at_target: dict[str, Any] | None  # of the recommended configuration
    next_trial: NextTrial
    pruning: PruningReport
    freeze_audit: FreezeAudit | None  # of what the search froze in mid-course
    evidence: Evidence
    warnings: tuple[str, ...]
    refused: str | None


@dataclass(frozen=True)
class Ask:
    """What is asked of a search, beside the target."""

    priors: Priors = "neutral"
    fixed: Mapping[str, float] = field(default_factory=dict)  # held at the target
    compare: Mapping[str, float] | None = None  # None: nothing; a parameter that it leaves out is at its best


def recommend(state: SearchState, target: ResolvedTarget, ask: Ask = Ask()) -> Recommendation:  # noqa: B008
    """Fits the surface to all of a search and reads it at the target.

    Raises:
        UserError: too little was measured to fit anything, or published laws do not speak of such a search.
    """
    if not can_predict(state):
        raise UserError(
            f"{state.spec.name}: too few finished measurements to recommend from; resume or widen the search"
        )
    _check_priors(state, ask.priors)
    surface = fit_search(state, proof=True, priors=ask.priors)
    at = float(target.architecture.params), target.tokens
    searched = _searched(state, surface, target, ask.fixed)
    values = {name: recommended.value for name, recommended in searched.items()}
    regret, loss = surface.expected_regret(*at, values), predicted_loss(surface, values, at)
    proof, stable = proof_result(state, surface.noise_fraction), stability(surface, *at, values)
    return Recommendation(
        search=state.spec.name,
        target=target.name,
        target_params=target.architecture.params,
        target_tokens=target.tokens,
        parameters={**searched, **_fixed(state)},
        block=_block(state, target, values, loss.median),
        expected_regret=regret.mean,
        regret_bound90=regret.bound90,
        model_error_share=model_error_share(surface, values, at),
        compare=None if ask.compare is None else compared(surface, ask.compare, values, at),
        alternatives=_alternatives(state, surface, values, target),
        predicted_loss=loss.median,
        predicted_loss_low80=loss.low80,
        predicted_loss_high80=loss.high80,
        early_loss=early_loss(surface, values, at),
        reach=reach(surface, *at),
        priors=dict(surface.weights),
        exponents={name: asdict(exponents) for name, exponents in surface.exponents.items()},
        backtest={name: asdict(tested) for name, tested in surface.backtest.items()} or None,
        proof=asdict(proof[0]) if proof else None,
        stability=stability_edges(observations(state, proof=True)),
        stability_at_target=None if stable is None else asdict(stable),
        next_trial=best_next_trial(surface, state.spec.parameters, at, regret.mean),
        pruning=pruning_report(state, surface),
        freeze_audit=freeze_audit(state, surface.noise_fraction),
        evidence=_evidence(state, surface),
        warnings=tuple(_warnings(state, surface, target, values)),
        refused=refusal(surface, *at) or None,
    )


def _block(state: SearchState, target: ResolvedTarget, values: Mapping[str, float], loss: float) -> Block:
    config = run_config(state.spec, target.architecture, round(target.tokens), values, state.spec.seed)
    batch_tokens = config.batch_sequences * state.spec.context_tokens
    coupled = config.weight_decay_convention is DecayConvention.COUPLED
    step_rate = config.learning_rate if coupled else 1.0
    decays = config.weight_decay > 0
    return Block(
        batch_tokens=batch_tokens,
        critical_batch_tokens=critical_batch(loss),
        warmup_tokens=config.warmup_tokens,
        weight_decay=config.weight_decay,
        timescale=weight_decay_of(config.weight_decay, step_rate, batch_tokens, round(target.tokens))
        if decays
        else None,
    )


def _check_priors(state: SearchState, priors: Priors) -> None:
    rule = state.spec.parametrization.rule
    if priors == "public" and rule is not Rule.STANDARD:
        raise UserError(
            f"--priors: public: published laws are of the standard parametrization, {state.spec.name} has {rule}; "
            "leave it out"
        )


def _alternatives(
    state: SearchState, surface: Surface, values: Mapping[str, float], target: ResolvedTarget
) -> dict[str, Alternative]:
    """The usual ones, and the target's published learning rate with the rest at its best."""
    at = float(target.architecture.params), target.tokens
    found = alternatives(surface, values, at, state.spec.context_tokens)
    if target.published_learning_rate and "learning_rate" in values:
        published = {"learning_rate": target.published_learning_rate}
        cost = compared(surface, published, values, at)
        found["as published"] = Alternative(**cost.model_dump(), values=published)
    return found


def _held(surface: Surface, parameter: Parameter, value: float) -> float:
    """A value that may be used: only a parameter whose drift the trials tell may leave its searched range.

    And only for where a trial can run at all: a warmup of 1.3 of the run is none.
    """
    free = drift_is_told(surface, parameter) and not parameter.values and not parameter.integer
    return value if free and SEARCHABLE[parameter.name].range.holds(value) else parameter.nearest(value)


def _searched(
    state: SearchState, surface: Surface, target: ResolvedTarget, fixed: Mapping[str, float]
) -> dict[str, Recommended]:
    """Every searched parameter, the others following what the user fixed and what is held inside its range."""
    at = float(target.architecture.params), target.tokens
    held = dict(fixed)
    for parameter in state.spec.parameters:
        if parameter.name not in held:
            value = surface.optimum(*at, held)[parameter.name].value
            inside = _held(surface, parameter, value)
            if inside != value:
                held[parameter.name] = inside
    free = {name: estimate.value for name, estimate in surface.optimum(*at, held).items()}
    best = {p.name: held.get(p.name, free.get(p.name, math.nan)) for p in state.spec.parameters}
    active = active_values(state.spec.space, best)
    recommended = {}
    for parameter in state.spec.parameters:
        name, value = parameter.name, active[parameter.name]
        if value != best[name]:
            condition = _text(state.spec.space[name].when)
            recommended[name] = _settled(value, f"off, as {condition} does not hold")
        elif name in fixed:
            recommended[name] = _settled(value, "held by --fix")
        else:
            others = {key: other for key, other in held.items() if key != name}
            recommended[name] = _free(surface, parameter, value, surface.optimum(*at, others)[name], best, at)
    return recommended


def _free(
    surface: Surface,
    parameter: Parameter,
    value: float,
    estimate: Estimate,
    config: Mapping[str, float],
    at: tuple[float, float],
) -> Recommended:
    low80, high80, low95, high95 = (
        _held(surface, parameter, end) for end in (estimate.low80, estimate.high80, estimate.low95, estimate.high95)
    )
    low95, high95 = min(low95, low80), max(high95, high80)  # an end where no trial can run came back further
    tied = tie_set(surface, parameter, config, at)
    inside = {end: _held(surface, parameter, getattr(tied, end)) for end in ("low", "high")}
    return Recommended(
        value=value,
        low80=low80,
        high80=high80,
        low95=low95,
        high95=high95,
        tie_set=tied.model_copy(update=inside),
        **asdict(decide(surface, parameter, value, *at)),
    )


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
        tie_set=None,
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
    audit = freeze_audit(state, surface.noise_fraction)
    if audit is not None and not audit.holds:
        yield (
            f"freezing {', '.join(audit.frozen)} in mid-course cost {audit.cost:.2%} at the largest size, more than "
            f"{audit.tolerance:.2%}: search on with them free"
        )
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
