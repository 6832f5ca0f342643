"""An imported search: a folder with a table of runs and the record of where it came from."""

from __future__ import annotations

import csv
import hashlib
import io
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from hpsearch.checked import Checked
from hpsearch.folder import SearchFolder, folder_named
from hpsearch.home import Home
from hpsearch.imports.mapping import MappingFile
from hpsearch.table_file import TableFile
from search_spaces.errors import UserError


class Origin(Checked):
    """Where the runs were read from."""

    tool: str
    address: str  # a file or a store, without a password
    names: tuple[str, ...]  # of experiments or studies
    sha256: str  # of a file; empty for a store


class ImportRecord(Checked):
    """What `hpsearch import` did."""

    version: Literal[1] = 1
    name: str
    origin: Origin
    where: dict[str, str]
    mapping: MappingFile
    columns: dict[str, str]  # by ours what it was made of
    parameters: tuple[str, ...]  # those that vary
    rows: int
    diverged: int
    sizes: int
    budgets: int  # pairs of a size and a number of tokens
    left_out: tuple[str, ...]
    warnings: tuple[str, ...]
    table_sha256: str


def table_text(table: TableFile) -> str:
    """The cells as CSV; where no column says which run a row is, `run` has the place that it came from."""
    cells = table.cells if "run" in table.cells else table.cells.assign(run=table.cells.index.astype(str))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(cells.columns)
    writer.writerows(cells.itertuples(index=False, name=None))
    return text.getvalue()


def check_free(folder: SearchFolder) -> None:
    """Nothing is imported over something else.

    Raises:
        UserError: the folder is there.
    """
    if os.path.lexists(folder.path):
        raise UserError(f"{folder.path}: is there already; choose another --name, or remove it")


def write_import(folder: SearchFolder, record: ImportRecord, table: str, space: str) -> None:
    """Writes an imported search whole or not at all: beside its place, then renamed.

    Args:
        folder: its place, which is free.
        record: what was done.
        table: the text of the table.
        space: the text of the space file; empty where there is none.

    Raises:
        UserError: the home may not be written to, or the place was taken meanwhile.
    """
    beside = SearchFolder(folder.home, f".{folder.name}.{os.getpid()}")
    try:
        beside.path.mkdir(parents=True)
        beside.imported_table.write_text(table, encoding="utf-8")
        if space:
            beside.imported_space.write_text(space, encoding="utf-8")
        beside.import_record.write_text(record.model_dump_json(indent=2, exclude_none=True) + "\n", encoding="utf-8")
        os.rename(beside.path, folder.path)
    except OSError as error:
        raise UserError(
            f"{folder.path}: cannot be written ({error.strerror}); choose another --name or --home"
        ) from error
    finally:
        shutil.rmtree(beside.path, ignore_errors=True)


def read_import(folder: SearchFolder) -> ImportRecord:
    """The record of an imported search.

    Raises:
        UserError: it is missing, or not as it was written.
    """
    try:
        return ImportRecord.model_validate_json(folder.import_record.read_bytes())
    except (OSError, ValidationError) as error:
        raise UserError(f"{folder.import_record}: not readable as what hpsearch import writes; import again") from error


def imported_table(folder: SearchFolder) -> Path:
    """The table of an imported search, which must be the one that was imported.

    Raises:
        UserError: it is missing, or was changed.
    """
    record, path = read_import(folder), folder.imported_table
    if not path.is_file():
        raise UserError(f"{path}: no such file; import {folder.name} again")
    if digest_of_file(path) != record.table_sha256:
        raise UserError(f"{path}: was changed after the import; import it again, or give it as --trials {path}")
    return path


def asked_as_table(home: Home, search: str | None, of_table: Mapping[str, Any]) -> tuple[str | None, dict[str, Any]]:
    """Turns the name of an imported search into the options of the table that it is.

    Args:
        home: the folder of searches.
        search: a name, if one was given.
        of_table: the options that go with a table, `trials` and `search_space` among them.

    Returns:
        The name of a search that was not imported, if one was given, and the options.

    Raises:
        UserError: the imported search is not as it was written.
    """
    folder = folder_named(home, search) if search is not None and of_table["trials"] is None else None
    if folder is None or not folder.is_imported:
        return search, dict(of_table)
    space = folder.imported_space if folder.imported_space.is_file() else None
    return None, {
        **of_table,
        "trials": imported_table(folder),
        "search_space": of_table["search_space"] or space,
    }


def import_summary(folder: SearchFolder) -> dict[str, Any]:
    """An imported search in a few words, with the keys that `hpsearch.view.search_summary` gives of others."""
    record = read_import(folder)
    return {
        "name": folder.name,
        "state": "imported",
        "trials": record.rows,
        "counts": f"{record.rows - record.diverged} COMPLETE, {record.diverged} DIVERGED, from {record.origin.tool}",
        "spent_flops": None,
        "budget_flops": None,
        "folder": str(folder.path),
    }


def digest_of(text: str) -> str:
    """The sha256 of a text as it is written to a file."""
    return hashlib.sha256(text.encode()).hexdigest()


def digest_of_file(path: Path) -> str:
    """The sha256 of a file, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
