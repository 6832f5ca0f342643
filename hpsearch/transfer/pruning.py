"""What pruning has saved in a search, and how often it has erred.

Where trials were audited, that is chosen before anything was seen and never pruned, the search measures its own
false prunes on them. Elsewhere the surface says how many to expect, which is a model's word and told as such.
"""

from __future__ import annotations

from math import isfinite

from scipy.stats import binomtest

from hpsearch.events import TrialState
from hpsearch.fits import effective_tolerance, outlook_of
from hpsearch.state import SearchState, Trial
from hpsearch.surface import Surface
from hpsearch.transfer.part import Part


class PruningReport(Part):
    """Counts are of explored trials; a false prune would have ended within the tolerance of the best of its size."""

    pruned: int
    saved_flops: int  # what the pruned would have cost to their last rung
    saved_share: float  # of what running all of them to the end would have cost
    tolerance: float  # fraction of the loss, never below the noise of a run
    audited: int  # ran to the end whatever they showed
    audited_condemned: int  # of these, the rule would have pruned so many
    audited_false: int  # and of these, so many were among the best after all
    false_low90: float  # share of false prunes among the condemned, Clopper and Pearson's interval
    false_high90: float
    expected_false: float  # by the surface, among the pruned


def pruning_report(state: SearchState, surface: Surface) -> PruningReport:
    """The report of a search as it stands, given the surface of all its trials."""
    asked = state.spec.scheduler.tolerance
    tolerance = effective_tolerance(surface, asked)
    pruned = [trial for trial in state.explored if trial.state in (TrialState.PRUNED, TrialState.PAUSED)]
    saved = sum(trial.later_flops for trial in pruned)
    whole = sum(sum(trial.flops_of(rung) for rung in range(len(trial.asked.rungs))) for trial in state.explored)
    audited = [trial for trial in state.audited if trial.is_audited and trial.is_last_rung]
    condemned = [trial for trial in audited if trial.trial_id in state.condemned]
    false = [trial for trial in condemned if trial.loss <= _best(state, trial) * (1.0 + tolerance)]
    interval = binomtest(len(false), len(condemned)).proportion_ci(0.9) if condemned else None
    return PruningReport(
        pruned=len(pruned),
        saved_flops=saved,
        saved_share=saved / whole if whole else 0.0,
        tolerance=tolerance,
        audited=len(audited),
        audited_condemned=len(condemned),
        audited_false=len(false),
        false_low90=interval.low if interval else 0.0,
        false_high90=interval.high if interval else 1.0,
        expected_false=sum(1.0 - outlook_of(surface, trial, asked).probability_bad for trial in pruned),
    )


def _best(state: SearchState, trial: Trial) -> float:
    """The least loss of the trial's proxy at its last rung."""
    population = state.populations.get((trial.asked.proxy, trial.rung), [])
    return min((loss for loss, _, _ in population if isfinite(loss)), default=trial.loss)
