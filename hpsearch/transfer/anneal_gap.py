"""The gap: how much more a run loses at its full learning rate than if its rate were annealed there and then.

A search measures it at every rung: ln of the loss before the anneal branch over the loss after it. It is taken as
linear in octaves of N, D and of the learning rate above its best value, the more so the less the trials say.

Shapes: R rungs, T token counts, K draws, 4 coefficients.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hpsearch.surface import Surface
from hpsearch.surface_model import Array

# Mean and sd of the coefficients before any rung is seen: at the mean of the settings, per octave of N, of D, and of
# the learning rate. 140 pairs of published runs (5e8 parameters, 1e10 to 1e11 tokens, cooldowns of a tenth) have
# 0.028 to 0.031, 0.001 per octave of D; proxies of 1e4 to 3e5 parameters, a fifth annealed, 0.01 to 0.1.
PRIOR = np.array([(0.04, 0.02), (0.0, 0.005), (0.001, 0.005), (0.005, 0.005)])
TRAINING_LEVEL_SD = 0.1  # of a training loss against a held-out one: other text, and text seen again
PRIOR_STRAY, PRIOR_DOF = 0.01, 4.0  # sd of a run's gap, and how many rungs that is worth
MAX_OCTAVES = 3.0  # of the learning rate from its best value, beyond which the gap is not known to follow it
NUM_PASSES = 3  # each with the spread that the one before has left


@dataclass(frozen=True)
class Rungs:
    """Where the gap was measured."""

    params: Array  # (R,)
    tokens: Array  # (R,)
    learning_rate: Array  # (R,) NaN where it is not searched
    gap: Array  # (R,) ln of the loss before over the held-out loss after
    training: bool = False  # whether the loss before is of the training text

    @property
    def count(self) -> int:
        return len(self.gap)


@dataclass(frozen=True)
class AnnealGap:
    """What the rungs say of the gap: Gaussian coefficients, and how far a run strays from them."""

    surface: Surface
    mean: Array  # (4,)
    factor: Array  # (4, 4) covariance = factor @ factor.T
    stray: float  # sd
    num_rungs: int

    def draws(self, params: float, tokens: Array, learning_rate: float, count: int, seed: int) -> Array:
        """Draws (K, T) of the gap of a run at some token counts."""
        basis = _basis(self.surface, np.full(len(tokens), params), tokens, np.full(len(tokens), learning_rate))
        normals = np.random.default_rng(seed).standard_normal((count, len(self.mean)))
        return np.asarray((self.mean + normals @ self.factor.T) @ basis.T)


def fit_gap(surface: Surface, rungs: Rungs) -> AnnealGap:
    """Linear regression with the prior; what the rungs leave unexplained is how far a run strays."""
    basis = _basis(surface, rungs.params, rungs.tokens, rungs.learning_rate)
    center, sd = PRIOR.T
    sd = np.hypot(sd, [TRAINING_LEVEL_SD * rungs.training, 0.0, 0.0, 0.0])
    mean, factor, stray = center, np.diag(sd), PRIOR_STRAY
    for _ in range(NUM_PASSES if rungs.count else 0):
        precision = basis.T @ basis / stray**2 + np.diag(sd**-2)
        covariance = np.linalg.inv(precision)
        mean = covariance @ (basis.T @ rungs.gap / stray**2 + center / sd**2)
        factor = np.linalg.cholesky(covariance)
        left = float(((rungs.gap - basis @ mean) ** 2).sum())
        stray = float(np.sqrt((PRIOR_DOF * PRIOR_STRAY**2 + left) / (PRIOR_DOF + rungs.count)))
    return AnnealGap(surface, mean, factor, stray, rungs.count)


def _basis(surface: Surface, params: Array, tokens: Array, learning_rate: Array) -> Array:
    """(R, 4) of 1, octaves of N and of D from the settings' mean, octaves of the rate above its best value."""
    octaves = np.log2(np.column_stack([params, tokens])) - surface.sweep.origin
    above = [
        _above(surface, *row) for row in zip(params.tolist(), tokens.tolist(), learning_rate.tolist(), strict=True)
    ]
    return np.column_stack([np.ones(len(params)), octaves, np.array(above)])


def _above(surface: Surface, params: float, tokens: float, learning_rate: float) -> float:
    """Octaves of a learning rate above its best value at a setting; 0 where none is searched."""
    steep = np.flatnonzero(surface.sweep.form.steep > 0)
    if not len(steep) or np.isnan(learning_rate):
        return 0.0
    best = float(np.median(surface.bowls(params, tokens).center[:, steep[0]]))
    octaves = surface.sweep.parameters[steep[0]].coordinate(learning_rate) - best
    return float(np.clip(octaves, -MAX_OCTAVES, MAX_OCTAVES))
