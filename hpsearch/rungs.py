"""When a paused trial may go on: asynchronous successive halving by promotion, as pure rules.

A rung belongs to one proxy: losses of different sizes are never ranked together. What is ranked is the loss
at the end of the anneal branch, so a rung compares finished losses and pruning stays valid under a schedule.

Source: Li et al. 2020 (ASHA, arXiv 1810.05934), algorithm 2. Unlike Ray's ASHAScheduler, which stops trials
as they arrive, this is the paper's promotion: a trial is never cut because it came early.
"""

from __future__ import annotations

from collections.abc import Iterator

from hpsearch.events import Promoted, TrialState
from hpsearch.plan import rung_ratios
from hpsearch.state import SearchState, Trial


def promotable(state: SearchState, proxy: int) -> Iterator[Promoted]:
    """Promotions that the rungs of a proxy allow now: highest rung first, best loss first."""
    scheduler = state.spec.scheduler
    for rung in reversed(range(len(rung_ratios(state.spec, proxy)) - 1)):
        population = state.populations.get((proxy, rung), [])
        if len(population) < scheduler.population:
            continue
        quota = len(population) // scheduler.reduction_factor
        for rank, (loss, _, trial_id) in enumerate(population[:quota]):
            trial = state.trials[trial_id]
            if trial.state is TrialState.PAUSED and trial.rung == rung:  # which no diverged one is
                reasons = {"rank": rank, "quota": quota, "population": len(population), "loss": loss}
                yield _promotion(trial, {name: float(value) for name, value in reasons.items()})


def never_pruned(state: SearchState) -> Iterator[Promoted]:
    """Repeats and proof trials go on from every rung, unranked."""
    for trial in state.never_pruned:
        if trial.state is TrialState.PAUSED:
            yield _promotion(trial, {})


def _promotion(trial: Trial, reasons: dict[str, float]) -> Promoted:
    rung = trial.rung + 1
    return Promoted(trial_id=trial.trial_id, rung=rung, cost_flops=trial.flops_of(rung), reasons=reasons)


def verdict(trial: Trial) -> TrialState:
    """What the trial's last measurement means for it."""
    outcome = trial.measurements[-1].outcome
    if outcome != "MEASURED":
        return TrialState(outcome)
    return TrialState.COMPLETE if trial.is_last_rung else TrialState.PAUSED
