"""Draws of the surface at any setting, from one fit of it.

Shapes as in `surface_model`: K draws, P parameters.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from hpsearch.surface_answers import Backtest
from hpsearch.surface_data import Sweep
from hpsearch.surface_fit import Fit
from hpsearch.surface_model import Array, Shape, Unknowns, log_floor, log_floor_jacobian, shape_at
from hpsearch.surface_priors import LEVEL_SD, SCATTER_SD

MAX_MISFIT = 0.25  # octaves per octave of N: the exponents' own uncertainty is there beside it


@dataclass(frozen=True)
class Bowls:
    """Draws of the surface at one setting."""

    log_floor: Array  # (K,) ln loss at the optimum
    center: Array  # (K, P) octaves
    shape: Shape  # log curvature (K, P), asymmetry (K,), ridge (K,)


@dataclass(frozen=True)
class Posterior:
    """The draws of one fit, and standard normals for what no trial has seen."""

    fit: Fit
    unknowns: Unknowns  # (K, ...) draws
    fresh: Array  # (K, 2 + 2 P) standard normals: level, noise, scatter, misfit

    @property
    def sweep(self) -> Sweep:
        return self.fit.problem.sweep

    def bowls(self, params: float, tokens: float, backtest: Mapping[str, Backtest]) -> Bowls:
        """Draws of the surface at a setting; what strays there is its own if it was run, else drawn afresh."""
        sweep, unknowns = self.sweep, self.unknowns
        basis, count = sweep.basis(params, tokens), sweep.form.num_parameters
        seen = np.flatnonzero((sweep.settings == (params, tokens)).all(axis=1))
        level, scatter = self.fresh[:, 0] * LEVEL_SD, self.fresh[:, 2 : 2 + count] * SCATTER_SD
        if len(seen):
            level, scatter = unknowns.level[:, seen[0]], unknowns.scatter[:, seen[0]]
        misfit = self.fresh[:, 2 + count :] * misfit_sd(sweep, params, backtest)
        center = self._drift_draws(basis) + scatter + misfit + sweep.center_origin
        return Bowls(self._law_draws(basis) + level + sweep.loss_origin, center, shape_at(unknowns, basis[2]))

    def _law_draws(self, basis: Array) -> Array:
        """Draws of the floor's law at a setting, (K,), along its tangent at the fit.

        Its five unknowns are known far worse than the loss they add up to, which is convex in them: drawn
        each by itself, they would on average lie above the losses that were measured.
        """
        fitted = self.sweep.layout.unpack(self.fit.vector).floor
        tangent = log_floor_jacobian(fitted, basis[None])[0]
        return np.asarray(log_floor(fitted, basis[None])[0] + (self.unknowns.floor - fitted) @ tangent)

    def _drift_draws(self, basis: Array) -> Array:
        """Draws of the log-linear centre at a setting, (K, P), each as sure as its curvature makes it.

        The data place a centre by the slope of its bowl, so what they say grows with the curvature squared:
        precision = prior + data x (k / k of the fit)^2. One Gaussian for both would pair steep bowls with
        centres as vague as those of flat ones, and see large regrets where there are none.
        """
        fitted = self.sweep.layout.unpack(self.fit.vector)
        center, draws = fitted.drift @ basis, self.unknowns.drift @ basis
        prior = 1.0 / self.fit.problem.prior_variance(basis)
        data = np.maximum(1.0 / draws.var(axis=0) - prior, 0.0)
        squared = np.exp(2.0 * (self.unknowns.log_curvature - fitted.log_curvature))
        return np.asarray(center + (draws - center) * np.sqrt((prior + data) / (prior + data * squared)))


def draw_posterior(fit: Fit, num_draws: int, seed: int) -> Posterior:
    """Antithetic draws, an even number: their mean is the fit itself."""
    num_unknowns, num_fresh = len(fit.vector), 2 + 2 * fit.problem.sweep.form.num_parameters
    half = np.random.default_rng(seed).standard_normal((num_draws // 2, num_unknowns + num_fresh))
    normals = np.concatenate([half, -half])
    unknowns = fit.problem.sweep.layout.unpack(fit.draws(normals[:, :num_unknowns]))
    return Posterior(fit, unknowns, normals[:, num_unknowns:])


def misfit_sd(sweep: Sweep, params: float, backtest: Mapping[str, Backtest]) -> Array:
    """Sd (P,) in octaves of what the hold-out says the form cannot do, in proportion to the reach in N."""
    if not backtest:
        return np.zeros(sweep.form.num_parameters)
    sizes = np.log2(np.unique(sweep.settings[:, 0]))
    reach = max(0.0, float(np.log2(params)) - sizes[-1])
    misfit = np.array([backtest[parameter.name].misfit_octaves for parameter in sweep.parameters])
    return np.asarray(np.minimum(misfit / max(sizes[-1] - sizes[-2], 1.0), MAX_MISFIT) * reach)
