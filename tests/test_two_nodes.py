"""Trials are spread over the nodes of a cluster, and outlive the death of a stack actor."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from hpsearch.check import check_ledger
from hpsearch.events import TrialState
from hpsearch.folder import SearchFolder
from hpsearch.home import Home
from hpsearch.ledger import Ledger
from hpsearch.spec import Spec
from hpsearch.trials_table import read_state
from tests.conftest import REPOSITORY

TIMEOUT_S = 400


@pytest.mark.slow
def test_trials_are_spread_over_two_nodes_and_outlive_an_actor(tiny_spec: Spec, tmp_path: Path, cache: Path) -> None:
    file = tmp_path / "search.yaml"
    file.write_text(yaml.safe_dump({**tiny_spec.model_dump(mode="json", exclude_unset=True), "name": "nodes"}))
    done = subprocess.run(
        [sys.executable, "-m", "tests.two_nodes", file, tmp_path, cache],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        text=True,
        timeout=TIMEOUT_S,
        check=True,
    )
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["devices"] == 2 and len(found["killed"]) == 1
    ledger = SearchFolder(Home(tmp_path), "nodes").ledger
    state = read_state(ledger)
    ended = {TrialState.COMPLETE, TrialState.PRUNED, TrialState.DIVERGED}
    assert {trial.state for trial in state.trials.values()} <= ended
    rungs = [(trial.trial_id, m.tokens) for trial in state.trials.values() for m in trial.measurements]
    assert len(rungs) == len(set(rungs)), "no rung is measured twice"
    assert check_ledger(Ledger(ledger).read()).differences == ()


@pytest.mark.slow
def test_a_worker_that_starts_after_a_node_has_died_finds_another_device() -> None:
    """The first call to an actor that waits for a node is neither answered nor refused."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.lost_node"],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        text=True,
        timeout=TIMEOUT_S,
        check=True,
    )
    assert "lives" in done.stdout.splitlines(), done.stdout
