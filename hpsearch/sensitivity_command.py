"""`hpsearch sensitivity`: what the options say, read and checked, and the answer."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from hpsearch.imported_table import check_columns, table_of
from hpsearch.one_at_a_time import is_one_at_a_time, read_one_at_a_time
from hpsearch.recommend_command import parse_pairs, parse_setting
from hpsearch.state import SearchState
from hpsearch.table_file import TableFile, keep, read_file
from hpsearch.table_parameters import NO_SPACE, read_space
from hpsearch.targets import ResolvedTarget
from hpsearch.transfer.importance import importance
from hpsearch.transfer.profile import Value
from hpsearch.transfer.sensitivity import (
    SensitivityReport,
    Setting,
    fixed,
    from_observations,
    from_profiles,
    from_surface,
    interactions,
    report,
)
from hpsearch.trials_table import observations
from search_spaces.errors import UserError

MAX_NOISE = 0.2  # no run of a language model is so noisy


@dataclass(frozen=True)
class SensitivityOptions:
    """The options that go with a table, as they were given."""

    trials: Path
    search_space: Path | None
    where: tuple[str, ...]
    noise: float | None


def sensitivity_of_table(target: str | None, options: SensitivityOptions) -> SensitivityReport:
    """Reads a table and answers.

    Raises:
        UserError: an option, the table or a file beside it breaks a rule.
    """
    setting = parse_setting(target)
    file = keep(read_file(options.trials), parse_pairs("--where", options.where))
    at = setting.params, setting.tokens
    return _one_at_a_time(file, at, options) if is_one_at_a_time(file) else _any_design(file, at, options)


def sensitivity_of_search(state: SearchState, target: ResolvedTarget) -> SensitivityReport:
    """The same of a search.

    Raises:
        UserError: too little was measured.
    """
    from hpsearch.transfer.proof import can_predict, fit_search

    if not can_predict(state):
        raise UserError(f"{state.spec.name}: too few finished measurements to tell anything; resume the search")
    surface = fit_search(state, proof=True)
    runs, parameters = observations(state, proof=True), state.spec.parameters
    at = float(target.architecture.params), target.tokens
    found, matters = from_surface(surface, at), importance(runs, parameters)
    return report(at, surface.noise_fraction, len(runs), found, matters, interactions(surface), ())


def _one_at_a_time(file: TableFile, target: Setting, options: SensitivityOptions) -> SensitivityReport:
    check_columns(file)
    space = read_space(options.search_space) if options.search_space else NO_SPACE
    sweep = read_one_at_a_time(file, space)
    noise, found = from_profiles(
        {profile.name: profile for profile in sweep.profiles}, sweep.spreads, target, options.noise
    )
    held = {name: fixed(value) for name, value in sweep.fixed.items()}
    return report(target, noise, len(file.cells), found | held, None, (), ())


def _any_design(file: TableFile, target: Setting, options: SensitivityOptions) -> SensitivityReport:
    space = read_space(options.search_space) if options.search_space else NO_SPACE
    table = table_of(file, space)
    noise, found, seen = from_observations(table.observations, table.parameters, target, options.noise)
    held = {name: fixed(_value(text)) for name, text in table.fixed.items() if text}
    matters = importance(table.observations, table.parameters)
    return report(target, noise, len(table.observations), found | held, matters, seen, table.warnings)


def _value(text: str) -> Value:
    try:
        return float(text)
    except ValueError:
        return text
