"""Holds a search to its promise: every decision is recomputed from the ledger's prefix before it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from hpsearch.decisions import Decision, Idle, judge, next_decision
from hpsearch.events import Asked, Closed, Ended, Event, Judged, Measured, Predicted, Promoted, TrialState
from hpsearch.ledger import Entry
from hpsearch.state import SearchState, opening_state
from search_spaces.errors import UserError


@dataclass(frozen=True)
class Difference:
    """A decision that its prefix does not lead to."""

    seq: int
    recorded: str
    recomputed: str


@dataclass(frozen=True)
class Checked:
    """What was recomputed, and what came out otherwise."""

    decisions: dict[str, int]  # by kind
    differences: tuple[Difference, ...]


def check_ledger(entries: list[Entry]) -> Checked:
    """Recomputes each ask, verdict, promotion, prediction and end; stops at an event that nothing can follow from.

    Raises:
        UserError: the ledger is empty, or does not begin with the opening of a search.
    """
    counts: dict[str, int] = {}
    differences: list[Difference] = []
    if not entries:
        raise UserError("ledger: empty; the search never began, start it with `hpsearch run`")
    state = opening_state(entries[0].event, "ledger")
    for seq, event in ((entry.seq, entry.event) for entry in entries):
        obstacle = _obstacle(state, event)
        if obstacle:
            differences.append(Difference(seq, _text(event), obstacle))
            break
        for recomputed in _recompute(state, event):
            counts[event.kind] = counts.get(event.kind, 0) + 1
            if recomputed != event:
                differences.append(Difference(seq, _text(event), _text(recomputed)))
        state.apply(seq, event)
    return Checked(counts, tuple(differences))


def _recompute(state: SearchState, event: Event) -> Iterator[Event | Decision]:
    """The decision that the state leads to, where the event is one."""
    match event:
        case Asked() | Promoted() | Predicted():
            yield next_decision(state)
        case Judged():
            yield judge(state, event.trial_id)
        case Ended():
            running = state.trials[event.trial_id].state is TrialState.RUNNING
            yield Ended(trial_id=event.trial_id, state=TrialState.STOPPED if running else TrialState.PRUNED)
        case Closed(complete=True):
            finished = next_decision(state) is Idle.FINISHED
            yield Closed(complete=finished, device_seconds=event.device_seconds)


def _obstacle(state: SearchState, event: Event) -> str:
    """Why an event cannot come next, whatever was decided; empty where it can."""
    match event:
        case Asked():
            return "a trial of this id exists" if event.trial_id in state.trials else ""
        case Measured() if event.trial_id not in state.running:
            return "no such trial is running"
        case Judged() | Promoted() | Ended() if event.trial_id not in state.trials:
            return "no such trial"
        case Judged() if not state.trials[event.trial_id].measurements:
            return "the trial was never measured"
        case Promoted() if event.rung >= len(state.trials[event.trial_id].asked.rungs):
            return "no such rung"
        case Ended() if not state.trials[event.trial_id].is_live:
            return "the trial has ended already"
    return ""


def _text(decision: Event | Decision) -> str:
    return decision.value if isinstance(decision, Idle) else decision.model_dump_json()
