"""Shapes: does the aspect plateau of small models rank larger ones?

Fitted to the published shape trials (McLeish et al. 2025, mcleish7/gemstone-scaling-laws, MIT) of models below 3e8
parameters, it predicts the losses of those above: rank correlation at each token budget, what the model that it picks
loses, and how far the losses are off relative to each other, against a fit that knows the size alone.

    python -m tests.benchmarks.shapes
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import spearmanr

from hpsearch.transfer.shapes import ShapeFit, fit_shapes, read_shapes

Array = NDArray[np.float64]

DATA = Path(__file__).parents[1] / "data"
TABLES = {"hot": DATA / "shapes_hot.csv", "cool": DATA / "shapes_cool.csv"}  # before and after the anneal
SMALL_PARAMS = 3e8  # with embedding, as the tables count them


@dataclass(frozen=True)
class Ranking:
    """How well the large models are ranked; means over the token budgets."""

    fit: ShapeFit
    num_small: int  # models
    num_large: int
    rank_correlation: float
    regret: float  # relative loss of the model with the least predicted loss, against the best
    error: float  # relative rms of predicted losses, each budget's mean taken off
    error_by_size: float  # the same of a line in log N


def rank_larger(path: Path) -> Ranking:
    """Fits the small models of a table and ranks its large ones."""
    runs = read_shapes(path)
    large = runs["params"] >= SMALL_PARAMS
    fit = fit_shapes(runs[~large], path.name)
    measured = np.log(runs["loss"][large].to_numpy(np.float64))
    predicted, by_size = fit.predict(runs[large]), _by_size(runs, large, fit)
    tokens = runs["tokens"][large].to_numpy(np.float64)
    budgets = [tokens == budget for budget in np.unique(tokens)]
    picks = [measured[here][np.argmin(predicted[here])] - measured[here].min() for here in budgets]
    models = runs.groupby(["width", "depth"])["params"].first()
    num_large = int((models >= SMALL_PARAMS).sum())
    return Ranking(
        fit=fit,
        num_small=len(models) - num_large,
        num_large=num_large,
        rank_correlation=float(np.mean([spearmanr(predicted[here], measured[here]).statistic for here in budgets])),
        regret=float(np.mean(np.expm1(picks))),
        error=_error(predicted - measured, budgets),
        error_by_size=_error(by_size - measured, budgets),
    )


def _by_size(runs: pd.DataFrame, large: pd.Series[bool], fit: ShapeFit) -> Array:
    """ln loss of the large models by a line in log N through the small ones, up to a constant of each budget."""
    n = np.log2(runs["params"] - fit.embedding_per_width * runs["width"])
    small = runs[~large].assign(n=n, log_loss=np.log(runs["loss"]))
    centered = small[["n", "log_loss"]] - small.groupby("tokens")[["n", "log_loss"]].transform("mean")
    slope = (centered["n"] * centered["log_loss"]).sum() / (centered["n"] ** 2).sum()
    return np.asarray(slope * n[large], np.float64)


def _error(misses: Array, budgets: list[NDArray[np.bool_]]) -> float:
    return float(np.sqrt(np.mean([misses[here].var() for here in budgets])))


def main() -> None:
    for name, path in TABLES.items():
        ranking = rank_larger(path)
        plateau = ranking.fit.plateau
        low, high = plateau.ends(0.001, 2**plateau.origin)
        print(
            f"{name}: {ranking.num_small} small models rank {ranking.num_large} larger ones at "
            f"{ranking.rank_correlation:.2f}, regret of the pick {ranking.regret:.2%}, error {ranking.error:.2%} "
            f"(by size alone {ranking.error_by_size:.2%}); best width / depth "
            f"{2**plateau.center:.0f} at N = {2**plateau.origin:.2g} (0.1 % from {low:.0f} to {high:.0f}), drift "
            f"{plateau.drift:+.2f} octaves an octave of N, {plateau.curvature:.2%} an octave^2; misfit "
            f"{ranking.fit.misfit:.2%}; embedding taken off: {ranking.fit.embedding_per_width:,.0f} a unit of width"
        )


if __name__ == "__main__":
    main()
