"""Rows that cannot be taken as they are: mixed corpora, missing budgets, formulas, runs that are there twice."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hpsearch.table_file import TableFile, is_empty
from search_spaces.errors import UserError, one_line

Rows = NDArray[np.bool_]

MAX_PLACES_SHOWN = 8
BUDGET = ("params", "tokens")
FORMULA_STARTS = ("=", "+", "-", "@")  # at which a spreadsheet takes text for a formula


def places(table: TableFile, rows: Rows) -> str:
    """The places of some rows, as many as a message has room for: "lines 3, 7 and 2 more"."""
    found = [str(place) for place in table.cells.index[rows]]
    more = f" and {len(found) - MAX_PLACES_SHOWN} more" if len(found) > MAX_PLACES_SHOWN else ""
    return f"{table.place}{'s' if len(found) > 1 else ''} {', '.join(found[:MAX_PLACES_SHOWN])}{more}"


def refuse_mixed_corpora(table: TableFile, column: str) -> None:
    """Losses on two corpora do not compare.

    Args:
        table: with a column `corpus`, or without.
        column: its name where the runs come from.

    Raises:
        UserError: there is more than one corpus.
    """
    corpora: list[str] = table.cells["corpus"].unique().tolist() if "corpus" in table.cells else []
    if len(corpora) > 1:
        firsts = [f"{corpus or '(empty)'} from {table.place} {_first(table, corpus)}" for corpus in corpora]
        shown = ", ".join(firsts[:MAX_PLACES_SHOWN]) + (", ..." if len(firsts) > MAX_PLACES_SHOWN else "")
        raise UserError(
            one_line(f"{table.path}: {column}: must be one corpus, as losses on two do not compare, got {shown}")
            + one_line(f"; keep one with --where {column}={corpora[0]}")
        )


def _first(table: TableFile, corpus: str) -> object:
    return table.cells.index[int(np.argmax(table.cells["corpus"] == corpus))]


def refuse_missing_budgets(table: TableFile, columns: Mapping[str, str]) -> None:
    """Every run has a size and a number of tokens.

    Args:
        table: the runs.
        columns: by ours the column where the runs come from.

    Raises:
        UserError: one lacks it.
    """
    for name in BUDGET:
        missing = np.array([is_empty(text) for text in table.cells[name]], bool)
        if missing.any():
            of = "" if columns[name] == name else f" ({columns[name]})"
            raise UserError(
                one_line(
                    f"{table.path}: {places(table, missing)}: {name}{of}: must be given for every run, got none in "
                    f"{missing.sum()} of {len(missing)}"
                )
                + "; fill it in, leave these out by --where, or say in the mapping file what it follows from"
            )


def refuse_formulas(table: TableFile) -> None:
    """No text may be run as a formula where the table is opened in a spreadsheet.

    Raises:
        UserError: a text begins like one.
    """
    for column in table.columns:
        if column.startswith(FORMULA_STARTS):
            raise UserError(
                one_line(f"{table.path}: {column}: a column must not be named like a formula") + "; rename it"
            )
        wrong = formula_rows(table, column)
        table.refuse_where(column, wrong, "must not begin like a formula", "write what it stands for, or remove it")


def formula_rows(table: TableFile, column: str) -> Rows:
    """Which cells of a column a spreadsheet would run."""
    return np.array([_is_formula(text) for text in table.cells[column]], bool)


def _is_formula(text: str) -> bool:
    if not text.startswith(FORMULA_STARTS):
        return False
    try:
        float(text)
    except ValueError:
        return True
    return False


def repeated_rows(table: TableFile, parameters: Sequence[str]) -> Rows:
    """Which rows are alike in size, tokens, parameters, seed and a finite loss, but for the first of each."""
    return np.asarray(_numbers(table, parameters).duplicated(keep="first").to_numpy() & _measured(table), bool)


def refuse_repeated(table: TableFile, parameters: Sequence[str]) -> None:
    """A run that is there twice would pass for two that agree, and noise for less than it is.

    Raises:
        UserError: one is.
    """
    repeated = repeated_rows(table, parameters)
    if repeated.any():
        numbers, row = _numbers(table, parameters), int(np.argmax(repeated))
        first = table.cells.index[int(np.argmax((numbers == numbers.iloc[row]).all(axis=1)))]
        raise UserError(
            one_line(
                f"{table.path}: {places(table, repeated)}: no run may be there twice, got in {table.place} "
                f"{table.cells.index[row]} the configuration and the loss of {table.place} {first}"
            )
            + "; remove one of each, or write in a mapping file (--map) `duplicates: first` (one run, recorded twice) "
            "or `duplicates: repeats` (runs of other seeds)"
        )


def _numbers(table: TableFile, parameters: Sequence[str]) -> pd.DataFrame:
    """What tells runs apart; a parameter that is text does not vary, and an empty cell is like another."""
    names = ["params", "tokens", "loss", *parameters, *(["seed"] if "seed" in table.cells else [])]
    numbers = {name: table.numbers(name) for name in names if not table.is_text(name)}
    return pd.DataFrame(numbers).fillna(-np.inf)


def _measured(table: TableFile) -> Rows:
    return np.asarray(np.isfinite(table.numbers("loss")), bool)
