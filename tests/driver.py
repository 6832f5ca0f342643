"""A search as the command line runs it, in a process of its own, and what MLflow has of it afterwards."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

from mlflow.entities import Run
from mlflow.tracking import MlflowClient

from hpsearch.folder import SearchFolder
from hpsearch.ledger import Ledger, read_ledger
from hpsearch.mlflow_store import TRIAL_TAG
from search_spaces.errors import UserError
from tests.conftest import REPOSITORY

TINY = REPOSITORY / "search_spaces" / "tiny.yaml"


def start(*arguments: str) -> subprocess.Popen[bytes]:
    """The command line in a process group of its own; its errors go to the test's."""
    command = [sys.executable, "-m", "hpsearch", *arguments, "--quiet"]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, start_new_session=True)


def await_events(process: subprocess.Popen[bytes], folder: SearchFolder, events: int) -> None:
    """Until the ledger holds so many events, or the search has ended."""
    while process.poll() is None and num_events(folder) < events:
        time.sleep(0.02)


def kill_after(process: subprocess.Popen[bytes], folder: SearchFolder, events: int) -> None:
    """SIGKILL to the driver as soon as the ledger holds that many events."""
    await_events(process, folder, events)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()


def num_events(folder: SearchFolder) -> int:
    try:
        return len(read_ledger(folder.ledger)) if Ledger(folder.ledger).exists() else 0
    except UserError:  # its tables are being made
        return 0


def runs_of(folder: SearchFolder) -> list[Run]:
    """All that MLflow has of a search."""
    client = MlflowClient(folder.mlflow_uri)
    experiment = client.get_experiment_by_name(folder.name)
    assert experiment is not None
    return list(client.search_runs([experiment.experiment_id]))


def assert_recorded_once(folder: SearchFolder, trial_ids: list[str]) -> None:
    """One run a trial and one for the search, and none of them left running."""
    runs = runs_of(folder)
    assert sorted(run.data.tags[TRIAL_TAG] for run in runs if TRIAL_TAG in run.data.tags) == trial_ids
    assert len(runs) == len(trial_ids) + 1
    assert all(run.info.status != "RUNNING" for run in runs)
