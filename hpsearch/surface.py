"""The drift-aware loss surface: what any configuration will lose at any size and token budget, and how surely.

One fit of all trials of a search answers three askers: where the next trial teaches most (sampler), what a
trial will be worth at its full budget (scheduler), where the optimum lies at the target (transfer).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from types import MappingProxyType
from typing import Literal

import numpy as np
import pandas as pd

from hpsearch.laws import SEQUENCE_TOKENS
from hpsearch.surface_answers import (
    Backtest,
    Estimate,
    Exponent,
    Exponents,
    Prediction,
    Regret,
    Sensitivity,
)
from hpsearch.surface_data import Sweep, read_sweep
from hpsearch.surface_fit import RUNG_CORRELATION, Fit, fit_sweep
from hpsearch.surface_hypotheses import BLIND, Hypothesis, weigh_laws
from hpsearch.surface_model import Array, bowl, row_loss, settle
from hpsearch.surface_posterior import Bowls, Posterior, draw_posterior
from search_spaces.parameter import Parameter

__all__ = [
    "Backtest",
    "Estimate",
    "Exponent",
    "Exponents",
    "Prediction",
    "Priors",
    "Regret",
    "Sensitivity",
    "Surface",
    "fit_surface",
]

Priors = Literal["neutral", "public"]

NUM_DRAWS = 400
MISFIT_DOF = 4.0  # one miss, among three of none that the prior is worth: a single one is half luck
MIN_SIZES_FOR_HOLDOUT = 3
EXCESS_CAP = 0.5  # beyond it a draw says "ruin", and more ruin is no worse
NUM_CANDIDATES = 41
NUM_ROUNDS = 3
TOLERANCES = (0.001, 0.0025, 0.005)  # fractions of the loss
NOTHING_FIXED: Mapping[str, float] = MappingProxyType({})


@dataclass(frozen=True)
class Surface:
    """A fitted surface. Every answer is a pure function of the observations and the seed.

    A configuration may name some of the parameters only: the others are then at their best. So is one that is
    off, as what it costs to be without it is no matter of its bowl.
    """

    hypotheses: tuple[Hypothesis, ...]  # the blind one, and with public priors the laws that the trials support
    posteriors: tuple[Posterior, ...]  # theirs, with draws in proportion to their weights
    backtest: Mapping[str, Backtest] = field(default_factory=dict)  # by parameter; empty below three sizes

    @property
    def fit(self) -> Fit:
        """The blind one."""
        return next(hypothesis.fit for hypothesis in self.hypotheses if hypothesis.name == BLIND)

    @property
    def sweep(self) -> Sweep:
        return self.fit.problem.sweep

    @property
    def weights(self) -> Mapping[str, float]:
        """Of the hypotheses, by name; they add up to one."""
        return {hypothesis.name: hypothesis.weight for hypothesis in self.hypotheses}

    @property
    def num_observations(self) -> int:
        return len(self.sweep.log_loss)

    @property
    def num_settings(self) -> int:
        return len(self.sweep.settings)

    @property
    def noise_fraction(self) -> float:
        """Relative sd of a run's loss over seeds."""
        return self.fit.noise.seed

    @property
    def broken_sizes(self) -> tuple[float, ...]:
        """Each N without a good run that no likely drift explains: its runs are left out of the answer."""
        return self.fit.broken_sizes

    @property
    def exponents(self) -> Mapping[str, Exponents]:
        """By parameter; over the hypotheses, against the blind prior."""
        layout, prior_sd = self.sweep.layout, self.sweep.layout.unpack(self.fit.prior_sd).drift
        weight = np.array([hypothesis.weight for hypothesis in self.hypotheses])
        value, sd = (
            np.array([layout.unpack(part).drift for part in parts])
            for parts in ([h.fit.vector for h in self.hypotheses], [h.fit.sd for h in self.hypotheses])
        )
        mean = np.tensordot(weight, value, 1)
        spread = np.sqrt(np.tensordot(weight, sd**2 + (value - mean) ** 2, 1))
        table = np.stack([mean, spread, spread / prior_sd], axis=-1)[:, 1:].tolist()
        names = [parameter.name for parameter in self.sweep.parameters]
        return {name: Exponents(Exponent(*n), Exponent(*d)) for name, (n, d) in zip(names, table, strict=True)}

    @property
    def assumptions(self) -> dict[str, tuple[float, float]]:
        """Mean and sd of the blind prior on the bowl and its drift, by name; where a bowl lies is left to the runs."""
        layout, problem = self.sweep.layout, self.fit.problem
        mean, sd = layout.unpack(problem.prior_mean), layout.unpack(problem.prior_sd)
        told = {
            "asymmetry": (mean.asymmetry, sd.asymmetry),
            "ridge": (mean.ridge, sd.ridge),
            "ridge_by_tokens": (mean.ridge_drift, sd.ridge_drift),
        }
        for i, parameter in enumerate(self.sweep.parameters):
            told[f"{parameter.name}.by_params"] = mean.drift[i, 1], sd.drift[i, 1]
            told[f"{parameter.name}.by_tokens"] = mean.drift[i, 2], sd.drift[i, 2]
            told[f"{parameter.name}.log_curvature"] = mean.log_curvature[i], sd.log_curvature[i]
        return {name: (float(center), float(spread)) for name, (center, spread) in told.items()}

    def optimum(
        self, params: float, tokens: float, fixed: Mapping[str, float] = NOTHING_FIXED
    ) -> Mapping[str, Estimate]:
        """The best value of every parameter that is not fixed, at N = `params` and D = `tokens`."""
        bowls = self.bowls(params, tokens)
        centers = bowls.center + self._offsets(bowls, fixed)
        free = [i for i, parameter in enumerate(self.sweep.parameters) if parameter.name not in fixed]
        decision = self._decide(bowls, centers, free)
        parameters = self.sweep.parameters
        return {parameters[i].name: _estimate(parameters[i], centers[:, i], decision[i]) for i in free}

    def center_draws(self, params: float, tokens: float, fixed: Mapping[str, float] = NOTHING_FIXED) -> Array:
        """Draws of the optimum given the fixed values: octaves, (K, P) in the order of the parameters."""
        bowls = self.bowls(params, tokens)
        return np.asarray(bowls.center + self._offsets(bowls, fixed))

    def expected_regret(self, params: float, tokens: float, config: Mapping[str, float]) -> Regret:
        """What a configuration costs at a setting."""
        regret = self.regret_draws(params, tokens, config)
        return Regret(float(regret.mean()), float(np.quantile(regret, 0.9)))

    def regret_draws(self, params: float, tokens: float, config: Mapping[str, float]) -> Array:
        """Draws (K,) of the fraction of the loss that a configuration costs at a setting."""
        bowls = self.bowls(params, tokens)
        return self._regret(bowls, self._offsets(bowls, config))

    @cached_property
    def trial_effects(self) -> Mapping[str, float]:
        """By trial, the relative loss by which it is expected to stay above its place on the surface, at any rung.

        What its measurements leave unexplained, shrunk: the rungs of a trial go together (`RUNG_CORRELATION`). Its
        measurements have also drawn the surface; this is what is left over, so none counts twice.
        """
        sweep, good = self.sweep, self.fit.problem.good
        left = (sweep.log_loss - row_loss(sweep.layout.unpack(self.fit.vector), sweep.rows, sweep.form))[good]
        count, total = (
            np.bincount(sweep.trial_of[good], weights, len(sweep.trials)) for weights in (np.ones(len(left)), left)
        )
        effect = RUNG_CORRELATION * total / (1.0 + np.maximum(count - 1.0, 0.0) * RUNG_CORRELATION)
        return dict(zip(sweep.trials, effect.tolist(), strict=True))

    def trial_regret_draws(self, trial: str, params: float, tokens: float, config: Mapping[str, float]) -> Array:
        """Draws (K,) of the regret of a trial of the fit at a setting, its own effect included; may be below 0."""
        return self.regret_draws(params, tokens, config) + self.trial_effects.get(trial, 0.0)

    def predict_loss(self, params: float, tokens: float, config: Mapping[str, float]) -> Prediction:
        """The loss of one run with a configuration."""
        bowls = self.bowls(params, tokens)
        regret = self._regret(bowls, self._offsets(bowls, config))
        luck = np.concatenate([posterior.fresh[:, 1] for posterior in self.posteriors])
        loss = np.exp(bowls.log_floor + regret + luck * self.fit.noise.seed)
        low90, low80, median, high80, high90 = np.quantile(loss, [0.05, 0.1, 0.5, 0.9, 0.95]).tolist()
        return Prediction(median, low80, high80, low90, high90)

    def sensitivity(self, name: str, params: float, tokens: float) -> Sensitivity:
        """The curvature of a parameter's bowl, and its plateaus around the optimum of a setting."""
        bowls = self.bowls(params, tokens)
        index = [parameter.name for parameter in self.sweep.parameters].index(name)
        parameter, steep = self.sweep.parameters[index], self.sweep.form.steep[index]
        log_curvature, asymmetry, _ = bowls.shape
        below = np.exp(log_curvature[:, index])
        above = below * np.exp(asymmetry * steep)
        low, median, high = np.quantile((below + above) / 2, [0.1, 0.5, 0.9]).tolist()
        center, left, right = np.median([bowls.center[:, index], below**-0.5, above**-0.5], axis=1).tolist()
        widths = {t: t**0.5 * (left + right) / 2 for t in TOLERANCES}
        ends = {t: _ends(parameter, center - t**0.5 * left, center + t**0.5 * right) for t in TOLERANCES}
        return Sensitivity(median, low, high, widths, ends)

    def bowls(self, params: float, tokens: float) -> Bowls:
        """Draws of the surface at a setting, over all hypotheses."""
        parts = [posterior.bowls(params, tokens, self.backtest) for posterior in self.posteriors]
        shapes = zip(*(part.shape for part in parts), strict=True)
        curvature, asymmetry, ridge = (np.concatenate(shape) for shape in shapes)
        log_floor, center = (np.concatenate([getattr(p, name) for p in parts]) for name in ("log_floor", "center"))
        return Bowls(log_floor, center, (curvature, asymmetry, ridge))

    def _offsets(self, bowls: Bowls, config: Mapping[str, float]) -> Array:
        """(K, P) octaves of a configuration from the centres."""
        parameters = self.sweep.parameters
        assert set(config) <= {parameter.name for parameter in parameters}
        point = np.array([p.coordinate(config[p.name]) if p.name in config else -np.inf for p in parameters])
        named = np.isfinite(point)
        return settle(np.where(named, point, 0.0) - bowls.center, ~named, bowls.shape, self.sweep.form)

    def _regret(self, bowls: Bowls, offsets: Array) -> Array:
        return np.minimum(bowl(offsets, *bowls.shape, self.sweep.form), EXCESS_CAP)

    def _decide(self, bowls: Bowls, centers: Array, free: Sequence[int]) -> Array:
        """The point (P,) of least expected regret, one parameter after the other, from the medians.

        Too high a learning rate costs more than too low a one, so it ends below its median by itself.
        """
        point = np.median(centers, axis=0)
        for i in list(free) * NUM_ROUNDS:
            candidates = np.repeat(point[None], NUM_CANDIDATES, axis=0)
            low, high = np.quantile(centers[:, i], [0.025, 0.975])
            candidates[:, i] = np.linspace(low, high, NUM_CANDIDATES)
            regret = self._regret(bowls, candidates[:, None] - bowls.center).mean(axis=1)
            point = candidates[np.argmin(regret)]
        return point


