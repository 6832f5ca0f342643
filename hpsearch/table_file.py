"""A table file as text: every cell with the line that it stands in, so that a mistake can be pointed at."""

from __future__ import annotations

import csv
import os.path
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import nan
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from search_spaces.errors import UserError, one_line

MAX_FILE_BYTES = 256 * 2**20
MAX_VALUES_SHOWN = 8
EMPTY = frozenset({"", "nan", "none", "null", "na", "n/a", "<na>", "nat"})  # what tools write for "no value"


@dataclass(frozen=True)
class TableFile:
    """The cells of a table as they were written."""

    path: str
    cells: pd.DataFrame  # text without blanks around it; the index is the place
    place: str  # what the index counts: "line" of a CSV file, "row" of a Parquet file

    @property
    def columns(self) -> tuple[str, ...]:
        return tuple(self.cells.columns)

    def is_text(self, column: str) -> bool:
        """Whether no cell is a number, and not all are empty."""
        filled = [text for text in self.cells[column] if not is_empty(text)]
        return bool(filled) and all(_number(text) is None for text in filled)

    def numbers(self, column: str, remedy: str = "correct it, or leave the row out by --where") -> NDArray[np.float64]:
        """The cells of a column; NaN where one is empty.

        Raises:
            UserError: a cell is neither empty nor a number.
        """
        values = [_number(text) for text in self.cells[column]]
        if None in values:
            self.refuse(column, "must be a number", values.index(None), remedy)
        return np.array(values, np.float64)

    def refuse(self, column: str, rule: str, row: int, remedy: str) -> None:
        """Raises the error that points at one cell."""
        got = self.cells[column].iloc[row] or "an empty cell"
        line = self.cells.index[row]
        raise UserError(one_line(f"{self.path}: {self.place} {line}: {column}: {rule}, got {got}") + f"; {remedy}")

    def refuse_where(self, column: str, wrong: NDArray[np.bool_], rule: str, remedy: str) -> None:
        """Raises at the first row that is wrong, if any is."""
        if wrong.any():
            self.refuse(column, rule, int(np.argmax(wrong)), remedy)

    def values_shown(self, column: str) -> str:
        """The distinct values of a column, as many as an error message has room for."""
        values = sorted(set(self.cells[column]))
        more = ", ..." if len(values) > MAX_VALUES_SHOWN else ""
        return one_line(", ".join(value or "(empty)" for value in values[:MAX_VALUES_SHOWN]) + more)


def is_empty(text: str) -> bool:
    """Whether a cell says that there is no value."""
    return text.lower() in EMPTY


def read_file(path: Path) -> TableFile:
    """Reads a CSV file, or a Parquet file where the name ends so.

    Raises:
        UserError: it is absent, too large, not such a file, without rows, or a column stands twice.
    """
    _check_file(path)
    parquet = path.suffix == ".parquet"
    cells = _read_parquet(path) if parquet else _read_csv(path)
    if cells.empty:
        raise UserError(f"{path}: must hold a row for each run below the names of the columns, got none; add them")
    return TableFile(str(path), cells, "row" if parquet else "line")


def keep(file: TableFile, where: Mapping[str, str]) -> TableFile:
    """Keeps the rows in which each of some columns has a value, told as text.

    Raises:
        UserError: there is no such column, or no such row.
    """
    for column, value in where.items():
        if column not in file.cells:
            columns = ", ".join(file.columns)
            raise UserError(one_line(f"--where: {column}: no such column in {file.path}; use one of {columns}"))
        cells = file.cells[file.cells[column].map(lambda text, value=value: _same(text, value))]
        if cells.empty:
            raise UserError(
                one_line(f"--where: {column}: no row of {file.path} has the value {value}")
                + f"; use one of {file.values_shown(column)}"
            )
        file = replace(file, cells=cells)
    return file


def _same(text: str, value: str) -> bool:
    number = _number(text)
    return text == value or (number is not None and number == _number(value))


def _number(text: str) -> float | None:
    """The number that a cell holds, NaN for an empty one, None for text."""
    if is_empty(text):
        return nan
    try:
        return float(text) if "_" not in text else None  # which Python lets pass
    except ValueError:
        return None


def _check_file(path: Path) -> None:
    if not os.path.isfile(path):  # unlike Path.is_file it takes any text for a path
        raise UserError(one_line(f"{path}: no such table; give the path of a CSV or Parquet file"))
    if os.path.getsize(path) > MAX_FILE_BYTES:
        raise UserError(
            f"{path}: must be at most {MAX_FILE_BYTES:,} bytes, got {os.path.getsize(path):,}; "
            "keep a row for each run, not for each step"
        )


def _read_csv(path: Path) -> pd.DataFrame:
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, strict=True)
            header = [name.strip() for name in next(reader, [])]
            _check_header(path, header)
            rows = [(reader.line_num, _row(path, header, reader.line_num, row)) for row in reader if row]
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path}: must be text in UTF-8, got byte {error.object[error.start]:#x}; save it so"
        ) from error
    except csv.Error as error:
        raise UserError(
            one_line(f"{path}: line {reader.line_num}: not readable as CSV: {error}; correct it")
        ) from error
    except OSError as error:
        raise UserError(f"{path}: not readable ({error.strerror}); check its permissions") from error
    return pd.DataFrame([row for _, row in rows], columns=header, index=[line for line, _ in rows], dtype=object)


def _row(path: Path, header: Sequence[str], line: int, row: Sequence[str]) -> list[str]:
    if len(row) != len(header):
        raise UserError(
            f"{path}: line {line}: must have {len(header)} cells separated by commas, as the first line has, "
            f"got {len(row)}; add or remove commas"
        )
    return [text.strip() for text in row]


def _check_header(path: Path, header: Sequence[str]) -> None:
    if not any(header):
        raise UserError(f"{path}: must begin with the names of the columns, got an empty line; add them")
    for column in header:
        if header.count(column) > 1:
            raise UserError(one_line(f"{path}: {column or '(no name)'}: the column stands twice; remove or rename one"))


def _read_parquet(path: Path) -> pd.DataFrame:
    try:
        table = pd.read_parquet(path)
    except (ValueError, OSError) as error:  # pyarrow's complaints are of these kinds
        raise UserError(one_line(f"{path}: not readable as Parquet: {error}; write it again")) from error
    header = [str(name).strip() for name in table.columns]
    _check_header(path, header)
    columns = {name: [str(value).strip() for value in table.iloc[:, i]] for i, name in enumerate(header)}
    return pd.DataFrame(columns, index=range(1, len(table) + 1), dtype=object)
