"""What a played problem is worth: how soon a regret is reached for good, and how large it is at the end."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tests.benchmarks.published import RUIN, Array

DRAWS = 2000  # of the bootstrap
INTERVAL = (0.05, 0.95)


@dataclass(frozen=True)
class Mark:
    """The recommendation after a run."""

    full_runs: float  # spent so far, in runs of the target
    regret: float  # relative


@dataclass(frozen=True)
class Outcome:
    """One tuner on one problem."""

    tuner: str
    seed: int
    params: float  # of the target
    budget: float  # full runs
    marks: tuple[Mark, ...]

    @property
    def final(self) -> float:
        """Regret when the budget is spent; that of a ruined run where nothing is recommended."""
        return self.marks[-1].regret if self.marks else RUIN

    def at(self, full_runs: float) -> float:
        """Regret of the last recommendation so far."""
        seen = [mark.regret for mark in self.marks if mark.full_runs <= full_runs]
        return seen[-1] if seen else RUIN

    def reached(self, tolerance: float) -> float:
        """Full runs at which the regret falls within a tolerance to stay there; infinite where it does not."""
        reached = math.inf
        for mark in reversed(self.marks):
            if mark.regret > tolerance:
                break
            reached = mark.full_runs
        return reached


@dataclass(frozen=True)
class Estimate:
    """A statistic over seeds and its 90 % bootstrap interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Spread:
    """Typical and bad case over seeds."""

    median: Estimate
    p90: Estimate
    mean: float


def spread(values: Sequence[float]) -> Spread:
    """Median and 90th percentile, each with its interval by resampled seeds."""
    array = np.asarray(values)
    chosen = np.random.default_rng(0).integers(0, len(array), (DRAWS, len(array)))
    return Spread(_estimate(array, chosen, 0.5), _estimate(array, chosen, 0.9), float(array.mean()))


def _estimate(values: Array, chosen: np.ndarray, level: float) -> Estimate:
    low, high = np.quantile(np.quantile(values[chosen], level, axis=1), INTERVAL)
    return Estimate(float(np.quantile(values, level)), float(low), float(high))


@dataclass(frozen=True)
class Reach:
    """Cost of a tolerance in full runs; a problem that never gets there counts as its whole budget."""

    tolerance: float
    share: float  # of problems that get there
    cost: Spread


def reach(outcomes: Sequence[Outcome], tolerance: float) -> Reach:
    """Over all problems of one tuner."""
    costs = [outcome.reached(tolerance) for outcome in outcomes]
    counted = [min(cost, outcome.budget) for cost, outcome in zip(costs, outcomes, strict=True)]
    return Reach(tolerance, float(np.isfinite(costs).mean()), spread(counted))