def fit_surface(
    observations: pd.DataFrame,
    parameters: Sequence[Parameter],
    seed: int,
    priors: Priors = "neutral",
    hold_out: bool = True,
    sequence_tokens: float = SEQUENCE_TOKENS,
) -> Surface:
    """Fit the surface to all trials of a search.

    With three sizes or more the largest is also predicted without its own trials; what the prediction misses
    beyond its own uncertainty widens every later extrapolation in N.

    Args:
        observations: one row per trial and rung with `trial`, `params` (N, non-embedding), `tokens` (D),
            `loss` (NaN or infinite: diverged), `seed` and the raw value of each parameter.
        parameters: the searched parameters.
        seed: of the posterior draws; with it every answer is the same to the last bit.
        priors: `neutral` knows no law; `public` weighs published laws by what they predict.
        sequence_tokens: of a sequence in which a batch is counted; laws are for those of 2048.
        hold_out: whether to test the fit on the largest size; who only asks for the next trial need not wait for it.

    Raises:
        UserError: no trial has a finite loss, a loss is not above zero, or a value is missing.
    """
    sizes = np.unique(observations["params"].to_numpy(np.float64))
    full = _surface(read_sweep(observations, parameters), seed, priors, sequence_tokens)
    smaller = observations[observations["params"] < sizes[-1]]
    testable = len(sizes) >= MIN_SIZES_FOR_HOLDOUT and bool(np.isfinite(smaller["loss"].to_numpy(np.float64)).any())
    if not (hold_out and testable):
        return full
    blind = _surface(read_sweep(smaller, parameters), seed, priors, sequence_tokens)
    return replace(full, backtest=_backtest(full, blind))


