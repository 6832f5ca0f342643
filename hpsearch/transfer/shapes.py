"""How wide and how deep: the plateau of width / depth from shape trials, and a usable shape for a number of parameters.

Loss at one N and D is nearly flat in log2(width / depth) around a best aspect: ln loss = level of D + slope x n +
k (a - a0 - drift x n)^2, n = log2 N and a in octaves. What counts as N decides where the best aspect lies: at a fixed
sum with the embedding, narrow models get more blocks for it and look better. N is without it here.

Shapes: R runs, T token budgets.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import log2
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.optimize import least_squares

from hpsearch.table_file import read_file
from search_spaces.errors import UserError
from trials.architecture import Architecture

Array = NDArray[np.float64]
MeanSd = tuple[float, float]

COLUMNS = ("width", "depth", "params", "tokens", "loss")
MIN_RUNS = 6  # the size's part and the bowl have five unknowns, with priors
NOISE = 0.002  # relative: what two models of one N, D and aspect differ by beyond this form
SLOPE_PRIOR: MeanSd = (-0.06, 0.03)  # ln loss per octave of N
SLOPE_BY_TOKENS_PRIOR: MeanSd = (0.0, 0.01)  # its change per octave of D
LOG_CURVATURE_PRIOR: MeanSd = (float(np.log(0.0025)), 1.0)
CENTER_PRIOR: MeanSd = (5.5, 2.0)  # octaves: 45, which Kaplan et al. 2020 (figure 5) find flat over a factor 10
DRIFT_PRIOR: MeanSd = (0.0, 0.3)  # octaves per octave of N
PRIORS = (SLOPE_PRIOR, SLOPE_BY_TOKENS_PRIOR, LOG_CURVATURE_PRIOR, CENTER_PRIOR, DRIFT_PRIOR)
EMBEDDING_PER_WIDTH = 500.0  # parameters a unit of width beyond the blocks' own: above it they are an embedding's

WIDTH_MULTIPLE, WIDE_MULTIPLE, WIDE = 64, 128, 1024  # from a width of 1024 on multiples of 128
SMALL_HEAD, LARGE_HEAD, LARGE_HEAD_WIDTH = 64, 128, 4096  # head sizes, as in GPT-3's table
COUNT_TOLERANCE = 0.02  # by which the exact count may miss the N asked for
CONTEXT_TOKENS, VOCABULARY = 2048, 50257  # of GPT-3


@dataclass(frozen=True)
class AspectPlateau:
    """Where width / depth is best, and what being off it costs. Beyond the sizes tried the best aspect stays."""

    center: float  # octaves of width / depth at the origin
    drift: float  # octaves per octave of N
    origin: float  # log2 N
    sizes: tuple[float, float]  # N of the smallest and largest model tried
    curvature: float  # relative loss per octave^2
    source: str

    def best(self, params: float) -> float:
        """The best width / depth at N non-embedding parameters."""
        inside = min(max(params, self.sizes[0]), self.sizes[1])
        return float(2.0 ** (self.center + self.drift * (log2(inside) - self.origin)))

    def cost(self, aspect: float, params: float) -> float:
        """Relative loss that an aspect costs against the best one."""
        return self.curvature * (log2(aspect) - log2(self.best(params))) ** 2

    def ends(self, tolerance: float, params: float) -> tuple[float, float]:
        """The aspects between which no more than a fraction of the loss is lost."""
        reach = 2.0 ** (tolerance / self.curvature) ** 0.5
        return self.best(params) / reach, self.best(params) * reach


# Curvature and best aspect of `fit_shapes` on the shape trials of McLeish et al. 2025 (mcleish7/gemstone-scaling-laws):
# 37 to 44 at 1e8 non-embedding parameters, where two schedules and 2e7 to 4.4e8 parameters were tried. Above it no
# trials are published; the line to GPT-3's 128 at 1.75e11 is practice (Chinchilla: 102 at 7e10), in the direction
# that Levine et al. 2020 (arXiv 2006.12467) derive and measure: the best depth grows as the log of the width.
PUBLISHED_PLATEAU = AspectPlateau(
    center=5.5,
    drift=0.14,
    origin=log2(1e8),
    sizes=(1e8, 1.75e11),
    curvature=0.0018,
    source="no --shapes: 45 at 1e8 parameters as in published shape trials (McLeish et al. 2025, Gemstones, up to "
    "4.4e8), from there up to the 128 of GPT-3 at 1.75e11, which is practice and not measured",
)


@dataclass(frozen=True)
class ShapeFit:
    """The plateau, and the whole prediction that ranks shapes of different N."""

    plateau: AspectPlateau
    levels: Array  # (T,) ln loss at the origin and the best aspect
    budgets: Array  # (T,) tokens
    slope: float  # ln loss per octave of N
    slope_by_tokens: float
    embedding_per_width: float  # that the table's `params` have in them; 0 where none
    misfit: float  # relative rms of the runs it was fitted to

    def predict(self, runs: pd.DataFrame) -> Array:
        """ln loss (R,) of runs at token budgets that the fit has seen."""
        which = np.searchsorted(self.budgets, runs["tokens"].to_numpy(np.float64))
        assert which.max() < len(self.budgets) and (self.budgets[which] == runs["tokens"]).all()
        n, a, d = _coordinates(runs, self.embedding_per_width, self.plateau.origin, self.budgets)
        off = a - self.plateau.center - self.plateau.drift * n
        tilt = (self.slope + self.slope_by_tokens * d) * n
        return np.asarray(self.levels[which] + tilt + self.plateau.curvature * off**2)


@dataclass(frozen=True)
class Shape:
    """A model that can be built."""

    width: int
    depth: int
    heads: int
    params: int  # non-embedding, exact
    params_total: int
    cost: float  # relative loss against the best aspect

    @property
    def aspect(self) -> float:
        return self.width / self.depth


def read_shapes(path: Path) -> pd.DataFrame:
    """Reads shape trials: `width`, `depth`, `params`, `tokens`, `loss`, a run a row.

    Raises:
        UserError: a column is missing, a value is not above zero, there are too few runs or all have one aspect.
    """
    file = read_file(path)
    missing = [column for column in COLUMNS if column not in file.cells]
    if missing:
        raise UserError(
            f"--shapes: {path}: needs the columns {', '.join(COLUMNS)}, got no {', '.join(missing)}; add or rename them"
        )
    runs = pd.DataFrame({column: file.numbers(column) for column in COLUMNS}).dropna(ignore_index=True)
    if not (np.isfinite(runs.to_numpy()).all() and (runs > 0).to_numpy().all()):
        raise UserError(f"--shapes: {path}: every value must be finite and above 0; correct the table")
    aspects = (runs["width"] / runs["depth"]).nunique()
    if len(runs) < MIN_RUNS or aspects < 3:
        raise UserError(
            f"--shapes: {path}: needs {MIN_RUNS} finished runs and 3 different width / depth, got {len(runs)} and "
            f"{aspects}; add runs"
        )
    return runs


def fit_shapes(runs: pd.DataFrame, source: str) -> ShapeFit:
    """Fits the size's part and the bowl to shape trials, robustly, with weak priors.

    A model that is measured at ten budgets is one model: what the form misses of it is the same at all of them.

    Args:
        runs: (R,) with the columns of `read_shapes`; R >= 6.
        source: the runs in words.
    """
    embedding = embedding_per_width(runs)
    size = _size(runs, embedding)
    budgets, which = np.unique(runs["tokens"].to_numpy(np.float64), return_inverse=True)
    origin = float(np.log2(size).mean())
    n, a, d = _coordinates(runs, embedding, origin, budgets)
    log_loss = np.log(runs["loss"].to_numpy(np.float64))
    noise = NOISE * np.sqrt(runs.groupby(["width", "depth"])["loss"].transform("size").to_numpy(np.float64))
    mean, sd = np.array(PRIORS).T

    def misfits(unknowns: Array) -> Array:
        slope, by_tokens, log_curvature, center, drift = unknowns[: len(PRIORS)]
        tilt = (slope + by_tokens * d) * n
        bowl = np.exp(log_curvature) * (a - center - drift * n) ** 2
        return np.asarray(unknowns[len(PRIORS) :][which] + tilt + bowl - log_loss)

    def residuals(unknowns: Array) -> Array:
        return np.concatenate([misfits(unknowns) / noise, (unknowns[: len(PRIORS)] - mean) / sd])

    levels = [log_loss[which == t].mean() for t in range(len(budgets))]
    found = least_squares(residuals, np.concatenate([mean, levels]), loss="soft_l1").x
    slope, by_tokens, log_curvature, center, drift = found[: len(PRIORS)].tolist()
    sizes = float(size.min()), float(size.max())
    return ShapeFit(
        plateau=AspectPlateau(center, drift, origin, sizes, float(np.exp(log_curvature)), source),
        levels=found[len(PRIORS) :],
        budgets=budgets,
        slope=slope,
        slope_by_tokens=by_tokens,
        embedding_per_width=embedding,
        misfit=float(np.sqrt(np.mean(misfits(found) ** 2))),
    )


def embedding_per_width(runs: pd.DataFrame) -> float:
    """Parameters a unit of width that `params` counts beyond the blocks, which have width^2 x depth; 0 where none.

    A table whose `params` have the embedding in them shows it: V or 2 V parameters a unit of width are left over.
    """
    width, depth, params = (runs[name].to_numpy(np.float64) for name in ("width", "depth", "params"))
    terms = np.column_stack([width**2 * depth, width]) / params[:, None]

    def misses(counts: Array) -> Array:
        return np.asarray(terms @ counts - 1.0)

    found = least_squares(misses, np.array([12.0, 0.0]), loss="soft_l1", f_scale=0.01).x
    return float(found[1]) if found[1] > EMBEDDING_PER_WIDTH else 0.0


def propose_shape(params: float, plateau: AspectPlateau, counts_embedding: bool) -> Shape:
    """The buildable GPT nearest to the best aspect whose exact count is within some 2 % of N.

    Where no shape has about N (a very small one), the one that misses it least.

    Args:
        params: N, with the embedding in it or not.
        plateau: what an aspect costs.
        counts_embedding: whether it is.
    """
    shapes = [gpt_shape(width, depth, plateau) for width, depth in _grid(params, counts_embedding)]

    def miss(shape: Shape) -> float:
        return abs((shape.params_total if counts_embedding else shape.params) / params - 1.0)

    near = [shape for shape in shapes if miss(shape) <= COUNT_TOLERANCE]
    return min(near, key=lambda shape: shape.cost) if near else min(shapes, key=miss)


def gpt_shape(width: int, depth: int, plateau: AspectPlateau) -> Shape:
    """A GPT with feed-forward layers of 4 d, counted: 12 L d^2 + 13 L d + 2 d, and (V + T) d of embeddings.

    Source: the weights of `trials.architecture.gpt`, which adds them up one by one.
    """
    params = depth * (12 * width**2 + 13 * width) + 2 * width
    embedding = (VOCABULARY + CONTEXT_TOKENS) * width
    return Shape(width, depth, heads_of(width), params, params + embedding, plateau.cost(width / depth, params))


def shape_of(model: Architecture, plateau: AspectPlateau) -> Shape:
    """The shape of a model that is given."""
    cost = plateau.cost(model.width / model.depth, model.params)
    return Shape(model.width, model.depth, model.heads, model.params, model.params_total, cost)


def heads_of(width: int) -> int:
    """Heads of 128 from a width of 4096 on, else of 64: GPT-3's table (Brown et al. 2020), without its exceptions."""
    return width // (LARGE_HEAD if width >= LARGE_HEAD_WIDTH else SMALL_HEAD)


