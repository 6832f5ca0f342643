"""The recommendation: a value for every parameter at the target, with its interval, reason and evidence.

It refuses, with the reason, where a value would be a guess.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from hpsearch.events import TrialState
from hpsearch.freeze_stage import FreezeAudit, freeze_audit
from hpsearch.plan import run_config, weight_decay_of
from hpsearch.state import SearchState
from hpsearch.surface import Priors, Surface
from hpsearch.surface_stability import stability
from hpsearch.targets import ResolvedTarget
from hpsearch.transfer.advice import (
    Alternative,
    Comparison,
    EarlyLoss,
    NextTrial,
    Reach,
    alternative,
    alternatives,
    best_next_trial,
    compared,
    early_loss,
    model_error_share,
    predicted_loss,
)
from hpsearch.transfer.cautions import cautions
from hpsearch.transfer.part import Part
from hpsearch.transfer.proof import can_predict, fit_search, proof_result
from hpsearch.transfer.pruning import PruningReport, pruning_report
from hpsearch.transfer.reach import reach, refusal
from hpsearch.transfer.recommended_values import Recommended, fixed_values, searched_values
from hpsearch.transfer.scaling_laws import critical_batch
from hpsearch.transfer.stability import StabilityEdge, stability_edges
from hpsearch.trials_table import observations
from search_spaces.errors import UserError
from trials.parametrization import Rule
from trials.roles import decay_rate


class Block(Part):
    """What moves together at the target, in the units in which it does."""

    batch_tokens: int  # of lowest loss; that the loss is no worse, and time is saved, is another batch:
    critical_batch_tokens: float  # Kaplan et al. 2020 at the predicted loss: a trade of time against compute
    warmup_tokens: int
    weight_decay: float
    timescale: float | None  # of the hidden matrices' decay, B / (r wd D), a fraction of the run; None without decay


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
    searched = searched_values(state, surface, target, ask.fixed)
    values = {name: recommended.value for name, recommended in searched.items()}
    regret, loss = surface.expected_regret(*at, values), predicted_loss(surface, values, at)
    proof, stable = proof_result(state, surface.noise_fraction), stability(surface, *at, values)
    return Recommendation(
        search=state.spec.name,
        target=target.name,
        target_params=target.architecture.params,
        target_tokens=target.tokens,
        parameters={**searched, **fixed_values(state)},
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
        warnings=tuple(cautions(state, surface, target, values)),
        refused=refusal(surface, *at) or None,
    )


def _block(state: SearchState, target: ResolvedTarget, values: Mapping[str, float], loss: float) -> Block:
    config = run_config(state.spec, target.architecture, round(target.tokens), values, state.spec.seed)
    batch_tokens = config.batch_sequences * state.spec.context_tokens
    timescale = None
    if config.weight_decay > 0:
        timescale = weight_decay_of(config.weight_decay, decay_rate(config), batch_tokens, round(target.tokens))
    return Block(
        batch_tokens=batch_tokens,
        critical_batch_tokens=critical_batch(loss),
        warmup_tokens=config.warmup_tokens,
        weight_decay=config.weight_decay,
        timescale=timescale,
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
        found["as published"] = alternative(surface, published, values, at)
    return found


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
