"""What a search's log gets to hear, and what the terminal does not."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from hpsearch.search_log import logging_to


def test_what_ray_tune_says_of_a_lost_worker_is_in_the_log_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import ray.tune  # sets Ray's logging up

    assert ray.tune
    tune = logging.getLogger("ray.tune.execution.tune_controller")
    with logging_to(tmp_path / "log"):
        tune.error("Trial task failed for trial t0004")
        logging.getLogger("hpsearch.search").warning("ours")
    assert "t0004" not in capsys.readouterr().err
    log = (tmp_path / "log").read_text()
    assert "ERROR ray.tune.execution.tune_controller Trial task failed for trial t0004" in log
    assert "WARNING hpsearch.search ours" in log
    tune.error("after the search")
    assert "after the search" not in (tmp_path / "log").read_text()
    assert logging.getLogger("ray.tune").propagate
