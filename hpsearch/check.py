"""Holds a search to its promise: every decision is recomputed from the ledger's prefix before it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from hpsearch.decisions import Decision, Idle, judge, next_decision
from hpsearch.events import Asked, Closed, ConfirmOpened, Ended, Event, Freed, Judged, Predicted, Promoted, TrialState
from hpsearch.ledger import Entry
from hpsearch.retention import freed
from hpsearch.state import SearchState, opening_state
from hpsearch.transfer.confirm import replanned
from search_spaces.errors import UserError

# How a trial ends with its search; the others have ended by themselves.
ENDS = {TrialState.RUNNING: TrialState.STOPPED, TrialState.PAUSED: TrialState.PRUNED}


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
    """Recomputes each ask, verdict, promotion, prediction, freeing, confirm and end; stops at an impossible event.

    Raises:
        UserError: the ledger is empty, or does not begin with the opening of a search.
    """
    counts: dict[str, int] = {}
    differences: list[Difference] = []
    if not entries:
        raise UserError("ledger: empty; the search never began, start it with `hpsearch run`")
    state = opening_state(entries[0].event, "ledger")
    for seq, event in ((entry.seq, entry.event) for entry in entries):
        try:
            for recomputed in _recompute(state, event):
                counts[event.kind] = counts.get(event.kind, 0) + 1
                if recomputed != event:
                    differences.append(Difference(seq, _text(event), _text(recomputed)))
            state.apply(seq, event)
        except (LookupError, AssertionError, UserError) as error:  # it speaks of what is not there, or may not be
            differences.append(Difference(seq, _text(event), f"impossible here: {error!r}"))
            break
    return Checked(counts, tuple(differences))


def _recompute(state: SearchState, event: Event) -> Iterator[Event | Decision]:
    """The decision that the state leads to, where the event is one."""
    match event:
        case Asked() | Promoted() | Predicted():
            yield next_decision(state)
        case ConfirmOpened():
            yield event.model_copy(update={"plan": replanned(state, event.plan)})
        case Judged():
            yield judge(state, event.trial_id)
        case Freed():
            yield freed(state)
        case Ended():
            yield event.model_copy(update={"state": ENDS[state.trials[event.trial_id].state]})
        case Closed(complete=True):
            yield event.model_copy(update={"complete": next_decision(state) is Idle.FINISHED})


def _text(decision: Event | Decision) -> str:
    return decision.value if isinstance(decision, Idle) else decision.model_dump_json()
