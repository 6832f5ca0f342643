"""What a table recommends: the truth of a made-up family, whatever the units, and what `recommend --trials` prints."""

from __future__ import annotations

import json
import math
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hpsearch import cli
from hpsearch.imported_table import ImportedTable, read_table
from hpsearch.surface import fit_surface
from hpsearch.transfer.status import Status
from hpsearch.transfer.table_recommendation import Question, Setting, TableRecommendation, recommend_from_table
from search_spaces.parameter import Parameter, Scale

TARGET = Setting(params=8e6, tokens=1.6e8)
SIZES, RATIOS = (2.5e5, 1e6, 4e6), (8, 40)


def best(params: float, tokens: float) -> tuple[float, float]:
    """The truth: octaves of the best rate and batch."""
    n, d = math.log2(params / 1e6), math.log2(tokens / 1e7)
    return -8 - 0.4 * n + 0.1 * d, 6 + 0.5 * d


def family(sizes: tuple[float, ...] = SIZES, ratios: tuple[int, ...] = RATIOS) -> pd.DataFrame:
    """Nine runs a setting around the truth, with 0.1 % noise."""
    generator, rows = np.random.default_rng(3), []
    for params, tokens in [(size, ratio * size) for size in sizes for ratio in ratios]:
        rate, batch = best(params, tokens)
        for x, y in [(x, y) for x in (-1.5, 0.2, 1.6) for y in (-1.4, 0.1, 1.5)]:
            floor = 1.5 + 30 * params**-0.35 + 40 * tokens**-0.35
            excess = 0.005 * (x - 0.3 * y) ** 2 + 0.004 * y**2 + 0.001 * generator.standard_normal()
            rows.append((params, tokens, floor * (1 + excess), 2 ** (rate + x), 2 ** (batch + y)))
    return pd.DataFrame(rows, columns=["params", "tokens", "loss", "lr", "batch_size"])


def written(folder: Path, table: pd.DataFrame) -> Path:
    table.to_csv(folder / "table.csv", index=False)
    return folder / "table.csv"


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(tmp_path_factory.mktemp("table"), family())


@pytest.fixture(scope="module")
def table(path: Path) -> ImportedTable:
    return read_table(path)


@pytest.fixture(scope="module")
def answer(table: ImportedTable) -> TableRecommendation:
    return recommend_from_table(table, Question(TARGET))


def test_the_truth_is_recommended(answer: TableRecommendation) -> None:
    for name, octaves in zip(("lr", "batch_size"), best(TARGET.params, TARGET.tokens), strict=True):
        found = answer.parameters[name]
        assert abs(math.log2(found.value) - octaves) < 0.6
        (outer_low, outer_high), (low, high) = found.interval95, found.interval80
        assert outer_low <= low <= found.value <= high <= outer_high
    assert 0 < answer.expected_regret < answer.regret_bound90 < 0.01
    low, high = answer.predicted_loss.interval90
    truth = 1.5 + 30 * TARGET.params**-0.35 + 40 * TARGET.tokens**-0.35
    assert low < truth < high and low < answer.predicted_loss.value < high
    assert answer.refused is None and answer.priors == {"neutral": 1.0}
    assert answer.next_trial is not None and answer.next_trial.expected_regret_after < answer.expected_regret
    assert set(answer.backtest or {}) == {"lr", "batch_size"}


def values(answer: TableRecommendation) -> dict[str, list[float]]:
    return {name: [v.value, *v.interval80, *v.interval95] for name, v in answer.parameters.items()}


