"""The course that a run should take: its loss before the decay of its rate, at any tokens, and how surely.

The surface says what the run would lose if it were annealed there, the gap what it loses more while it is not. All
that is uncertain is in one Gaussian over ln losses at several token counts, which go up and down together.

Shapes: T token counts, K draws.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from hpsearch.surface import Surface
from hpsearch.surface_fit import RUNG_CORRELATION
from hpsearch.surface_model import Array
from hpsearch.transfer.anneal_gap import AnnealGap

GAP_SEED = 1
WANDER_OCTAVES = 1.0  # of tokens, over which what a run owes to its luck changes


@dataclass(frozen=True)
class BigRun:
    """The run that can be made only once."""

    params: float  # N, non-embedding
    tokens: float  # D, of the whole run
    config: Mapping[str, float]  # by the surface's names of the parameters
    warmup_tokens: float
    steady: tuple[
        float, float
    ]  # tokens between which its losses count: the rate is at its peak, and trials went as far
    decay_share: float  # of the run that its rate decays over


@dataclass(frozen=True)
class Course:
    """ln losses, Gaussian."""

    tokens: Array  # (T,)
    mean: Array  # (T,)
    covariance: Array  # (T, T)

    def interval(self, deviations: float) -> tuple[Array, Array]:
        """Losses (T,) so many standard deviations below and above the mean."""
        reach = deviations * np.sqrt(np.diag(self.covariance))
        return np.exp(self.mean - reach), np.exp(self.mean + reach)


def predicted_course(surface: Surface, gap: AnnealGap, run: BigRun, tokens: Array) -> Course:
    """The course of a run at some token counts (T,).

    A loss at t tokens was measured in the search where the branch of a rung at t / (1 - s) begins, s being the share
    that is annealed: that rung's annealed loss, times the gap.
    """
    rungs = tokens / (1.0 - run.decay_share)
    annealed = np.stack([_log_loss(surface, run, float(rung)) for rung in rungs], axis=1)
    rate = learning_rate_of(surface, run.config)
    draws = annealed + gap.draws(run.params, rungs, rate, len(annealed), GAP_SEED)
    luck = (surface.noise_fraction**2 + gap.stray**2) * _wander(tokens)
    return Course(tokens, draws.mean(axis=0), np.atleast_2d(np.cov(draws, rowvar=False)) + luck)


def learning_rate_of(surface: Surface, config: Mapping[str, float]) -> float:
    """The learning rate of a configuration; NaN where none is searched."""
    names = [parameter.name for parameter in surface.sweep.parameters if parameter.known_name == "learning_rate"]
    return config[names[0]] if names else float("nan")


def _log_loss(surface: Surface, run: BigRun, tokens: float) -> Array:
    """Draws (K,) of the ln loss of the configuration, annealed at some tokens."""
    return surface.bowls(run.params, tokens).log_floor + surface.regret_draws(run.params, tokens, run.config)


def _wander(tokens: Array) -> Array:
    """Correlation (T, T) of what one run has by luck: mostly the same all along, as at the rungs of a trial."""
    octaves = np.log2(tokens)
    apart = np.abs(octaves[:, None] - octaves) / WANDER_OCTAVES
    return np.asarray(RUNG_CORRELATION + (1.0 - RUNG_CORRELATION) * np.exp(-apart))
