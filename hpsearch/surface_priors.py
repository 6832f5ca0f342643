"""What the surface believes before it has seen a trial: Gaussian priors on every unknown.

Nothing here knows units: the loss scale and the place of the bowl are taken from the data, the rest is in
octaves and relative losses. Constants were set on published sweeps of 6e7 to 4e8 parameters, widened for
proxies a thousand times smaller.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np

from hpsearch.laws import Drift
from hpsearch.surface_data import Sweep
from hpsearch.surface_model import Array, Unknowns

MeanSd = tuple[float, float]


@dataclass(frozen=True)
class ParameterPrior:
    """Mean and sd of what describes one parameter's bowl, its place apart."""

    by_params: MeanSd  # octaves per octave of N
    by_tokens: MeanSd  # octaves per octave of D
    log_curvature: MeanSd  # ln of relative loss per octave^2


# Campaigns disagree about the exponents of learning rate and batch: the sd are wide enough for all of them.
LEARNING_RATE_PRIOR = ParameterPrior((-0.3, 0.5), (0.1, 0.5), (float(np.log(0.0038)), 0.6))
BATCH_PRIOR = ParameterPrior((0.0, 0.2), (0.45, 0.35), (float(np.log(0.0032)), 0.6))
# The others: little drift, and a curvature that may be next to nothing, so that what is flat shows as flat. One
# sweep at 1.3e8 parameters has 0 for epsilon, 0 to 0.2 % for beta2, 0.1 to 1 % for warmup and beta1. The centre
# is below them, as the likeliest bowl through noise is steeper than the true one (measured: by half at 0.06 %).
WEAK_PRIOR = ParameterPrior((0.0, 0.15), (0.0, 0.15), (float(np.log(0.0003)), 1.5))
NAMED_PRIORS = {"learning_rate": LEARNING_RATE_PRIOR, "batch_sequences": BATCH_PRIOR}

# Octaves, and octaves per octave, by which a law may miss where it holds; one that leaves the place open is known
# from several campaigns whose exponents differ by more.
LAW_CENTER_SD, LAW_SLOPE_SD, LOOSE_SLOPE_SD = 0.15, 0.04, 0.12
NO_LAW: Mapping[str, Drift] = MappingProxyType({})

CENTER_SD = 2.0  # octaves around the good runs
GOOD_EXCESS = 0.01  # relative loss within which a run counts as good
ASYMMETRY_PRIOR = np.array([0.5, 0.5])
RIDGE_PRIOR = np.array([0.3, 0.25])
# The shape changes little with D. Published ladders: the ridge from 0.2 to 0.6 and the curvature to half over a
# factor 25 of D.
CURVATURE_DRIFT_PRIOR = np.array([0.0, 0.1])
RIDGE_DRIFT_PRIOR = np.array([0.0, 0.1])
# ln E below the measured losses, ln A, ln B, a, b: about half of the loss at the data's mean can still fall,
# N and D having like shares. Weak on purpose: tiny proxies are far above E, published ladders near it.
FLOOR_PRIOR = ((-0.69, 0.5), (-0.69, 1.5), (-0.69, 1.5), (0.35, 0.15), (0.35, 0.15))
SCATTER_SD = 0.14  # octaves by which the optimum of a setting strays from the log-linear drift
LEVEL_SD = 0.003  # relative loss that the floor's law misses at a setting


@dataclass(frozen=True)
class Noise:
    """Relative standard deviations of a run's loss."""

    paired: float  # between runs of one seed
    seed: float  # over seeds


@dataclass(frozen=True)
class Claims:
    """What a law says beyond the blind prior, as residuals of sd 1."""

    rows: Array  # (L, Q)
    values: Array  # (L,)

    def residuals(self, vector: Array) -> Array:
        """(L,)"""
        return np.asarray(self.rows @ vector - self.values)


def claims(sweep: Sweep, law: Mapping[str, Drift] = NO_LAW) -> Claims:
    """What a law says of each parameter's drift at the data's mean setting, by known name; the others stay open."""
    size = sum(sweep.layout.sizes)
    place = sweep.layout.unpack(np.arange(size, dtype=np.float64)).drift.astype(int)  # (P, 3)
    rows, values = [], []
    for i, parameter in enumerate(sweep.parameters):
        if parameter.known_name in law:
            for direction, value, sd in _said(law[parameter.known_name], sweep.center_origin[i]):
                row = np.zeros(size)
                row[place[i]] = direction
                rows.append(row / sd)
                values.append(value / sd)
    return Claims(np.array(rows).reshape(len(rows), size), np.array(values))


def _said(law: Drift, origin: float) -> list[tuple[Array, float, float]]:
    """Each claim: a combination (3,) of centre and slopes, its value and its sd."""
    slope_sd = LOOSE_SLOPE_SD if law.center is None else LAW_SLOPE_SD
    center = None if law.center is None else law.center - origin
    each = (
        ((1.0, 0.0, law.tokens_away), center, LAW_CENTER_SD),
        ((0.0, 1.0, law.tokens_along), law.by_params, slope_sd),
        ((0.0, 0.0, 1.0), law.by_tokens, slope_sd),
    )
    return [(np.array(direction), value, sd) for direction, value, sd in each if value is not None]


def priors(sweep: Sweep, floor: Array, noise: Noise) -> tuple[Array, Array]:
    """Mean and sd of every unknown, (Q,) each.

    Args:
        sweep: the observations.
        floor: (R,) ln loss at the optimum of each row's setting, as far as known.
        noise: as far as known.
    """
    layout = sweep.layout
    each = [NAMED_PRIORS.get(parameter.known_name, WEAK_PRIOR) for parameter in sweep.parameters]
    floor_law = np.array(FLOOR_PRIOR)
    floor_law[0, 0] += np.median(floor)
    drift = np.array([[(0.0, CENTER_SD), p.by_params, p.by_tokens] for p in each])  # (P, 3, 2)
    drift[:, 0, 0] = center_of_good_runs(sweep, floor, noise)
    curvature = np.array([p.log_curvature for p in each])
    level_sd = np.sqrt(LEVEL_SD**2 + noise.seed**2 - noise.paired**2)  # with the luck of the main seed
    s, p, g = layout.num_settings, layout.num_parameters, layout.num_shifts
    effects = np.zeros(s), np.zeros((s, p)), np.zeros(g)
    spreads = np.full(s, level_sd), np.full((s, p), SCATTER_SD), np.full(g, np.sqrt(2.0) * noise.seed)
    mean, sd = (
        Unknowns(
            floor=floor_law[:, i],
            drift=drift[..., i],
            log_curvature=curvature[:, i],
            asymmetry=ASYMMETRY_PRIOR[i],
            ridge=RIDGE_PRIOR[i],
            curvature_drift=np.full(p, CURVATURE_DRIFT_PRIOR[i]),
            ridge_drift=RIDGE_DRIFT_PRIOR[i],
            level=strays[0],
            scatter=strays[1],
            shift=strays[2],
        )
        for i, strays in enumerate((effects, spreads))
    )
    return layout.pack(mean), layout.pack(sd)


def center_of_good_runs(sweep: Sweep, floor: Array, noise: Noise) -> Array:
    """Mean coordinates (P,) of the runs, weighted by how good they are; moves with the units, as it must.

    Of a parameter that is off in every run it is the origin, the middle of the range.
    """
    excess = np.maximum(sweep.log_loss - floor, 0.0)
    weights = np.exp(-excess / max(GOOD_EXCESS, 2.0 * noise.paired))
    total = weights @ sweep.rows.active
    return np.asarray(weights @ sweep.rows.coordinates / np.where(total > 0, total, 1.0))