def _grid(params: float, counts_embedding: bool) -> Iterator[tuple[int, int]]:
    """Each usable width, with the depth that comes nearest to N."""
    width = WIDTH_MULTIPLE
    yield width, 1
    while 12 * width**2 <= params:
        outside = 2 * width + ((VOCABULARY + CONTEXT_TOKENS) * width if counts_embedding else 0)
        depth = round((params - outside) / (12 * width**2 + 13 * width))
        if depth >= 1:
            yield width, depth
        width += WIDE_MULTIPLE if width >= WIDE else WIDTH_MULTIPLE


def _size(runs: pd.DataFrame, embedding: float) -> Array:
    """N (R,) without what the embedding has."""
    params, width = (runs[name].to_numpy(np.float64) for name in ("params", "width"))
    return np.asarray(params - embedding * width)


def _coordinates(runs: pd.DataFrame, embedding: float, origin: float, budgets: Array) -> tuple[Array, Array, Array]:
    """Octaves (R,) of N from the origin, of the aspect, and of D from the middle budget."""
    n = np.log2(_size(runs, embedding)) - origin
    aspect = np.log2((runs["width"] / runs["depth"]).to_numpy(np.float64))
    return n, aspect, np.log2(runs["tokens"].to_numpy(np.float64)) - float(np.log2(budgets).mean())
