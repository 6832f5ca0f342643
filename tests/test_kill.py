"""SIGKILL in mid-search, resumed: it goes on, nothing is trained twice that a rung saved, nothing recorded twice."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient

from hpsearch.check import check_ledger
from hpsearch.events import Measured, TrialState
from hpsearch.folder import SearchFolder
from hpsearch.home import Home
from hpsearch.ledger import Entry, Ledger, read_ledger
from hpsearch.mlflow_store import TRIAL_TAG
from hpsearch.trials_table import read_state
from search_spaces.errors import UserError
from tests.conftest import REPOSITORY

pytestmark = pytest.mark.slow

KILLS = 3
TINY = REPOSITORY / "search_spaces" / "tiny.yaml"


def start(*arguments: str) -> subprocess.Popen[bytes]:
    """The command line in a process group of its own; its errors go to the test's."""
    command = [sys.executable, "-m", "hpsearch", *arguments, "--quiet"]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, start_new_session=True)


def kill_after(process: subprocess.Popen[bytes], folder: SearchFolder, events: int) -> None:
    """SIGKILL to the driver as soon as the ledger holds that many events."""
    while process.poll() is None and num_events(folder) < events:
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()


def entries_of(folder: SearchFolder) -> list[Entry]:
    return read_ledger(folder.ledger)


def num_events(folder: SearchFolder) -> int:
    try:
        return len(entries_of(folder)) if Ledger(folder.ledger).exists() else 0
    except UserError:  # its tables are being made
        return 0


def test_killed_and_resumed(tmp_path: Path) -> None:
    folder = SearchFolder(Home(tmp_path / "home"), "tiny")
    options = ["--home", str(folder.home.path), "--cache", str(tmp_path / "cache")]
    moments = random.Random(7)
    kill_after(start("run", str(TINY), *options), folder, moments.randint(4, 12))
    for _ in range(KILLS - 1):
        kill_after(start("resume", "tiny", *options), folder, num_events(folder) + moments.randint(3, 10))
    last = start("resume", "tiny", *options)
    assert last.wait(timeout=600) == 0
    entries = entries_of(folder)
    measured = Counter((e.event.trial_id, e.event.rung) for e in entries if isinstance(e.event, Measured))
    assert set(measured.values()) == {1}
    assert check_ledger(entries).differences == ()
    state = read_state(folder.ledger)
    assert state.closed is not None and state.closed.complete
    assert_recorded_once(folder, sorted(state.trials))


def test_interrupted_and_resumed(tmp_path: Path) -> None:
    """Ctrl-C: the search says that it can be resumed, and so does MLflow."""
    folder = SearchFolder(Home(tmp_path / "home"), "tiny")
    options = ["--home", str(folder.home.path), "--cache", str(tmp_path / "cache")]
    first = start("run", str(TINY), *options)
    while first.poll() is None and num_events(folder) < 6:
        time.sleep(0.02)
    os.kill(first.pid, signal.SIGINT)
    assert first.wait(timeout=600) == 3
    state = read_state(folder.ledger)
    assert state.closed is not None and not state.closed.complete
    stopped = {trial.trial_id for trial in state.trials.values() if trial.state is TrialState.STOPPED}
    assert stopped and recorded(folder, "KILLED") >= stopped
    last = start("resume", "tiny", *options)
    assert last.wait(timeout=600) == 0
    assert check_ledger(entries_of(folder)).differences == ()
    assert_recorded_once(folder, sorted(read_state(folder.ledger).trials))


def recorded(folder: SearchFolder, status: str) -> set[str]:
    """The trials that MLflow knows with a status."""
    client = MlflowClient(folder.mlflow_uri)
    experiment = client.get_experiment_by_name(folder.name)
    assert experiment is not None
    runs = list(client.search_runs([experiment.experiment_id]))
    return {run.data.tags.get(TRIAL_TAG, "") for run in runs if run.info.status == status}


def assert_recorded_once(folder: SearchFolder, trial_ids: list[str]) -> None:
    client = MlflowClient(folder.mlflow_uri)
    experiment = client.get_experiment_by_name(folder.name)
    assert experiment is not None
    runs = list(client.search_runs([experiment.experiment_id]))
    assert sorted(run.data.tags[TRIAL_TAG] for run in runs if TRIAL_TAG in run.data.tags) == trial_ids
    assert len(runs) == len(trial_ids) + 1
    assert all(run.info.status != "RUNNING" for run in runs)
