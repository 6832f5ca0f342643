"""The fit of the loss surface: robust least squares with priors, in four passes, and its Laplace covariance.

Shapes as in `surface_model`, and U uncensored rows. Losses are natural logarithms, so that their differences
are relative losses.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.linalg import solve_triangular
from scipy.optimize import least_squares

from hpsearch.laws import Drift
from hpsearch.surface_bad_runs import BadRuns, bad_runs
from hpsearch.surface_data import Indices, Sweep
from hpsearch.surface_model import Array, row_floor, row_loss, row_loss_jacobian
from hpsearch.surface_priors import Claims, Noise, claims, priors

REFERENCE_NOISE = 0.0012  # relative sd of one run of a large model, smoothed training loss
REFERENCE_DOF = 4.0  # how many residuals the prior on the noise is worth
NOISE_GROWTH = 0.15  # of the excess: far from the optimum runs are noisier and the bowl is less true
NEAR_OCTAVES = 0.5  # within which runs share what the form misses
MOST_COMPARED = 500  # runs of a setting with which each is compared
RUNG_CORRELATION = 0.7  # between the rungs of one trial
# Excess beyond which a run only says "bad", and the least sd, pass by pass. The first sd keeps a wrong guess
# of the valley from being fitted to the noise.
PASSES = ((0.15, 0.006), (0.08, 0.0), (0.05, 0.0), (0.05, 0.0))
WINDOW_IN_NOISE = 6.0  # a window of 5 % is for a noise of 0.12 %; at 1 % it would cut good runs by their luck
NEAR_EXCESS, NEAR_IN_NOISE = 0.02, 4.0  # runs that tell the noise
NUM_STARTS = 4
MAX_EVALUATIONS = 200
# Where a search for the least cost ends, in relative steps and falls; from several starts, each first coarsely.
FINE, COARSE = (1e-6, 1e-8), (1e-2, 1e-2)
VALLEY_OCTAVES = 0.5  # that two centres in one valley may be apart
FAR_COST = 5.0  # a valley this much less likely, in natural logarithms, is not followed further


@dataclass(frozen=True)
class Fit:
    """The unknowns at the optimum, and how uncertain they are."""

    problem: Problem  # of the last pass
    vector: Array  # (Q,)
    prior_sd: Array  # (Q,)
    factor: Array  # (Q, Q) covariance = factor @ factor.T
    noise: Noise

    @property
    def cost(self) -> float:
        """Negative log posterior at the optimum, up to a constant."""
        residuals = self.problem.residuals(self.vector)
        return float(residuals @ residuals) / 2

    @property
    def broken_sizes(self) -> tuple[float, ...]:
        """Each N whose runs are all bad, further from the others' surface than a drift is likely to lead."""
        sweep = self.problem.sweep
        return self.problem.bad.broken(row_loss(sweep.layout.unpack(self.vector), sweep.rows, sweep.form))

    @property
    def sd(self) -> Array:
        """(Q,)"""
        return np.asarray(np.sqrt((self.factor**2).sum(axis=1)))

    def draws(self, normals: Array) -> Array:
        """Standard normals (K, Q) -> draws of the unknowns (K, Q)."""
        return np.asarray(self.vector + normals @ self.factor.T)


def fit_sweep(sweep: Sweep) -> Fit:
    """Four passes: find the valley coarsely, then look closer, each around the floor of the one before."""
    floor = first_floor(sweep)
    noise = first_noise(sweep, floor)
    starts = first_starts(sweep, priors(sweep, floor, noise)[0], floor)
    for limits in PASSES:
        mean, sd = priors(sweep, floor, noise)
        problem = weigh(sweep, (mean, sd), floor, noise, limits)
        vector = problem.least(starts)
        factor = laplace_factor(problem.jacobian(vector))
        noise = measure_noise(problem, vector, factor, noise)
        floor = row_floor(sweep.layout.unpack(vector), sweep.rows)
        starts = [vector]
    return Fit(problem, vector, sd, factor, noise)


def refit(fit: Fit, law: Mapping[str, Drift]) -> Fit:
    """The same fit under a law: prior, noise and what counts as bad stay, so that the two can be compared."""
    problem = replace(fit.problem, claims=claims(fit.problem.sweep, law))
    vector, _ = problem.solve(fit.vector)
    return Fit(problem, vector, fit.prior_sd, laplace_factor(problem.jacobian(vector)), fit.noise)


