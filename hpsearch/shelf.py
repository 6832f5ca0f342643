"""The checkpoints of a search by role, kept up trial by trial: no step looks at all of them.

needed    the newest of a trial that runs, waits for promotion, or was cut and goes on at a resume
spare     the newest of one that is COMPLETE or PRUNED; and the last but one of one whose newest is needed,
          for the day that the newest cannot be read
surplus   all others: older ones, and those of trials that diverged or failed
"""

from __future__ import annotations

from bisect import bisect_left, insort
from typing import TYPE_CHECKING, NamedTuple

from hpsearch.events import TrialState
from trials.checkpoint import size_bytes

if TYPE_CHECKING:
    from hpsearch.state import Trial

GOES_ON = (TrialState.RUNNING, TrialState.PAUSED, TrialState.STOPPED)
ENDED_WELL = (TrialState.COMPLETE, TrialState.PRUNED)


class Spare(NamedTuple):
    """A file that is kept while there is room; the last one in their order goes first."""

    is_fallback: bool
    loss: float  # a larger proxy, whose trials cost more, loses less
    number: int
    trial_id: str
    file: str


class Shelf:
    """What the ledger keeps."""

    def __init__(self) -> None:
        self.kept_bytes = 0
        self.spare: list[Spare] = []  # in order
        self.surplus: dict[str, Trial] = {}  # by file
        self._spare_of: dict[str, Spare] = {}  # by trial
        self._kept_of: dict[str, int] = {}  # bytes, by trial

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Shelf) and vars(self) == vars(other)

    __hash__ = None  # type: ignore[assignment]  # it changes

    def place(self, trial: Trial) -> None:
        """Sorts a trial's files in again, after anything has happened to it."""
        files = trial.checkpoints
        self._count(trial, len(files))
        self._put_spare(trial.trial_id, _spare(trial, files))
        num_kept = 2 if trial.state in GOES_ON else 1 if trial.state in ENDED_WELL else 0
        self.surplus.update(dict.fromkeys(files[num_kept:], trial))

    def remove(self, trial: Trial, files: tuple[str, ...]) -> None:
        """Takes files that are freed off; the trial knows so already."""
        for file in files:
            self.surplus.pop(file, None)
        self.place(trial)

    def _count(self, trial: Trial, num_files: int) -> None:
        kept_bytes = num_files * size_bytes(trial.config.architecture.params_total)
        self.kept_bytes += kept_bytes - self._kept_of.get(trial.trial_id, 0)
        self._kept_of[trial.trial_id] = kept_bytes

    def _put_spare(self, trial_id: str, spare: Spare | None) -> None:
        before = self._spare_of.pop(trial_id, None)
        if before is not None:
            del self.spare[bisect_left(self.spare, before)]
        if spare is not None:
            insort(self.spare, spare)
            self._spare_of[trial_id] = spare


def _spare(trial: Trial, files: tuple[str, ...]) -> Spare | None:
    if trial.state in GOES_ON and len(files) > 1:
        return Spare(True, trial.loss, trial.asked.number, trial.trial_id, files[1])
    if trial.state in ENDED_WELL and files:
        return Spare(False, trial.loss, trial.asked.number, trial.trial_id, files[0])
    return None
