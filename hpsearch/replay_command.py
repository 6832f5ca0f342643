"""`hpsearch replay`: the recorded trials of a search or a table, with what is known of their outcomes."""

from __future__ import annotations

import os.path
from collections.abc import Sequence
from dataclasses import dataclass
from math import inf
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd

from hpsearch.events import Role
from hpsearch.imported_table import read_table
from hpsearch.laws import FLOPS_PER_PARAMETER_TOKEN
from hpsearch.replay import RULES, RecordedProxy, RecordedTrial, RuleSettings
from hpsearch.replay_report import Metric, Question, Recording
from hpsearch.state import SearchState
from hpsearch.table_file import TableFile, keep, read_file
from hpsearch.trials_table import trials_table
from search_spaces.errors import UserError
from search_spaces.parameter import Parameter
from trials.trial import Outcome

TABLE_SUFFIXES = (".csv", ".parquet")


@dataclass(frozen=True)
class ReplayOptions:
    """The options as they were given."""

    scheduler: str | None  # None: all of them
    metric: Metric
    reduction_factor: int
    tolerance: float
    sampler: Literal["recorded", "random"]
    seeds: int

    @property
    def question(self) -> Question:
        """What is asked of the recorded trials."""
        return Question(
            schedulers=(self.scheduler,) if self.scheduler else tuple(RULES),
            metric=self.metric,
            num_orders=self.seeds if self.sampler == "random" else 0,
            rules=RuleSettings(self.reduction_factor, self.tolerance),
        )


def is_table(source: str) -> bool:
    """Whether a table is meant, and not a search."""
    return os.path.isfile(source) or source.endswith(TABLE_SUFFIXES)


def recording_of_search(state: SearchState, metric: Metric) -> Recording:
    """The trials of a search that its ladder was explored with."""
    table = trials_table(state)
    explored = table[table["role"] == Role.EXPLORE] if len(table) else table
    return recording_of(state.spec.name, explored, state.spec.parameters, state.spec.seed, metric)


def recording_of_table(path: Path, metric: Metric) -> Recording:
    """A table, with the columns that only a replay reads: `trial`, and where they are there `raw_loss`, `flops`.

    Raises:
        UserError: it cannot be read, or breaks a rule.
    """
    file = read_file(path)
    if "trial" not in file.cells:
        raise UserError(
            f"{path}: trial: no such column, got {', '.join(file.columns)}; add it: the rows of one trial, measured at "
            "several budgets, share its name"
        )
    explored = (
        {"role": str(Role.EXPLORE)} if "role" in file.cells and (file.cells["role"] == Role.EXPLORE).any() else {}
    )
    file, imported = keep(file, explored), read_table(path, explored)
    keys = ["trial", "tokens"]
    extras = _extras(file, metric)
    table = extras.merge(imported.observations, on=keys, how="left", validate="one_to_one")
    return recording_of(str(path), table, imported.parameters, 0, metric)


def recording_of(
    source: str, table: pd.DataFrame, parameters: Sequence[Parameter], seed: int, metric: Metric
) -> Recording:
    """Trials by proxy.

    Args:
        source: its name.
        table: a row a measurement: `trial`, `params`, `tokens`, `loss` (NaN: diverged), the metric, `seed`, `flops`
            (since the row before; NaN: not known), `outcome` (FAIL: not known) and a column for each parameter.
        parameters: the searched ones.
        seed: of the surface.
        metric: the column that the rules see.
    """
    recorded = len(table) > 0 and bool(np.isfinite(table["flops"].to_numpy(np.float64)).all())
    names = [parameter.name for parameter in parameters]
    sizes = sorted(table["params"].unique()) if len(table) else []
    proxies = [_proxy(table[table["params"] == size], names, metric, recorded) for size in sizes]
    return Recording(
        source=source,
        parameters=tuple(parameters),
        seed=seed,
        flops="recorded" if recorded else "6ND",
        proxies=tuple(proxy for proxy in proxies if proxy.num_rungs > 1 and proxy.num_complete),
        num_recorded=sum(proxy.num_recorded for proxy in proxies),
    )


def _proxy(table: pd.DataFrame, names: Sequence[str], metric: Metric, recorded: bool) -> RecordedProxy:
    """The trials of one proxy that were measured at the last rung, or diverged before.

    A rung is a place in a trial's own order of budgets, as batches make budgets differ by a step; a trial with fewer
    rungs, or with less than half of the longest one's budget, was stopped before its outcome was known.
    """
    groups = [rows.sort_values("tokens") for _, rows in table.groupby("trial", sort=False)]
    trials = [_trial(rows, names, metric, recorded) for rows in groups if not (rows["outcome"] == Outcome.FAIL).any()]
    num_rungs = max((len(trial.tokens) for trial in trials), default=0)
    longest = max((trial.tokens[-1] for trial in trials), default=0.0)
    usable = [
        trial
        for trial in trials
        if trial.final_loss == inf or (len(trial.tokens) == num_rungs and trial.tokens[-1] > longest / 2)
    ]
    return RecordedProxy(float(table["params"].iloc[0]), num_rungs, len(groups), tuple(usable))


def _trial(rows: pd.DataFrame, names: Sequence[str], metric: Metric, recorded: bool) -> RecordedTrial:
    diverged = rows["loss"].isna().to_numpy()
    rows = rows.iloc[: int(np.argmax(diverged)) + 1] if diverged.any() else rows
    tokens = rows["tokens"].to_numpy(np.float64)
    computed = FLOPS_PER_PARAMETER_TOKEN * rows["params"].to_numpy(np.float64) * np.diff(tokens, prepend=0.0)
    flops = rows["flops"].to_numpy(np.float64) if recorded else computed
    first = rows.iloc[0]
    return RecordedTrial(
        trial=str(first["trial"]),
        values={name: float(first[name]) for name in names},
        seed=float(first["seed"]),
        tokens=tuple(tokens.tolist()),
        losses=tuple(rows["loss"].fillna(inf).tolist()),
        shown=tuple(rows[metric].where(rows["loss"].notna(), inf).tolist()),
        flops=tuple(flops.tolist()),
    )


def _extras(file: TableFile, metric: Metric) -> pd.DataFrame:
    """Row by row as the file has them, so that trials arrive in its order."""
    losses = file.numbers("loss")
    table = pd.DataFrame({"trial": file.cells["trial"].to_numpy(str), "tokens": file.numbers("tokens")})
    table["outcome"] = file.cells["outcome"].to_numpy(str) if "outcome" in file.cells else ""
    table["flops"] = file.numbers("flops") if "flops" in file.cells else np.nan
    if "flops" in file.cells:
        file.refuse_where("flops", table["flops"].to_numpy() < 0, "must not be below 0", "correct it")
    if metric == "loss":
        return table
    if metric not in file.cells:
        raise UserError(f"{file.path}: {metric}: no such column; add it, or replay with --metric loss")
    raw = file.numbers(metric)
    file.refuse_where(metric, np.isfinite(losses) & ~(raw > 0), "must be above 0 where there is a loss", "correct it")
    return table.assign(**{metric: raw})
