"""`hpsearch sensitivity` on published sweeps and on bad tables."""

from __future__ import annotations

import json
import math
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner

from hpsearch.cli import cli

DATA = Path(__file__).parents[1] / "data"
ONE_AT_A_TIME = DATA / "one_at_a_time_130m.csv"
PARAMS, CHINCHILLA = 134217728, 2684354560
SPENT_SMALL = (1, 2)  # times Chinchilla, from which is frozen
JUDGED = 8


def answer(path: Path, *options: str, target: str = f"params={PARAMS},tokens={JUDGED * CHINCHILLA}") -> dict[str, Any]:
    done = CliRunner().invoke(cli, ["sensitivity", "--trials", str(path), "--target", target, "--json", *options])
    assert done.exit_code == 0, done.output
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def error(path: Path, *options: str, target: str = "params=1e9,tokens=2e10") -> str:
    done = CliRunner().invoke(cli, ["sensitivity", "--trials", str(path), "--target", target, *options])
    assert done.exit_code != 0 and done.exception is not None
    return str(done.exception)


def losses(sweep: pd.DataFrame, name: str) -> dict[Any, float]:
    """Loss by value of one hyperparameter at one setting, the base's included."""
    base, own = sweep[sweep["hyperparameter"] == "baseline"], sweep[sweep["hyperparameter"] == name]
    found = dict(zip(own["value"], own["loss"], strict=True))
    if len(base) and f"base_{name}" in sweep and pd.notna(base[f"base_{name}"].iloc[0]):
        found.setdefault(base[f"base_{name}"].iloc[0], base["loss"].iloc[0])
    return {float(f"{float(v):.6g}") if _is_number(v) else v: loss for v, loss in found.items()}


def _is_number(value: Any) -> bool:
    try:
        return math.isfinite(float(value))
    except ValueError:
        return False


@pytest.fixture(scope="module")
def frozen_cells(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[str, str, float | None]]:
    """(optimizer, hyperparameter, what its frozen value costs at the judged budget or None where it is not frozen)."""
    table = pd.read_csv(ONE_AT_A_TIME, dtype={"value": str}, keep_default_na=False, na_values={"loss": [""]})
    for column in table.columns[table.columns.str.startswith("base_")]:
        table[column] = table[column].replace("", np.nan)
    path = tmp_path_factory.mktemp("small") / "sweep.csv"
    ratio = table["chinchilla_ratio"].astype(int)
    table[ratio.isin(SPENT_SMALL)].to_csv(path, index=False)
    cells = []
    for optimizer, sweep in table.groupby("optimizer"):
        found = answer(path, "--where", f"optimizer={optimizer}")["parameters"]
        by_ratio = {r: sweep[sweep["chinchilla_ratio"].astype(int) == r] for r in (*SPENT_SMALL, JUDGED)}
        for name in sorted(set(sweep["hyperparameter"]) - {"baseline"}):
            counts = [Counter(by_ratio[r]["hyperparameter"])[name] for r in (*SPENT_SMALL, JUDGED)]
            if min(counts[:-1]) < 2 or counts[-1] < 1:
                continue
            judged, frozen = losses(by_ratio[JUDGED], name), found[name]
            cost = judged.get(frozen["value"], math.nan) / np.nanmin(list(judged.values())) - 1
            cells.append((str(optimizer), name, cost if frozen["status"] == "FROZEN" else None))
    return cells


def test_most_of_a_published_sweep_is_frozen_and_next_to_nothing_lost(
    frozen_cells: list[tuple[str, str, float | None]],
) -> None:
    """Frozen from 1 and 2 times Chinchilla, judged at 8 times."""
    costs = [cost for _, _, cost in frozen_cells if cost is not None]
    assert len(costs) >= 0.75 * len(frozen_cells)
    assert all(math.isfinite(cost) and cost < 0.1 for cost in costs)  # none diverged
    assert sum(cost > 0.003 for cost in costs) <= 1


def test_a_hyperparameter_is_not_judged_by_its_name(tmp_path: Path) -> None:
    table = pd.read_csv(ONE_AT_A_TIME, dtype=str, keep_default_na=False)
    mine = table[table["optimizer"] == "adamw"]
    names = {name: f"h{i}" for i, name in enumerate(sorted(set(mine["hyperparameter"]) - {"baseline"}))}
    renamed = mine.assign(hyperparameter=mine["hyperparameter"].replace(names)).rename(
        columns={f"base_{name}": f"base_{code}" for name, code in names.items()}
    )
    mine.to_csv(tmp_path / "a.csv", index=False)
    renamed.to_csv(tmp_path / "b.csv", index=False)
    plain, coded = answer(tmp_path / "a.csv")["parameters"], answer(tmp_path / "b.csv")["parameters"]
    on_other_scales = {"beta1", "beta2"}  # by whose names 1 - beta is what counts
    for name, code in names.items():
        if name not in on_other_scales:
            assert plain[name] == coded[code]


def test_warmup_is_not_frozen_as_its_cost_drifts_with_size_or_budget(tmp_path: Path) -> None:
    table = pd.read_csv(DATA / "warmup_heads_grid.csv").rename(columns={"params": "params_total"})
    small = table[table["params_total"] < 1e8]
    small.assign(params=12 * small["depth"] * small["width"] ** 2).to_csv(tmp_path / "grid.csv", index=False)
    found = answer(tmp_path / "grid.csv", target="params=1.5e8,tokens=4e9")["parameters"]
    warmup = found["warmup_steps"]
    assert warmup["status"] == "OPEN"
    assert "its cost drifts with size or budget (not separable here)" in warmup["reason"]
    assert found["batch_size"]["status"] == "OPEN" and "cannot be told" in found["batch_size"]["reason"]
    assert found["learning_rate"]["status"] == "FIXED" and found["learning_rate"]["value"] == 0.003


