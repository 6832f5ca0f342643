"""The parameters of a table of runs: which columns they are, and on which scale each is read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray
from pydantic import FiniteFloat, ValidationError

from hpsearch.checked import Checked, explain
from hpsearch.domains import SEARCHABLE
from hpsearch.strict_yaml import read_mapping
from hpsearch.table_file import TableFile, is_empty
from search_spaces.errors import UserError, one_line
from search_spaces.parameter import ALIASES, COMPLEMENTS, Parameter, Scale, known_name

Array = NDArray[np.float64]

MIN_LOG_SPAN = 2.0  # below it a column that nothing is known of is read as it is
HIGH_FRACTION = 0.5  # of a column of fractions near 1 most lie above it

# Columns that a table of runs may have beside its parameters: the model's shape, the run, what it cost, what else
# was measured. Of these only `params`, `tokens`, `loss`, `params_total`, `trial`, `seed`, `schedule` are read.
SHAPES = """
width depth heads kv_heads d_ff d_model head_size hidden_size layers n_layer n_layers num_layers n_head n_heads
num_heads n_embd feed_forward_width
"""
SHAPE_COLUMNS = frozenset(SHAPES.split())
OTHER_COLUMNS = """
params params_total tokens loss trial seed schedule
vocabulary vocab_size sequence_length context_tokens context_length seq_len
steps num_steps iterations rung proxy number role repeat_of state status outcome corpus dataset
id name run run_id run_name run_url url group project user host date created_at updated_at notes tags
tokens_per_parameter chinchilla_ratio unique_tokens batch_tokens
cost flops anneal_flops compute seconds runtime runtime_s duration_s gpu_hours tokens_per_second
raw_loss far_loss train_loss val_loss final_loss perplexity gradient_norm update_ratio max_attention_logit spikes
"""
NOT_PARAMETERS = SHAPE_COLUMNS | frozenset(OTHER_COLUMNS.split())


class TableDomain(Checked):
    """What a space file says of one column; the table tells what it leaves out."""

    low: FiniteFloat | None = None
    high: FiniteFloat | None = None
    scale: Scale | None = None
    freezable: bool = True


@dataclass(frozen=True)
class SpaceFile:
    """What a space file says."""

    path: str
    domains: Mapping[str, TableDomain]  # by our name of the parameter


NO_SPACE = SpaceFile("", MappingProxyType({}))


@dataclass(frozen=True)
class ParameterColumns:
    """The columns of a table that may be parameters."""

    values: Mapping[str, Array]  # by column: those that vary
    constant: tuple[str, ...]


def read_space(path: Path) -> SpaceFile:
    """Reads `name: {low: ..., high: ..., scale: ...}` of some columns.

    Raises:
        UserError: the file cannot be read, or breaks a rule.
    """
    given: dict[str, TableDomain] = {}
    for column, data in read_mapping(path, "space file").items():
        name = known_name(str(column))
        if name in given:
            raise UserError(one_line(f"{path}: {column}: is {name} by another name, got both; remove one"))
        try:
            given[name] = TableDomain.model_validate(data)
        except ValidationError as error:
            raise UserError(explain(one_line(f"{path}: {column}"), error)) from error
    return SpaceFile(str(path), given)


def parameter_columns(file: TableFile) -> ParameterColumns:
    """Every column of numbers that varies, and is not known to be something else.

    Raises:
        UserError: none does, one varies over text, has gaps, or stands there twice under two names.
    """
    candidates = [column for column in file.columns if not _is_known(column)]
    varying = [column for column in candidates if file.cells[column].nunique() > 1]
    values = {column: _values(file, column) for column in varying}
    values = {column: numbers for column, numbers in values.items() if len(np.unique(numbers)) > 1}
    if not values:
        raise UserError(
            f"{file.path}: must have a column of numbers that varies beside params, tokens and loss, such as "
            "learning_rate, got none; add the hyperparameters of each run"
        )
    _check_aliases(file, values)
    return ParameterColumns(values, tuple(column for column in candidates if column not in values))


def as_parameter(column: str, values: Array, space: SpaceFile) -> Parameter:
    """A column as a parameter: on the scale and in the range that the space file or else its values tell.

    Raises:
        UserError: the space file's scale does not suit the values or its own range.
    """
    given = space.domains.get(known_name(column), TableDomain())
    scale = given.scale or detect_scale(known_name(column), values)
    on = values[values > 0] if scale is Scale.LOG else values[values < 1] if scale is Scale.LOG_COMPLEMENT else values
    low = float(min(on, default=0.0)) if given.low is None else given.low
    high = float(max(on, default=0.0)) if given.high is None else given.high
    rule = _broken_rule(scale, low, high, values)
    if rule:
        raise UserError(f"{space.path}: {column}: {rule}; correct low, high or scale")
    return Parameter(column, low, high, scale, freezable=given.freezable)


def detect_scale(name: str, values: Array) -> Scale:
    """The scale on which a column is read: the project's for a parameter that it knows, else by the values.

    A column of fractions is read by its distance from 1 where its name says so, or where that distance spans
    more octaves than the fractions do. What is above zero, and spans a factor of two, is read on a log scale; 0
    may stand beside two such values, for "off".
    """
    positive = values[values > 0]
    has_log = values.min() >= 0 and len(np.unique(positive)) > 1
    known = SEARCHABLE[name].scale if name in SEARCHABLE else None
    suits = {Scale.LINEAR: True, Scale.LOG: has_log, Scale.LOG_COMPLEMENT: values.min() >= 0 and values.max() < 1}
    if known is not None and suits[known]:
        return known
    if known is None and _is_complement(name, values):
        return Scale.LOG_COMPLEMENT
    return Scale.LOG if has_log and positive.max() >= MIN_LOG_SPAN * positive.min() else Scale.LINEAR


def _is_complement(name: str, values: Array) -> bool:
    if values.min() <= 0 or values.max() >= 1:
        return False
    if name.startswith(COMPLEMENTS):
        return True
    wider = float(np.ptp(np.log2(1 - values))) > float(np.ptp(np.log2(values)))
    return wider and float(np.median(values)) >= HIGH_FRACTION


def _is_known(column: str) -> bool:
    """Whether a column is no parameter; one without a name is the row number that pandas writes."""
    return column in NOT_PARAMETERS or not column or column.startswith("Unnamed:")


def _values(file: TableFile, column: str) -> Array:
    if file.is_text(column):
        first = next(text for text in file.cells[column] if not is_empty(text))
        raise UserError(
            one_line(f"{file.path}: {column}: a parameter must be a number, got text: {file.values_shown(column)}")
            + one_line(f"; keep one of them with --where {column}={first}, or remove the column")
        )
    values = file.numbers(column)
    gap, endless = np.isnan(values), np.isinf(values)
    if not gap.all():
        file.refuse_where(column, gap, "must be given for every run", "fill it in, or leave the row out by --where")
    file.refuse_where(column, endless, "must be finite", "correct it, or leave the row out by --where")
    return values


def _check_aliases(file: TableFile, values: Mapping[str, Array]) -> None:
    for column in values:
        if column in ALIASES and ALIASES[column] in values:
            raise UserError(f"{file.path}: {column}: is {ALIASES[column]} by another name, got both; remove one")


def _broken_rule(scale: Scale, low: float, high: float, values: Array) -> str:
    """What is wrong with a range and its scale; empty where nothing is."""
    if not low < high:
        return f"low must be below high, got low {low:g}, high {high:g}"
    if scale is Scale.LOG and (low <= 0 or values.min() < 0):
        return f"a log scale needs low above 0 and no value below 0, got low {low:g}, least value {values.min():g}"
    if scale is Scale.LOG_COMPLEMENT and (high >= 1 or values.max() > 1):
        return (
            "a log_complement scale needs high below 1 and no value above 1, "
            f"got high {high:g}, largest value {values.max():g}"
        )
    return ""
