"""A bowl that was predicted against the runs that test it: its place, its curvature, its level, each weighed.

Of each the posterior from before (it stands) is weighed against a wide one around it (it moved), on a grid of places
and curvatures. The level of the runs is free: a change moves every loss, which says nothing of where the best lies.

Shapes: R runs, C places, E curvatures, K draws.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hpsearch.surface_fit import NOISE_GROWTH
from hpsearch.surface_model import Array

MOVED_OCTAVES, MOVED_LOG_CURVATURE, MOVED_LEVEL = 1.5, 1.0, 0.1  # sd of what a change does where it does something
NUM_PLACES, NUM_CURVATURES, GRID_DEVIATIONS = 241, 61, 4.0


@dataclass(frozen=True)
class Normal:
    """A mean and its sd."""

    mean: float
    sd: float

    def plus(self, sd: float) -> Normal:
        """With something independent added, of mean 0."""
        return Normal(self.mean, float(np.hypot(self.sd, sd)))

    def on(self, grid: Array) -> Array:
        """Probabilities on a grid."""
        density = np.exp(-0.5 * ((grid - self.mean) / self.sd) ** 2)
        return np.asarray(density / density.sum())

    def density(self, value: float) -> float:
        """Up to a factor that all have."""
        return float(np.exp(-0.5 * ((value - self.mean) / self.sd) ** 2) / self.sd)

    def grid(self, count: int) -> Array:
        reach = GRID_DEVIATIONS * self.sd
        return np.linspace(self.mean - reach, self.mean + reach, count)


@dataclass(frozen=True)
class Weighed:
    """One finding, before and after."""

    predicted: Normal
    measured: Normal  # by the new runs, with a wide prior
    together: float  # mean by both, if it stands
    stands: float  # probability of that, against it having moved, both as likely before


@dataclass(frozen=True)
class Predicted:
    """What the surface says of the bowl along one parameter, at the setting of the new runs."""

    place: Normal  # octaves
    log_curvature: Normal  # of the low side
    level: Normal  # ln loss at the best place, of one run
    steeper: float  # ln of how many times steeper the high side is
    noise: float  # relative sd between runs of one seed


@dataclass(frozen=True)
class BowlGrid:
    """The new runs' likelihood over places and curvatures."""

    predicted: Predicted
    places: Array  # (C,) octaves
    log_curvatures: Array  # (E,)
    likelihood: Array  # (C, E), the level integrated out
    levels: Array  # (C, E) where it is likeliest

    def place(self) -> Weighed:
        """Where the best value lies, in octaves."""
        wide = self.predicted.log_curvature.plus(MOVED_LOG_CURVATURE)
        return _weigh(self.predicted.place, MOVED_OCTAVES, self.places, self.likelihood @ wide.on(self.log_curvatures))

    def log_curvature(self) -> Weighed:
        """ln of what an octave below the best value costs."""
        likelihood = self.predicted.place.plus(MOVED_OCTAVES).on(self.places) @ self.likelihood
        return _weigh(self.predicted.log_curvature, MOVED_LOG_CURVATURE, self.log_curvatures, likelihood)

    def level(self) -> Weighed:
        """ln loss at the best value."""
        place, predicted = self.predicted.place.plus(MOVED_OCTAVES), self.predicted.level
        curvature = self.predicted.log_curvature.on(self.log_curvatures)
        weight = self.likelihood * place.on(self.places)[:, None] * curvature
        measured = _moments(self.levels.ravel(), weight.ravel())
        off = predicted.plus(measured.sd)
        narrow, wide = (prior.density(measured.mean) for prior in (off, off.plus(MOVED_LEVEL)))
        return Weighed(predicted, measured, measured.mean, narrow / (narrow + wide))


def bowl_grid(predicted: Predicted, at: Array, log_loss: Array) -> BowlGrid:
    """The grid from runs (R,) at some octaves (R,)."""
    places = predicted.place.plus(MOVED_OCTAVES).grid(NUM_PLACES)
    log_curvatures = predicted.log_curvature.plus(MOVED_LOG_CURVATURE).grid(NUM_CURVATURES)
    offset = (at - places[:, None])[:, None, :]
    excess = np.exp(log_curvatures[:, None] + predicted.steeper * (offset > 0)) * offset**2  # (C, E, R)
    weight = 1.0 / (predicted.noise**2 + (NOISE_GROWTH * excess) ** 2)
    left, total = log_loss - excess, weight.sum(axis=2)
    levels = (weight * left).sum(axis=2) / total
    squares = (weight * (left - levels[:, :, None]) ** 2).sum(axis=2)
    log_likelihood = 0.5 * (np.log(weight).sum(axis=2) - np.log(total) - squares)
    return BowlGrid(predicted, places, log_curvatures, np.exp(log_likelihood - log_likelihood.max()), levels)


def _weigh(predicted: Normal, moved: float, grid: Array, likelihood: Array) -> Weighed:
    """Of what lies on a grid, given how likely the new runs are at each place of it."""
    wide, narrow = likelihood * predicted.plus(moved).on(grid), likelihood * predicted.on(grid)
    stands = float(narrow.sum() / (narrow.sum() + wide.sum()))
    return Weighed(predicted, _moments(grid, wide), _moments(grid, narrow).mean, stands)


def _moments(grid: Array, weight: Array) -> Normal:
    share = weight / weight.sum()
    mean = float(share @ grid)
    return Normal(mean, float((share @ (grid - mean) ** 2) ** 0.5))
