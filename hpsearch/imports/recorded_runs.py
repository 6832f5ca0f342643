"""Runs as another tool recorded them: every column by that tool's name, every row with the place that it came from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hpsearch.domains import SEARCHABLE
from hpsearch.table_file import TableFile, keep
from hpsearch.table_parameters import NOT_PARAMETERS
from search_spaces.errors import UserError, one_line
from search_spaces.parameter import known_name

MAX_NAMES_SHOWN = 12


@dataclass(frozen=True)
class Tool:
    """How one tool writes its runs down."""

    name: str
    prefixes: tuple[str, ...] = ()  # of its columns, which a user may leave out: params.lr is lr
    suffix: str = ""
    loss: str = "loss"  # the column that is the loss, where the mapping file names none
    run: str = ""  # the column that names a run
    state: str = ""  # the column that says how a run ended; empty where none does
    complete: frozenset[str] = frozenset()  # its values for runs that came to their end
    failed: frozenset[str] = frozenset()  # and for those that ended in an error; all others were cut short
    no_loss_is_divergence: bool = False

    def short(self, column: str) -> str:
        """A column's name without what the tool puts around it."""
        prefix = next((prefix for prefix in self.prefixes if column.startswith(prefix)), "")
        return column.removeprefix(prefix).removesuffix(self.suffix)


CSV = Tool("csv", no_loss_is_divergence=True)
WANDB = Tool(
    "wandb",
    prefixes=("config.", "summary."),
    suffix=".value",
    state="State",
    complete=frozenset({"finished"}),
    failed=frozenset({"failed", "crashed"}),
)
MLFLOW = Tool(
    "mlflow",
    prefixes=("params.", "metrics.", "tags."),
    run="run_id",
    state="status",
    complete=frozenset({"FINISHED"}),
    failed=frozenset({"FAILED"}),
)
OPTUNA = Tool(
    "optuna",
    prefixes=("params.", "user_attrs.", "study_attrs."),
    loss="value",
    run="number",
    state="state",
    complete=frozenset({"COMPLETE"}),
    failed=frozenset({"FAIL"}),
)
TOOLS = {tool.name: tool for tool in (CSV, WANDB, MLFLOW, OPTUNA)}


@dataclass(frozen=True)
class RecordedRuns:
    """The rows of one tool."""

    tool: Tool
    table: TableFile

    @property
    def candidates(self) -> tuple[str, ...]:
        """Columns that are hyperparameters where nobody says which are.

        MLflow and Optuna tell parameters from what was measured; a W&B export does not, so only parameters that
        this project knows count there; in a plain table every column does that is not known for something else.
        """
        columns = self.table.columns
        if self.tool in (MLFLOW, OPTUNA):
            return tuple(c for c in columns if c.startswith("params.") and self.tool.short(c) not in NOT_PARAMETERS)
        if self.tool is WANDB:
            return tuple(c for c in columns if known_name(self.tool.short(c)) in SEARCHABLE)
        return tuple(c for c in columns if c and c not in NOT_PARAMETERS and not c.startswith("Unnamed:"))

    def find(self, name: str) -> str:
        """The column that a name stands for; empty where there is none.

        Raises:
            UserError: it may stand for several.
        """
        if name in self.table.cells:
            return name
        found = [column for column in self.table.columns if self.tool.short(column) == name]
        if len(found) > 1:
            raise UserError(
                one_line(f"{self.table.path}: {name}: must be one column, got {', '.join(found)}")
                + "; give the whole name in the mapping file (--map)"
            )
        return found[0] if found else ""

    def column(self, name: str, where: str) -> str:
        """The column that a name stands for.

        Raises:
            UserError: there is none, or several.
        """
        found = self.find(name)
        if not found:
            raise UserError(one_line(f"{where}: {name}: no such column in {self.table.path}") + f"; use {self.shown()}")
        return found

    def shown(self) -> str:
        """The columns, as many as a message has room for."""
        columns = self.table.columns
        more = f" and {len(columns) - MAX_NAMES_SHOWN} more" if len(columns) > MAX_NAMES_SHOWN else ""
        return one_line(", ".join(columns[:MAX_NAMES_SHOWN]) + more)

    def where(self, values: Mapping[str, str]) -> RecordedRuns:
        """The rows in which each of some columns has a value.

        Raises:
            UserError: there is no such column, or no such row.
        """
        return replace(
            self, table=keep(self.table, {self.column(name, "--where"): text for name, text in values.items()})
        )

    def having(self, rows: NDArray[np.bool_]) -> RecordedRuns:
        """Some of the rows."""
        return replace(self, table=replace(self.table, cells=self.table.cells[rows]))

    def ended(self, states: frozenset[str]) -> NDArray[np.bool_]:
        """Which rows are of a run that ended in one of some states; all where the tool does not say."""
        if not self.tool.state or self.tool.state not in self.table.cells:
            return np.full(len(self.table.cells), states == self.tool.complete)
        return np.array([text in states for text in self.table.cells[self.tool.state]], bool)


def as_table(rows: list[dict[str, str]], places: list[str], path: str, place: str) -> TableFile:
    """Rows with whatever columns each has -> a table with all of them, empty where a row lacks one.

    Args:
        rows: cells by column.
        places: what each row is called.
        path: where they come from, for messages.
        place: what `places` are, such as "run".

    Raises:
        UserError: there are none.
    """
    if not rows:
        raise UserError(one_line(f"{path}: must hold runs, got none") + "; name another, or wait until one has ended")
    columns = list(dict.fromkeys(column for row in rows for column in row))
    cells = pd.DataFrame(
        {column: [row.get(column, "").strip() for row in rows] for column in columns}, index=places, dtype=object
    )
    return TableFile(one_line(path), cells, place)
