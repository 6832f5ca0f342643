"""What may be searched or fixed, and where: the parameters as a search file says them."""

from __future__ import annotations

from math import nan
from typing import Annotated, Literal, Self

from pydantic import Field, FiniteFloat, model_validator

from hpsearch.checked import Checked
from search_spaces.parameter import Parameter, Scale

MAX_BATCH_SEQUENCES = 4096

# What may be searched or fixed, with the scale it is searched on unless the file says otherwise and the value
# it has where the file names none: GPT-3's (Brown et al. 2020, appendix B); rate, warmup and batch have none.
SEARCHABLE: dict[str, tuple[Scale, float | Literal["required"]]] = {
    "learning_rate": (Scale.LOG, "required"),
    "warmup_fraction": (Scale.LOG, "required"),
    "batch_sequences": (Scale.LOG, "required"),
    "weight_decay": (Scale.LOG, 0.1),
    "beta1": (Scale.LOG_COMPLEMENT, 0.9),
    "beta2": (Scale.LOG_COMPLEMENT, 0.95),
    "eps": (Scale.LOG, 1e-8),
    "gradient_clip": (Scale.LOG, 1.0),
}


class Prior(Checked):
    """A normal prior over a parameter, in octaves around a value."""

    center: FiniteFloat
    sd_octaves: Annotated[FiniteFloat, Field(gt=0, le=32)]


class Domain(Checked):
    """A searched parameter: a range, or a list of the only values allowed."""

    low: FiniteFloat | None = None
    high: FiniteFloat | None = None
    values: tuple[FiniteFloat, ...] = ()
    scale: Scale | None = None
    prior: Prior | Literal["uniform"] = "uniform"
    freezable: bool = True

    @model_validator(mode="after")
    def _range_or_values(self) -> Self:
        if self.values and (self.low is not None or self.high is not None):
            raise ValueError("give low and high, or values, not both; remove one")
        if not self.values and (self.low is None or self.high is None):
            raise ValueError("a searched parameter needs low and high (or values); add them")
        if self.values and (len(self.values) < 2 or list(self.values) != sorted(set(self.values))):
            raise ValueError(f"values must be two or more, ascending, got {list(self.values)}; sort them")
        return self

    @property
    def ends(self) -> tuple[float, float]:
        """Lowest and highest value."""
        if self.values:
            return self.values[0], self.values[-1]
        assert self.low is not None and self.high is not None
        return self.low, self.high


def as_parameter(name: str, domain: Domain) -> Parameter:
    """A parameter as it is searched.

    Raises:
        ValueError: its range or its prior breaks a rule.
    """
    check_name(name)
    low, high = domain.ends
    if not low < high:
        raise ValueError(f"{name}: low must be below high, got low {low:g}, high {high:g}; swap or correct them")
    scale = domain.scale or SEARCHABLE[name][0]
    if scale is Scale.LOG and low <= 0:
        raise ValueError(f"{name}: a log scale needs low above 0, got {low:g}; raise low, or use scale: linear")
    if scale is Scale.LOG_COMPLEMENT and high >= 1:
        raise ValueError(f"{name}: a log_complement scale needs high below 1, got {high:g}; lower high")
    for value in domain.values or (low, high):
        check_value(name, value)
    center, sd = (domain.prior.center, domain.prior.sd_octaves) if isinstance(domain.prior, Prior) else (nan, nan)
    if isinstance(domain.prior, Prior) and not low <= center <= high:
        raise ValueError(f"{name}: prior.center must lie in [{low:g}, {high:g}], got {center:g}; move it inside")
    integer = name == "batch_sequences"
    return Parameter(name, low, high, scale, domain.values, integer, center, sd, domain.freezable)


def check_name(name: str) -> None:
    """Nothing is searched that no trial reads."""
    if name not in SEARCHABLE:
        raise ValueError(f"{name}: unknown parameter; use one of {', '.join(SEARCHABLE)}")


def check_value(name: str, value: float) -> None:
    """The domain in which a trial can run at all."""
    if name in ("beta1", "beta2", "warmup_fraction") and not 0 <= value < 1:
        raise ValueError(f"{name}: must lie in [0, 1), got {value:g}; correct it")
    if name == "batch_sequences" and not (1 <= value <= MAX_BATCH_SEQUENCES and value == int(value)):
        raise ValueError(f"{name}: must be a whole number from 1 to {MAX_BATCH_SEQUENCES}, got {value:g}; correct it")
    if name in ("learning_rate", "eps", "gradient_clip") and value <= 0:
        raise ValueError(f"{name}: must be above 0, got {value:g}; raise it")
    if name == "weight_decay" and value < 0:
        raise ValueError(f"{name}: must not be negative, got {value:g}; raise it")
