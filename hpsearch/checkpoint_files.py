"""What a driver does about the checkpoints of its search: finds what a kill left, and removes what nobody keeps."""

from __future__ import annotations

import logging
import posixpath
import queue
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

from hpsearch.conductor import Conductor
from hpsearch.events import TrialState
from hpsearch.state import SearchState
from search_spaces.errors import UserError
from trials.checkpoint import CheckpointError, read_measurement
from trials.storage import StorageError, delete, files_under, patiently, size

log = logging.getLogger(__name__)

SAMPLE = 8  # of the files that a search needs; where none of so many is there, its folder is not


def check_present(state: SearchState) -> None:
    """The files that the search goes on from must be there: else all would be trained again without a word.

    Raises:
        UserError: none of them is.
        StorageError: that cannot be told.
    """
    live = [trial for trial in state.trials.values() if trial.is_live and trial.checkpoints]
    live.sort(key=lambda trial: trial.state is TrialState.PAUSED)  # those that run come first
    needed = [trial.checkpoints[0] for trial in live[:SAMPLE]]
    if needed and all(size(file) is None for file in needed):
        raise UserError(
            f"{needed[0]}: this checkpoint and the others that {state.spec.name} goes on from are not there; mount or "
            "restore their folder where it was, or start the search anew under another --name"
        )


def adopt_orphans(conductor: Conductor) -> None:
    """Measurements in files that a kill kept from the ledger: taken in instead of trained again.

    Raises:
        StorageError: the store does not answer, or refuses.
    """
    state = conductor.state
    patience_s = state.spec.checkpoints.patience_s
    for trial in list(state.running.values()):
        rung_tokens = trial.asked.rungs[trial.rung]
        for writer in reversed(state.incarnations):
            file = conductor.folder.checkpoint(trial.trial_id, rung_tokens, writer)
            if patiently(partial(size, file), patience_s) is None:
                continue
            try:
                read = partial(read_measurement, file, trial.trial_id, rung_tokens)
                conductor.adopt(patiently(read, patience_s))
                break
            except CheckpointError as error:
                log.warning("%s; an older file is looked for, else the segment is trained again", error)


def remove_garbage(conductor: Conductor) -> None:
    """Files that the ledger does not keep: half-written, freed, or of a writer that was cut off.

    Call it when the orphans are adopted: whatever an older driver's workers write from now on is never read.

    Raises:
        StorageError: the store does not answer, or refuses.
    """
    # By trial and name, as the ledger may have another way to the same folder.
    kept = {_name(file) for trial in conductor.state.trials.values() for file in trial.checkpoints}
    garbage = [file for file in files_under(conductor.folder.checkpoints) if _name(file) not in kept]
    if garbage:
        log.info("%d files that the ledger does not keep are removed", len(garbage))
        delete(garbage)


@contextmanager
def removing() -> Iterator[Callable[[list[str]], None]]:
    """Removes what is put in beside the search, as a store may take its time; done when the block ends.

    What cannot be removed is left to the next resume.
    """
    waiting: queue.SimpleQueue[list[str] | None] = queue.SimpleQueue()
    thread = threading.Thread(target=_remove, args=(waiting,), name="remover", daemon=True)
    thread.start()
    try:
        yield waiting.put
    finally:
        waiting.put(None)
        thread.join()


def _remove(waiting: queue.SimpleQueue[list[str] | None]) -> None:
    """All that waits goes in one request, so that a store that is away delays the end once, not for every file."""
    while True:
        batches = [waiting.get()]
        while not waiting.empty():  # nobody else takes from it
            batches.append(waiting.get())
        try:
            delete([file for batch in batches if batch is not None for file in batch])
        except StorageError as fault:
            log.warning("%s; the next resume removes what is left", fault)
        if None in batches:
            return


def _name(file: str) -> tuple[str, str]:
    folder, name = posixpath.split(file)
    return posixpath.basename(folder), name
