"""`hpsearch plan` as a person types it."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from hpsearch import cli
from hpsearch.plan_command import DEVICES
from hpsearch.transfer.run_cost import DEFAULT_MFU, PEAK_FLOPS
from tests.conftest import REPOSITORY


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    """Runs the command in this process; returns its exit code."""
    monkeypatch.setattr(sys, "argv", ["hpsearch", "plan", *arguments])
    monkeypatch.setenv("COLUMNS", "100")
    try:
        cli.main()
    except SystemExit as exit:
        return int(exit.code or 0)
    return 0


def test_devices_are_those_with_a_known_peak() -> None:
    assert tuple(PEAK_FLOPS) == DEVICES
    [option] = [option for option in cli.cli.commands["plan"].params if option.name == "mfu"]
    assert option.default == DEFAULT_MFU


def test_a_budget_prints_laws_published_runs_and_tuning(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    picture = tmp_path / "plan.svg"
    assert run(monkeypatch, "--flops", "5.76e23", "--devices", "1024", "--price", "2", "--figure", str(picture)) == 0
    shown = capsys.readouterr().out
    for said in ("72.3B", "1.33T", "32.2B", "2.98T", "gpt3-175b", "chinchilla", "money", "besiroglu", "90 %"):
        assert said in shown.lower() or said in shown
    assert picture.read_text().startswith("<?xml")


def test_a_target_prints_json(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(monkeypatch, "--target", "gpt3-13b", "--tokens", "150e9", "--json") == 0
    told = json.loads(capsys.readouterr().out)
    asked = told["rows"][0]
    assert (asked["law"], asked["tokens"], asked["batch"]["tokens"]) == ("asked", 150e9, 2_000_000)
    assert asked["flops"] == pytest.approx(6 * asked["params"] * 150e9)
    assert asked["money"] is None


def test_params_are_given_a_shape(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--params", "1.3e9", "--tokens", "26e9", "--device-flops", "1e15", "--mfu", "0.5", "--json"]
    assert run(monkeypatch, *arguments) == 0
    told = json.loads(capsys.readouterr().out)
    asked = told["rows"][0]
    assert asked["shape"]["params"] == pytest.approx(1.3e9, rel=0.02)
    assert asked["device_hours"] == pytest.approx(6 * 1.3e9 * 26e9 / 5e14 / 3600)


def test_a_table_has_a_column_of_its_own(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    lines = ["params,tokens,loss,lr"]
    for params in (1e6, 4e6, 1.6e7):
        for tokens in (8 * params, 40 * params):
            for octaves in (-1, 0, 1):
                loss = (1.5 + 30 * params**-0.35 + 40 * tokens**-0.35) * (1 + 0.004 * octaves**2)
                lines.append(f"{params},{tokens},{loss},{2.0 ** (-8 + octaves)}")
    table = tmp_path / "runs.csv"
    table.write_text("\n".join(lines) + "\n")
    assert run(monkeypatch, "--target", "params=1e8,tokens=2e9", "--trials", str(table)) == 0
    shown = capsys.readouterr().out
    assert "your trials" in shown and "your lr" in shown and "within reach" in shown


def test_shape_trials_are_asked(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    table = str(REPOSITORY / "tests" / "data" / "shapes_cool.csv")
    assert run(monkeypatch, "--params", "2e10", "--tokens", "4e11", "--shapes", table) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "shapes_cool.csv" in shown
    assert "shape: tried up to N = 4.41e+08, the target is 45.4x larger" in shown


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "needs one of --flops, --target and --params, got none; give one"),
        (["--flops", "1e20", "--params", "1e9"], "got --flops and --params"),
        (["--flops", "nan"], "--flops: must be from 1e+17 to 1e+30, got nan"),
        (["--flops", "-3"], "--flops: must be from 1e+17 to 1e+30, got -3"),
        (["--flops", "many"], "many"),
        (["--flops", "1e20", "--tokens", "1e9"], "--tokens: goes with --target or --params"),
        (["--params", "1e9"], "--params: needs --tokens, got none"),
        (["--params", "1e9", "--tokens", "inf"], "--tokens: must be from"),
        (["--target", "gpt5"], "--target: must give params and tokens"),
        (["--target", "params=3,tokens=2e10"], "--target: params: must be from 1e+06"),
        (["--target", "params=1e9,tokens=x"], "--target: tokens: must be a finite number"),
        (["--flops", "1e20", "--mfu", "1.5"], "--mfu"),
        (["--flops", "1e20", "--devices", "0"], "--devices"),
        (["--flops", "1e20", "--device", "abacus"], "--device"),
        (["--flops", "1e20", "--device-flops", "0"], "--device-flops: must be from"),
        (["--flops", "1e20", "--price", "-1"], "--price: must be from 0"),
        (["--flops", "1e20", "--noise", "0"], "--noise: must be from"),
        (["--flops", "1e20", "--shapes", "/nowhere.csv"], "/nowhere.csv: no such table"),
        (["--flops", "1e20", "--trials", "/nowhere.csv"], "/nowhere.csv: no such table"),
        (["--flops", "1e20", "--search", "a", "--trials", "b"], "--search: goes without --trials"),
        (["--flops", "1e20", "--search", "absent", "--home", "/nowhere"], "absent"),
        (["--flops", "1e20", "--figure", "plan.pdf"], "--figure: must end in .svg or .png, got plan.pdf"),
        (["--flops", "1e20", "--figure", "/nowhere/plan.svg"], "--figure: /nowhere/plan.svg"),
    ],
)
def test_a_mistake_is_told(
    arguments: list[str], said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, *arguments) == 2
    shown = capsys.readouterr().err
    assert said in " ".join(shown.split())
    assert "Traceback" not in shown
