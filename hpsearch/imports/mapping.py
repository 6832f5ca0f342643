"""A mapping file: which column of another tool's runs is what, and in which unit."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, ValidationError, model_serializer, model_validator

from hpsearch.checked import Checked, PositiveFloat, explain
from hpsearch.strict_yaml import read_mapping
from hpsearch.table_parameters import NOT_PARAMETERS
from search_spaces.errors import UserError

AMOUNT_FORMS = "a column, a number for all runs, {column: NAME, times: NUMBER} or {product: [NAME or NUMBER, ...]}"


class Amount(Checked):
    """A number of each run: the product of some of its columns, times a factor that makes the unit ours."""

    factors: tuple[str, ...]  # columns; none where all runs have the same number
    times: PositiveFloat = 1.0

    @property
    def is_cell(self) -> bool:
        """Whether it is a column as it stands."""
        return len(self.factors) == 1 and self.times == 1.0

    @property
    def told(self) -> str:
        """In words."""
        times = [f"{self.times:g}"] if self.times != 1 or not self.factors else []
        return " x ".join([*self.factors, *times])

    @model_serializer
    def _as_product(self) -> dict[str, list[str | float]]:
        """As a mapping file may have it."""
        return {"product": [*self.factors, self.times]}


def _amount(given: Any) -> Any:
    """What a user may write for an amount -> the fields of an `Amount`."""
    match given:
        case str():
            return {"factors": (given,)}
        case bool():
            pass
        case int() | float():
            return {"factors": (), "times": given}
        case {"column": str() as column, **rest} if set(rest) <= {"times"}:
            return {"factors": (column,), **rest}
        case {"product": [_, *_] as factors, **rest} if not rest and all(map(_is_factor, factors)):
            times = 1.0
            for number in (factor for factor in factors if not isinstance(factor, str)):
                times *= number
            return {"factors": tuple(factor for factor in factors if isinstance(factor, str)), "times": times}
    raise ValueError(f"must be {AMOUNT_FORMS}, got {given!r}; write one of these")


def _is_factor(given: object) -> bool:
    return isinstance(given, (str, int, float)) and not isinstance(given, bool)


def _measured(loss: Amount) -> Amount:
    if not loss.factors:
        raise ValueError(f"must be a column, got {loss.times:g} for all runs; name the column of the final loss")
    return loss


def _free_names(parameters: dict[str, Amount]) -> dict[str, Amount]:
    for name in parameters:
        if name in NOT_PARAMETERS or not name.strip() or name.startswith("Unnamed:"):
            raise ValueError(f"{name}: a table has this name for something else; give the parameter another name")
    return parameters


AnyAmount = Annotated[Amount, BeforeValidator(_amount)]
Label = Annotated[str, Field(min_length=1)]


class MappingFile(Checked):
    """What a mapping file says; a key that it leaves out is found by its own name, where there is such a column."""

    params: AnyAmount | None = None  # N, non-embedding
    tokens: AnyAmount | None = None  # D, of the run
    loss: Annotated[AnyAmount, AfterValidator(_measured)] | None = None  # of validation, at the end of the run
    seed: Label | None = None
    trial: Label | None = None  # rows that share it are one run, measured at several budgets
    corpus: Label | None = None
    schedule: Label | None = None
    parameters: Annotated[dict[str, AnyAmount], AfterValidator(_free_names)] = {}  # by our names; empty: all
    rows: Literal["runs", "steps"] = "runs"  # a row for each run, or for each step at which it measured its loss
    failed: Literal["leave_out", "diverged"] = "leave_out"  # what a run is that ended in an error
    duplicates: Literal["refuse", "first", "repeats"] = "refuse"  # what runs are that are alike, loss included

    @model_validator(mode="after")
    def _step_of_failure(self) -> Self:
        if self.rows == "steps" and self.failed == "diverged":
            raise ValueError("failed: diverged does not go with rows: steps, where a loss of NaN says so; remove one")
        return self

    @property
    def columns(self) -> tuple[str, ...]:
        """Every column that it names."""
        return tuple(dict.fromkeys(self._columns()))

    def _columns(self) -> Iterator[str]:
        for amount in (self.params, self.tokens, self.loss, *self.parameters.values()):
            yield from amount.factors if amount else ()
        yield from (label for label in (self.seed, self.trial, self.corpus, self.schedule) if label)


def read_mapping_file(path: Path) -> MappingFile:
    """Reads a mapping file.

    Raises:
        UserError: it cannot be read, or breaks a rule.
    """
    try:
        return MappingFile.model_validate(read_mapping(path, "mapping file"))
    except ValidationError as error:
        raise UserError(explain(str(path), error)) from error
