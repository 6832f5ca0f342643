"""The form of the loss surface: ln loss = floor(N, D) + a bowl around an optimum that drifts with N and D.

Pure functions of arrays, with their derivatives; numpy only.

Shapes: R rows, P parameters, S settings (distinct N, D), G seed shifts, K draws, Q unknowns. Any `...` is a
leading axis of draws. Coordinates are in octaves, curvatures in relative loss per octave squared.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

LN2 = float(np.log(2.0))
NUM_FLOOR = 5  # ln E, ln A, ln B, a, b
NUM_DRIFT = 3  # centre at the origin, octaves per octave of N, octaves per octave of D


@dataclass(frozen=True)
class Form:
    """Which parameters have a steep high side, and which one drags another along a ridge."""

    steep: Array  # (P,) 1 where too high costs more than too low
    coupling: Array  # (P, P) [i, j] is 1 where the best value of j moves with the offset of i

    @property
    def num_parameters(self) -> int:
        return len(self.steep)


def form_of(names: Sequence[str]) -> Form:
    """The learning rate is steep on its high side, and its best value moves with the batch; by their known names."""
    steep = np.array([float(name == "learning_rate") for name in names])
    batch = np.array([float(name == "batch_sequences") for name in names])
    return Form(steep, np.outer(batch, steep))


def log_floor(floor: Array, basis: Array) -> Array:
    """ln E + ln(1 + A 2^(-a n) + B 2^(-b d)): the loss at the optimum, as a law in N and D.

    Args:
        floor: (..., 5) ln E, ln A, ln B, a, b.
        basis: (R, 3) of 1, n, d, the last two in octaves from the data's mean.

    Returns:
        (..., R).

    Source: the three-term law of Hoffmann et al. 2022 (arXiv 2203.15556), about the data's mean.
    """
    size, tokens = floor_terms(floor, basis)
    return np.asarray(floor[..., 0, None] + np.log1p(size + tokens))


def floor_terms(floor: Array, basis: Array) -> tuple[Array, Array]:
    """A 2^(-a n) and B 2^(-b d), each (..., R)."""
    size = np.exp(floor[..., 1, None] - LN2 * floor[..., 3, None] * basis[:, 1])
    tokens = np.exp(floor[..., 2, None] - LN2 * floor[..., 4, None] * basis[:, 2])
    return size, tokens


def bowl(offsets: Array, log_curvature: Array, asymmetry: Array, ridge: Array, form: Form) -> Array:
    """Relative loss above the floor at some distance from the optimum.

    Args:
        offsets: (..., P) coordinate minus centre, octaves.
        log_curvature: (..., P) ln of the curvature on the low side.
        asymmetry: (...) ln of how many times steeper the high side of a steep parameter is.
        ridge: (...) octaves by which the best value of a coupled parameter follows its driver's offset.
        form: which parameters these two apply to.

    Returns:
        (...) sum over parameters of k u^2, with u = offset - ridge x driver's offset.
    """
    along = off_ridge(offsets, ridge, form)
    return np.asarray(np.sum(side_curvature(along, log_curvature, asymmetry, form) * along**2, axis=-1))


def off_ridge(offsets: Array, ridge: Array, form: Form) -> Array:
    """Offsets (..., P) counted from the ridge on which a coupled parameter follows its driver."""
    return np.asarray(offsets - np.asarray(ridge)[..., None] * (offsets @ form.coupling))


def side_curvature(along: Array, log_curvature: Array, asymmetry: Array, form: Form) -> Array:
    """The curvature on the side where the run lies, (..., P)."""
    return np.exp(log_curvature + np.asarray(asymmetry)[..., None] * form.steep * (along > 0))


def settle(offsets: Array, free: NDArray[np.bool_], shape: tuple[Array, Array, Array], form: Form) -> Array:
    """Offsets (K, P) with the free ones moved to where the bowl is least, the others held.

    Only a ridge makes a held parameter move a free one: a held batch drags the rate along the ridge; a held
    rate pulls the batch by r k u / (r^2 k + k_batch), where the two slopes cancel.

    Args:
        offsets: (K, P) octaves from the centre; those of free parameters are ignored.
        free: (P,)
        shape: log curvature (K, P), asymmetry (K,), ridge (K,), as for `bowl`.
        form: which parameters the last two apply to.
    """
    log_curvature, asymmetry, ridge = shape
    held = np.where(free, 0.0, offsets)
    curvature = side_curvature(held, log_curvature, asymmetry, form)
    dragged = ridge[:, None] * (held @ form.coupling)
    pulled = ridge[:, None] * ((curvature * held) @ form.coupling.T)
    pulled /= ridge[:, None] ** 2 * (curvature @ form.coupling.T) + curvature
    return np.where(free, dragged + pulled, held)


def log_floor_jacobian(floor: Array, basis: Array) -> Array:
    """Derivative of `log_floor` by its five unknowns, (..., R, 5)."""
    size, tokens = floor_terms(floor, basis)
    total = 1.0 + size + tokens
    by_size, by_tokens = size / total, tokens / total
    steps = [
        np.ones_like(total),
        by_size,
        by_tokens,
        -LN2 * basis[:, 1] * by_size,
        -LN2 * basis[:, 2] * by_tokens,
    ]
    return np.stack(steps, axis=-1)


@dataclass(frozen=True)
class Unknowns:
    """All unknowns by name; each may carry a leading axis of draws."""

    floor: Array  # (..., 5)
    drift: Array  # (..., P, 3) centre = drift @ (1, n, d)
    log_curvature: Array  # (..., P)
    asymmetry: Array  # (...)
    ridge: Array  # (...)
    curvature_drift: Array  # (..., P) change of the log curvature per octave of D
    ridge_drift: Array  # (...) change of the ridge per octave of D: the longer a run, the more the two go together
    level: Array  # (..., S) relative loss: what the floor's law misses at a setting
    scatter: Array  # (..., S, P) octaves: what the log-linear drift misses at a setting
    shift: Array  # (..., G) relative loss: a seed against the main seed of its N


@dataclass(frozen=True)
class Layout:
    """Where each unknown lies in the vector of all of them."""

    num_parameters: int
    num_settings: int
    num_shifts: int

    @property
    def sizes(self) -> tuple[int, ...]:
        p, s = self.num_parameters, self.num_settings
        return NUM_FLOOR, NUM_DRIFT * p, p, 1, 1, p, 1, s, s * p, self.num_shifts

    def unpack(self, vector: Array) -> Unknowns:
        """(..., Q) -> named views."""
        lead = vector.shape[:-1]
        ends = list(accumulate(self.sizes, initial=0))  # not by np.split, which alone took a tenth of a fit
        floor, drift, curvature, asymmetry, ridge, curvature_drift, ridge_drift, level, scatter, shift = (
            vector[..., start:end] for start, end in pairwise(ends)
        )
        p = self.num_parameters
        return Unknowns(
            floor,
            drift.reshape(*lead, p, NUM_DRIFT),
            curvature,
            asymmetry[..., 0],
            ridge[..., 0],
            curvature_drift,
            ridge_drift[..., 0],
            level,
            scatter.reshape(*lead, self.num_settings, p),
            shift,
        )

    def pack(self, unknowns: Unknowns) -> Array:
        """Named arrays without a leading axis -> (Q,)."""
        parts = [np.ravel(getattr(unknowns, name)) for name in Unknowns.__dataclass_fields__]
        return np.concatenate(parts).astype(np.float64)


@dataclass(frozen=True)
class Rows:
    """Where each observation stands."""

    coordinates: Array  # (R, P) octaves
    active: Array  # (R, P) 0 where a parameter is off, which says nothing about its bowl; else 1
    basis: Array  # (R, 3) of 1, n, d
    setting_of: Array  # (R, S) one-hot
    shift_of: Array  # (R, G) one-hot; all zero for the main seed of an N


def row_floor(unknowns: Unknowns, rows: Rows) -> Array:
    """ln loss at the optimum of each row's setting and seed, (R,)."""
    law = log_floor(unknowns.floor, rows.basis)
    return np.asarray(law + rows.setting_of @ unknowns.level + rows.shift_of @ unknowns.shift)


