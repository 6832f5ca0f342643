"""A search as MLflow keeps it: a copy of its ledger and what came out, for a machine that has only MLflow's address."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Set
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mlflow.entities import Run
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from hpsearch.folder import SearchFolder
from hpsearch.home import Home
from hpsearch.ledger import Ledger
from hpsearch.ledger_copy import read_copy
from hpsearch.mlflow_store import (
    CURSOR_TAG,
    FILES_TAG,
    SEARCH_ID_TAG,
    SEARCH_TAG,
    connect,
    reason_of,
    runs_where,
    runs_with,
)
from hpsearch.state import SearchState
from search_spaces.errors import UserError, one_line


@dataclass(frozen=True)
class Freshness:
    """How much of a search MLflow has."""

    name: str
    uri: str
    search_id: str
    seq: int  # of the last event in the copy
    at_s: float  # when that event was written, seconds since the epoch
    state: str  # of the search, as MLflow has it: RUNNING, FINISHED or KILLED

    def __str__(self) -> str:
        at = datetime.fromtimestamp(self.at_s, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
        return f"{self.name}: as of event {self.seq}, {at}; the search is {self.state} in MLflow at {self.uri}"


def attach(folder: SearchFolder, state: SearchState) -> None:
    """Puts what came out of a search beside its run, with the event that it was made from.

    Raises:
        MlflowException: MLflow cannot be reached, or does not know the search.
    """
    client = connect(folder.mlflow_uri)
    search_id = state.opened.incarnation
    runs = [run for run in _parents(client, folder.name) if run.data.tags[SEARCH_ID_TAG] == search_id]
    if not runs:
        raise MlflowException(f"it has no run of the search {folder.name} {search_id}")
    run = runs[0]
    if run.data.tags.get(FILES_TAG) == str(state.seq):
        return
    for path in folder.outcome_files.values():
        if path.is_file():
            client.log_artifact(run.info.run_id, str(path))
    client.set_tag(run.info.run_id, FILES_TAG, str(state.seq))


def fetch(mlflow_uri: str, name: str, into: Path) -> Freshness:
    """Makes the ledger of a search from its copy in MLflow; nothing can be added to the search there.

    Args:
        mlflow_uri: address of a server or a store.
        name: of the search; NAME@ID where MLflow has several of one name.
        into: folder for the ledger, `SearchFolder(Home(into), name)`.

    Raises:
        UserError: MLflow cannot be reached, or has no such search, several of them, or no copy of it yet.
    """
    client = connect(mlflow_uri)
    try:
        run = _only(mlflow_uri, name, _parents(client, name.partition("@")[0]))
        folder = SearchFolder(Home(into, mlflow=mlflow_uri), run.data.tags[SEARCH_TAG])
        folder.path.mkdir(parents=True)
        copy = folder.ledger_copy.name
        if copy not in [artifact.path for artifact in client.list_artifacts(run.info.run_id)]:
            raise UserError(
                f"{name}: MLflow at {mlflow_uri} has no copy of its ledger yet, which comes within a minute of the "
                "start; try again then, or give `hpsearch sync` where the search ran"
            )
        entries = read_copy(Path(client.download_artifacts(run.info.run_id, copy, str(folder.path))))
    except MlflowException as error:
        raise _unreachable(mlflow_uri, error) from error
    ledger = Ledger(folder.ledger)
    ledger.restore(entries)
    ledger.close()
    tags, last = run.data.tags, entries[-1]
    return Freshness(folder.name, mlflow_uri, tags[SEARCH_ID_TAG], last.seq, last.at_s, tags.get("state", "RUNNING"))


@contextmanager
def fetched(mlflow_uri: str, name: str) -> Iterator[tuple[SearchFolder, Freshness]]:
    """The folder of a search that is only in MLflow, gone when the block ends."""
    with tempfile.TemporaryDirectory(prefix="hpsearch-") as into:
        freshness = fetch(mlflow_uri, name, Path(into))
        yield SearchFolder(Home(Path(into), mlflow=mlflow_uri), freshness.name), freshness


def recorded_searches(mlflow_uri: str, known_ids: Set[str]) -> list[dict[str, Any]]:
    """The searches that MLflow has beside some, in a few words, with the last event that it was told.

    Raises:
        UserError: MLflow cannot be reached.
    """
    client = connect(mlflow_uri)
    try:
        runs = runs_where(client, _all_experiments(client), f"tags.`{SEARCH_TAG}` != ''")
    except MlflowException as error:
        raise _unreachable(mlflow_uri, error) from error
    return [_summary(run, mlflow_uri) for run in runs if run.data.tags[SEARCH_ID_TAG] not in known_ids]


def _summary(run: Run, uri: str) -> dict[str, Any]:
    tags = run.data.tags
    return {
        "name": f"{tags[SEARCH_TAG]}@{tags[SEARCH_ID_TAG]}",
        "state": tags.get("state", "RUNNING").lower(),
        "trials": int(run.data.metrics.get("trials", 0)),
        "counts": f"as of event {tags[CURSOR_TAG]}, in MLflow only",
        "as_of": int(tags[CURSOR_TAG]),
        "mlflow": uri,
    }


def _all_experiments(client: MlflowClient) -> list[str]:
    ids: list[str] = []
    token: str | None = None
    while token is None or token:
        page = client.search_experiments(page_token=token)
        ids += [experiment.experiment_id for experiment in page]
        token = page.token or ""
    return ids


def _unreachable(uri: str, error: MlflowException) -> UserError:
    return UserError(
        f"MLflow at {uri}: {reason_of(error)}; see that it runs and lets you in (MLFLOW_TRACKING_USERNAME, "
        "MLFLOW_TRACKING_PASSWORD)"
    )


def _parents(client: MlflowClient, name: str) -> list[Run]:
    """The runs of all searches of a name, oldest first."""
    experiment = client.get_experiment_by_name(name)
    return runs_with(client, experiment.experiment_id, {SEARCH_TAG: name}) if experiment else []


def _only(uri: str, name: str, runs: list[Run]) -> Run:
    """The one that was meant."""
    plain, _, search_id = name.partition("@")
    meant = [run for run in runs if not search_id or run.data.tags[SEARCH_ID_TAG] == search_id]
    if len(meant) == 1:
        return meant[0]
    if not runs:
        said = one_line(f"{name}: neither --home nor MLflow at {uri} has such a search")
        raise UserError(f"{said}; `hpsearch list` names those they have")
    known = ", ".join(f"{plain}@{run.data.tags[SEARCH_ID_TAG]}" for run in runs)
    raise UserError(one_line(f"{name}: MLflow at {uri} has {len(runs)} searches of this name: {known}") + "; give one")