def _surface(sweep: Sweep, seed: int, priors: Priors, sequence_tokens: float) -> Surface:
    fit = fit_sweep(sweep)
    hypotheses = weigh_laws(fit, sequence_tokens) if priors == "public" else (Hypothesis(BLIND, fit, 1.0),)
    counts = [max(2, 2 * round(NUM_DRAWS / 2 * hypothesis.weight)) for hypothesis in hypotheses]
    seeds = np.random.SeedSequence(seed).generate_state(len(counts)).tolist()
    drawn = zip(hypotheses, counts, seeds, strict=True)
    return Surface(hypotheses, tuple(draw_posterior(h.fit, count, number) for h, count, number in drawn))


def _backtest(full: Surface, blind: Surface) -> Mapping[str, Backtest]:
    """Each optimum at the largest setting, as predicted without the largest size and as fitted with it."""
    params, tokens = full.sweep.settings[-1].tolist()
    predicted, fitted = blind.optimum(params, tokens), full.optimum(params, tokens)
    expected = blind.center_draws(params, tokens).var(axis=0)
    result = {}
    for parameter, variance in zip(full.sweep.parameters, expected.tolist(), strict=True):
        guess, seen = predicted[parameter.name], fitted[parameter.name].median
        miss = parameter.coordinate(guess.median) - parameter.coordinate(seen)
        result[parameter.name] = Backtest(
            params=params,
            tokens=tokens,
            predicted=guess,
            fitted=seen,
            inside=guess.low80 <= seen <= guess.high80,
            regret=full.expected_regret(params, tokens, {parameter.name: guess.value}).mean,
            misfit_octaves=(max(0.0, miss**2 - variance) / MISFIT_DOF) ** 0.5,
        )
    return result


def _estimate(parameter: Parameter, draws: Array, decision: float) -> Estimate:
    low95, low80, median, high80, high95 = np.quantile(draws, [0.025, 0.1, 0.5, 0.9, 0.975]).tolist()
    inner, outer = _ends(parameter, low80, high80), _ends(parameter, low95, high95)
    return Estimate(parameter.value(float(decision)), parameter.value(median), *inner, *outer)


def _ends(parameter: Parameter, low: float, high: float) -> tuple[float, float]:
    """An interval of octaves as raw values, ascending: some scales run the other way."""
    ends = parameter.value(low), parameter.value(high)
    return min(ends), max(ends)