@dataclass(frozen=True)
class Problem:
    """One pass: everything that is held while the unknowns move."""

    sweep: Sweep
    prior_mean: Array  # (Q,)
    prior_sd: Array  # (Q,)
    good: NDArray[np.bool_]  # (R,) rows whose loss is measured
    bad: BadRuns  # all others
    sd: Array  # (U,) relative loss
    whitening: sparse.csr_array  # (U, U) from ln loss to independent errors of sd 1
    claims: Claims  # of the law, if any

    def residuals(self, vector: Array) -> Array:
        """(R + Q + L,) whose half sum of squares is the negative log posterior."""
        return self._residuals(vector, *self._errors(vector))

    def jacobian(self, vector: Array) -> Array:
        """(R + Q + L, Q)."""
        return self._jacobian(vector, *self._errors(vector))

    def solve(self, start: Array, ends: tuple[float, float] = FINE) -> tuple[Array, float]:
        """The unknowns of least cost from a start, and that cost."""

        @lru_cache(maxsize=1)  # a solver asks for residuals and derivatives at one place
        def errors(place: bytes) -> tuple[Array, Array]:
            return self._errors(np.frombuffer(place))

        def residuals(vector: Array) -> Array:
            return self._residuals(vector, *errors(vector.tobytes()))

        def jacobian(vector: Array) -> Array:
            return self._jacobian(vector, *errors(vector.tobytes()))

        xtol, ftol = ends
        found = least_squares(residuals, start, jacobian, method="lm", xtol=xtol, ftol=ftol, max_nfev=MAX_EVALUATIONS)
        return np.asarray(found.x, np.float64), float(found.cost)

    def least(self, starts: Sequence[Array]) -> Array:
        """The unknowns of least cost from several starts; a size of bad runs is tried as evidence and as broken.

        Starts are followed coarsely, and then to the end from each valley that may be the deepest: most lead into one.
        """
        if len(self.bad.sizes):
            starts = [*starts, replace(self, bad=self.bad.believed()).solve(starts[0])[0]]
        if len(starts) > 1:
            starts = self._valleys([self.solve(start, COARSE) for start in starts])
        return min((self.solve(start) for start in starts), key=lambda solution: solution[1])[0]

    def _valleys(self, solutions: Sequence[tuple[Array, float]]) -> list[Array]:
        """Of (unknowns, cost), the cheapest of those that share a valley, without valleys that cost far more."""
        found = list[Array]()
        least = min(cost for _, cost in solutions)
        for vector, cost in sorted(solutions, key=lambda solution: solution[1]):
            apart = [np.abs(self._center(vector) - self._center(other)).max() > VALLEY_OCTAVES for other in found]
            if cost <= least + FAR_COST and all(apart):
                found.append(vector)
        return found

    def _center(self, vector: Array) -> Array:
        """(P,) octaves."""
        return self.sweep.layout.unpack(vector).drift[:, 0]

    def without(self, held: NDArray[np.bool_]) -> Problem:
        """The same problem with some rows (R,) left out."""
        good, sd = self.good & ~held, self.sd[~held[self.good]]
        whitening = whiten(self.sweep.trial_of[good], sd)
        return replace(self, good=good, bad=self.bad.without(held), sd=sd, whitening=whitening)

    def prior_variance(self, basis: Array) -> Array:
        """(P,) of the log-linear centre at a setting's basis (3,), before any run: the blind prior and the law."""
        size = len(self.prior_sd)
        place = self.sweep.layout.unpack(np.arange(size, dtype=np.float64)).drift.astype(int)  # (P, 3)
        return np.array([basis @ self._drift_variance(own) @ basis for own in place])

    def _drift_variance(self, own: NDArray[np.int64]) -> Array:
        """(3, 3) of one parameter's centre and slopes, whose places are `own`: no claim ties it to another unknown."""
        rows = self.claims.rows[:, own]
        return np.asarray(np.linalg.inv(np.diag(self.prior_sd[own] ** -2.0) + rows.T @ rows), dtype=np.float64)

    def _residuals(self, vector: Array, errors: Array, loss: Array) -> Array:
        from_prior = (vector - self.prior_mean) / self.prior_sd
        return np.concatenate([student(errors), self.bad.residuals(loss), from_prior, self.claims.residuals(vector)])

    def _jacobian(self, vector: Array, errors: Array, loss: Array) -> Array:
        by = row_loss_jacobian(self.sweep.layout.unpack(vector), self.sweep.rows, self.sweep.form)
        good = student_slope(errors)[:, None] * (self.whitening @ by[self.good])
        return np.concatenate([good, self.bad.jacobian(loss, by), np.diag(1.0 / self.prior_sd), self.claims.rows])

    def _errors(self, vector: Array) -> tuple[Array, Array]:
        """Model - measured of the good rows, standardized, and the model's ln loss of all."""
        loss = row_loss(self.sweep.layout.unpack(vector), self.sweep.rows, self.sweep.form)
        errors = self.whitening @ (loss - self.sweep.log_loss)[self.good]
        return errors, loss


