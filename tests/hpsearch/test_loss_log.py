"""Logs of losses: what is read, what is left out, and what is refused with the line to blame."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpsearch.loss_log import LossLog, read_losses
from search_spaces.errors import UserError

ROWS = ["0,9.0", "1000,8.0", "2000,7.5"]


def read(folder: Path, rows: list[str], header: str = "tokens,loss", batch_tokens: float | None = None) -> LossLog:
    path = folder / "log.csv"
    path.write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
    return read_losses(path, batch_tokens)


def test_a_log_is_read(tmp_path: Path) -> None:
    log = read(tmp_path, [f"{row},1.5" for row in ROWS], "tokens,loss,gradient_norm")
    assert log.tokens.tolist() == [0, 1000, 2000] and log.loss.tolist() == [9, 8, 7.5]
    assert log.gradient_norm.tolist() == [1.5] * 3 and np.isnan(log.learning_rate).all()


def test_steps_become_tokens(tmp_path: Path) -> None:
    assert read(tmp_path, ROWS, "step,loss", 4096.0).tokens.tolist() == [0, 4096e3, 8192e3]


@pytest.mark.parametrize("cell", ["", "None", "NA"])
def test_a_row_without_a_loss_is_left_out(cell: str, tmp_path: Path) -> None:
    assert read(tmp_path, [*ROWS, f"3000,{cell}"]).tokens.tolist() == [0, 1000, 2000]


@pytest.mark.parametrize("cell", ["nan", "NaN", "inf"])
def test_a_loss_that_is_none_is_kept(cell: str, tmp_path: Path) -> None:
    log = read(tmp_path, [*ROWS, f"3000,{cell}"])
    assert log.tokens[-1] == 3000 and not np.isfinite(log.loss[-1])


def test_a_byte_order_mark_and_parquet_do_no_harm(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    path.write_text("tokens,loss\n" + "\n".join(ROWS), encoding="utf-8-sig")
    csv = read_losses(path, None)
    pd.read_csv(path).to_parquet(tmp_path / "log.parquet")
    parquet = read_losses(tmp_path / "log.parquet", None)
    assert csv.tokens.tolist() == parquet.tokens.tolist() and csv.loss.tolist() == parquet.loss.tolist()


@given(order=st.randoms(use_true_random=False))
def test_the_order_of_rows_does_not_matter(order: random.Random, tmp_path_factory: pytest.TempPathFactory) -> None:
    rows = ROWS.copy()
    order.shuffle(rows)
    assert read(tmp_path_factory.mktemp("order"), rows).loss.tolist() == [9, 8, 7.5]


@pytest.mark.parametrize(
    ("rows", "header", "batch_tokens", "said"),
    [
        (ROWS, "tokens,val", None, "loss: no such column, got tokens, val"),
        (ROWS, "step,loss", None, "tokens: no such column, got step, loss; add it, or give --batch-tokens"),
        (ROWS, "tokens,loss", 64.0, "step: no such column"),
        ([*ROWS, "3000,=A1"], "tokens,loss", None, "line 5: loss: must be a number, got =A1; correct it"),
        ([*ROWS, "3000,-2"], "tokens,loss", None, "line 5: loss: must be above 0, got -2"),
        ([*ROWS, "many,2"], "tokens,loss", None, "line 5: tokens: must be a number, got many"),
        ([*ROWS, ",2"], "tokens,loss", None, "line 5: tokens: must be a number from 0 on in each row with a loss"),
        ([*ROWS, "-5,2"], "tokens,loss", None, "line 5: tokens: must be a number from 0 on"),
        ([*ROWS, "1000,2"], "tokens,loss", None, "line 5: tokens: may stand once, got 1000"),
        ([*ROWS, "3000,2,1"], "tokens,loss", None, "line 5: must have 2 cells"),
        (["1,"], "tokens,loss", None, "loss: must be given in one row at least"),
        (["1,2,-1"], "tokens,loss,gradient_norm", None, "line 2: gradient_norm: must not be below 0, got -1"),
        (["1,2,x"], "tokens,loss,learning_rate", None, "line 2: learning_rate: must be a number, got x; correct it"),
    ],
)
def test_mistakes_are_pointed_at(
    rows: list[str], header: str, batch_tokens: float | None, said: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError) as caught:
        read(tmp_path, rows, header, batch_tokens)
    assert said in str(caught.value) and str(tmp_path) in str(caught.value)
    assert "--where" not in str(caught.value)
