"""What a user's data is read into, and how pydantic's complaints become messages for the user."""

from __future__ import annotations

from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, ValidationError

from search_spaces.errors import one_line

MAX_ERRORS_SHOWN = 8  # what fits one screen

# The upper ends keep every product of them a number; no search comes near.
PositiveFloat = Annotated[FiniteFloat, Field(gt=0, le=1e30)]
Count = Annotated[int, Field(ge=1, le=10**9)]


Numbers = TypeVar("Numbers", bound=tuple[float, ...])


def ascending(values: Numbers) -> Numbers:
    """A pydantic validator: each value is above the one before.

    Raises:
        ValueError: one is not.
    """
    if list(values) != sorted(set(values)):
        raise ValueError(f"must ascend without repeats, got {list(values)}; sort them")
    return values


class Checked(BaseModel):
    """Base of all parts of a search or target: frozen, no unknown keys, no NaN."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


def explain(where: str, error: ValidationError) -> str:
    """What pydantic found -> a line "file: key: rule, got value; remedy" for each, as many as fit a screen."""
    lines = [one_line(f"{where}: {_explain(detail)}") for detail in error.errors()[:MAX_ERRORS_SHOWN]]
    more = error.error_count() - len(lines)
    return "\n".join([*lines, f"{where}: and {more} more; correct these first"] if more else lines)


def _explain(detail: Any) -> str:
    key = ".".join(str(part) for part in detail["loc"])
    prefix = f"{key}: " if key else ""
    message = str(detail["msg"]).removeprefix("Value error, ")
    if detail["type"] == "extra_forbidden":
        return f"{prefix}unknown key, got {detail['input']!r}; remove it or correct its spelling"
    if detail["type"] == "missing":
        return f"{prefix}required; add it"
    if detail["type"] == "value_error":
        return prefix + message
    return f"{prefix}{message[0].lower()}{message[1:]}, got {detail['input']!r}; correct it"
