"""What scheduler and searcher share, without Ray Tune: which segments begin together."""

from __future__ import annotations

from pathlib import Path

import pytest

from hpsearch.conductor import Conductor
from hpsearch.scheduler import Desk
from tests.hpsearch.simulation import begin, report, spec_of


def desk_of(conductor: Conductor, num_workers: int) -> Desk:
    desk = Desk(conductor, (), num_workers, lambda trial_id: None, lambda: None)
    desk.begin_first()
    return desk


def search(folder: Path, trials: int) -> Conductor:
    ladder = [{"width": 16, "depth": 1, "heads": 2, "trials": trials}]
    return begin(folder, spec_of(ladder=ladder, sampler={"name": "random"}))


@pytest.mark.parametrize(("trials", "num_first"), [(2, 2), (9, 5)])
def test_no_worker_waits_for_one_that_has_no_trial(tmp_path: Path, trials: int, num_first: int) -> None:
    desk = desk_of(search(tmp_path, trials), 5)
    assert desk.num_first == num_first
    assert [assignment.trial_id for assignment in desk.unfinished] == [f"t{number:04d}" for number in range(num_first)]


def test_a_restart_begins_with_what_was_cut(tmp_path: Path) -> None:
    conductor = search(tmp_path, 9)
    first = desk_of(conductor, 3).unfinished
    conductor.measured(report(first[0], 1.0))
    again = desk_of(conductor, 3)
    assert [assignment.trial_id for assignment in again.unfinished] == ["t0001", "t0002", "t0003"]


def test_an_interrupt_begins_nothing_more(tmp_path: Path) -> None:
    conductor = search(tmp_path, 9)
    conductor.stopping = True
    assert desk_of(conductor, 3).num_first == 0