@settings(max_examples=6, deadline=None)
@given(
    rate=st.floats(-8, 8).map(lambda octaves: 2.0**octaves),
    batch=st.floats(-3, 3).map(lambda octaves: 2.0**octaves),
    loss=st.floats(0.1, 10),
    order=st.integers(0, 99),
)
def test_units_and_order_do_not_matter(
    rate: float,
    batch: float,
    loss: float,
    order: int,
    answer: TableRecommendation,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    runs = family().sample(frac=1, random_state=order)
    runs = runs.assign(lr=runs["lr"] * rate, batch_size=runs["batch_size"] * batch, loss=runs["loss"] * loss)
    found = recommend_from_table(read_table(written(tmp_path_factory.mktemp("units"), runs)), Question(TARGET))
    for name, factor in (("lr", rate), ("batch_size", batch)):
        assert values(found)[name] == pytest.approx([x * factor for x in values(answer)[name]], rel=1e-6)
        assert found.parameters[name].status is answer.parameters[name].status
    assert found.expected_regret == pytest.approx(answer.expected_regret, rel=1e-5)
    assert found.predicted_loss.value == pytest.approx(answer.predicted_loss.value * loss, rel=1e-6)


def test_what_is_held_moves_the_others_along_the_ridge(table: ImportedTable, answer: TableRecommendation) -> None:
    large = answer.parameters["batch_size"].value * 4
    held = recommend_from_table(table, Question(TARGET, fixed={"batch_size": large}))
    batch = held.parameters["batch_size"]
    assert (
        batch.status is Status.FIXED and batch.value == large and batch.interval80 == batch.interval95 == (large, large)
    )
    assert held.parameters["lr"].value > answer.parameters["lr"].value * 1.1
    assert held.expected_regret > answer.expected_regret + 0.005  # against the free optimum


def test_a_configuration_is_compared(table: ImportedTable, answer: TableRecommendation) -> None:
    rate = answer.parameters["lr"].value
    bad = recommend_from_table(table, Question(TARGET, compare={"lr": rate * 4})).compare
    assert bad is not None and bad.better_than_recommended_probability < 0.1
    low, high = bad.interval90
    assert 0 < low < bad.expected_regret < high and low < bad.regret_bound90 <= high
    surface = fit_surface(table.observations, table.parameters, seed=0)
    assert bad.expected_regret == surface.expected_regret(TARGET.params, TARGET.tokens, {"lr": rate * 4}).mean
    same = recommend_from_table(table, Question(TARGET, compare={n: v.value for n, v in answer.parameters.items()}))
    assert same.compare is not None and same.compare.expected_regret == answer.expected_regret


def test_reach_is_warned_of_only_where_the_prior_alone_speaks(
    table: ImportedTable, answer: TableRecommendation
) -> None:
    assert not [warning for warning in answer.warnings if warning.startswith("reach")]
    runs = table.observations
    one_size = replace(table, observations=runs[runs["params"] == SIZES[0]].reset_index(drop=True))
    warnings = recommend_from_table(one_size, Question(TARGET)).warnings
    reach = [warning for warning in warnings if warning.startswith("reach")]
    assert any("the target's N" in warning and "lr, batch_size" in warning for warning in reach)
    assert any("2 settings measured" in warning for warning in warnings)
    inside = recommend_from_table(one_size, Question(Setting(params=SIZES[0], tokens=4e6)))
    assert not [warning for warning in inside.warnings if warning.startswith("reach")]
    lr, d = answer.exponents["lr"], answer.exponents["batch_size"].tokens
    assert not lr.params.prior_only and d.posterior_over_prior_sd < 0.8 and abs(d.value - 0.5) < 3 * d.sd


def test_an_optimum_at_the_edge_of_the_tested_values_is_warned_of(table: ImportedTable) -> None:
    runs = table.observations
    rate = np.log2(runs["lr"]) - [best(n, d)[0] for n, d in zip(runs["params"], runs["tokens"], strict=True)]
    low_side = replace(table, observations=runs[rate < 1].reset_index(drop=True))
    warnings = recommend_from_table(low_side, Question(TARGET)).warnings
    assert any(warning.startswith("lr: the optimum lies within 0.25 octaves of the edge") for warning in warnings)


@pytest.mark.parametrize(
    ("target", "said"), [(Setting(params=1e9, tokens=2e8), "parameters"), (Setting(params=4e6, tokens=1e12), "tokens")]
)
def test_too_far_a_target_is_refused(target: Setting, said: str, table: ImportedTable) -> None:
    refused = recommend_from_table(table, Question(target)).refused
    assert refused is not None and f"x the {said} of the l" in refused


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["hpsearch", "recommend", *arguments])
    try:
        cli.main()
    except SystemExit as exit:
        return int(exit.code or 0)
    return 0


TARGET_TEXT = "params=8e6,tokens=1.6e8"


def test_the_command_prints_the_whole_schema(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "my.json").write_text('{"learning_rate": 1e-3}')
    options = ["--fix", "batch_sequences=128", "--compare", str(tmp_path / "my.json"), "--priors", "public", "--json"]
    assert run(monkeypatch, "--trials", str(path), "--target", TARGET_TEXT, *options) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert set(found) == {
        *("target", "parameters", "expected_regret", "regret_bound90", "exponents", "compare", "predicted_loss"),
        *("priors", "backtest", "stability", "next_trial", "assumptions", "refused", "warnings"),
        *("alternatives", "model_error_share", "early_loss", "reach"),
    }
    assert found["target"] == {"params": 8e6, "tokens": 1.6e8}
    assert set(found["parameters"]) == {"lr", "batch_size"}
    assert set(found["parameters"]["lr"]) == {"value", "interval80", "interval95", "tie_set", "status", "reason"}
    assert found["parameters"]["batch_size"]["status"] == "FIXED" and found["parameters"]["batch_size"]["value"] == 128
    assert set(found["exponents"]["lr"]["params"]) == {"value", "sd", "posterior_over_prior_sd", "prior_only"}
    assert set(found["compare"]) == {
        *("expected_regret", "interval90", "regret_bound90", "better_than_recommended_probability"),
    }
    assert set(found["predicted_loss"]) == {"value", "interval90"}
    assert sum(found["priors"].values()) == pytest.approx(1) and "neutral" in found["priors"]
    assert found["refused"] is None and isinstance(found["warnings"], list)


