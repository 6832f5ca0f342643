"""What is known of the run that can be made only once: from a search or a table of runs, for one target.

`hpsearch watch-target` and `hpsearch recheck` ask the same: the trials, the surface through them, and the
configuration that is recommended, or that the user has.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hpsearch.cli_options import open_search, target_of
from hpsearch.home import Home
from hpsearch.imported_table import ImportedTable, read_table
from hpsearch.plan import run_config
from hpsearch.recommend_command import parse_pairs, parse_setting
from hpsearch.state import SearchState
from hpsearch.surface import Surface, fit_surface
from hpsearch.table_file import keep, read_file
from hpsearch.table_parameters import NO_SPACE, read_space
from hpsearch.targets import ResolvedTarget
from hpsearch.transfer.anneal_gap import Rungs
from hpsearch.transfer.proof import fit_search
from hpsearch.transfer.recommend import recommend
from hpsearch.transfer.table_recommendation import Question, Setting, recommend_from_table
from hpsearch.trials_table import observations
from search_spaces.errors import UserError
from trials.trial import TrialConfig


@dataclass(frozen=True)
class SourceOptions:
    """The options that say where the trials are, as they were given."""

    search: str | None
    home: Home
    trials: Path | None
    search_space: Path | None
    where: tuple[str, ...]
    target: str | None
    training: bool = False  # whether the big run's losses are of its training text


@dataclass(frozen=True)
class Source:
    """Trials, and what they recommend for a target. Names of parameters are the trials' own."""

    table: ImportedTable  # a search too, as it comes to the same
    surface: Surface
    rungs: Rungs
    target: Setting
    recommended: Mapping[str, float]
    schedule: TrialConfig | None  # of the target; None where a table does not tell it
    refused: tuple[str, ...]  # why the recommendation is a guess; none where it is not


def read_source(options: SourceOptions) -> Source:
    """Reads a search or a table.

    Raises:
        UserError: both are given, or none, or what is given breaks a rule.
    """
    if (options.search is None) == (options.trials is None):
        given = "neither" if options.search is None else "both"
        raise UserError(f"needs a SEARCH or --trials TABLE, got {given}; give one of them")
    return _of_table(options) if options.search is None else _of_search(options, options.search)


def _of_search(options: SourceOptions, name: str) -> Source:
    for option, given in (("--where", options.where), ("--search-space", options.search_space)):
        if given:
            raise UserError(f"{option}: needs --trials TABLE, got SEARCH; leave it out")
    _, state = open_search(name, options.home)
    target = target_of(options.target, state)
    recommendation = recommend(state, target)
    every = {name: value.value for name, value in recommendation.parameters.items()}
    names = [parameter.name for parameter in state.spec.parameters]
    table = ImportedTable(state.spec.name, observations(state, proof=True), state.spec.parameters, {}, ())
    return Source(
        table=table,
        surface=fit_search(state, proof=True),
        rungs=_rungs_of_search(state, options.training),
        target=Setting(params=target.architecture.params, tokens=target.tokens),
        recommended={name: every[name] for name in names},
        schedule=_schedule(state, target, every),
        refused=_refused(recommendation.refused),
    )


def _refused(reason: str | None) -> tuple[str, ...]:
    return (f"the recommendation is refused: {reason}",) if reason else ()


def _schedule(state: SearchState, target: ResolvedTarget, values: Mapping[str, float]) -> TrialConfig:
    return run_config(state.spec, target.architecture, round(target.tokens), values, state.spec.seed)


def _rungs_of_search(state: SearchState, training: bool) -> Rungs:
    """The rungs whose branch left the trunk at its full rate, the warmup well behind it."""
    rows = [
        (
            *(trial.config.architecture.params, measured.tokens, trial.config.learning_rate),
            *(measured.raw_loss, measured.loss, measured.train_loss),
        )
        for trial in state.trials.values()
        for measured in trial.measurements
        if measured.loss > 0 and trial.config.branch_tokens(measured.tokens) > 2 * trial.config.warmup_tokens
    ]
    return _rungs(np.array(rows, np.float64).reshape(-1, 6), training)


def _of_table(options: SourceOptions) -> Source:
    assert options.trials is not None
    where = parse_pairs("--where", options.where)
    target = parse_setting(options.target)
    table = read_table(options.trials, where, read_space(options.search_space) if options.search_space else NO_SPACE)
    recommendation = recommend_from_table(table, Question(target))
    return Source(
        table=table,
        surface=fit_surface(table.observations, table.parameters, seed=0),
        rungs=_rungs_of_table(options.trials, where, table, options.training),
        target=target,
        recommended={name: value.value for name, value in recommendation.parameters.items()},
        schedule=None,
        refused=_refused(recommendation.refused),
    )


def _rungs_of_table(path: Path, where: Mapping[str, str], table: ImportedTable, training: bool) -> Rungs:
    """Where the table has a `raw_loss`: before the anneal, of the run that came to `loss` after it."""
    file = keep(read_file(path), where)
    if training and "train_loss" not in file.cells:
        raise UserError(f"{path}: train_loss: needed with --training, no such column; add it, or watch held-out losses")
    rates = [parameter.name for parameter in table.parameters if parameter.known_name == "learning_rate"]
    columns = ["params", "tokens", *rates, "raw_loss", "loss", "train_loss"]
    numbers = {name: file.numbers(name) for name in columns if name in file.cells}
    for name in {"raw_loss", "train_loss"} & set(numbers):
        file.refuse_where(name, numbers[name] <= 0, "must be above 0", "correct it")
    absent = np.full(len(file.cells), np.nan)
    rate = numbers[rates[0]] if rates else absent
    before, train = numbers.get("raw_loss", absent), numbers.get("train_loss", absent)
    return _rungs(
        np.column_stack([numbers["params"], numbers["tokens"], rate, before, numbers["loss"], train]), training
    )


def _rungs(rows: np.ndarray, training: bool) -> Rungs:
    """From N, D, rate, loss before and loss after, training loss, (R, 6).

    A training loss is known of the branch only: before it, it is taken to lie as far from the held-out loss.
    """
    rows = rows[np.isfinite(rows[:, 3:5]).all(axis=1) & (np.isfinite(rows[:, 5]) | (not training))]
    params, tokens, rate, before, after, train = rows.T
    gap = np.log(before / after)
    return Rungs(params, tokens, rate, gap + np.log(train / after) if training else gap, training)
