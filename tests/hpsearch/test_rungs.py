"""Rungs by hand-made numbers: who may go on, in which order, and who never."""

from __future__ import annotations

from math import inf
from pathlib import Path
from typing import Any

import pytest

from hpsearch import rungs
from hpsearch.conductor import Conductor
from hpsearch.events import Asked, Promoted, Role, TrialState
from hpsearch.rungs import never_pruned, promotable, verdict
from tests.hpsearch.simulation import begin, report, spec_of

NINE = [4.0, 2.0, 9.0, 1.0, 8.0, 3.0, 7.0, 5.0, 6.0]


def search(folder: Path, losses: list[float], **scheduler: Any) -> Conductor:
    """A search with a trial for each loss, all asked, and measured at the first rung in their order."""
    ladder = [{"width": 16, "depth": 1, "heads": 2, "trials": len(losses)}]
    rungs = {"name": "asha", "rung_ratios": [1.0, 3.0, 9.0], **scheduler}
    conductor = begin(folder, spec_of(ladder=ladder, sampler={"name": "random"}, scheduler=rungs))
    for _ in losses:
        decision = conductor.decide()
        assert isinstance(decision, Asked)
        conductor.start(decision)
    for trial, loss in zip(list(conductor.state.running.values()), losses, strict=True):
        conductor.measured(report(conductor.assignment(trial), loss))
    return conductor


def names(conductor: Conductor) -> list[tuple[str, int]]:
    """Who may go on now, and to which rung."""
    return [(promotion.trial_id, promotion.rung) for promotion in promotable(conductor.state, 0)]


def go_on(conductor: Conductor, loss: float) -> str:
    """The next promotion, carried out and measured."""
    decision = conductor.decide()
    assert isinstance(decision, Promoted)
    conductor.measured(report(conductor.start(decision), loss))
    return decision.trial_id


def test_the_best_third_of_nine_goes_on_best_first(tmp_path: Path) -> None:
    assert names(search(tmp_path, NINE)) == [("t0003", 1), ("t0001", 1), ("t0005", 1)]


def test_a_promotion_says_why(tmp_path: Path) -> None:
    second = list(promotable(search(tmp_path, NINE).state, 0))[1]
    assert second.reasons == {"rank": 1, "quota": 3, "population": 9, "loss": 2.0}


def test_a_higher_rung_comes_first(tmp_path: Path) -> None:
    conductor = search(tmp_path, NINE)
    assert [go_on(conductor, loss) for loss in (0.3, 0.2)] == ["t0003", "t0001"]
    assert names(conductor) == [("t0005", 1)]
    assert go_on(conductor, 0.4) == "t0005"
    assert names(conductor) == [("t0001", 2)]
    assert go_on(conductor, 0.1) == "t0001"
    assert names(conductor) == []
    assert conductor.state.trials["t0001"].state is TrialState.COMPLETE


def test_a_higher_rung_comes_first_while_a_lower_one_waits(tmp_path: Path) -> None:
    """Three of twelve are at the second rung, where one may go on; the fourth still waits at the first."""
    conductor = search(tmp_path, [*NINE, 10.0, 11.0, 12.0])
    assert [go_on(conductor, loss) for loss in (0.3, 0.2, 0.4)] == ["t0003", "t0001", "t0005"]
    assert names(conductor) == [("t0001", 2), ("t0000", 1)]


def test_ties_go_to_the_earlier_trial(tmp_path: Path) -> None:
    assert names(search(tmp_path, [2.0, 1.0, 1.0, 1.0, 2.0, 3.0])) == [("t0001", 1), ("t0002", 1)]


def test_the_order_of_arrival_does_not_count(tmp_path: Path) -> None:
    """Whoever came first is never promoted for that: the rung looks at ranks alone."""
    conductor = search(tmp_path, sorted(NINE, reverse=True))
    assert names(conductor) == [("t0008", 1), ("t0007", 1), ("t0006", 1)]


@pytest.mark.parametrize("num_measured, num_promoted", [(2, 0), (3, 1), (5, 1), (6, 2), (8, 2)])
def test_a_rung_judges_as_trials_arrive(tmp_path: Path, num_measured: int, num_promoted: int) -> None:
    assert len(names(search(tmp_path, NINE[:num_measured]))) == num_promoted


def test_a_rung_waits_for_its_population(tmp_path: Path) -> None:
    assert names(search(tmp_path / "few", NINE[:6], min_population=7)) == []
    assert len(names(search(tmp_path / "enough", NINE[:7], min_population=7))) == 2


def test_the_diverged_count_as_measured_but_never_go_on(tmp_path: Path) -> None:
    """Six measured leave room for two; where five diverged the room stays empty."""
    assert names(search(tmp_path / "some", [inf, inf, 3.0, inf, 2.0, 1.0])) == [("t0005", 1), ("t0004", 1)]
    assert names(search(tmp_path / "most", [inf, inf, inf, inf, inf, 1.0])) == [("t0005", 1)]
    assert names(search(tmp_path / "all", [inf] * 6)) == []


def test_the_reduction_factor_is_the_users(tmp_path: Path) -> None:
    assert len(names(search(tmp_path, NINE, reduction_factor=2))) == 4


def test_who_goes_on_is_not_promoted_twice(tmp_path: Path) -> None:
    conductor = search(tmp_path, NINE)
    decision = conductor.decide()
    assert isinstance(decision, Promoted)
    conductor.start(decision)
    assert names(conductor) == [("t0001", 1), ("t0005", 1)]


def test_no_surface_is_fitted_where_nobody_could_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fits: list[int] = []
    monkeypatch.setattr(rungs, "trusted_surface", lambda state: fits.append(len(state.measured)))
    conductor = search(tmp_path, NINE, name="surface")
    for loss in (0.9, 0.8, 0.7):
        go_on(conductor, loss)
    fits.clear()
    assert names(conductor) == [("t0005", 2)]  # the best of the second rung; the first has sent its third on
    assert fits == [12]


def test_a_single_rung_promotes_nobody(tmp_path: Path) -> None:
    conductor = search(tmp_path, NINE, rung_ratios=[1.0])
    assert names(conductor) == []
    assert {trial.state for trial in conductor.state.trials.values()} == {TrialState.COMPLETE}


def test_repeats_go_on_unranked(tmp_path: Path) -> None:
    conductor = search(tmp_path, NINE)
    for loss in (0.3, 0.2, 0.4, 0.1):
        go_on(conductor, loss)
    decision = conductor.decide()
    assert isinstance(decision, Asked) and decision.role is Role.REPEAT
    conductor.measured(report(conductor.start(decision), 99.0))
    assert [(promotion.trial_id, promotion.rung) for promotion in never_pruned(conductor.state)] == [
        (decision.trial_id, 1)
    ]
    assert len(conductor.state.populations[0, 0]) == 9


@pytest.mark.parametrize("loss, expected", [(1.0, TrialState.PAUSED), (inf, TrialState.DIVERGED)])
def test_a_verdict_follows_from_the_measurement(tmp_path: Path, loss: float, expected: TrialState) -> None:
    trial = next(iter(search(tmp_path, [loss]).state.trials.values()))
    assert verdict(trial) is trial.state is expected