def test_the_command_prints_for_people(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "my.yaml").write_text("lr: 3e-3\n")
    compare = ["--compare", str(tmp_path / "my.yaml")]
    assert run(monkeypatch, "--trials", str(path), "--target", "gpt3-1.3b", *compare) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert all(text in shown for text in ("recommended for N = 1,208", "refused reach", "priors: neutral 100%"))
    assert "│ yours" in shown and "│ step_law" in shown and "octaves by which the optimum moves" in shown
    assert run(monkeypatch, "--trials", str(path), "--target", "gpt3-1.3b", "--accept-reach") == 0
    assert "refused" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "needs SEARCH or --trials TABLE, got neither"),
        (["tiny", "--trials", "TABLE"], "needs SEARCH or --trials TABLE, got both"),
        (["tiny", "--where", "lr=1"], "--where: needs --trials TABLE, got SEARCH"),
        (["tiny", "--search-space", "x.yaml"], "--search-space: needs --trials TABLE"),
        (["--trials", "TABLE"], "--target: required with --trials"),
        (["--trials", "TABLE", "--target", "width=64,depth=2"], "must give params and tokens"),
        (["--trials", "TABLE", "--target", "gpt9"], "must give params and tokens of a table's target, got gpt9"),
        (["--trials", "TABLE", "--target", "params=1e9,tokens=many"], "tokens: must be a finite number, got 'many'"),
        (["--trials", "TABLE", "--target", "params=1e9,tokens=-1"], "tokens: must be above 0"),
        (["--trials", "TABLE", "--target", TARGET_TEXT, "--fix", "lr"], "--fix: must be NAME=VALUE, got 'lr'"),
        (["--trials", "TABLE", "--target", TARGET_TEXT, "--fix", "lr=1", "--fix", "lr=2"], "may stand once"),
        (["--trials", "TABLE", "--target", TARGET_TEXT, "--fix", "lr=-1"], "lr: must lie on a log scale, got -1"),
        (["--trials", "TABLE", "--target", TARGET_TEXT, "--fix", "wd=1"], "wd: no parameter of"),
        (["--trials", "TABLE", "--target", TARGET_TEXT, "--where", "opt=adam"], "opt: no such column"),
        (["--trials", "TABLE", "--target", TARGET_TEXT, "--compare", "BAD"], "lr: must be a finite number, got True"),
        (["--trials", "nowhere.csv", "--target", TARGET_TEXT], "nowhere.csv: no such table"),
    ],
)
def test_mistakes_on_the_command_line_are_told(
    arguments: list[str],
    said: str,
    path: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "bad.yaml").write_text("lr: true\n")
    given = {"TABLE": str(path), "BAD": str(tmp_path / "bad.yaml")}
    assert run(monkeypatch, *[given.get(argument, argument) for argument in arguments]) == 2
    error = capsys.readouterr().err
    assert said in error and "Traceback" not in error


@pytest.mark.slow
def test_a_hundred_thousand_rows_are_read_and_the_truth_is_recommended() -> None:
    """All pairs of them would fill any memory."""
    rng = np.random.default_rng(0)
    settings = [(size, ratio * size) for size in SIZES for ratio in RATIOS]
    chosen = np.array(settings)[rng.integers(0, len(settings), 100_000)]
    octaves = np.array([best(params, tokens) for params, tokens in settings])
    place = {setting: octaves[i] for i, setting in enumerate(settings)}
    center = np.array([place[(params, tokens)] for params, tokens in chosen.tolist()])
    off = rng.uniform(-2, 2, (100_000, 2))
    floor = 1.5 + 30 * chosen[:, 0] ** -0.35 + 40 * chosen[:, 1] ** -0.35
    excess = 0.005 * off[:, 0] ** 2 + 0.004 * off[:, 1] ** 2 + 0.001 * rng.standard_normal(100_000)
    rate, batch = (2.0 ** (center + off)).T
    runs = pd.DataFrame({"params": chosen[:, 0], "tokens": chosen[:, 1], "loss": floor * np.exp(excess)})
    runs = runs.assign(lr=rate, batch_size=batch, seed=0, trial=[str(i) for i in range(100_000)], shape="")
    parameters = tuple(Parameter(name, runs[name].min(), runs[name].max(), Scale.LOG) for name in ("lr", "batch_size"))
    table = ImportedTable("made up", runs, parameters, {}, ())
    found = recommend_from_table(table, Question(TARGET)).parameters
    for name, truth in zip(("lr", "batch_size"), best(TARGET.params, TARGET.tokens), strict=True):
        assert abs(math.log2(found[name].value) - truth) < 0.4
