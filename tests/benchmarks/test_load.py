"""Trials of no work through the whole path: none is lost, and no worker is started twice."""

from __future__ import annotations

from pathlib import Path

import pytest

from hpsearch.events import TrialState
from hpsearch.home import Home
from hpsearch.search import SPARE_WORKERS
from tests.benchmarks.load import SLOTS, Watch, loaded, run, spec_of


@pytest.mark.slow
def test_short_trials_share_the_workers_that_were_started(tmp_path: Path) -> None:
    """Ray Tune ends a worker that nobody takes at once, and starts another: a second that no short trial is worth."""
    spec, watch = spec_of(trials=60, sampler="random", all_rungs=True), Watch()
    state = run(spec, Home(tmp_path), watch)
    assert state.closed is not None and state.closed.complete
    assert [trial.state for trial in state.trials.values()] == [TrialState.COMPLETE] * 60
    assert state.closed.device_seconds["workers"] == SLOTS + SPARE_WORKERS
    said = loaded(spec, state, watch.samples, outage=None)
    assert said.measurements == 180 and said.trials_per_s > 0
