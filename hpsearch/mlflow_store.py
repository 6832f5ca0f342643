"""An MLflow store behind an address: a server, or an SQLite file. No call to it is ever repeated blindly."""

from __future__ import annotations

import os
from collections.abc import Mapping

from mlflow.entities import Run
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from hpsearch.folder import SearchFolder
from hpsearch.mlflow_address import check_address, is_server
from search_spaces.errors import one_line

CURSOR_TAG = "hpsearch.cursor"  # the last sequence number sent
TRIAL_TAG = "hpsearch.trial"
SEARCH_TAG = "hpsearch.search"  # on the search's own run only: its name
SEARCH_ID_TAG = "hpsearch.search_id"  # on every run: tells searches of one name apart
LEDGER_TAG = "hpsearch.ledger_seq"  # the last event in the copy of the ledger
FILES_TAG = "hpsearch.files_seq"  # the last event that the files were made from
PARENT_TAG = "mlflow.parentRunId"
PAGE_RUNS = 1000

# Read by MLflow's client at each call. A repeated "create" makes a second run, and its default of seven repeats holds
# a caller for four minutes: whether a call has arrived is found out by looking.
CLIENT_ENVIRONMENT = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",  # it also costs two calls a run
}
TIMEOUT_S = 10  # of silence, in one call; the user's MLFLOW_HTTP_REQUEST_TIMEOUT goes first


def connect(uri: str) -> MlflowClient:
    """A client that fails at once where it cannot reach the store.

    Raises:
        UserError: as of `check_address`.
    """
    check_address(uri)
    os.environ.update(CLIENT_ENVIRONMENT)
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", str(TIMEOUT_S))
    return MlflowClient(uri)


def experiment_of(client: MlflowClient, folder: SearchFolder) -> str:
    """The id of the experiment that searches of this name are recorded in, made where there is none."""
    found = client.get_experiment_by_name(folder.name)
    if found is not None:
        return str(found.experiment_id)
    # A server knows where it keeps artifacts; a path of this machine means nothing to it.
    where = None if is_server(folder.mlflow_uri) else (folder.mlflow_artifacts / folder.name).absolute().as_uri()
    try:
        return client.create_experiment(folder.name, artifact_location=where)
    except MlflowException:
        found = client.get_experiment_by_name(folder.name)  # another search of this name was faster
        if found is None:
            raise
        return str(found.experiment_id)


def runs_with(client: MlflowClient, experiment_id: str, tags: Mapping[str, str]) -> list[Run]:
    """All runs that carry these tags, oldest first."""
    return runs_where(client, [experiment_id], " and ".join(f"tags.`{key}` = '{tag}'" for key, tag in tags.items()))


def runs_where(client: MlflowClient, experiment_ids: list[str], wanted: str) -> list[Run]:
    """All runs that a filter lets through, oldest first; of two of the same millisecond always the same one first."""
    runs: list[Run] = []
    token: str | None = None
    while token is None or token:
        page = client.search_runs(experiment_ids, wanted, max_results=PAGE_RUNS, page_token=token)
        runs += page
        token = page.token or ""
    return sorted(runs, key=lambda run: (run.info.start_time, run.info.run_id))


def reason_of(error: Exception) -> str:
    """What went wrong, in a line; credentials travel in a header, which no message quotes.

    Where the network is at fault, what it said, without the three layers that have wrapped it.
    """
    root: BaseException = error
    while root.__context__ is not None:
        root = root.__context__
    said = root if isinstance(root, OSError) else error
    return one_line(str(said).strip() or type(said).__name__)
