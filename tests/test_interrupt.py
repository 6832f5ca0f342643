"""Ctrl-C in mid-search: what was measured stays, and `resume` goes on. What SIGKILL does: `tests.chaos.test_kills`."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from hpsearch.check import check_ledger
from hpsearch.events import TrialState
from hpsearch.exit_codes import DONE, STOPPED
from hpsearch.folder import SearchFolder
from hpsearch.home import Home
from hpsearch.ledger import read_ledger
from hpsearch.mlflow_store import TRIAL_TAG
from hpsearch.trials_table import read_state
from tests.driver import TINY, assert_recorded_once, await_events, runs_of, start

pytestmark = pytest.mark.slow


def test_interrupted_and_resumed(tmp_path: Path) -> None:
    """The search says that it can be resumed, and so does MLflow."""
    folder = SearchFolder(Home(tmp_path / "home"), "tiny")
    options = ["--home", str(folder.home.path), "--cache", str(tmp_path / "cache")]
    first = start("run", str(TINY), *options)
    await_events(first, folder, 6)
    os.kill(first.pid, signal.SIGINT)
    assert first.wait(timeout=600) == STOPPED
    state = read_state(folder.ledger)
    assert state.closed is not None and not state.closed.complete
    stopped = {trial.trial_id for trial in state.trials.values() if trial.state is TrialState.STOPPED}
    killed = {run.data.tags.get(TRIAL_TAG, "") for run in runs_of(folder) if run.info.status == "KILLED"}
    assert stopped and killed >= stopped
    last = start("resume", "tiny", *options)
    assert last.wait(timeout=600) == DONE
    assert check_ledger(read_ledger(folder.ledger)).differences == ()
    assert_recorded_once(folder, sorted(read_state(folder.ledger).trials))
