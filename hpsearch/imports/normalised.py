"""Runs as another tool recorded them -> a table in this project's names and units, with what was left out and why."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from hpsearch.imports.columns import Columns, choose_columns, ignored_columns, measured_amounts
from hpsearch.imports.mapping import Amount, MappingFile
from hpsearch.imports.recorded_runs import RecordedRuns
from hpsearch.imports.refusals import (
    Rows,
    places,
    refuse_formulas,
    refuse_missing_budgets,
    refuse_mixed_corpora,
    refuse_repeated,
    repeated_rows,
)
from hpsearch.table_file import TableFile
from search_spaces.errors import UserError, one_line

MAX_IGNORED_SHOWN = 8
MID_RUN = (
    "losses at steps in mid-run are read: they compare with those of shorter runs only where the learning rate does "
    "not decay before"
)


@dataclass(frozen=True)
class NormalisedRuns:
    """A table that `hpsearch.imported_table` reads, its rows placed where they came from."""

    table: TableFile
    columns: Columns
    left_out: tuple[str, ...]  # rows, by reason, in words
    warnings: tuple[str, ...]


def normalise(runs: RecordedRuns, mapping: MappingFile) -> NormalisedRuns:
    """Takes the columns that a mapping file names, or that have our names, of the runs that tell something.

    Raises:
        UserError: a column is missing or may be one of several, or a row breaks a rule.
    """
    amounts = measured_amounts(runs, mapping)
    usable = _usable(runs, mapping)
    ended = runs.having(usable)
    silent = _silent(ended, amounts["loss"], mapping)
    measured = ended.having(~silent)
    columns = choose_columns(measured, mapping, amounts)
    table = _table(measured, columns, mapping)
    refuse_mixed_corpora(table, columns.told.get("corpus", ""))
    refuse_missing_budgets(table, columns.told)
    refuse_formulas(table)
    repeated = _repeated(table, columns, mapping)
    return NormalisedRuns(
        table=replace(table, cells=table.cells[~repeated]),
        columns=columns,
        left_out=(
            *_by_state(runs, ~usable),
            *_left_out("recorded no loss", ended.table, silent),
            *_left_out("recorded twice", table, repeated),
        ),
        warnings=tuple(_warnings(measured, columns, mapping)),
    )


def _usable(runs: RecordedRuns, mapping: MappingFile) -> Rows:
    """A run that was cut short has no loss at its full budget; what it measured at a step is one all the same."""
    if mapping.rows == "steps":
        return np.full(len(runs.table.cells), True)
    usable = runs.ended(runs.tool.complete) | _diverged(runs, mapping)
    if not usable.any():
        raise UserError(
            f"{runs.table.path}: no run came to its end, got the states {runs.table.values_shown(runs.tool.state)}; "
            "wait until runs have ended, or read what they measured in mid-run with rows: steps in the mapping file"
        )
    return usable


def _diverged(runs: RecordedRuns, mapping: MappingFile) -> Rows:
    """Runs that ended in an error, where the user says what that means."""
    return runs.ended(runs.tool.failed) & (mapping.failed == "diverged")


def _silent(runs: RecordedRuns, loss: Amount, mapping: MappingFile) -> Rows:
    """Rows without a loss, of a tool that would have recorded one that is not a number."""
    silent = ~_filled(runs.table, loss) & ~_diverged(runs, mapping) & (not runs.tool.no_loss_is_divergence)
    if silent.all():
        raise UserError(
            one_line(f"{runs.table.path}: loss ({loss.told}): no run that ended has one")
            + "; name another column in a mapping file (--map)"
        )
    return silent


def _table(runs: RecordedRuns, columns: Columns, mapping: MappingFile) -> TableFile:
    source = runs.table
    cells = {name: _amount_cells(source, amount) for name, amount in columns.amounts.items()}
    cells |= {name: source.cells[column].tolist() for name, column in columns.cells.items()}
    diverged = _diverged(runs, mapping).tolist()
    cells["loss"] = ["nan" if bad else text for bad, text in zip(diverged, cells["loss"], strict=True)]
    return replace(source, cells=pd.DataFrame(cells, index=source.cells.index, dtype=object))


def _amount_cells(table: TableFile, amount: Amount) -> list[str]:
    """An amount as text: cell by cell as it stands where nothing is to be computed; empty where a factor is."""
    numbers = [table.numbers(column) for column in amount.factors]
    if amount.is_cell:
        return [str(text) for text in table.cells[amount.factors[0]]]
    product = np.prod([np.full(len(table.cells), amount.times), *numbers], axis=0).tolist()
    return [repr(value) if there else "" for value, there in zip(product, _filled(table, amount), strict=True)]


def _filled(table: TableFile, amount: Amount) -> Rows:
    """Rows in which no factor is an empty cell."""
    filled = np.full(len(table.cells), True)
    for column in amount.factors:
        filled &= table.cells[column].to_numpy(str) != ""
    return filled


def _repeated(table: TableFile, columns: Columns, mapping: MappingFile) -> Rows:
    if mapping.duplicates == "refuse":
        refuse_repeated(table, columns.parameters)
    return repeated_rows(table, columns.parameters) & (mapping.duplicates == "first")


def _left_out(reason: str, table: TableFile, rows: Rows) -> Iterator[str]:
    if rows.any():
        yield f"{int(rows.sum())} left out ({reason}): {places(table, rows)}"


def _by_state(runs: RecordedRuns, rows: Rows) -> Iterator[str]:
    if not rows.any():
        return
    states = runs.table.cells[runs.tool.state]
    for state in states[rows].unique():
        yield from _left_out(f"state {one_line(state)}", runs.table, rows & (states == state).to_numpy())


def _warnings(runs: RecordedRuns, columns: Columns, mapping: MappingFile) -> Iterator[str]:
    if mapping.rows == "steps":
        yield MID_RUN
    ignored = ignored_columns(runs, columns)
    if ignored:
        more = f" and {len(ignored) - MAX_IGNORED_SHOWN} more" if len(ignored) > MAX_IGNORED_SHOWN else ""
        yield one_line(f"columns that vary and are not taken: {', '.join(ignored[:MAX_IGNORED_SHOWN])}{more}")
