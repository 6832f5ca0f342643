"""A table of runs that another tool wrote -> the observations and the parameters of a loss surface."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hpsearch.table_file import TableFile, is_empty, keep, read_file
from hpsearch.table_parameters import (
    NO_SPACE,
    SHAPE_COLUMNS,
    ParameterColumns,
    SpaceFile,
    as_parameter,
    parameter_columns,
)
from search_spaces.errors import UserError, one_line
from search_spaces.parameter import Parameter, known_name

Array = NDArray[np.float64]

REQUIRED = ("params", "tokens", "loss")
MIN_FINITE_LOSSES = 5
MAX_COUNT = 1e30  # of parameters and tokens; no run or target comes near
MAX_SETTINGS = 200  # the fit has three unknowns for each
COLLINEAR = 0.98  # correlation of log N and log D over settings above which their drifts cannot be told apart
EVERY_ROW: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True)
class ImportedTable:
    """A table as the surface reads it."""

    path: str
    observations: pd.DataFrame  # as `hpsearch.surface_data.read_sweep` takes them, in an order of their own
    parameters: tuple[Parameter, ...]  # by the table's own names
    fixed: Mapping[str, str]  # by column that might be a parameter, but does not vary: its value, as text
    warnings: tuple[str, ...]

    def named(self, values: Mapping[str, float], where: str) -> dict[str, float]:
        """Values by the table's names of the parameters, or by ours -> by the table's.

        Raises:
            UserError: a name is unknown, stands twice, or its value has no place on the parameter's scale.
        """
        known = {parameter.known_name: parameter for parameter in self.parameters}
        result: dict[str, float] = {}
        for given, value in values.items():
            parameter = known.get(known_name(given))
            if parameter is None:
                names = ", ".join(parameter.name for parameter in self.parameters)
                raise UserError(one_line(f"{where}: {given}: no parameter of {self.path}") + f"; use one of {names}")
            if parameter.name in result:
                raise UserError(f"{where}: {given}: is {parameter.known_name} by another name, got both; remove one")
            _check_value(parameter, value, f"{where}: {given}")
            result[parameter.name] = value
        return result


def read_table(path: Path, where: Mapping[str, str] = EVERY_ROW, space: SpaceFile = NO_SPACE) -> ImportedTable:
    """Reads a table with `params` (N, non-embedding), `tokens` (D), `loss` and a column for each parameter.

    Args:
        path: a CSV or Parquet file.
        where: by column the value, as text, that a row must have to be read.
        space: ranges and scales that go before what the values tell.

    Raises:
        UserError: the table breaks a rule; the message has the line where one is to blame.
    """
    return table_of(keep(read_file(path), where), space)


def table_of(file: TableFile, space: SpaceFile = NO_SPACE) -> ImportedTable:
    """The same of a file that was read already."""
    check_columns(file)
    columns = parameter_columns(file)
    _check_space(file, columns, space)
    measured = {"params": read_counts(file, "params"), "tokens": read_counts(file, "tokens"), "loss": read_losses(file)}
    table = pd.DataFrame(measured | dict(columns.values)).assign(shape=_shapes(file))
    _check_totals(file, table)
    _check_settings(file, table)
    return ImportedTable(
        path=file.path,
        observations=_identified(file, table, tuple(columns.values)),
        parameters=tuple(as_parameter(column, values, space) for column, values in columns.values.items()),
        fixed={name: str(file.cells[name].iloc[0]) for name in columns.constant},
        warnings=tuple(_warnings(columns, table)),
    )


def check_columns(file: TableFile) -> None:
    for column in REQUIRED:
        if column in file.cells:
            continue
        if column == "params" and "params_total" in file.cells:
            raise UserError(
                f"{file.path}: params: required, got params_total only; N counts the parameters without embedding "
                "and unembedding: subtract these and name the column params"
            )
        raise UserError(
            f"{file.path}: {column}: no such column, got {', '.join(file.columns)}; add or rename it "
            "(params: non-embedding parameters, tokens: of the run, loss: empty where it diverged)"
        )
    if "schedule" in file.cells and file.cells["schedule"].nunique() > 1:
        first = file.cells["schedule"].iloc[0]
        raise UserError(
            f"{file.path}: schedule: must be one, as losses under two do not compare, got "
            f"{file.values_shown('schedule')}; keep one with --where schedule={first}"
        )


def _check_space(file: TableFile, columns: ParameterColumns, space: SpaceFile) -> None:
    known = [known_name(column) for column in columns.values]
    for name in space.domains:
        if name not in known:
            raise UserError(
                one_line(f"{space.path}: {name}: no parameter that varies in {file.path}")
                + f"; use one of {', '.join(columns.values)}"
            )


def _check_value(parameter: Parameter, value: float, where: str) -> None:
    try:
        parameter.coordinate(value)
        if not isfinite(value):
            raise ValueError
    except ValueError as error:  # the logarithm's too
        raise UserError(f"{where}: must lie on a {parameter.scale} scale, got {value:g}; correct it") from error


def read_counts(file: TableFile, column: str) -> Array:
    counts = file.numbers(column)
    wrong = ~((counts > 0) & (counts <= MAX_COUNT))
    file.refuse_where(column, wrong, "must be a number above 0", "correct it, or leave the row out by --where")
    return counts


def read_losses(file: TableFile) -> Array:
    """The losses; NaN of a run that diverged."""
    losses = file.numbers("loss")
    file.refuse_where("loss", losses <= 0, "must be above 0", "use a loss in nats or bits, not a score")
    count = int(np.isfinite(losses).sum())
    if count < MIN_FINITE_LOSSES:
        raise UserError(
            f"{file.path}: loss: at least {MIN_FINITE_LOSSES} runs must have one, got {count} of {len(losses)}; "
            "add runs that did not diverge"
        )
    return np.where(np.isfinite(losses), losses, np.nan)


def _shapes(file: TableFile) -> list[str]:
    """What tells models of one size apart, as text."""
    columns = [column for column in file.columns if column in SHAPE_COLUMNS]
    return [" ".join(cells) for cells in zip(*(file.cells[column] for column in columns), strict=True)] or [""] * len(
        file.cells
    )


def _check_totals(file: TableFile, table: pd.DataFrame) -> None:
    if "params_total" in file.cells:
        totals = file.numbers("params_total")
        wrong = table["params"].to_numpy() > totals
        file.refuse_where("params_total", wrong, "must not be below params", "params counts without embeddings")


def _check_settings(file: TableFile, table: pd.DataFrame) -> None:
    """Each size and budget has an optimum of its own: a table that logs every step has as many as steps."""
    count = len(table[["params", "tokens"]].drop_duplicates())
    if count > MAX_SETTINGS:
        raise UserError(
            f"{file.path}: params, tokens: at most {MAX_SETTINGS} different sizes and budgets may stand together, got "
            f"{count:,}; keep the last row of each run, or round params and tokens of runs that belong together"
        )


def _identified(file: TableFile, table: pd.DataFrame, names: Sequence[str]) -> pd.DataFrame:
    """Adds `trial` and `seed`, and sorts, so that nothing depends on the order of the rows.

    A run without a `trial` is one of its own. Where there is no `seed`, runs that are alike are repeats.
    """
    alike = ["params", *names]
    order = [*alike, "tokens", "loss"]
    if "trial" in file.cells:
        file.refuse_where(
            "trial", _empty(file, "trial"), "must be given for every run or none", "fill it in, or remove the column"
        )
        table, order = table.assign(trial=file.cells["trial"].to_numpy(str)), [*order, "trial"]
    if "seed" in file.cells:
        table, order = table.assign(seed=_seeds(file)), [*order, "seed"]
    table = table.sort_values(order, kind="stable")
    if "trial" not in table:
        table, alike = table.assign(trial=[f"{i:09d}" for i in range(len(table))]), [*alike, "tokens"]
    if "seed" not in table:
        table = table.assign(seed=_repeat_numbers(table, alike))
    _check_trials(file, table, ["params", *names, "seed"])
    return table.reset_index(drop=True)


def _empty(file: TableFile, column: str) -> NDArray[np.bool_]:
    return np.array([is_empty(text) for text in file.cells[column]])


def _seeds(file: TableFile) -> Array:
    seeds = file.numbers("seed")
    file.refuse_where("seed", ~np.isfinite(seeds), "must be given for every run or none", "fill it in")
    return seeds


def _repeat_numbers(table: pd.DataFrame, alike: list[str]) -> Array:
    """0, 1, 2, ... for the trials that are alike in some columns, by lot.

    Not by their order in the file, on which nothing may depend, and not by their loss: the surface leans on the
    run of seed 0, so that one must not always be the luckiest.
    """
    luck = pd.Series(np.random.default_rng(0).random(len(table)), table.index)
    of_trial = luck.groupby(table["trial"]).transform("min")
    number = of_trial.groupby([table[column] for column in alike]).rank("dense") - 1
    return np.asarray(number, np.float64)


def _check_trials(file: TableFile, table: pd.DataFrame, same: list[str]) -> None:
    """A trial is one configuration of one model with one seed, measured once at each budget."""
    differs = table.groupby("trial")[same].transform("nunique").gt(1).any(axis=1)
    twice = table.duplicated(["trial", "tokens"], keep=False)
    rule = "must name one run: the same parameters and seed in each row, and each time other tokens"
    wrong = (differs | twice).sort_index().to_numpy()
    if "trial" in file.cells:
        file.refuse_where("trial", wrong, rule, "name each run apart, or remove the column")


def _warnings(columns: ParameterColumns, table: pd.DataFrame) -> Iterator[str]:
    if columns.constant:
        yield f"columns that do not vary tell nothing and are ignored: {', '.join(columns.constant)}"
    settings = table[["params", "tokens"]].drop_duplicates()
    sizes, budgets = settings["params"].nunique(), settings["tokens"].nunique()
    if sizes == 1:
        yield f"one size, N = {settings['params'].iloc[0]:,.0f}: nothing is seen of the drift with N; add another size"
    if budgets == 1:
        yield f"one budget, D = {settings['tokens'].iloc[0]:,.0f}: nothing is seen of the drift with D; add another"
    if sizes == 1 or budgets == 1:
        return
    correlation = float(np.corrcoef(np.log2(settings.to_numpy(np.float64)), rowvar=False)[0, 1])
    if abs(correlation) > COLLINEAR:
        yield (
            f"N and D are collinear (correlation {correlation:.2f} of their logarithms over {len(settings)} settings): "
            "whether N or D moves an optimum cannot be told; add runs at another D/N on two sizes"
        )
