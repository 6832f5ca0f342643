"""The state of a search: what its events add up to. Folding the same events gives the same state, always."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from math import inf
from typing import Any

from hpsearch.events import (
    Adopted,
    Asked,
    Closed,
    ConfirmOpened,
    ConfirmPlan,
    Ended,
    Event,
    Extended,
    Freed,
    Judged,
    Measured,
    Opened,
    Predicted,
    Promoted,
    Resumed,
    Role,
    TrialState,
)
from hpsearch.extension import check_extension
from hpsearch.plan import PROOF, architecture, confirm_proxy, segment_flops, trial_flops
from hpsearch.shelf import Shelf
from hpsearch.spec import Spec, check_spec
from search_spaces.errors import UserError
from trials.trial import Measurement, Outcome, TrialConfig


@dataclass
class Trial:
    """One trial as the ledger knows it."""

    asked: Asked
    config: TrialConfig
    state: TrialState = TrialState.RUNNING
    rung: int = 0  # the rung it runs to, or was last measured at
    measurements: list[Measurement] = field(default_factory=list)
    freed: set[str] = field(default_factory=set)  # files that are kept no longer

    @property
    def trial_id(self) -> str:
        return self.asked.trial_id

    @property
    def is_live(self) -> bool:
        """Whether it may still be measured in this run of the search."""
        return self.state in (TrialState.RUNNING, TrialState.PAUSED)

    @property
    def is_audited(self) -> bool:
        """Whether it was chosen, before anything was seen, never to be pruned."""
        return self.asked.reasons.get("audited", 0.0) > 0

    @property
    def audits_freeze(self) -> bool:
        """Whether all is free in it, to audit what the search has frozen."""
        return self.asked.reasons.get("freeze_audit", 0.0) > 0

    @property
    def must_finish(self) -> bool:
        """Whether it goes on from every rung, whatever it showed."""
        return self.is_audited or self.audits_freeze

    @property
    def is_promised(self) -> bool:
        """Whether room for all its rungs is kept in the budget."""
        return self.asked.role is not Role.EXPLORE or self.must_finish

    @property
    def is_last_rung(self) -> bool:
        return self.rung == len(self.asked.rungs) - 1

    @property
    def checkpoints(self) -> tuple[str, ...]:
        """Files of the trunk that are kept, newest first; none before the first measurement."""
        files = (measured.checkpoint for measured in reversed(self.measurements))
        return tuple(file for file in files if file and file not in self.freed)

    @property
    def loss(self) -> float:
        """The last annealed loss, infinite where there is none."""
        last = self.measurements[-1] if self.measurements else None
        return last.loss if last is not None and last.outcome is Outcome.MEASURED else inf

    @property
    def ranked(self) -> Ranked:
        """Its place among others at the rung it was last measured at."""
        return self.loss, self.asked.number, self.trial_id

    def flops_of(self, rung: int) -> int:
        """Cost of the segment to a rung."""
        return segment_flops(self.config, self.asked.rungs, rung)

    @property
    def later_flops(self) -> int:
        """Cost of the rungs beyond the one that it runs to, or was last measured at."""
        return sum(self.flops_of(rung) for rung in range(self.rung + 1, len(self.asked.rungs)))


Ranked = tuple[float, int, str]  # loss (infinite for diverged), trial number, trial id: sorts best first


class SearchState:
    """Events folded in order. Only `apply` changes it.

    What a decision asks of all trials is counted as they change: no decision goes through them.
    """

    def __init__(self, spec: Spec) -> None:
        self.spec = spec
        self.seq = 0
        self.opened: Opened
        self.incarnations: list[str] = []  # of the drivers so far, the present one last
        self.trials: dict[str, Trial] = {}
        self._by_role: dict[tuple[int, Role], list[Trial]] = {}
        self.populations: dict[tuple[int, int], list[Ranked]] = {}  # (proxy, rung): explored trials, best first
        self.running: dict[str, Trial] = {}
        self.waiting: dict[tuple[int, int], list[Ranked]] = {}  # (proxy, rung): explored trials that are paused there
        self.passed: dict[tuple[int, int], int] = {}  # (proxy, rung): explored trials that went on, by the rule alone
        self.num_in: Counter[TrialState] = Counter()  # trials in a state
        self.num_explored = 0  # trials asked to explore, of all proxies
        self.later_flops = 0  # of promised trials that are live: the rungs that they have not begun
        self.audited: list[Trial] = []  # those that must finish, in the order in which they were asked
        self.waiting_audits: list[tuple[int, str]] = []  # numbers and ids of those of them that are paused
        self.condemned: set[str] = set()  # audited trials that go on though their rule would have pruned them
        self.measured: list[tuple[Trial, int]] = []  # (trial, rung), in the order of their events
        self.memo: dict[tuple[object, ...], Any] = {}  # what `hpsearch.fits` has computed from a prefix; no state
        self.prediction: Predicted | None = None
        self.confirms: list[ConfirmPlan] = []
        self.is_confirming = False  # the last confirm is under way, or done and nothing came after it
        self.is_exploring = True  # until the prediction is made, and again where the search was extended
        self.shelf = Shelf()
        self.closed: Closed | None = None
        self.spent_flops = 0
        proxies = [*range(len(spec.ladder)), *([PROOF] if spec.proof else [])]
        self.trial_flops = _trial_flops(spec)
        self.params = {proxy: architecture(spec, proxy).params for proxy in proxies}  # the same with a QK norm

    def of(self, proxy: int, role: Role) -> list[Trial]:
        """The trials of a proxy with a role, in the order in which they were asked."""
        return self._by_role.get((proxy, role), [])

    @property
    def never_pruned(self) -> list[Trial]:
        """Repeats, and the trials of the proof and of confirms."""
        return [trial for (_, role), trials in self._by_role.items() if role is not Role.EXPLORE for trial in trials]

    @property
    def explored(self) -> list[Trial]:
        """Of all proxies."""
        return [trial for (_, role), trials in self._by_role.items() if role is Role.EXPLORE for trial in trials]

    @property
    def budget_flops(self) -> float:
        """What the search may spend: as its file says, and what each confirm has added."""
        return self.spec.budget_flops + sum(plan.cost_flops for plan in self.confirms)

    @property
    def reserved_flops(self) -> int:
        """What running segments will cost."""
        return sum(trial.flops_of(trial.rung) for trial in self.running.values())

    def apply(self, seq: int, event: Event) -> None:
        """Takes the next event in."""
        assert seq == self.seq + 1, f"event {seq} after {self.seq}"
        self.seq = seq
        match event:
            case Opened():
                self.opened = event
                self.incarnations.append(event.incarnation)
            case Resumed():
                self._resume(event)
            case Asked():
                self._ask(Trial(event, TrialConfig.from_dict(event.config)))
            case Measured():
                self._measure(event)
            case Judged():
                trial = self.trials[event.trial_id]
                self._move(trial, event.verdict, trial.rung)
            case Freed():
                self._free(event)
            case Promoted():
                self._promote(event)
            case Predicted():
                self.prediction = event
                self.is_exploring = False
            case ConfirmOpened():
                self._open_confirm(event)
            case Extended():
                self._extend(event)
            case Ended():
                trial = self.trials[event.trial_id]
                self._move(trial, event.state, trial.rung)
                self.running.pop(event.trial_id, None)
            case Closed():
                self.closed = event
            case Adopted():
                pass
            case _:
                raise AssertionError(f"unknown event {event}")

    def _free(self, event: Freed) -> None:
        for trial_id, files in event.files.items():
            trial = self.trials[trial_id]
            assert set(files) <= set(trial.checkpoints), f"{trial_id}: frees what is not kept"
            trial.freed.update(files)
            self.shelf.remove(trial, files)

    def _ask(self, trial: Trial) -> None:
        self.trials[trial.trial_id] = self.running[trial.trial_id] = trial
        self._by_role.setdefault((trial.asked.proxy, trial.asked.role), []).append(trial)
        self.num_explored += trial.asked.role is Role.EXPLORE
        if trial.must_finish:
            self.audited.append(trial)
        self._count(trial, 1)

    def _promote(self, event: Promoted) -> None:
        trial = self.running[event.trial_id] = self.trials[event.trial_id]
        is_condemned = event.trial_id in self.condemned
        if "audited" in event.reasons and not is_condemned:
            self.condemned.add(event.trial_id)
            for rung in range(trial.rung):  # where the rule had let it go on
                self.passed[trial.asked.proxy, rung] -= 1
        elif trial.asked.role is Role.EXPLORE and not is_condemned:
            place = trial.asked.proxy, trial.rung
            self.passed[place] = self.passed.get(place, 0) + 1
        self._move(trial, TrialState.RUNNING, event.rung)

    def _move(self, trial: Trial, to: TrialState, rung: int) -> None:
        """All that changes a trial's state or rung, so that nothing is counted where it no longer is."""
        self._count(trial, -1)
        trial.state, trial.rung = to, rung
        self._count(trial, 1)
        self.shelf.place(trial)

    def _count(self, trial: Trial, sign: int) -> None:
        """Counts a trial in where it is now, or out."""
        self.num_in[trial.state] += sign
        change = insort if sign > 0 else _take_out
        if trial.is_promised and trial.is_live:
            self.later_flops += sign * trial.later_flops
        if trial.asked.role is Role.EXPLORE and trial.state is TrialState.PAUSED:
            change(self.waiting.setdefault((trial.asked.proxy, trial.rung), []), trial.ranked)
            if trial.must_finish:
                change(self.waiting_audits, (trial.asked.number, trial.trial_id))

    def _measure(self, event: Measured) -> None:
        trial = self.running.pop(event.trial_id)
        measurement = Measurement.from_dict(event.measurement)
        trial.measurements.append(measurement)
        self.measured.append((trial, event.rung))
        self.spent_flops += measurement.flops + measurement.anneal_flops
        if trial.asked.role is Role.EXPLORE:
            insort(self.populations.setdefault((trial.asked.proxy, event.rung), []), trial.ranked)

    def _open_confirm(self, event: ConfirmOpened) -> None:
        self.params[confirm_proxy(len(self.confirms))] = self.spec.architecture(event.plan.size).params
        self.confirms.append(event.plan)
        self.is_confirming = True
        self.incarnations.append(event.incarnation)
        self.closed = None

    def _extend(self, event: Extended) -> None:
        self.spec = check_extension(self, check_spec(event.spec, "extension"))
        self.trial_flops = _trial_flops(self.spec)
        self.memo.clear()  # was of the search as it was
        self.closed, self.is_exploring, self.is_confirming = None, True, False
        for trial in self.trials.values():
            # Waits for promotion again, unless its checkpoint had to go: it would be trained from the start.
            if trial.state is TrialState.PRUNED and trial.checkpoints:
                self._move(trial, TrialState.PAUSED, trial.rung)

    def _resume(self, event: Resumed) -> None:
        self.incarnations.append(event.incarnation)
        self.closed = None
        for trial in self.trials.values():
            if trial.state is TrialState.STOPPED:
                self._move(trial, TrialState.RUNNING, trial.rung)
                self.running[trial.trial_id] = trial


def _take_out(ranking: list[Any], ranked: tuple[Any, ...]) -> None:
    """The opposite of `insort`."""
    del ranking[bisect_left(ranking, ranked)]


def _trial_flops(spec: Spec) -> dict[int, int]:
    """Of one trial through all rungs, by proxy."""
    proxies = [*range(len(spec.ladder)), *([PROOF] if spec.proof else [])]
    return {proxy: trial_flops(spec, proxy) for proxy in proxies}


def fold(events: Iterable[tuple[int, Event]], where: str) -> SearchState:
    """Folds a ledger's events, from the first on.

    Raises:
        UserError: there are none.
    """
    state: SearchState | None = None
    for seq, event in events:
        state = state or opening_state(event, where)
        state.apply(seq, event)
    if state is None:
        raise UserError(f"{where}: the ledger is empty; the search never began, start it with `hpsearch run`")
    return state


def opening_state(first: Event, where: str) -> SearchState:
    """The state before the first event, which says what is searched.

    Raises:
        UserError: it is another event, or its search breaks a rule.
    """
    if not isinstance(first, Opened):
        raise UserError(f"{where}: event 1 must open the search, got {first}; restore the file from a copy")
    return SearchState(check_spec(first.spec, where))