def weigh(sweep: Sweep, prior: tuple[Array, Array], floor: Array, noise: Noise, limits: tuple[float, float]) -> Problem:
    """The problem around a floor (R,), given the (mean, sd) of the prior and a pass's (window, least sd)."""
    window = max(limits[0], WINDOW_IN_NOISE * noise.paired)
    excess = np.maximum(sweep.log_loss - floor, 0.0)
    window += float(excess[~sweep.diverged].min())  # where all runs are bad, the best of them still count
    censored = sweep.diverged | (excess > window)
    good, least = ~censored, max(noise.paired, limits[1])
    misfit = NOISE_GROWTH * excess[good] * np.sqrt(crowding(sweep, good))
    sd = np.hypot(least, misfit)
    return Problem(
        sweep=sweep,
        prior_mean=prior[0],
        prior_sd=prior[1],
        good=good,
        bad=bad_runs(sweep, censored, floor + window, float(np.hypot(noise.paired, NOISE_GROWTH * window))),
        sd=sd,
        whitening=whiten(sweep.trial_of[good], sd),
        claims=claims(sweep),
    )


def crowding(sweep: Sweep, rows: NDArray[np.bool_]) -> Array:
    """How many of some rows (U of R) share the place of each, itself included, (U,).

    What the bowl's form misses far from the optimum is the same for all runs at one place: ten of them tell no more
    of it than one. Each of n runs with the variance s^2 + n m^2 adds up to the information of their mean, m being
    the misfit they share.
    """
    coordinates, count = sweep.rows.coordinates[rows], np.zeros(int(rows.sum()))
    for setting in sweep.rows.setting_of[rows].T:  # one after the other: all pairs of a large table fill the memory
        here = setting > 0
        count[here] = _crowd(coordinates[here])
    return count


