"""What a bad run says: that its loss lies above a threshold, and no more. A size that has only bad runs says less.

Where no run of a size came out well, its optimum may lie far from all of them, or the size may be broken (its code,
its data, its hardware): the first moves the drift, the second says nothing about it. Both are weighed.

Shapes: R rows, B bad rows, H sizes with a setting that has bad rows alone, Q unknowns.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_ndtr

from hpsearch.surface_data import Sweep
from hpsearch.surface_model import Array

CHANCE_BROKEN = 0.01  # of a size without a good run, before anything is known of it


@dataclass(frozen=True)
class BadRuns:
    """Rows known only to be above a threshold."""

    rows: NDArray[np.bool_]  # (R,)
    threshold: Array  # (B,) ln loss
    sd: float  # relative loss
    barren: Array  # (H, B) one-hot: the bad rows of a size's settings that have no good one
    sizes: Array  # (H,) N of those

    @property
    def alone(self) -> NDArray[np.bool_]:
        """Bad rows (B,) of settings that have good ones: each counts by itself."""
        return np.asarray(~self.barren.any(axis=0))

    def residuals(self, loss: Array) -> Array:
        """Model's ln loss (R,) -> (B alone + H,) whose half square is -ln of the likelihood."""
        short = shortfall((loss[self.rows] - self.threshold) / self.sd)
        return np.concatenate([short[self.alone], unless_broken(self.barren @ short**2)])

    def jacobian(self, loss: Array, by: Array) -> Array:
        """The derivative of `residuals`, given that of the loss, (R, Q) -> (B alone + H, Q)."""
        above = (loss[self.rows] - self.threshold) / self.sd
        short = shortfall(above)
        slopes = shortfall_slope(above)[:, None] * by[self.rows] / self.sd
        pulled = self.barren @ (short[:, None] * slopes)
        return np.concatenate([slopes[self.alone], unless_broken_slope(self.barren @ short**2)[:, None] * pulled])

    def without(self, held: NDArray[np.bool_]) -> BadRuns:
        """The same with some rows (R,) left out."""
        kept = ~held[self.rows]
        barren = self.barren[:, kept]
        some = barren.any(axis=1)
        return BadRuns(self.rows & ~held, self.threshold[kept], self.sd, barren[some], self.sizes[some])

    def believed(self) -> BadRuns:
        """The same with no size taken for broken."""
        return replace(self, barren=self.barren[:0], sizes=self.sizes[:0])

    def broken(self, loss: Array) -> tuple[float, ...]:
        """The sizes N that are rather broken than explained by the model's ln loss (R,)."""
        short = shortfall((loss[self.rows] - self.threshold) / self.sd)
        return tuple(self.sizes[chance_sound(self.barren @ short**2) < 0.5].tolist())


def bad_runs(sweep: Sweep, rows: NDArray[np.bool_], threshold: Array, sd: float) -> BadRuns:
    """Bad rows and threshold (R,), the settings that have no other rows grouped by their size."""
    in_setting = sweep.rows.setting_of[rows]  # (B, S)
    has_good = sweep.rows.setting_of[~rows].any(axis=0)
    of_barren = in_setting @ (~has_good).astype(np.float64) > 0
    size = in_setting @ sweep.settings[:, 0]
    sizes = np.unique(size[of_barren])
    barren = (of_barren & (size == sizes[:, None])).astype(np.float64)
    return BadRuns(rows, threshold[rows], sd, barren, sizes)


def shortfall(above: Array) -> Array:
    """Residual of a run known only to be bad: sqrt(-2 ln Phi(model - threshold)), none far above it."""
    return np.asarray(np.sqrt(-2.0 * log_ndtr(above)))


def shortfall_slope(above: Array) -> Array:
    """Derivative of `shortfall`: -phi / (Phi x shortfall)."""
    log_density = -0.5 * above**2 - 0.5 * np.log(2.0 * np.pi)
    ratio = np.exp(log_density - log_ndtr(above))
    return np.asarray(-ratio / np.maximum(shortfall(above), 1e-150))


def unless_broken(squared: Array) -> Array:
    """Sum of squared shortfalls of a barren size -> sqrt(-2 ln(c + (1 - c) exp(-squared / 2))), at most 3."""
    return np.asarray(np.sqrt(-2.0 * np.log1p((1.0 - CHANCE_BROKEN) * np.expm1(-squared / 2.0))))


def unless_broken_slope(squared: Array) -> Array:
    """Derivative of `unless_broken` by half of the squares: the chance that the size is sound, over the residual."""
    return np.asarray(chance_sound(squared) / np.maximum(unless_broken(squared), 1e-150))


def chance_sound(squared: Array) -> Array:
    """That a barren size is not broken, given how little its bad runs are explained."""
    honest = (1.0 - CHANCE_BROKEN) * np.exp(-squared / 2.0)
    return np.asarray(honest / (honest + CHANCE_BROKEN))
