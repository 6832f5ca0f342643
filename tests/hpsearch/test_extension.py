"""Extending a search: more to do from here on, with everything that was measured kept, and every decision checkable."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hpsearch.check import check_ledger
from hpsearch.conductor import Conductor
from hpsearch.events import Extended, Role, TrialState
from hpsearch.extension import extended_spec, parse_trials, parse_widen, told
from hpsearch.folder import SearchFolder
from hpsearch.home import Home
from hpsearch.lifetime import extend_search
from search_spaces.errors import UserError
from tests.hpsearch.simulation import PROOF_SHAPE, World, begin, drive, resume, scratch, spec_of
from tests.hpsearch.test_cli import run


def finished(folder: Path, **changes: Any) -> Conductor:
    """A search that has come to its end."""
    conductor = begin(folder, spec_of(**changes))
    assert drive(conductor, World())
    conductor.close(complete=True, device_seconds={})
    return conductor


def extended(
    folder: Path,
    conductor: Conductor,
    trials: dict[int, int] | None = None,
    widen: dict[str, tuple[float, float]] | None = None,
    budget_flops: float | None = None,
) -> Conductor:
    """The search as the next driver finds it after an extension."""
    new = extended_spec(conductor.state, budget_flops, trials or {}, widen or {})
    conductor.ledger.append(Extended(spec=new.model_dump(mode="json"), reason="more"), after_seq=conductor.state.seq)
    return resume(folder, "b")


def test_more_trials_are_run_and_what_was_measured_stays(tmp_path: Path) -> None:
    first = finished(tmp_path)
    before = {trial.trial_id: tuple(trial.measurements) for trial in first.state.trials.values()}
    again = extended(tmp_path, first, trials={1: 15})
    assert drive(again, World())
    assert len(again.state.of(1, Role.EXPLORE)) == 15 and len(again.state.of(0, Role.EXPLORE)) == 9
    for trial_id, measurements in before.items():
        assert tuple(again.state.trials[trial_id].measurements[: len(measurements)]) == measurements
    again.close(complete=True, device_seconds={})
    assert check_ledger(again.ledger.read()).differences == ()


def test_pruned_trials_wait_for_promotion_again(tmp_path: Path) -> None:
    first = finished(tmp_path, sampler={"name": "random"})
    pruned = {trial.trial_id for trial in first.state.trials.values() if trial.state is TrialState.PRUNED}
    assert pruned
    again = extended(tmp_path, first, trials={0: 27})
    assert all(again.state.trials[trial_id].state is TrialState.PAUSED for trial_id in pruned)
    depth = {trial_id: len(again.state.trials[trial_id].measurements) for trial_id in pruned}
    assert drive(again, World())
    # A rung of three times as many trials promotes some that it left behind before.
    assert any(len(again.state.trials[trial_id].measurements) > depth[trial_id] for trial_id in pruned)


def test_a_larger_budget_lets_go_on_what_it_had_ended(tmp_path: Path) -> None:
    small = spec_of(repeats=0).model_dump()
    conductor = begin(tmp_path, spec_of(repeats=0, budget_flops=6e9))
    assert drive(conductor, World())
    conductor.close(complete=True, device_seconds={})
    asked = conductor.state.num_explored
    assert asked < sum(proxy["trials"] for proxy in small["ladder"])
    again = extended(tmp_path, conductor, budget_flops=1e12)
    assert drive(again, World())
    assert again.state.num_explored == 18 and again.state.spent_flops > 6e9


def test_a_wider_range_is_searched_from_then_on(tmp_path: Path) -> None:
    first = finished(tmp_path, sampler={"name": "random"})
    again = extended(tmp_path, first, trials={0: 40}, widen={"learning_rate": (1e-5, 6.4e-2)})
    assert drive(again, World())
    rates = [trial.asked.values["learning_rate"] for trial in again.state.of(0, Role.EXPLORE)]
    assert min(rates[:9]) >= 1e-3 > min(rates[9:])
    assert check_ledger(again.ledger.read()).differences == ()


def test_a_prediction_that_was_tested_stays_and_exploring_goes_on(tmp_path: Path) -> None:
    first = finished(tmp_path, proof=PROOF_SHAPE)
    prediction, probes = first.state.prediction, len(first.state.of(-1, Role.PROOF))
    assert prediction is not None and probes >= 3
    again = extended(tmp_path, first, trials={1: 12})
    assert again.state.is_exploring
    assert drive(again, World())
    assert again.state.prediction == prediction and len(again.state.of(-1, Role.PROOF)) >= probes
    assert len(again.state.of(1, Role.EXPLORE)) == 12
    assert check_ledger(again.ledger.read()).differences == ()


@given(st.lists(st.tuples(st.sampled_from([0, 1]), st.integers(1, 6)), min_size=1, max_size=3), st.integers(1, 4))
@settings(max_examples=15, deadline=None)
def test_any_extensions_of_any_prefix_can_be_checked(more: list[tuple[int, int]], slots: int) -> None:
    with scratch() as place:
        folder = Path(place)
        conductor = begin(folder, spec_of())
        for number, (proxy, extra) in enumerate(more):
            drive(conductor, World(), slots, transactions=15.0 + number)
            conductor.close(complete=False, device_seconds={})
            total = conductor.state.spec.ladder[proxy].trials + extra
            conductor = extended(folder, conductor, trials={proxy: total})
        assert drive(conductor, World(), slots)
        ladder = conductor.state.spec.ladder
        assert [len(conductor.state.of(p, Role.EXPLORE)) for p in (0, 1)] == [proxy.trials for proxy in ladder]
        assert check_ledger(conductor.ledger.read()).differences == ()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({}, "adds nothing"),
        ({"trials": {0: 3}}, "ladder.0.trials: must not be below what the search has, 9, got 3"),
        ({"trials": {7: 30}}, "must name a proxy from 0 to 1, got 7"),
        ({"budget_flops": 1e9}, "budget_flops: must not be below"),
        ({"widen": {"learning_rate": (2e-3, 1e-1)}}, "must contain the present range 0.001 to 0.064, got 0.002 to 0.1"),
        ({"widen": {"beta1": (0.8, 0.99)}}, r"must name a searched range \(learning_rate, weight_decay\), got beta1"),
        ({"widen": {"learning_rate": (0.0, 1e-1)}}, "learning_rate"),
    ],
)
def test_what_takes_back_or_adds_nothing_is_refused(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    conductor = begin(tmp_path, spec_of())
    arguments = {"budget_flops": None, "trials": {}, "widen": {}, **change}
    with pytest.raises(UserError, match=said):
        extended_spec(conductor.state, **arguments)


def test_a_grid_cannot_grow(tmp_path: Path) -> None:
    conductor = begin(tmp_path, spec_of(sampler={"name": "grid"}))
    with pytest.raises(UserError, match="a grid cannot grow"):
        extended_spec(conductor.state, None, {0: 12}, {})
    assert extended_spec(conductor.state, 2e12, {}, {}).budget_flops == 2e12


def test_a_ledger_with_another_change_is_impossible(tmp_path: Path) -> None:
    conductor = finished(tmp_path)
    other = spec_of(seed=5, budget_flops=2e12)
    conductor.ledger.append(Extended(spec=other.model_dump(mode="json"), reason="a forgery"))
    assert "may change" in check_ledger(conductor.ledger.read()).differences[-1].recomputed


def test_what_is_given_as_text() -> None:
    assert parse_trials(["30", "1=40"], 3) == {0: 30, 1: 40, 2: 30}
    assert parse_widen(["learning_rate=1e-4:3e-2"]) == {"learning_rate": (1e-4, 3e-2)}
    for bad in ("x", "1=", "1=2=3"):
        with pytest.raises(UserError, match="must be TOTAL or PROXY=TOTAL"):
            parse_trials([bad], 2)
    for bad in ("learning_rate", "learning_rate=1", "a=1:b"):
        with pytest.raises(UserError, match="must be NAME=LOW:HIGH"):
            parse_widen([bad])


def test_an_extension_is_told(tmp_path: Path) -> None:
    state = begin(tmp_path, spec_of()).state
    new = extended_spec(state, 2e12, {1: 12}, {"weight_decay": (1e-3, 0.64)})
    assert told(state.spec, new) == [
        "budget_flops 1e+12 -> 2e+12",
        "proxy 1 (32x1): trials 9 -> 12",
        "weight_decay 0.01 to 0.64 -> 0.001 to 0.64",
    ]


def test_extend_as_a_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = SearchFolder(Home(tmp_path), "simulated")
    seq = finished(folder.path).state.seq
    command = ["extend", "simulated", "--home", str(tmp_path), "--trials", "12", "--reason"]
    assert run(monkeypatch, *command, "noisy", "--dry-run") == 0
    assert "nothing is written" in capsys.readouterr().out
    assert run(monkeypatch, *command, " ") == 2
    assert "--reason: must say why" in capsys.readouterr().err
    assert run(monkeypatch, *command, "noisy", "--json") == 0
    told_json = json.loads(capsys.readouterr().out)
    assert told_json["written"] and len(told_json["changes"]) == 2
    again = resume(folder.path, "b")
    assert again.state.seq == seq + 2 and again.ledger.read()[seq].event.reason == "noisy"


def test_a_search_that_moved_on_is_not_extended(tmp_path: Path) -> None:
    folder = SearchFolder(Home(tmp_path), "simulated")
    conductor = begin(tmp_path / "simulated", spec_of())
    new = extended_spec(conductor.state, 2e12, {}, {})
    drive(conductor, World(), transactions=3)
    with pytest.raises(UserError, match="another process has changed the search meanwhile"):
        extend_search(folder, 1, new, "too late")
    with conductor.ledger.writing(), pytest.raises(UserError, match="is running already"):
        extend_search(folder, conductor.state.seq, new, "beside a driver")


def test_delete_asks_first_and_then_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = SearchFolder(Home(tmp_path), "simulated")
    conductor = finished(folder.path)
    checkpoint = Path(folder.checkpoint("t0000", 128, "a"))
    checkpoint.parent.mkdir(parents=True)
    checkpoint.write_bytes(b"weights")
    command = ["delete", "simulated", "--home", str(tmp_path)]
    monkeypatch.setattr("sys.stdin", io.StringIO())
    assert run(monkeypatch, *command) != 0 and checkpoint.exists()
    with conductor.ledger.writing():
        assert run(monkeypatch, *command, "--yes") == 2 and checkpoint.exists()
    assert "is running already" in capsys.readouterr().err
    assert run(monkeypatch, *command, "--yes") == 0
    assert not folder.path.exists()
    assert run(monkeypatch, *command, "--yes") == 2
    assert "no such search" in capsys.readouterr().err
