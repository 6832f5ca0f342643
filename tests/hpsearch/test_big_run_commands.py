"""`hpsearch watch-target` and `hpsearch recheck` as a person types them."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from hpsearch import cli
from hpsearch.exit_codes import ACTION_NEEDED
from hpsearch.transfer.explanations import Explanation
from tests.hpsearch import big_run as truth
from tests.hpsearch.simulation import World, begin, drive, spec_of


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["hpsearch", *arguments])
    try:
        cli.main()
    except SystemExit as exit:
        return int(exit.code or 0)
    return 0


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A table of runs, logs of a good and of a bad big run, and a finished search."""
    folder = tmp_path_factory.mktemp("files")
    log = truth.big_run(0.6)
    truth.written(folder / "runs.csv", truth.runs())
    truth.written(folder / "good.csv", log)
    truth.written(folder / "bad.csv", log.assign(loss=log["loss"] * 1.2))
    truth.written(folder / "other.csv", pd.DataFrame({"learning_rate": [1e-3], "loss": [2.0]}))
    truth.written(folder / "two.csv", pd.DataFrame({"params": [1e6, 2e6], "tokens": 1e7, "lr": 1e-3, "loss": 2.0}))
    (folder / "my.yaml").write_text("lr: 3e-3\n")
    drive(begin(folder / "simulated", spec_of()), World(noise=0.001))
    return folder


def of_table(files: Path) -> list[str]:
    return ["--trials", str(files / "runs.csv"), "--target", truth.TARGET]


