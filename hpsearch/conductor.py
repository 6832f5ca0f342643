"""Carries decisions out: each is in the ledger before it reaches whoever trains.

No Ray here. Ray Tune's scheduler and searcher ask it what to do (`hpsearch.scheduler`), a test can ask the same.
"""

from __future__ import annotations

from collections.abc import Callable
from math import isfinite

from hpsearch.decisions import Decision, Idle, judge, next_decision
from hpsearch.events import (
    Adopted,
    Asked,
    Closed,
    Ended,
    Event,
    Judged,
    Measured,
    Predicted,
    Promoted,
    TrialState,
)
from hpsearch.folder import SearchFolder
from hpsearch.halted import SearchHalted
from hpsearch.ledger import Ledger
from hpsearch.retention import freed
from hpsearch.state import SearchState, Trial
from trials.storage import delete
from trials.trial import Assignment, Measurement, Outcome

Remove = Callable[[list[str]], None]


class Conductor:
    """The one writer of a search: state and ledger move together, a decision at a time."""

    def __init__(self, ledger: Ledger, state: SearchState, folder: SearchFolder, remove: Remove = delete) -> None:
        self.ledger = ledger
        self.state = state
        self.folder = folder
        self.remove = remove  # of files that are freed, once that is written; does not block for long
        self.stopping = False  # set by a signal: what runs is cut, what waits stays resumable
        self.halted: SearchHalted | None = None  # what nothing of the search can mend, and ends it before its time
        self._decided: tuple[int, Decision] = (-1, Idle.WAIT)

    def __reduce__(self) -> tuple[type, tuple[()]]:
        # Reachable from Ray Tune's scheduler, which is pickled for a file that is never read.
        return object, ()

    def halt(self, message: str) -> None:
        """Stops as a signal would; the search then ends with this error."""
        self.stopping = True
        self.halted = self.halted or SearchHalted(message)

    def decide(self) -> Decision:
        """The next thing to do, computed once a state."""
        if self._decided[0] != self.state.seq:
            self._decided = (self.state.seq, next_decision(self.state))
        return self._decided[1]

    def predict(self, prediction: Predicted) -> None:
        """Writes the prediction down, before any trial of its size exists."""
        self._commit(prediction)

    def start(self, decision: Asked | Promoted) -> Assignment:
        """Begins a segment: recorded first, then handed out."""
        self._commit(decision)
        return self.assignment(self.state.trials[decision.trial_id])

    def assignment(self, trial: Trial) -> Assignment:
        """The segment that a running trial has to train."""
        rung_tokens = trial.asked.rungs[trial.rung]
        save_to = self.folder.checkpoint(trial.trial_id, rung_tokens, self.state.incarnations[-1])
        return Assignment(trial.trial_id, trial.config, rung_tokens, trial.checkpoints, save_to)

    def measured(self, measurement: Measurement) -> Judged:
        """Takes a measurement in: what was seen and what it means are one transaction."""
        return self._measured(measurement, [])

    def adopt(self, measurement: Measurement) -> Judged:
        """Takes in a measurement that a killed driver left on disk without a row in the ledger."""
        return self._measured(measurement, [Adopted(trial_id=measurement.trial_id, checkpoint=measurement.checkpoint)])

    def close(self, complete: bool, device_seconds: dict[str, float]) -> None:
        """Ends what is left: the waiting are PRUNED where the search is complete, the running STOPPED."""
        ended: list[Event] = []
        for trial in self.state.trials.values():
            if trial.state is TrialState.RUNNING:
                ended.append(Ended(trial_id=trial.trial_id, state=TrialState.STOPPED))
            elif trial.state is TrialState.PAUSED and complete:
                ended.append(Ended(trial_id=trial.trial_id, state=TrialState.PRUNED))
        seq = self.state.seq
        self._apply(*ended)
        self._write(seq, ended, [Closed(complete=complete, device_seconds=device_seconds)])

    def _measured(self, measurement: Measurement, before: list[Event]) -> Judged:
        trial = self.state.running[measurement.trial_id]
        assert measurement.tokens == trial.asked.rungs[trial.rung], f"{trial.trial_id}: measured at another rung"
        assert measurement.outcome is not Outcome.MEASURED or isfinite(measurement.loss), "divergence is an outcome"
        measured = Measured(trial_id=trial.trial_id, rung=trial.rung, measurement=measurement.to_dict())
        seq = self.state.seq
        self._apply(*before, measured)  # ahead of the ledger, as the verdict follows from the measurement
        judged = judge(self.state, trial.trial_id)
        self._apply(judged)
        self._write(seq, [*before, measured, judged], [])
        return judged

    def _write(self, seq: int, applied: list[Event], after: list[Event]) -> None:
        """One transaction: what the state holds already since `seq`, the files that this frees, what is to follow."""
        free = freed(self.state)
        rest: list[Event] = [free, *after] if free.files else after
        self._append(seq, *applied, *rest)
        self._apply(*rest)
        if free.files:
            self.remove([file for files in free.files.values() for file in files])

    def _commit(self, *events: Event) -> None:
        self._append(self.state.seq, *events)
        self._apply(*events)

    def _append(self, seq: int, *events: Event) -> None:
        try:
            self.ledger.append(*events, after_seq=seq)
        except SearchHalted as error:  # it has to pass through Ray Tune, which keeps only its text
            self.halted = error
            raise

    def _apply(self, *events: Event) -> None:
        for event in events:
            self.state.apply(self.state.seq + 1, event)
