"""Lengthening and ending the life of a search. Both take the lock of its writer, so neither meets a driver."""

from __future__ import annotations

import shutil

from hpsearch.events import Extended
from hpsearch.folder import SearchFolder
from hpsearch.ledger import Ledger
from hpsearch.spec import Spec
from hpsearch.trials_table import read_state
from search_spaces.errors import UserError
from trials.storage import delete, files_under


def extend_search(folder: SearchFolder, seq: int, spec: Spec, reason: str) -> None:
    """Writes an extension down; a resume then acts on it.

    Args:
        folder: of the search.
        seq: last sequence number of the ledger that the extension was checked against.
        spec: the search as it is to be; `hpsearch.extension.check_extension` has passed it.
        reason: in words.

    Raises:
        UserError: a driver runs, or has changed the search meanwhile.
    """
    ledger = Ledger(folder.ledger)
    with ledger.writing():
        if read_state(folder.ledger).seq != seq:
            raise UserError(f"{folder.name}: another process has changed the search meanwhile; give the command again")
        ledger.append(Extended(spec=spec.model_dump(mode="json"), reason=reason), after_seq=seq)
    ledger.close()


def contents(folder: SearchFolder) -> str:
    """What a search is, in a line for whoever is about to delete it."""
    state = read_state(folder.ledger)
    measured = sum(len(trial.measurements) for trial in state.trials.values())
    return (
        f"{folder.name}: {len(state.trials)} trials, {measured} measurements, {state.spent_flops:.3g} FLOPs spent; "
        f"{state.shelf.kept_bytes / 1e6:,.1f} MB of checkpoints in {folder.checkpoints}, ledger in {folder.ledger}"
    )


def delete_search(folder: SearchFolder) -> None:
    """Deletes the checkpoints, then the files, and last the ledger: a delete that was cut short is given again.

    Raises:
        UserError: a driver runs, or the checkpoints cannot be deleted.
    """
    ledger = Ledger(folder.ledger)
    with ledger.writing():
        delete(files_under(folder.checkpoints))
        shutil.rmtree(folder.checkpoints, ignore_errors=True)  # the empty folders, where it is one
        for file in folder.path.glob("*"):
            if not file.name.startswith("ledger."):
                shutil.rmtree(file) if file.is_dir() else file.unlink()
        ledger.delete()
    ledger.close()
    shutil.rmtree(folder.path, ignore_errors=True)
