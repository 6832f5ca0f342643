"""One parameter of a search space: its domain, its scale, its prior.

A scale is a pair of inverse functions between a value and its coordinate. Coordinates are in octaves (factors
of two), the unit in which losses form a bowl; one notch is one octave.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

NORMAL_QUANTILE_LIMIT = 1e-6  # keeps the inverse normal finite at the corners of the unit interval


class Scale(StrEnum):
    """How a value becomes a coordinate."""

    LOG = "log"  # log2(value): learning rate, weight decay, warmup, batch
    LOG_COMPLEMENT = "log_complement"  # log2(1 - value): betas, whose distance from 1 is what matters
    LINEAR = "linear"  # value over the width of the range, as four octaves


ALIASES = {"lr": "learning_rate", "bs": "batch_sequences", "batch_size": "batch_sequences"}
COMPLEMENTS = ("beta", "momentum")  # how names begin whose distance from 1 is what counts
LINEAR_OCTAVES = 4.0  # a linear range counts as this many notches


def known_name(name: str) -> str:
    """What this project calls the parameter of a table's column, or of a caller."""
    return ALIASES.get(name, name)


@dataclass(frozen=True)
class Parameter:
    """A searched parameter; checked where it is read (`hpsearch.spec`), asserted here."""

    name: str
    low: float
    high: float
    scale: Scale
    values: tuple[float, ...] = ()  # the only values allowed, ascending; empty for the whole range
    integer: bool = False
    prior_center: float = math.nan  # centre of a normal prior; NaN for a uniform one
    prior_sd_octaves: float = math.nan
    freezable: bool = True  # False: the user asks that it is never frozen

    @property
    def known_name(self) -> str:
        """What this project calls it; a table or a caller may have another name for it."""
        return known_name(self.name)

    def __post_init__(self) -> None:
        assert self.low < self.high, f"{self.name}: {self.low=} {self.high=}"
        assert self.scale is not Scale.LOG or self.low > 0
        assert self.scale is not Scale.LOG_COMPLEMENT or self.high < 1

    def coordinate(self, value: float) -> float:
        """Value -> octaves. Any value inside the scale's domain has one, inside the range or not.

        Where a scale ends (0 on a log scale, 1 on its complement) a parameter is off: minus infinity.
        """
        if self.scale is Scale.LOG:
            return math.log2(value) if value != 0 else -math.inf
        if self.scale is Scale.LOG_COMPLEMENT:
            return math.log2(1.0 - value) if value != 1 else -math.inf
        return LINEAR_OCTAVES * (value / (self.high - self.low))

    def value(self, coordinate: float) -> float:
        """Octaves -> value, not clipped to the range: an optimum may lie outside it."""
        if self.scale is Scale.LOG:
            return math.pow(2.0, coordinate)
        if self.scale is Scale.LOG_COMPLEMENT:
            return 1.0 - math.pow(2.0, coordinate)
        return coordinate / LINEAR_OCTAVES * (self.high - self.low)

    @property
    def bounds(self) -> tuple[float, float]:
        """The range in octaves, ascending."""
        ends = self.coordinate(self.low), self.coordinate(self.high)
        return min(ends), max(ends)

    def nearest(self, value: float) -> float:
        """The allowed value nearest in octaves: clipped to the range, on `values` or whole where asked."""
        value = min(max(value, self.low), self.high)
        if self.values:
            at = self.coordinate(value)
            return min(self.values, key=lambda allowed: abs(self.coordinate(allowed) - at))
        return float(round(value)) if self.integer else value

    def from_unit(self, u: float) -> float:
        """The prior's quantile function: `u` in [0, 1) -> an allowed value."""
        from scipy.stats import norm  # here, as reading a search file should not pay for scipy

        low, high = self.bounds
        if math.isnan(self.prior_center) and self.values:
            return self.values[int(u * len(self.values))]
        if math.isnan(self.prior_center):
            return self.nearest(self.value(low + u * (high - low)))
        center, sd = self.coordinate(self.prior_center), self.prior_sd_octaves
        below, above = norm.cdf((low - center) / sd), norm.cdf((high - center) / sd)
        quantile = min(max(below + u * (above - below), NORMAL_QUANTILE_LIMIT), 1 - NORMAL_QUANTILE_LIMIT)
        return self.nearest(self.value(center + sd * float(norm.ppf(quantile))))


@dataclass(frozen=True)
class SearchSpace:
    """The searched parameters in the order of the file, which is the order of a sampler's dimensions."""

    parameters: tuple[Parameter, ...]

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(parameter.name for parameter in self.parameters)

    def at(self, octaves: Sequence[float]) -> dict[str, float]:
        """The allowed configuration that is nearest to a point of coordinates."""
        return {p.name: p.nearest(p.value(float(x))) for p, x in zip(self.parameters, octaves, strict=True)}

    def from_unit(self, point: tuple[float, ...]) -> dict[str, float]:
        """A point of the unit cube -> a configuration, through each parameter's prior."""
        return {parameter.name: parameter.from_unit(u) for parameter, u in zip(self.parameters, point, strict=True)}
