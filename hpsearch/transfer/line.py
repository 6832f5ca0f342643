"""A quantity as a line in log N and log D, with a prior that it does not move: Bayesian linear regression.

Shapes: S settings.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Line:
    """What was fitted: a level at the mean of the settings, and slopes per octave of N and of D."""

    origin: Array  # (2,) mean of log2 N and log2 D
    mean: Array  # (3,) level, by N, by D
    covariance: Array  # (3, 3)

    def at(self, settings: Array) -> tuple[Array, Array]:
        """Mean and sd (S,) at settings (S, 2)."""
        design = self._design(settings)
        return design @ self.mean, np.sqrt(((design @ self.covariance) * design).sum(axis=1))

    def change_sd(self, setting: Array) -> float:
        """Sd of the change from the mean of the settings to one (2,)."""
        moved = self._design(setting[None])[0, 1:]
        return float(np.sqrt(moved @ self.covariance[1:, 1:] @ moved))

    def _design(self, settings: Array) -> Array:
        return np.column_stack([np.ones(len(settings)), np.log2(settings) - self.origin])


def fit_line(settings: Array, values: Array, sd: Array, slope_sd: float) -> Line:
    """The line through values (S,) at settings (S, 2), each with its sd; slopes are zero give or take `slope_sd`."""
    origin = np.log2(settings).mean(axis=0)
    weighed = np.column_stack([np.ones(len(settings)), np.log2(settings) - origin]) / sd[:, None]
    precision = weighed.T @ weighed + np.diag([0.0, slope_sd**-2, slope_sd**-2])
    covariance = np.linalg.inv(precision).astype(np.float64)
    return Line(origin, covariance @ (weighed.T @ (values / sd)), covariance)
