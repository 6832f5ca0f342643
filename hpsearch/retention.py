"""Which checkpoints a search frees: what nothing needs at once, what is spare where the byte budget asks for it.

What a trial needs to go on is kept whatever it takes, also above the budget: freed, it would be trained again. So is
the incumbent of each proxy, one file each: the best that a search has found is not lost for want of room.
"""

from __future__ import annotations

from collections.abc import Iterator

from hpsearch.decisions import incumbent
from hpsearch.events import Freed
from hpsearch.shelf import Spare
from hpsearch.state import SearchState
from trials.checkpoint import size_bytes


def freed(state: SearchState) -> Freed:
    """The files to free now; maybe none. What is spare goes until the budget is kept, the worst first."""
    budget_bytes, shelf = state.spec.checkpoints.budget_bytes, state.shelf
    files: dict[str, list[str]] = {}
    kept_bytes = shelf.kept_bytes
    for file, trial in shelf.surplus.items():
        files.setdefault(trial.trial_id, []).append(file)
        kept_bytes -= _bytes(state, trial.trial_id)
    for spare in _last_first(state):
        if kept_bytes <= budget_bytes:
            break
        files.setdefault(spare.trial_id, []).append(spare.file)
        kept_bytes -= _bytes(state, spare.trial_id)
    reasons = {"kept_bytes": float(kept_bytes), "budget_bytes": budget_bytes}
    return Freed(files={trial_id: tuple(names) for trial_id, names in files.items()}, reasons=reasons)


def _last_first(state: SearchState) -> Iterator[Spare]:
    best = {trial.trial_id for proxy in range(len(state.spec.ladder)) if (trial := incumbent(state, proxy)) is not None}
    return (spare for spare in reversed(state.shelf.spare) if spare.is_fallback or spare.trial_id not in best)


def _bytes(state: SearchState, trial_id: str) -> int:
    return size_bytes(state.trials[trial_id].config.architecture.params_total)
