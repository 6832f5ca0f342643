"""`hpsearch recheck`: the trials to run after a change, or what the runs after it say; options read and checked."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hpsearch.big_run_source import Source, SourceOptions, read_source
from hpsearch.imported_table import MAX_COUNT
from hpsearch.recommend_command import parse_pairs
from hpsearch.table_file import TableFile, read_file
from hpsearch.transfer.recheck import NewRuns, Recheck, RecheckPlan, optimum, plan_recheck, recheck
from hpsearch.transfer.table_recommendation import Setting
from search_spaces.errors import UserError, one_line
from search_spaces.parameter import known_name

Array = NDArray[np.float64]

MIN_LOSSES = 2  # below it nothing of a bowl is seen beside its level


@dataclass(frozen=True)
class RecheckOptions:
    """The options as they were given."""

    changed: tuple[str, ...]
    results: Path | None


def answer_recheck(options: RecheckOptions, source_options: SourceOptions) -> RecheckPlan | Recheck:
    """The plan; with results, what they say.

    Raises:
        UserError: an option or a file breaks a rule.
    """
    if not options.changed:
        raise UserError("--changed: must say what has changed, got nothing; such as --changed sequence_length=4096")
    parse_pairs("--changed", options.changed)
    source = read_source(source_options)
    if options.results is None:
        return plan_recheck(source.surface)
    answer = recheck(source.surface, read_runs(options.results, source), source.target, source.recommended)
    return answer.model_copy(update={"warnings": (*source.refused, *answer.warnings)})


def read_runs(path: Path, source: Source) -> NewRuns:
    """Reads runs after the change: `params`, `tokens`, `loss` and the parameters of the trials before it.

    A parameter without a column is taken as it was recommended for the setting.

    Raises:
        UserError: the file breaks a rule; the message has the line where one is to blame.
    """
    file = read_file(path)
    setting = Setting(params=_only(file, "params"), tokens=_only(file, "tokens"))
    best = optimum(source.surface, setting)
    columns = dict(_parameter_columns(file, source))
    rows = [{**best, **{name: float(values[i]) for name, values in columns.items()}} for i in range(len(file.cells))]
    losses = _numbers(file, "loss")
    file.refuse_where("loss", losses <= 0, "must be above 0", "use a loss in nats or bits, not a score")
    count = int(np.isfinite(losses).sum())
    if count < MIN_LOSSES:
        raise UserError(f"{path}: loss: at least {MIN_LOSSES} runs must have one, got {count}; add runs that trained")
    return NewRuns(setting, tuple(rows), np.log(np.where(np.isfinite(losses), losses, np.nan)))


def _parameter_columns(file: TableFile, source: Source) -> Iterator[tuple[str, Array]]:
    """The parameters of the trials that the file has, under any of their names."""
    columns = {known_name(column): column for column in file.columns}
    for parameter in source.table.parameters:
        column = columns.get(parameter.known_name)
        if column is None:
            continue
        values = _numbers(file, column)
        file.refuse_where(column, ~np.isfinite(values), "must be given for every run", "fill it in")
        for i, value in enumerate(values.tolist()):
            source.table.named({parameter.name: value}, f"{file.path}: {file.place} {file.cells.index[i]}")
        yield parameter.name, values


def _only(file: TableFile, column: str) -> float:
    """The one value of a column."""
    values = _numbers(file, column)
    wrong = ~((values > 0) & (values <= MAX_COUNT)) | (values != values[0])
    file.refuse_where(column, wrong, "must be a number above 0, the same in all runs", "recheck one setting at a time")
    return float(values[0])


def _numbers(file: TableFile, column: str) -> Array:
    if column not in file.cells:
        columns = ", ".join(file.columns)
        raise UserError(one_line(f"{file.path}: {column}: no such column, got {columns}") + "; add or rename it")
    return file.numbers(column, "correct it")
