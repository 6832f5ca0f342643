"""The edge of stability: how far above its best value the learning rate goes before trials diverge.

Diverged trials are data here: the edge lies a number of octaves above the drifting optimum, the same at every size,
and a trial at u octaves diverges with probability Phi((u - edge) / width).

Shapes: R runs, E places of the edge on a grid, K draws.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy.special import log_ndtr, ndtr

from hpsearch.surface import Surface
from hpsearch.surface_model import Array, off_ridge, row_offsets, shape_at

EDGE_PRIOR = (3.0, 1.5)  # octaves above the optimum; published sweeps diverge from 2 to 5
WIDTH_OCTAVES = 0.4  # over which trials of one rate go either way
GRID = np.linspace(-1.0, 10.0, 221)
CONFIDENCE = 0.9


@dataclass(frozen=True)
class Stability:
    """Where the learning rate ends, at one setting."""

    parameter: str
    chance_of_divergence: float  # of one run of the configuration
    largest_stable: float  # below the edge with 90 %, everything that is uncertain included
    margin_octaves: float  # from the configuration to it
    diverged: int  # runs that the edge is known from; with none it is the prior's, held up by what was stable


def stability(surface: Surface, params: float, tokens: float, config: Mapping[str, float]) -> Stability | None:
    """The stability of a configuration at a setting; None where no learning rate is searched."""
    steep = np.flatnonzero(surface.sweep.form.steep > 0)
    if not len(steep):
        return None
    rate = int(steep[0])
    parameter = surface.sweep.parameters[rate]
    others = {name: value for name, value in config.items() if name != parameter.name}
    best = surface.center_draws(params, tokens, others)[:, rate]  # where the ridge has led it
    quantiles = (np.arange(len(best)) + 0.5) / len(best)
    order = np.random.default_rng(0).permutation(len(best))
    edge = np.interp(quantiles[order], np.cumsum(edge_posterior(surface)), GRID)
    at = parameter.coordinate(config[parameter.name])
    largest = float(np.quantile(best + edge, 1.0 - CONFIDENCE))
    return Stability(
        parameter=parameter.name,
        chance_of_divergence=float(ndtr((at - best - edge) / WIDTH_OCTAVES).mean()),
        largest_stable=parameter.value(largest),
        margin_octaves=largest - at,
        diverged=int(surface.sweep.diverged.sum()),
    )


def edge_posterior(surface: Surface) -> Array:
    """Probability of each place of the edge on the grid, (E,)."""
    sweep = surface.sweep
    unknowns = sweep.layout.unpack(surface.fit.vector)
    ridge = shape_at(unknowns, sweep.rows.basis[:, 2])[2]
    along = off_ridge(row_offsets(unknowns, sweep.rows), ridge, sweep.form)
    above = (along @ sweep.form.steep)[:, None] - GRID  # (R, E)
    log_chance = np.where(sweep.diverged[:, None], log_ndtr(above / WIDTH_OCTAVES), log_ndtr(-above / WIDTH_OCTAVES))
    log_posterior = log_chance.sum(axis=0) - 0.5 * ((GRID - EDGE_PRIOR[0]) / EDGE_PRIOR[1]) ** 2
    posterior = np.exp(log_posterior - log_posterior.max())
    return np.asarray(posterior / posterior.sum())
