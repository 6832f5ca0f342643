"""A published sweep as a simulator: what a run at any learning rate, batch, size and budget would lose.

The table is a grid of learning rate x batch at twelve settings of a dense model. Each setting becomes a smooth
surrogate; beyond its grid the loss of the nearest edge grows by 1 % an octave and 0.5 % an octave squared, as a
surrogate that is flat there would reward a fit that runs away.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.interpolate import RBFInterpolator
from scipy.optimize import minimize

Array = NDArray[np.float64]

# Tables that we may not redistribute: see docs/performance.md.
TABLES = Path(os.environ.get("HPSEARCH_TABLES", Path(__file__).parents[3] / "shared" / "data"))
DENSE_TABLE = TABLES / "dense_lr_batch.csv"
NAMES = ("learning_rate", "batch_sequences")
SMOOTHING = 1e-4  # of the spline, in units of a run's noise: the least error of ten-fold cross-validation
BEND = 0.01  # excess e is smoothed as ln(1 + e / BEND), else the cliff would decide how smooth the valley is
RUN_NOISE = 0.001  # relative sd of one run, by which the spline weighs it
RUIN = 0.5  # relative excess at which a run counts as diverged
NEAR = 0.02  # relative excess within which residuals tell the noise
NOISE_GROWTH = 0.1  # of the excess
EDGE_SLOPE, EDGE_CURVATURE = 0.01, 0.005  # relative loss per octave and octave^2 beyond the grid


@dataclass(frozen=True)
class Valley:
    """A smooth ln loss through the runs of a setting."""

    base: float
    spline: RBFInterpolator

    def __call__(self, points: Array) -> Array:
        """Octaves (R, 2) -> ln loss (R,)."""
        return np.asarray(self.base + BEND * np.expm1(self.spline(points)))

    def at(self, point: Array) -> float:
        """Octaves (2,) -> ln loss."""
        return float(self(point[None])[0])


@dataclass(frozen=True)
class Setting:
    """The surrogate of one (N, D)."""

    params: float
    tokens: float
    width: float
    depth: float
    valley: Valley
    low: Array  # (2,) octaves: the grid's corners
    high: Array
    noise: float  # relative sd of one run near the optimum
    optimum: Array  # (2,) octaves
    floor: float  # ln loss there

    def log_loss(self, points: Array) -> Array:
        """Octaves (R, 2) -> ln loss without noise, (R,)."""
        inside = np.clip(points, self.low, self.high)
        beyond = np.abs(points - inside)
        edge = (EDGE_SLOPE * beyond + EDGE_CURVATURE * beyond**2).sum(axis=1)
        return np.asarray(self.valley(inside) + np.log1p(edge))

    def regret(self, point: Array) -> float:
        """Relative loss above the optimum."""
        return float(np.expm1(self.log_loss(np.asarray(point, np.float64)[None])[0] - self.floor))

    def run(self, point: Array, rng: np.random.Generator) -> float:
        """The loss of one run; not a number where it diverges."""
        clean = float(self.log_loss(np.asarray(point, np.float64)[None])[0])
        excess = max(clean - self.floor, 0.0)
        if excess > RUIN:
            return float("nan")
        return float(np.exp(clean + np.hypot(self.noise, NOISE_GROWTH * excess) * rng.standard_normal()))


def read_settings(path: Path = DENSE_TABLE) -> list[Setting]:
    """The surrogates of all settings, cheapest first."""
    table = pd.read_csv(path)
    settings = [_setting(runs) for _, runs in table.groupby(["params", "tokens"])]
    return sorted(settings, key=lambda setting: setting.params * setting.tokens)


def _setting(runs: pd.DataFrame) -> Setting:
    points = np.log2(runs[list(NAMES)].to_numpy(np.float64))
    log_loss = np.log(runs["loss"].to_numpy(np.float64))
    base = float(log_loss.min()) - RUN_NOISE / 2
    excess = np.minimum(log_loss - base, 2 * RUIN)
    weights = (np.hypot(RUN_NOISE, NOISE_GROWTH * excess) / (BEND + excess)) ** 2
    spline = RBFInterpolator(points, np.log1p(excess / BEND), smoothing=SMOOTHING / RUN_NOISE**2 * weights)
    smooth = Valley(base, spline)
    start = points[int(np.argmin(smooth(points)))]
    found = minimize(smooth.at, start, method="Nelder-Mead")
    near = excess < NEAR
    first = runs.iloc[0]
    return Setting(
        params=float(first["params"]),
        tokens=float(first["tokens"]),
        width=float(first["width"]),
        depth=float(first["depth"]),
        valley=smooth,
        low=points.min(axis=0),
        high=points.max(axis=0),
        noise=float(np.sqrt(np.mean((log_loss - smooth(points))[near] ** 2))),
        optimum=np.clip(found.x, points.min(axis=0), points.max(axis=0)),
        floor=float(found.fun),
    )