def _crowd(points: Array) -> Array:
    """How many points (A, P) share the place of each, itself included, (A,); of very many, from some of them."""
    some = points[np.random.default_rng(0).permutation(len(points))[:MOST_COMPARED]] if len(points) else points
    slices = np.array_split(points, max(1, len(points) // MOST_COMPARED))
    shared = np.concatenate([nearness(part, some).sum(axis=1) for part in slices])
    return np.asarray(np.maximum(shared * (len(points) / max(len(some), 1)), 1.0))


def nearness(points: Array, others: Array) -> Array:
    """1 for the same place, falling with the octaves between two, (A, B) of points (A, P) and others (B, P)."""
    squared = ((points[:, None] - others[None]) ** 2).sum(axis=2)
    return np.asarray(np.exp(-0.5 * squared / NEAR_OCTAVES**2))


def whiten(trial_of: Indices, sd: Array) -> sparse.csr_array:
    """(U, U) from ln loss to independent errors of sd 1."""
    return rung_whitening(trial_of) @ sparse.diags_array(1.0 / sd)


def rung_whitening(trial_of: Indices) -> sparse.csr_array:
    """(U, U) inverse square root of the covariance (1 - rho) I + rho 1 1' within each trial.

    That is a I + (b - a) x mean over the trial's m rungs, a^-2 = 1 - rho, b^-2 = 1 + (m - 1) rho. The rungs of
    a trial share seed and data; counted as runs of their own they would make the D axis look too certain.
    """
    _, trial, num_rungs = np.unique(trial_of, return_inverse=True, return_counts=True)
    places = (np.arange(len(trial)), trial)
    member = sparse.csr_array((np.ones(len(trial)), places), shape=(len(trial), len(num_rungs)))
    alone = (1.0 - RUNG_CORRELATION) ** -0.5
    together = (1.0 + (num_rungs - 1) * RUNG_CORRELATION) ** -0.5
    shared = member @ sparse.diags_array((together - alone) / num_rungs) @ member.T
    return sparse.csr_array(shared + alone * sparse.eye_array(len(trial)))


def student(errors: Array) -> Array:
    """Standardized errors -> residuals whose half square is -ln of a Student t with 4 degrees of freedom."""
    return np.asarray(np.sign(errors) * np.sqrt(5.0 * np.log1p(errors**2 / 4.0)))


def student_slope(errors: Array) -> Array:
    """Derivative of `student`; sqrt(5) / 2 at zero."""
    size = np.maximum(np.abs(errors), 1e-6)
    return np.asarray(5.0 * size / ((4.0 + size**2) * student(size)))


def first_floor(sweep: Sweep) -> Array:
    """A plane through the settings' minima, lowered to a minimum that lies below it, (R,) ln loss.

    The plane keeps a setting that has only bad runs from passing for good. Its slopes start from published
    ladders (5 and 5.5 % per octave) and bend to this one.
    """
    minima = np.array([sweep.log_loss[inside > 0].min() for inside in sweep.rows.setting_of.T])
    basis = np.column_stack([np.ones(len(minima)), np.log2(sweep.settings) - sweep.origin])
    start = np.array([minima.min(), -0.05, -0.055])

    def residuals(plane: Array) -> Array:
        return np.concatenate([(minima - basis @ plane) / 0.02, (plane - start)[1:] / 0.04])

    plane = least_squares(residuals, start, loss="soft_l1").x
    return np.asarray(sweep.rows.setting_of @ np.minimum(basis @ plane, minima))


def first_starts(sweep: Sweep, mean: Array, floor: Array) -> list[Array]:
    """The prior mean, and the prior mean with the valley led through each of the best runs."""
    unknowns = sweep.layout.unpack(mean)
    starts = [mean]
    for row in np.argsort(sweep.log_loss - floor, kind="stable")[:NUM_STARTS]:
        slopes = unknowns.drift[:, 1:]
        through = sweep.rows.coordinates[row] - slopes @ sweep.rows.basis[row, 1:]
        center = np.where(sweep.rows.active[row] > 0, through, unknowns.drift[:, 0])
        starts.append(sweep.layout.pack(replace(unknowns, drift=np.column_stack([center, slopes]))))
    return starts


def first_noise(sweep: Sweep, floor: Array) -> Noise:
    """That of repeats, where there are some; else that of a large model, until residuals say more."""
    variance, _ = repeat_variance(sweep, sweep.log_loss < floor + PASSES[0][0])
    noise = float(np.sqrt(max(variance, REFERENCE_NOISE**2)))
    return Noise(noise, noise)


def repeat_variance(sweep: Sweep, good: NDArray[np.bool_]) -> tuple[float, int]:
    """Pooled variance of ln loss over runs that differ in seed only, and its degrees of freedom."""
    repeat, loss = sweep.repeat_of[good], sweep.log_loss[good]
    count = np.bincount(repeat)
    mean = np.bincount(repeat, loss) / np.maximum(count, 1)
    dof = int(np.maximum(count - 1, 0).sum())
    return float(((loss - mean[repeat]) ** 2).sum()) / max(dof, 1), dof


def measure_noise(problem: Problem, vector: Array, factor: Array, before: Noise) -> Noise:
    """The noise from the residuals near the optimum, each over the freedom that the fit left it.

    Shrunk towards the spread of the repeats (without any, that of a large model): a few residuals are
    sometimes all small by luck, and the fit would then follow noise. Repeats have other seeds, so their
    spread is the seed noise, and an upper bound of the noise between paired runs.
    """
    sweep, good = problem.sweep, problem.good
    unknowns = sweep.layout.unpack(vector)
    excess = sweep.log_loss - row_floor(unknowns, sweep.rows)
    errors = sweep.log_loss - row_loss(unknowns, sweep.rows, sweep.form)
    near = excess[good] < max(NEAR_EXCESS, NEAR_IN_NOISE * before.paired)
    leverage = ((problem.jacobian(vector)[: good.sum()] @ factor) ** 2).sum(axis=1)
    freedom = 1.0 - np.minimum(leverage[near], 0.9)
    growth = np.hypot(1.0, NOISE_GROWTH * np.maximum(excess[good][near], 0.0) / before.paired)
    sizes = np.abs(errors[good][near]) / (growth * np.sqrt(freedom))
    spread = 1.4826 * float(np.median(sizes)) if len(sizes) else 0.0

    repeats, repeat_dof = repeat_variance(sweep, good)
    prior = max(repeats, REFERENCE_NOISE**2)
    prior_dof = min(REFERENCE_DOF, repeat_dof) if repeat_dof else REFERENCE_DOF
    dof = float(freedom.sum())
    paired = float(np.sqrt((prior_dof * prior + dof * spread**2) / (prior_dof + dof)))
    return Noise(paired, max(paired, float(np.sqrt(repeats))))


def laplace_factor(jacobian: Array) -> Array:
    """F with F F' = (J'J)^-1, the covariance of the unknowns at the optimum."""
    upper = np.linalg.qr(jacobian, mode="r")
    return np.asarray(solve_triangular(upper, np.eye(len(upper))))
