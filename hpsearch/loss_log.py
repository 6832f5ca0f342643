"""The losses of a run so far, as its trainer wrote them down: read, checked, and put in the order of its tokens."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hpsearch.imported_table import MAX_COUNT
from hpsearch.table_file import TableFile, read_file
from search_spaces.errors import UserError

Array = NDArray[np.float64]

CORRECT = "correct it"
NOT_FINITE = frozenset(
    {"nan", "inf", "+inf", "-inf", "infinity", "-infinity"}
)  # a loss that was measured, and was none


@dataclass(frozen=True)
class LossLog:
    """A row for each loss, in ascending order of tokens; an optional column that is not there is all NaN."""

    path: str
    tokens: Array  # (R,) trained on so far
    loss: Array  # (R,) not finite where the run had none any more
    gradient_norm: Array  # (R,)
    learning_rate: Array  # (R,)

    def part(self, rows: NDArray[np.bool_]) -> LossLog:
        """Some of the rows (R,)."""
        columns = (self.tokens, self.loss, self.gradient_norm, self.learning_rate)
        return LossLog(self.path, *(column[rows] for column in columns))


def read_losses(path: Path, batch_tokens: float | None) -> LossLog:
    """Reads `tokens` (or `step`), `loss`, and where they are there `gradient_norm` and `learning_rate`.

    A row without a loss is left out: other things were logged at that step. One whose loss is nan or infinite is
    kept: the run has diverged there.

    Args:
        path: a CSV or Parquet file.
        batch_tokens: tokens of a step, by which steps become tokens; None where the file has tokens.

    Raises:
        UserError: the file breaks a rule; the message has the line where one is to blame.
    """
    file = read_file(path)
    if "loss" not in file.cells:
        raise UserError(f"{path}: loss: no such column, got {', '.join(file.columns)}; add or rename it")
    given = ~np.isnan(file.numbers("loss", CORRECT)) | _not_finite(file)
    if not given.any():
        raise UserError(f"{path}: loss: must be given in one row at least, got {len(given)} empty cells; fill them in")
    file = TableFile(file.path, file.cells[given], file.place)
    loss = file.numbers("loss", CORRECT)
    file.refuse_where("loss", loss <= 0, "must be above 0", "use a loss in nats or bits, not a score")
    tokens = _tokens(file, batch_tokens)
    order = np.argsort(tokens, kind="stable")
    columns = (tokens, loss, _not_negative(file, "gradient_norm"), _not_negative(file, "learning_rate"))
    return LossLog(str(path), *(column[order] for column in columns))


def _not_finite(file: TableFile) -> NDArray[np.bool_]:
    return np.array([text.lower() in NOT_FINITE for text in file.cells["loss"]])


def _tokens(file: TableFile, batch_tokens: float | None) -> Array:
    """Tokens of each row (R,), each of which stands there once."""
    column = "step" if batch_tokens is not None else "tokens"
    if column not in file.cells:
        remedy = "add it, or give --batch-tokens and a column step" if column == "tokens" else "add it"
        raise UserError(f"{file.path}: {column}: no such column, got {', '.join(file.columns)}; {remedy}")
    counts = file.numbers(column, CORRECT)
    wrong = ~((counts >= 0) & (counts <= MAX_COUNT))
    file.refuse_where(column, wrong, "must be a number from 0 on in each row with a loss", CORRECT)
    first = np.unique(counts, return_index=True)[1]
    again = np.setdiff1d(np.arange(len(counts)), first)
    if len(again):
        file.refuse(column, "may stand once", int(again[0]), "keep one row for each, of one run")
    return counts * (batch_tokens or 1.0)


def _not_negative(file: TableFile, column: str) -> Array:
    if column not in file.cells:
        return np.full(len(file.cells), np.nan)
    values = file.numbers(column, CORRECT)
    file.refuse_where(column, values < 0, "must not be below 0", CORRECT)
    return values