def test_one_size_says_nothing_of_a_larger_one() -> None:
    found = answer(ONE_AT_A_TIME, "--where", "optimizer=adamw", target="params=1e9,tokens=2e10")["parameters"]
    varied = [each for each in found.values() if each["status"] != "FIXED"]
    assert varied and all(each["status"] == "OPEN" and "size untested" in each["reason"] for each in varied)


def test_each_setting_tells_its_plateau_and_its_cliffs() -> None:
    found = answer(ONE_AT_A_TIME, "--where", "optimizer=adamw")["parameters"]
    rate = found["learning_rate"]["settings"][0]
    assert (rate["params"], rate["tokens"], rate["best"]) == (PARAMS, CHINCHILLA, 0.008)
    assert rate["cliff_above_octaves"] == pytest.approx(2.0) and rate["cliff_below_octaves"] is None
    low, high = rate["plateau"]["0.0025"]
    assert 0.004 < low < 0.008 < high < 0.016
    assert 0.002 < rate["loss_per_notch"] < 0.006
    lowest, highest = rate["loss_per_notch_interval80"]
    assert lowest < rate["loss_per_notch"] < highest
    drift = found["learning_rate"]["drift"]
    assert drift["params"] is None  # one size
    assert drift["tokens"][0] < -0.1 and drift["tokens"][1] < 0.15
    beta = found["beta1"]["settings"][0]
    assert beta["cliff_above_octaves"] == pytest.approx(math.log2(0.1 / 0.02), rel=1e-3)  # 0.98 is above 0.9


def test_a_grid_of_two_parameters_is_told_apart_by_the_surface(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    rows = []
    for params, tokens in ((1e7, 1e9), (1e7, 4e9), (4e7, 1e9), (4e7, 4e9)):
        for _ in range(16):
            rate, clip = rng.uniform(-2, 2, 2)
            best = -8 - 0.4 * math.log2(params / 1e7) + 0.2 * math.log2(tokens / 1e9)
            excess = 0.004 * rate**2 + 0.0005 * rng.standard_normal()
            loss = 3 * (params / 1e7) ** -0.05 * (tokens / 1e9) ** -0.05 * math.exp(excess)
            rows.append({"params": params, "tokens": tokens, "loss": loss, "lr": 2 ** (best + rate), "clip": 2**clip})
    pd.DataFrame(rows).to_csv(tmp_path / "grid.csv", index=False)
    report = answer(tmp_path / "grid.csv", target="params=1.6e8,tokens=1.6e10")
    assert report["parameters"]["clip"]["status"] == "FROZEN"
    assert report["parameters"]["lr"]["status"] == "LAW"
    assert report["parameters"]["lr"]["drift"]["params"][0] == pytest.approx(-0.4, abs=0.15)
    assert report["interactions"] == []  # of these two none is known to drag the other
    matters = report["importance"]
    assert matters is None  # sixteen runs a setting are too few


def test_importance_needs_runs_and_names_what_matters(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    x, y = rng.uniform(-3, 3, (2, 60))
    table = pd.DataFrame({"lr": 2.0**x, "clip": 2.0**y, "loss": 3 * np.exp(0.01 * x**2), "params": 1e7, "tokens": 1e9})
    table.to_csv(tmp_path / "runs.csv", index=False)
    matters = answer(tmp_path / "runs.csv", target="params=1e7,tokens=1e9")["importance"]
    for measure in ("fanova", "ped_anova"):
        assert matters[measure]["lr"] > 0.8
        assert sum(matters[measure].values()) == pytest.approx(1.0)


def test_the_picture_has_a_panel_a_parameter_and_the_same_bytes(tmp_path: Path) -> None:
    texts = []
    for name in ("a.svg", "b.svg"):
        answer(ONE_AT_A_TIME, "--where", "optimizer=adamw", "--figure", str(tmp_path / name))
        texts.append((tmp_path / name).read_text())
    assert texts[0] == texts[1] and texts[0].startswith("<?xml")
    assert error(ONE_AT_A_TIME, "--where", "optimizer=adamw", "--figure", "a.gif").startswith(
        "--figure: must end in .svg"
    )


def test_sweeps_that_are_mixed_are_told_apart_by_the_user() -> None:
    said = error(ONE_AT_A_TIME)
    assert "optimizer: must be one at each size and budget" in said and "--where optimizer=adamw" in said


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        (lambda t: t.drop(columns="loss"), "loss: no such column"),
        (lambda t: t.assign(tokens=-1), "tokens: must be a number above 0"),
        (lambda t: t.assign(loss=""), "at least 5 runs must have one"),
        (lambda t: t.assign(hyperparameter="baseline"), "no run changes one"),
        (lambda t: t.assign(loss=-1.0), "must be above 0"),
    ],
)
def test_a_bad_sweep_is_refused(tmp_path: Path, change: Any, rule: str) -> None:
    table = pd.read_csv(ONE_AT_A_TIME, dtype=str, keep_default_na=False)
    change(table[table["optimizer"] == "adamw"]).to_csv(tmp_path / "bad.csv", index=False)
    assert rule in error(tmp_path / "bad.csv")


def test_a_table_or_a_search_but_not_both() -> None:
    assert "sensitivity: needs SEARCH or --trials TABLE, got neither" in str(
        CliRunner().invoke(cli, ["sensitivity"]).exception
    )
