"""What `hpsearch sync` does: MLflow is told all that it has missed of a search."""

from __future__ import annotations

from mlflow.exceptions import MlflowException

from hpsearch.folder import SearchFolder
from hpsearch.ledger import Ledger
from hpsearch.mlflow_store import reason_of
from hpsearch.record import Sender
from hpsearch.recorded_search import attach
from search_spaces.errors import UserError


def sync(folder: SearchFolder) -> int:
    """Sends all that MLflow has missed of a search, and puts right what is not as it should be.

    Returns:
        The last event.

    Raises:
        UserError: a driver is at it, or MLflow cannot be reached.
    """
    ledger = Ledger(folder.ledger)
    holder = ledger.holder
    ledger.close()
    if holder:
        raise UserError(f"{folder.name}: runs now ({holder}), and its driver tells MLflow; wait for its end")
    sender = Sender(folder)
    try:
        while not sender.send():
            pass
        sender.mend()
        sender.send_copy()
        if sender.state.closed is not None and sender.state.closed.complete:
            attach(folder, sender.state)
        return sender.cursor
    except MlflowException as error:
        raise UserError(
            f"MLflow at {folder.mlflow_uri} could not be told ({reason_of(error)}): {max(sender.cursor, 0)} events "
            "are sent; see that it runs and lets you in (MLFLOW_TRACKING_USERNAME, MLFLOW_TRACKING_PASSWORD), then "
            f"give `hpsearch sync {folder.name}` again"
        ) from error
    finally:
        sender.close()