def test_a_good_run_is_on_track(
    files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    picture = tmp_path / "band.svg"
    arguments = ["watch-target", str(files / "good.csv"), *of_table(files), "--figure", str(picture)]
    assert run(monkeypatch, *arguments) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("on track") and "predicted for lr" in shown and "42 rungs" in shown
    first = picture.read_bytes()
    assert first.startswith(b"<?xml") and run(monkeypatch, *arguments) == 0 and picture.read_bytes() == first


def test_a_bad_run_asks_for_something(
    files: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "watch-target", str(files / "bad.csv"), *of_table(files), "--json") == ACTION_NEEDED
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert found["verdict"] == "LEVEL_SHIFT" and found["remedy"] and set(found["probability"]) == set(Explanation)
    assert set(found) == {
        *("verdict", "text", "remedy", "probability", "excess", "detectable", "config", "tokens", "counted_from"),
        *("counted_to", "num_losses", "num_gaps", "band_tokens", "band80", "warnings"),
    }
    assert all(low < high for low, high in found["band80"]) and len(found["band80"]) == len(found["band_tokens"])


def test_a_band_that_reaches_too_far_says_so(
    files: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    far = ["--trials", str(files / "runs.csv"), "--target", "params=1e12,tokens=1e13"]
    run(monkeypatch, "watch-target", str(files / "good.csv"), *far)
    assert "the recommendation is refused: reach" in " ".join(capsys.readouterr().out.split())


def test_the_run_may_have_another_configuration(
    files: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["watch-target", str(files / "good.csv"), *of_table(files), "--json"]
    for given, rate in ([], None), (["--learning-rate", "0.05"], 0.05), (["--config", str(files / "my.yaml")], 3e-3):
        assert run(monkeypatch, *arguments, *given, "--warmup-tokens", "2e7") == 0
        found = json.loads(capsys.readouterr().out)
        assert found["counted_from"] == 2e7 and (rate is None or found["config"] == {"lr": rate})


def test_steps_and_training_losses(
    files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    log, runs = truth.big_run(0.6), truth.runs()
    steps = pd.DataFrame({"step": log["tokens"] / 1000, "loss": log["loss"] * 0.9})
    truth.written(tmp_path / "steps.csv", steps)
    truth.written(tmp_path / "train.csv", runs.assign(train_loss=runs["loss"] * 0.9))
    arguments = ["watch-target", str(tmp_path / "steps.csv"), "--batch-tokens", "1000", "--target", truth.TARGET]
    assert run(monkeypatch, *arguments, "--trials", str(tmp_path / "train.csv"), "--training", "--json") == 0
    assert json.loads(capsys.readouterr().out)["verdict"] == "ON_TRACK"
    assert run(monkeypatch, *arguments, "--trials", str(files / "runs.csv"), "--training") == 2
    assert "train_loss: needed with --training" in capsys.readouterr().err


def test_a_search_predicts_its_target(
    files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tokens = np.linspace(5e3, 2.5e5, 50)
    loss = 2.0 + 30.0 * 98_304**-0.4 + 40.0 * (tokens / 0.8) ** -0.45
    truth.written(tmp_path / "log.csv", pd.DataFrame({"tokens": tokens, "loss": loss}))
    search = ["--search", "simulated", "--home", str(files)]
    assert run(monkeypatch, "watch-target", str(tmp_path / "log.csv"), *search, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["verdict"] == "ON_TRACK" and found["num_gaps"] > 10
    assert 390_000 < found["counted_to"] < 420_000  # the decay of the last fifth has begun


def test_recheck_prints_the_trials_and_judges_them(
    files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["recheck", *of_table(files), "--changed", "sequence_length=4096"]
    assert run(monkeypatch, *arguments) == 0
    assert "with sequence_length=4096, at N = 250,000" in capsys.readouterr().out
    assert run(monkeypatch, *arguments, "--json") == 0
    plan: dict[str, Any] = json.loads(capsys.readouterr().out)
    params, tokens = plan["setting"]["params"], plan["setting"]["tokens"]
    for moved, code, said in ((0.0, 0, "best lr"), (2.0, ACTION_NEEDED, "-> best lr: move lr by +")):
        rates = [trial["lr"] for trial in plan["trials"]]
        off = np.log2(rates) - truth.best_octaves(params, tokens) - moved
        loss = 1.1 * truth.floor(params, tokens) * (1 + np.array([truth.cost(octaves) for octaves in off]))
        new = pd.DataFrame({"params": params, "tokens": tokens, "learning_rate": rates, "loss": loss})
        results = ["--results", str(truth.written(tmp_path / "new.csv", new))]
        assert run(monkeypatch, *arguments, *results) == code
        shown = capsys.readouterr().out
        assert said in shown and "lr at the target" in shown
        assert run(monkeypatch, *arguments, *results, "--json") == code
        assert json.loads(capsys.readouterr().out)["findings"][0]["name"] == "best lr"


def test_recheck_of_a_search(files: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(monkeypatch, "recheck", "simulated", "--home", str(files), "--changed", "text=mine", "--json") == 0
    plan = json.loads(capsys.readouterr().out)
    assert [set(trial) for trial in plan["trials"]] == [{"learning_rate", "weight_decay"}] * 3


TABLE = ["--trials", "runs.csv", "--target", truth.TARGET]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["watch-target", "good.csv"], "needs a SEARCH or --trials TABLE, got neither"),
        (["watch-target", "good.csv", "--search", "simulated", *TABLE], "got both"),
        (["watch-target", "good.csv", "--search", "simulated", "--where", "a=1"], "--where: needs --trials TABLE"),
        (["watch-target", "good.csv", "--search", "nothing"], "nothing: no such search"),
        (["watch-target", "good.csv", "--trials", "runs.csv"], "--target: required with --trials"),
        (["watch-target", "nowhere.csv", *TABLE], "nowhere.csv: no such table"),
        (["watch-target", "other.csv", *TABLE], "other.csv: tokens: no such column"),
        (["watch-target", "good.csv", *TABLE, "--learning-rate", "-1"], "Invalid value for '--learning-rate'"),
        (
            ["watch-target", "good.csv", *TABLE, "--learning-rate", "1", "--config", "my.yaml"],
            "--learning-rate: stands in",
        ),
        (["watch-target", "good.csv", *TABLE, "--figure", "nowhere/a.svg"], "nowhere/a.svg: cannot be written"),
        (["recheck", *TABLE], "--changed: must say what has changed"),
        (["recheck", *TABLE, "--changed", "text"], "--changed: must be NAME=VALUE, got 'text'"),
        (["recheck", *TABLE, "--changed", "a=b", "--results", "other.csv"], "other.csv: params: no such column"),
        (
            ["recheck", *TABLE, "--changed", "a=b", "--results", "two.csv"],
            "two.csv: line 3: params: must be a number above 0, the same in all runs, got 2000000.0",
        ),
    ],
)
def test_mistakes_on_the_command_line_are_told(
    arguments: Sequence[str],
    said: str,
    files: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(files)
    monkeypatch.setenv("HPSEARCH_HOME", str(files))
    assert run(monkeypatch, *arguments) == 2
    error = capsys.readouterr().err
    assert said in error and "Traceback" not in error
