"""Which of a tool's columns are what: as a mapping file says, else by their names."""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass

from hpsearch.imported_table import REQUIRED
from hpsearch.imports.mapping import Amount, MappingFile
from hpsearch.imports.recorded_runs import CSV, WANDB, RecordedRuns
from hpsearch.imports.refusals import formula_rows
from hpsearch.table_parameters import NOT_PARAMETERS, SHAPE_COLUMNS
from search_spaces.errors import UserError, one_line

WANDB_COLUMNS = frozenset({"created", "sweep", "updated", "end time", "job type", "hostname"})  # in small letters
LABELS = {"seed": ("seed",), "trial": ("trial",), "corpus": ("corpus", "dataset"), "schedule": ("schedule",)}
HOW_TO_MAP = {
    "params": "`params: {column: model_size_M, times: 1e6}` (without embeddings; or one number for all runs)",
    "tokens": "`tokens: {product: [steps, batch_size, 1024]}`",
    "loss": "`loss: eval/loss`",
}


@dataclass(frozen=True)
class Columns:
    """What each of our columns is made of; all names of the tool's columns are whole."""

    amounts: Mapping[str, Amount]  # numbers
    cells: Mapping[str, str]  # columns that are taken as they stand
    parameters: tuple[str, ...]  # which of ours are hyperparameters

    @property
    def told(self) -> dict[str, str]:
        """In words."""
        return {name: amount.told for name, amount in self.amounts.items()} | dict(self.cells)

    @property
    def used(self) -> set[str]:
        """The tool's columns that are read."""
        return set(self.cells.values()).union(*(amount.factors for amount in self.amounts.values()))


def measured_amounts(runs: RecordedRuns, mapping: MappingFile) -> dict[str, Amount]:
    """What the size, the tokens and the loss of each run are made of.

    Raises:
        UserError: a column is not there, or may be one of several.
    """
    given = {name: getattr(mapping, name) for name in REQUIRED}
    named = {name: "" if given[name] else runs.find(runs.tool.loss if name == "loss" else name) for name in REQUIRED}
    missing = [name for name in REQUIRED if not given[name] and not named[name]]
    if missing:
        raise _missing(runs, missing)
    return {
        name: _whole(runs, given[name], name) if given[name] else Amount(factors=(named[name],)) for name in REQUIRED
    }


def choose_columns(runs: RecordedRuns, mapping: MappingFile, measured: Mapping[str, Amount]) -> Columns:
    """Which columns are read.

    Args:
        runs: those that will be read.
        mapping: what the user says.
        measured: as `measured_amounts` found.

    Raises:
        UserError: a column is not there, may be one of several, or would be a parameter but is text.
    """
    amounts = {**measured, **{name: _whole(runs, amount, name) for name, amount in mapping.parameters.items()}}
    labels = _labels(runs, mapping)
    used = Columns(amounts, labels, ()).used
    unnamed = {} if mapping.parameters else _candidates(runs, used)
    others = _others(runs, used, {*amounts, *labels})
    return Columns(amounts, labels | unnamed | others, (*mapping.parameters, *unnamed))


def ignored_columns(runs: RecordedRuns, columns: Columns) -> list[str]:
    """Columns that may well be parameters, and differ between runs that are read as if they were alike."""
    candidates = [c for c in runs.table.columns if _may_be_setting(runs, c)] if runs.tool is WANDB else runs.candidates
    return [c for c in candidates if c not in columns.used and runs.table.cells[c].nunique() > 1]


def _may_be_setting(runs: RecordedRuns, column: str) -> bool:
    """Whether a column of an export may be a setting, and not what W&B itself says of a run."""
    return runs.tool.short(column).lower() not in NOT_PARAMETERS | WANDB_COLUMNS and not column.startswith("_")


def _whole(runs: RecordedRuns, amount: Amount, name: str) -> Amount:
    """An amount with the whole names of its columns."""
    factors = tuple(runs.column(factor, f"--map: {name}") for factor in amount.factors)
    return amount.model_copy(update={"factors": factors})


def _missing(runs: RecordedRuns, names: list[str]) -> UserError:
    if names == ["params"] and runs.find("params_total"):
        return UserError(
            f"{runs.table.path}: params: required, got params_total only; N counts the parameters without embedding "
            "and unembedding: subtract these and name the column params"
        )
    return UserError(
        one_line(f"{runs.table.path}: {', '.join(names)}: no such column, got {runs.shown()}")
        + f"; say in a mapping file (--map) what it is, such as {', '.join(HOW_TO_MAP[name] for name in names)}"
    )


def _labels(runs: RecordedRuns, mapping: MappingFile) -> dict[str, str]:
    labels: dict[str, str] = {}
    for name, known in LABELS.items():
        given: str | None = getattr(mapping, name)
        found = [runs.column(given, f"--map: {name}")] if given else [c for c in map(runs.find, known) if c]
        if found:
            labels[name] = found[0]
    if mapping.rows == "steps" and "trial" not in labels:
        labels["trial"] = runs.tool.run
    return labels


def _candidates(runs: RecordedRuns, used: Set[str]) -> dict[str, str]:
    """By short name the columns that are parameters where the mapping file names none."""
    found: dict[str, str] = {}
    for column in (column for column in runs.candidates if column not in used):
        name = runs.tool.short(column)
        if name in found:
            raise UserError(
                one_line(f"{runs.table.path}: {name}: must be one column, got {found[name]}, {column}")
                + "; name the parameters in a mapping file (--map)"
            )
        _refuse_varying_text(runs, column)
        found[name] = column
    return found


def _others(runs: RecordedRuns, used: Set[str], taken: Set[str]) -> dict[str, str]:
    """Columns that are no parameters and that a reader of tables knows: a plain table's all, else those of shapes.

    A column with a text that a spreadsheet would run is none of them.
    """
    known = (NOT_PARAMETERS if runs.tool is CSV else SHAPE_COLUMNS | {"params_total"}) - taken
    found: dict[str, str] = {}
    for column in (column for column in runs.table.columns if column not in used):
        name = runs.tool.short(column)
        if name in known and name not in found and not formula_rows(runs.table, column).any():
            found[name] = column
    return found


def _refuse_varying_text(runs: RecordedRuns, column: str) -> None:
    table = runs.table
    if table.cells[column].nunique() > 1 and table.is_text(column):
        text = next(text for text in table.cells[column] if text)
        raise UserError(
            one_line(f"{table.path}: {column}: a parameter must be a number, got text: {table.values_shown(column)}")
            + one_line(f"; keep one with --where {column}={text}, or name the parameters in a mapping file (--map)")
        )
