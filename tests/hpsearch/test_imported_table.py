"""Tables that other tools wrote: what is read, what is noticed, and what is refused with the line to blame."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpsearch import table_file
from hpsearch.imported_table import ImportedTable, read_table
from hpsearch.table_parameters import NOT_PARAMETERS, detect_scale, read_space
from search_spaces.errors import UserError
from search_spaces.parameter import Scale

HEADER = "params,tokens,loss,learning_rate"
ROWS = ["1e6,1e7,3.5,1e-3", "1e6,4e7,3.2,2e-3", "4e6,1e7,3.3,1e-3", "4e6,4e7,3.0,2e-3", "4e6,8e7,2.9,4e-3"]


def written(folder: Path, rows: Sequence[str] = ROWS, header: str = HEADER) -> Path:
    path = folder / "table.csv"
    path.write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
    return path


def with_column(name: str, cells: Sequence[object]) -> tuple[list[str], str]:
    """The rows and the header with one more column."""
    return [f"{row},{cell}" for row, cell in zip(ROWS, cells, strict=True)], f"{HEADER},{name}"


def read(folder: Path, rows: Sequence[str] = ROWS, header: str = HEADER) -> ImportedTable:
    return read_table(written(folder, rows, header))


def names_of(table: ImportedTable) -> list[str]:
    return [parameter.name for parameter in table.parameters]


def test_a_table_is_read_as_the_surface_takes_it(tmp_path: Path) -> None:
    table = read(tmp_path)
    assert names_of(table) == ["learning_rate"] and not table.warnings
    assert {"trial", "seed", "params", "tokens", "loss", "learning_rate"} <= set(table.observations)
    assert table.observations["trial"].nunique() == len(ROWS) and set(table.observations["seed"]) == {0}


@pytest.mark.parametrize("loss", ["", "nan", "NaN", "inf", "null"])
def test_a_run_without_a_loss_diverged(loss: str, tmp_path: Path) -> None:
    table = read(tmp_path, [*ROWS, f"4e6,8e7,{loss},0.1"])
    assert table.observations["loss"].isna().sum() == 1 and len(table.observations) == 6


def test_parquet_says_the_same(tmp_path: Path) -> None:
    csv = written(tmp_path)
    pd.read_csv(csv).to_parquet(tmp_path / "table.parquet")
    pd.testing.assert_frame_equal(read_table(csv).observations, read_table(tmp_path / "table.parquet").observations)


def test_columns_keep_their_own_names_and_answer_to_ours(tmp_path: Path) -> None:
    rows, header = with_column("batch_size", [32, 64, 128, 256, 512])
    table = read(tmp_path, rows, header.replace("learning_rate", "lr"))
    assert names_of(table) == ["lr", "batch_size"]
    assert [parameter.known_name for parameter in table.parameters] == ["learning_rate", "batch_sequences"]
    assert table.named({"learning_rate": 1e-3, "batch_size": 64.0}, "--fix") == {"lr": 1e-3, "batch_size": 64.0}
    with pytest.raises(UserError, match="by another name"):
        table.named({"learning_rate": 1e-3, "lr": 1e-3}, "--fix")
    with pytest.raises(UserError, match="wd: no parameter of .*; use one of lr, batch_size"):
        table.named({"wd": 0.1}, "--fix")


@pytest.mark.parametrize("name", sorted(NOT_PARAMETERS - {"params", "tokens", "loss", "seed", "schedule"}))
def test_known_columns_are_no_parameters(name: str, tmp_path: Path) -> None:
    assert names_of(read(tmp_path, *with_column(name, [5e8, 6e8, 7e8, 8e8, 9e8]))) == ["learning_rate"]


@pytest.mark.parametrize(("name", "cells"), [("eps", [1e-8] * 5), ("optimizer", ["adamw"] * 5), ("note", [""] * 5)])
def test_what_does_not_vary_is_ignored_and_listed(name: str, cells: list[object], tmp_path: Path) -> None:
    table = read(tmp_path, *with_column(name, cells))
    assert names_of(table) == ["learning_rate"] and tuple(table.fixed) == (name,)
    assert any(name in warning for warning in table.warnings)


def test_a_row_number_without_a_name_is_no_parameter(tmp_path: Path) -> None:
    assert names_of(read(tmp_path, *with_column("", range(5)))) == ["learning_rate"]


def test_where_keeps_rows_by_text_or_by_number(tmp_path: Path) -> None:
    rows, header = with_column("optimizer", ["lion"] + ["adamw"] * 4)
    path = written(tmp_path, [*rows, "1e6,8e7,3.1,3e-3,adamw"], header)
    assert len(read_table(path, {"optimizer": "adamw"}).observations) == 5
    with pytest.raises(UserError, match="no row of .* has the value sgd; use one of adamw, lion"):
        read_table(path, {"optimizer": "sgd"})
    with pytest.raises(UserError, match="no such column"):
        read_table(path, {"optimiser": "adamw"})
    with pytest.raises(UserError, match="got 2 of 2"):
        read_table(path, {"optimizer": "adamw", "params": "1000000"})


def test_alike_runs_are_repeats_by_lot(tmp_path: Path) -> None:
    rows = [*ROWS, "4e6,8e7,2.91,4e-3", "4e6,8e7,2.92,4e-3"]
    table = read(tmp_path, rows).observations
    repeats = table[(table["params"] == 4e6) & (table["tokens"] == 8e7)]
    assert sorted(repeats["seed"]) == [0, 1, 2] and repeats["trial"].nunique() == 3
    assert set(table.drop(repeats.index)["seed"]) == {0}


def test_the_first_seed_is_not_the_luckiest(tmp_path: Path) -> None:
    rows = [f"1e6,1e7,{3 + i * 0.01 + luck},{1 + i}e-3" for i in range(200) for luck in (0.0, 0.001)]
    table = read(tmp_path, rows).observations
    lucky = table.loc[table.groupby("learning_rate")["loss"].idxmin(), "seed"]
    assert 0.35 < (lucky == 0).mean() < 0.65


def test_rungs_of_a_trial_are_one_trial_only_where_it_says_so(tmp_path: Path) -> None:
    rows = ["1e6,1e7,3.5,1e-3,a", "1e6,4e7,3.2,1e-3,a", "1e6,1e7,3.6,1e-3,b", "1e6,4e7,3.3,1e-3,b", "1e6,4e7,3,2e-3,c"]
    told = read(tmp_path, rows, f"{HEADER},trial").observations
    assert told.groupby("trial")["seed"].nunique().eq(1).all()
    assert set(told[told["learning_rate"] == 1e-3].groupby("trial")["seed"].first()) == {0, 1}
    untold = read(tmp_path, [row.rpartition(",")[0] for row in rows]).observations
    assert untold["trial"].nunique() == 5 and set(untold["seed"]) == {0, 1}


@given(order=st.randoms(use_true_random=False))
def test_the_order_of_rows_does_not_matter(order: random.Random, tmp_path_factory: pytest.TempPathFactory) -> None:
    rows = [*ROWS, "4e6,8e7,2.91,4e-3", "4e6,8e7,,4e-3", "4e6,8e7,,4e-3"]
    shuffled = order.sample(rows, len(rows))
    folder = tmp_path_factory.mktemp("order")
    expected = read(folder, rows)
    table = read(folder, shuffled)
    pd.testing.assert_frame_equal(table.observations, expected.observations)
    assert table.warnings == expected.warnings


@pytest.mark.parametrize(
    ("name", "values", "scale"),
    [
        ("learning_rate", [0.5, 0.7, 0.9, 0.99], Scale.LOG),
        ("learning_rate", [0.0010, 0.0012], Scale.LOG),
        ("beta2", [0.9, 0.95, 0.999], Scale.LOG_COMPLEMENT),
        ("beta_fast", [0.3, 0.4], Scale.LOG_COMPLEMENT),
        ("momentum", [0.9, 0.95], Scale.LOG_COMPLEMENT),
        ("ema", [0.9, 0.99, 0.999], Scale.LOG_COMPLEMENT),
        ("dropout", [0.1, 0.2, 0.4], Scale.LOG),
        ("z_loss", [0.0, 1e-4, 1e-3], Scale.LOG),
        ("z_loss", [0.0, 1e-4], Scale.LINEAR),
        ("qk_norm", [0.0, 1.0], Scale.LINEAR),
        ("temperature", [0.9, 1.0, 1.1], Scale.LINEAR),
        ("shift", [-1.0, 1.0, 4.0], Scale.LINEAR),
        ("gate", [1.0, 3.0], Scale.LOG),
    ],
)
def test_the_scale_is_told_by_name_and_values(name: str, values: list[float], scale: Scale) -> None:
    assert detect_scale(name, np.array(values)) is scale


@given(factor=st.floats(1e-6, 1e6), values=st.lists(st.floats(1e-3, 1e3), min_size=2, max_size=6, unique=True))
def test_the_scale_of_a_known_parameter_has_no_unit(factor: float, values: list[float]) -> None:
    given = np.array(values)
    assert detect_scale("learning_rate", given * factor) is detect_scale("learning_rate", given)


def test_a_space_file_goes_before_the_values(tmp_path: Path) -> None:
    rows, header = with_column("dropout", [0.1, 0.2, 0.3, 0.4, 0.2])
    (tmp_path / "space.yaml").write_text("dropout: {low: 0, high: 0.5, scale: linear}\nlr: {freezable: false}\n")
    table = read_table(written(tmp_path, rows, header), space=read_space(tmp_path / "space.yaml"))
    rate, dropout = table.parameters
    assert (dropout.low, dropout.high, dropout.scale) == (0.0, 0.5, Scale.LINEAR)
    assert (rate.low, rate.high, rate.scale, rate.freezable) == (1e-3, 4e-3, Scale.LOG, False)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("dropot: {low: 0, high: 1}", "dropot: no parameter that varies in .*; use one of learning_rate, dropout"),
        ("dropout: {low: 1, high: 0.1}", "dropout: low must be below high, got low 1, high 0.1"),
        ("dropout: {low: 0, high: 1, scale: log}", "a log scale needs low above 0"),
        ("dropout: {low: 0, high: 1, scale: log_complement}", "needs high below 1"),
        ("dropout: {scale: cubic}", "scale: input should be 'log'"),
        ("dropout: {lowest: 0}", "lowest: unknown key"),
        ("dropout: 3", "dropout"),
        ("lr: {low: 1}\nlearning_rate: {low: 1}", "by another name"),
    ],
)
def test_a_space_file_is_checked(text: str, said: str, tmp_path: Path) -> None:
    rows, header = with_column("dropout", [0.1, 0.2, 0.3, 0.4, 0.2])
    (tmp_path / "space.yaml").write_text(text)
    with pytest.raises(UserError, match=said) as error:
        read_table(written(tmp_path, rows, header), space=read_space(tmp_path / "space.yaml"))
    assert str(tmp_path / "space.yaml") in str(error.value)


@pytest.mark.parametrize(
    ("rows", "header", "said"),
    [
        (ROWS, "params,tokens,perplexity,learning_rate", "loss: no such column, got params, tokens, perplexity"),
        (ROWS, "params_total,tokens,loss,learning_rate", "params: required, got params_total only; N counts"),
        ([*ROWS, "4e6,8e7,bad,4e-3"], HEADER, "line 7: loss: must be a number, got bad"),
        ([*ROWS, "4e6,8e7,1_0,4e-3"], HEADER, "line 7: loss: must be a number, got 1_0"),
        ([*ROWS, "4e6,8e7,-1,4e-3"], HEADER, "line 7: loss: must be above 0, got -1"),
        ([*ROWS, "4e6,8e7,-inf,4e-3"], HEADER, "line 7: loss: must be above 0, got -inf"),
        ([*ROWS, "", "-4e6,8e7,3,4e-3"], HEADER, "line 8: params: must be a number above 0, got -4e6"),
        ([*ROWS, "4e6,,3,4e-3"], HEADER, "line 7: tokens: must be a number above 0, got an empty cell"),
        ([*ROWS, "4e6,8e7,3,"], HEADER, "line 7: learning_rate: must be given for every run, got an empty cell"),
        ([*ROWS, "4e6,8e7,3,inf"], HEADER, "line 7: learning_rate: must be finite"),
        ([*ROWS, "4e6,8e7,3,fast"], HEADER, "line 7: learning_rate: must be a number, got fast"),
        ([*ROWS, "4e6,8e7,3"], HEADER, "line 7: must have 4 cells separated by commas.*, got 3"),
        ([*ROWS, '4e6,8e7,3,"4'], HEADER, "line 7: not readable as CSV"),
        (ROWS, "params,tokens,loss,loss", "loss: the column stands twice"),
        (ROWS[:4], HEADER, "at least 5 runs must have one, got 4 of 4"),
        ([], HEADER, "must hold a row for each run"),
        ([], "", "must begin with the names of the columns"),
        ([row.rpartition(",")[0] for row in ROWS], "params,tokens,loss", "a column of numbers that varies"),
        (*with_column("schedule", ["wsd", "wsd", "cosine", "wsd", "wsd"]), "schedule.*--where schedule=wsd"),
        (*with_column("optimizer", ["adamw", "lion"] * 2 + ["lion"]), "optimizer: .*--where optimizer=adamw"),
        (*with_column("params_total", [1e6, 1e6, 1e6, 5e6, 5e6]), "line 4: params_total: must not be below params"),
        (*with_column("lr", [1, 2, 3, 4, 5]), "lr: is learning_rate by another name, got both"),
        (*with_column("seed", [0, "", 0, 0, 0]), "line 3: seed: must be given for every run or none"),
        (*with_column("trial", ["a", "", "b", "c", "d"]), "line 3: trial: must be given for every run or none"),
        (*with_column("trial", ["a", "b", "c", "c", "d"]), "line 4: trial: must name one run"),
    ],
)
def test_mistakes_are_told_with_place_and_remedy(rows: list[str], header: str, said: str, tmp_path: Path) -> None:
    path = written(tmp_path, rows, header)
    with pytest.raises(UserError, match=said) as error:
        read_table(path)
    assert str(error.value).startswith(str(path)) and ";" in str(error.value)


def test_files_that_are_no_tables_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "table.csv"
    with pytest.raises(UserError, match="no such table"):
        read_table(path)
    path.write_bytes(b"params,tokens\n\xff\xfe,1\n")
    with pytest.raises(UserError, match="UTF-8, got byte 0xff"):
        read_table(path)
    with pytest.raises(UserError, match="not readable as Parquet"):
        read_table(path.rename(tmp_path / "table.parquet"))
    monkeypatch.setattr(table_file, "MAX_FILE_BYTES", 8)
    with pytest.raises(UserError, match="at most 8 bytes"):
        read_table(tmp_path / "table.parquet")


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ([(1e6, 1e7), (1e6, 4e7)], "one size, N = 1,000,000"),
        ([(1e6, 1e7), (4e6, 1e7)], "one budget, D = 10,000,000"),
        ([(1e6, 1e7), (4e6, 4e7), (8e6, 8e7)], "collinear (correlation 1.00"),
        ([(1e6, 4e7), (4e6, 1e7)], "collinear (correlation -1.00"),
    ],
)
def test_designs_that_cannot_tell_n_from_d_are_warned_of(
    settings: list[tuple[float, float]], said: str, tmp_path: Path
) -> None:
    rows = [f"{n},{d},3,{rate}e-3" for n, d in settings for rate in (1, 2, 3)]
    assert any(said in warning for warning in read(tmp_path, rows).warnings)


def test_a_table_that_logs_every_step_is_told_how_to_be_read(tmp_path: Path) -> None:
    rows = "".join(f"1e6,{1000 + step},{3 - step / 1e4},{1e-3 * (1 + step % 3)}\n" for step in range(500))
    path = tmp_path / "steps.csv"
    path.write_text("params,tokens,loss,lr\n" + rows)
    with pytest.raises(UserError, match="at most 200 different sizes and budgets.*got 500; keep the last row"):
        read_table(path)