def row_offsets(unknowns: Unknowns, rows: Rows) -> Array:
    """Octaves from the optimum of each row's setting, (R, P); none where a parameter is off."""
    center = rows.basis @ unknowns.drift.T + rows.setting_of @ unknowns.scatter
    return np.asarray(rows.active * (rows.coordinates - center))


Shape = tuple[Array, Array, Array]  # log curvature (..., P), asymmetry (...), ridge (...)


def shape_at(unknowns: Unknowns, tokens: Array) -> Shape:
    """The bowl's shape, given octaves of D from the data's mean, one for all draws or one a row."""
    curvature = unknowns.log_curvature + unknowns.curvature_drift * np.asarray(tokens)[..., None]
    return curvature, unknowns.asymmetry, unknowns.ridge + unknowns.ridge_drift * tokens


def row_loss(unknowns: Unknowns, rows: Rows, form: Form) -> Array:
    """ln loss of each row, (R,)."""
    offsets = row_offsets(unknowns, rows)
    return row_floor(unknowns, rows) + bowl(offsets, *shape_at(unknowns, rows.basis[:, 2]), form)


def row_loss_jacobian(unknowns: Unknowns, rows: Rows, form: Form) -> Array:
    """Derivative of `row_loss` by every unknown, (R, Q) in the order of `Layout`."""
    offsets = row_offsets(unknowns, rows)
    driven = offsets @ form.coupling
    tokens = rows.basis[:, 2, None]
    log_curvature, asymmetry, ridge = shape_at(unknowns, rows.basis[:, 2])
    along = off_ridge(offsets, ridge, form)
    curvature = side_curvature(along, log_curvature, asymmetry, form)
    slope = 2.0 * curvature * along  # by `along`
    by_center = -rows.active * (slope - ridge[:, None] * (slope @ form.coupling.T))  # (R, P)
    by_drift = by_center[:, :, None] * rows.basis[:, None, :]
    by_scatter = rows.setting_of[:, :, None] * by_center[:, None, :]
    by_curvature = curvature * along**2
    by_asymmetry = (by_curvature * form.steep * (along > 0)).sum(axis=1)
    by_ridge = -(slope * driven).sum(axis=1, keepdims=True)

    count = len(rows.basis)
    return np.concatenate(
        [
            log_floor_jacobian(unknowns.floor, rows.basis),
            by_drift.reshape(count, -1),
            by_curvature,
            by_asymmetry[:, None],
            by_ridge,
            by_curvature * tokens,
            by_ridge * tokens,
            rows.setting_of,
            by_scatter.reshape(count, -1),
            rows.shift_of,
        ],
        axis=1,
    )
