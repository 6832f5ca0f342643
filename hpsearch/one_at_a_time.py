"""A one-at-a-time sweep: a base, and runs that each change one hyperparameter of it, in one row each.

Columns: `params`, `tokens`, `loss`, `hyperparameter` (which one differs; `baseline` or empty for the base itself),
`value` (its value), and `base_NAME` for the base's own value of each hyperparameter.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite

import numpy as np
import pandas as pd

from hpsearch.imported_table import read_counts, read_losses
from hpsearch.table_file import TableFile, is_empty
from hpsearch.table_parameters import NO_SPACE, NOT_PARAMETERS, SpaceFile, as_parameter
from hpsearch.transfer.profile import Profile, Spread, Value, make_profile
from search_spaces.errors import UserError, one_line
from search_spaces.parameter import Parameter

BASE = "baseline"  # what the base's own row has for a hyperparameter; an empty cell says the same
NO_VALUE = "None"  # a value that is off, which some tools write as an empty cell
BASE_PREFIX = "base_"
COLUMNS = ("hyperparameter", "value")


@dataclass(frozen=True)
class Sweep:
    """The profiles of a sweep, what its repeats say of the noise, and what never varied."""

    profiles: tuple[Profile, ...]
    spreads: tuple[Spread, ...]
    fixed: dict[str, Value]  # hyperparameters that no run changed, with the base's value


def is_one_at_a_time(file: TableFile) -> bool:
    """Whether a table has the form of such a sweep."""
    return set(COLUMNS) <= set(file.columns)


def read_one_at_a_time(file: TableFile, space: SpaceFile = NO_SPACE) -> Sweep:
    """Reads a sweep.

    Raises:
        UserError: the table breaks a rule; the message has the line where one is to blame.
    """
    runs = pd.DataFrame(
        {
            "params": read_counts(file, "params"),
            "tokens": read_counts(file, "tokens"),
            "loss": read_losses(file),
            "hyperparameter": [BASE if is_empty(text) else text for text in file.cells["hyperparameter"]],
            "value": [text or NO_VALUE for text in file.cells["value"]],
        }
    )
    _check_one_sweep(file)
    names = [name for name in dict.fromkeys(runs["hyperparameter"]) if name != BASE]
    if not names:
        raise UserError(f"{file.path}: hyperparameter: no run changes one, got {BASE} only; add runs that do")
    made = [_profile(file, space, name, runs) for name in names]
    return Sweep(tuple(profile for profile, _ in made), tuple(spread for _, spread in made), _fixed(file, names))


def _check_one_sweep(file: TableFile) -> None:
    """Within a setting the base is one, and so is every other column that may be a hyperparameter."""
    for column in file.columns:
        if column in COLUMNS or column in NOT_PARAMETERS:
            continue
        settings = file.cells.groupby(["params", "tokens"], sort=False)[column]
        mixed = settings.transform("nunique") > 1
        if mixed.any():
            first = file.cells[column][mixed].iloc[0]
            raise UserError(
                one_line(
                    f"{file.path}: {file.place} {mixed.idxmax()}: {column}: must be one at each size and budget, "
                    f"got {file.values_shown(column)}"
                )
                + one_line(f"; keep one of the sweeps with --where {column}={first}")
            )


def _profile(file: TableFile, space: SpaceFile, name: str, runs: pd.DataFrame) -> tuple[Profile, Spread]:
    own = runs[runs["hyperparameter"] == name]
    base = runs[(runs["hyperparameter"] == BASE) & runs[["params", "tokens"]].apply(tuple, axis=1).isin(_settings(own))]
    if BASE_PREFIX + name in file.cells:
        of_base = file.cells[BASE_PREFIX + name].to_numpy()[base.index]
        base = base.assign(value=of_base)
        base = base[~base["value"].map(is_empty)]
    else:
        base = base.iloc[:0]  # whose value nobody tells
    table = pd.concat([base, own])
    values, parameter = _values(name, table["value"].tolist(), space)
    return make_profile(name, parameter, table.assign(value=values, block=""))


def _settings(runs: pd.DataFrame) -> set[tuple[float, float]]:
    return set(zip(runs["params"], runs["tokens"], strict=True))


def _values(name: str, texts: list[str], space: SpaceFile) -> tuple[list[Value], Parameter | None]:
    """Numbers on a scale, with words such as None for "off"; categories where there are no two numbers."""
    values = [_number_or_text(text) for text in texts]
    numbers = [value for value in values if not isinstance(value, str)]
    return values, as_parameter(name, np.array(numbers), space) if len(set(numbers)) > 1 else None


def _fixed(file: TableFile, names: list[str]) -> dict[str, Value]:
    """The base's value of what no run changed, where it is one over all settings."""
    fixed: dict[str, Value] = {}
    for column in file.columns:
        name = column.removeprefix(BASE_PREFIX)
        values = [text for text in file.cells[column].unique() if not is_empty(text)]
        if column != name and name not in names and len(values) == 1:
            fixed[name] = _number_or_text(values[0])
    return fixed


def _number_or_text(text: str) -> Value:
    try:
        number = float(text)
    except ValueError:
        return text
    return number if isfinite(number) else text
