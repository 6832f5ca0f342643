"""When a paused trial may go on: successive halving by promotion, as pure rules.

A rung belongs to one proxy: losses of different sizes are never ranked together. Of the trials measured at a rung a
share goes on. Which ones is said by the surface, once it may be trusted: those that it expects to lose least at
their full budget, unless it is all but sure that they lose too much. The best at a small budget are not the best at a
large one, as the optimum drifts. Until then, or where the search asks for it, they are the best by rank (ASHA).
What is ranked is the loss at the end of the anneal branch, so a rung compares finished losses.

Source: Li et al. 2020 (ASHA, arXiv 1810.05934), algorithm 2. Unlike Ray's ASHAScheduler, which stops trials
as they arrive, this is the paper's promotion: a trial is never cut because it came early.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator

from hpsearch.events import Promoted, TrialState
from hpsearch.fits import outlook, trusted_surface
from hpsearch.plan import rung_ratios
from hpsearch.state import SearchState, Trial
from hpsearch.surface import Surface

SURELY_BAD = 0.9  # probability of a regret above the tolerance from which a trial is not promoted


def promotable(state: SearchState, proxy: int) -> Iterator[Promoted]:
    """Promotions that the rungs of a proxy allow now: highest rung first, best first."""
    scheduler = state.spec.scheduler
    for rung in reversed(range(len(rung_ratios(state.spec, proxy)) - 1)):
        if len(state.populations.get((proxy, rung), [])) < scheduler.population or not _is_open(state, proxy, rung):
            continue
        surface = trusted_surface(state) if scheduler.name == "surface" else None
        yield from by_rank(state, proxy, rung) if surface is None else by_outlook(state, proxy, rung, surface)


def _is_open(state: SearchState, proxy: int, rung: int) -> bool:
    """Whether either rule could let a trial go on; else there is no need of a fit."""
    population, waiting = state.populations[proxy, rung], state.waiting.get((proxy, rung), [])
    quota = len(population) // state.spec.scheduler.reduction_factor
    has_room = state.passed.get((proxy, rung), 0) < quota
    return bool(waiting) and (has_room or bisect_left(population, waiting[0]) < quota)


def by_rank(state: SearchState, proxy: int, rung: int) -> Iterator[Promoted]:
    """ASHA's rule: the best of a rung, one in `reduction_factor`."""
    population = state.populations[proxy, rung]
    quota = len(population) // state.spec.scheduler.reduction_factor
    for ranked in state.waiting.get((proxy, rung), []):
        rank = bisect_left(population, ranked)
        if rank >= quota:
            return
        loss, _, trial_id = ranked
        reasons = {"rank": rank, "quota": quota, "population": len(population), "loss": loss}
        yield _promotion(state.trials[trial_id], {name: float(value) for name, value in reasons.items()})


def by_outlook(state: SearchState, proxy: int, rung: int, surface: Surface) -> Iterator[Promoted]:
    """As many as by rank, but those that the surface expects to lose least at their full budget."""
    quota = len(state.populations[proxy, rung]) // state.spec.scheduler.reduction_factor
    room = quota - state.passed.get((proxy, rung), 0)
    trials = [state.trials[trial_id] for _, _, trial_id in state.waiting.get((proxy, rung), [])]
    waiting = [(outlook(state, surface, trial), trial) for trial in trials]
    waiting.sort(key=lambda pair: (pair[0].regret, pair[1].asked.number))
    for expected, trial in waiting[: max(room, 0)]:
        if expected.probability_bad < SURELY_BAD:
            yield _promotion(trial, {**_told(state, trial, surface), "quota": float(quota)})


def never_pruned(state: SearchState) -> Iterator[Promoted]:
    """Repeats and proof trials go on from every rung, unranked."""
    for trial in state.never_pruned:
        if trial.state is TrialState.PAUSED:
            yield _promotion(trial, {})


def audits(state: SearchState, proxies: list[int]) -> Iterator[Promoted]:
    """Audited trials that these proxies' rules would leave where they are; they go on all the same."""
    for trial in [state.trials[trial_id] for _, trial_id in state.waiting_audits]:
        if trial.asked.proxy in proxies:
            surface = trusted_surface(state) if state.spec.scheduler.name == "surface" else None
            reasons = {} if surface is None else _told(state, trial, surface)
            yield _promotion(trial, {**reasons, "audited": 1.0})


def _told(state: SearchState, trial: Trial, surface: Surface) -> dict[str, float]:
    """The surface's reasons, in numbers."""
    expected = outlook(state, surface, trial)
    return {
        "expected_regret": expected.regret,
        "probability_bad": expected.probability_bad,
        "observations": float(surface.num_observations),
        "loss": trial.loss,
    }


def _promotion(trial: Trial, reasons: dict[str, float]) -> Promoted:
    rung = trial.rung + 1
    return Promoted(trial_id=trial.trial_id, rung=rung, cost_flops=trial.flops_of(rung), reasons=reasons)


def verdict(trial: Trial) -> TrialState:
    """What the trial's last measurement means for it."""
    outcome = trial.measurements[-1].outcome
    if outcome != "MEASURED":
        return TrialState(outcome)
    return TrialState.COMPLETE if trial.is_last_rung else TrialState.PAUSED
