"""Forms of the best loss as a law in model size and tokens, each fitted by itself.

A form is fitted together with what it misses: its misfit varies smoothly with N and D, so that the settings nearest
to a prediction correct it most, and far from all of them the form stands alone.

Shapes: S settings, Q unknowns of a form, T targets. n, d = log2 N, log2 D from the settings' mean, in octaves, and
losses are natural logarithms from the settings' median: no form knows units.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cholesky, solve_triangular
from scipy.optimize import approx_fprime, least_squares

from hpsearch.surface_model import LN2, Array
from hpsearch.surface_priors import LEVEL_SD

Curve = Callable[[Array, Array, Array], Array]  # unknowns (Q,), n (T,), d (T,) -> ln loss (T,)
MeanSd = tuple[float, float]
Chosen = slice | NDArray[np.bool_] | NDArray[np.intp]

MISFIT_OCTAVES = 3.0  # over which the misfit of a form changes; on three published tables 4 was as good, 2 worse on one
STUDENT_DOF = 4.0  # of a setting's noise: digitised tables and unlucky floors have outliers
NUM_PASSES = 4  # of reweighting
DIFFERENCE = 1e-4  # of the unknowns, for derivatives


@dataclass(frozen=True)
class Form:
    """A law with weak priors on its unknowns, (Q,) means and sd."""

    name: str
    curve: Curve
    priors: tuple[MeanSd, ...]
    source: str


# The floor, and what is above it at the settings' mean, as fractions of the median loss there: about half of the loss
# can still fall, size and tokens having like shares. The exponents are those of published laws, give or take a half.
FLOOR, GAIN, SHARE = (-0.69, 0.5), (0.0, 1.5), (0.0, 2.0)
EXPONENT, COMPUTE_EXPONENT = (float(np.log(0.35)), 0.45), (float(np.log(0.17)), 0.45)
NO_FLOOR_LEVEL, NO_FLOOR_EXPONENT = (0.0, 1.0), (float(np.log(0.08)), 0.5)
SHARPNESS = (float(np.log(0.6)), 0.4)  # between Kaplan's law, whose exponent of D is one, and Hoffmann's 1


def reducible(share: float, exponents: tuple[float, float], sharpness: float, n: Array, d: Array) -> Array:
    """ln of (A N^(-a / g) + B D^(-b / g))^g: what size and tokens leave to gain, from the settings' mean.

    Args:
        share: ln (A / B) there.
        exponents: a, b.
        sharpness: g; at 1 the two add up, and the smaller it is the more the scarcer of the two alone decides.
        n: (T,) octaves.
        d: (T,) octaves.
    """
    a, b = exponents
    size, tokens = share / 2 - LN2 * a / sharpness * n, -share / 2 - LN2 * b / sharpness * d
    return np.asarray(sharpness * np.logaddexp(size, tokens))


def above(floor: float, log_gain: Array) -> Array:
    """ln (E + E e^gain), given ln E."""
    return np.asarray(floor + np.logaddexp(0.0, log_gain))


def hoffmann(x: Array, n: Array, d: Array) -> Array:
    """E + A / N^a + B / D^b."""
    return above(x[0], x[1] + reducible(x[2], (np.exp(x[3]), np.exp(x[4])), 1.0, n, d))


def hoffmann_at(a: float, b: float) -> Curve:
    """E + A / N^a + B / D^b with known exponents."""

    def curve(x: Array, n: Array, d: Array) -> Array:
        return above(x[0], x[1] + reducible(x[2], (a, b), 1.0, n, d))

    return curve


def kaplan(x: Array, n: Array, d: Array) -> Array:
    """(A / N^(a / b) + B / D)^b: all loss can fall."""
    b = np.exp(x[3])
    return np.asarray(x[0] + reducible(x[1], (np.exp(x[2]), b), b, n, d))


def kaplan_above_floor(x: Array, n: Array, d: Array) -> Array:
    """E + (A / N^(a / b) + B / D)^b."""
    b = np.exp(x[4])
    return above(x[0], x[1] + reducible(x[2], (np.exp(x[3]), b), b, n, d))


def busbridge(x: Array, n: Array, d: Array) -> Array:
    """E + (A / N^(a / g) + B / D^(b / g))^g."""
    return above(x[0], x[1] + reducible(x[2], (np.exp(x[3]), np.exp(x[4])), np.exp(x[5]), n, d))


def compute_only(x: Array, n: Array, d: Array) -> Array:
    """E + A / (N D)^a."""
    return above(x[0], x[1] - LN2 * np.exp(x[2]) * (n + d))


def power(x: Array, n: Array, d: Array) -> Array:
    """A / (N^a D^b): all loss can fall."""
    return np.asarray(x[0] - LN2 * (np.exp(x[1]) * n + np.exp(x[2]) * d))


FORMS = (
    Form("hoffmann", hoffmann, (FLOOR, GAIN, SHARE, EXPONENT, EXPONENT), "Hoffmann et al. 2022 (arXiv 2203.15556)"),
    Form("hoffmann, 0.34 and 0.28", hoffmann_at(0.34, 0.28), (FLOOR, GAIN, SHARE), "the exponents of the same"),
    Form(
        "hoffmann, 0.348 and 0.366",
        hoffmann_at(0.348, 0.366),
        (FLOOR, GAIN, SHARE),
        "the exponents of Besiroglu et al. 2024 (arXiv 2404.10102)",
    ),
    Form(
        "kaplan",
        kaplan,
        (NO_FLOOR_LEVEL, SHARE, NO_FLOOR_EXPONENT, NO_FLOOR_EXPONENT),
        "Kaplan et al. 2020 (arXiv 2001.08361), eq. 1.5",
    ),
    Form("kaplan above a floor", kaplan_above_floor, (FLOOR, GAIN, SHARE, EXPONENT, EXPONENT), "the same above E"),
    Form(
        "busbridge",
        busbridge,
        (FLOOR, GAIN, SHARE, EXPONENT, EXPONENT, SHARPNESS),
        "Busbridge et al. 2025 (arXiv 2502.08606)",
    ),
    Form("compute", compute_only, (FLOOR, GAIN, COMPUTE_EXPONENT), "Henighan et al. 2020 (arXiv 2010.14701)"),
    Form(
        "power",
        power,
        (NO_FLOOR_LEVEL, NO_FLOOR_EXPONENT, NO_FLOOR_EXPONENT),
        "Hestness et al. 2017 (arXiv 1712.00409)",
    ),
)


@dataclass(frozen=True)
class Points:
    """Measured settings."""

    place: Array  # (S, 2) log2 N, log2 D
    log_loss: Array  # (S,)
    sd: Array  # (S,) of ln loss

    def __getitem__(self, chosen: Chosen) -> Points:
        return Points(self.place[chosen], self.log_loss[chosen], self.sd[chosen])

    def __len__(self) -> int:
        return len(self.log_loss)


@dataclass(frozen=True)
class FittedForm:
    """A form at its likeliest unknowns, with what it misses at the settings."""

    form: Form
    points: Points
    unknowns: Array  # (Q,)
    covariance: Array  # (Q, Q)
    precision: Array  # (S, S) inverse of the covariance of misfit and noise

    def predict(self, place: Array) -> tuple[Array, Array]:
        """ln loss and its sd without noise, (T,) each, at settings (T, 2) of log2 N, log2 D."""
        points = self.points
        covariance = misfit_covariance(place, points.place)
        gain = covariance @ self.precision

        def log_loss(unknowns: Array) -> Array:
            fitted, asked = (law_at(self.form, unknowns, points, at) for at in (points.place, place))
            return np.asarray(asked + gain @ (points.log_loss - fitted))

        slope = np.atleast_2d(approx_fprime(self.unknowns, log_loss, DIFFERENCE))
        from_unknowns = np.einsum("tq,qr,tr->t", slope, self.covariance, slope)
        from_misfit = LEVEL_SD**2 - (gain * covariance).sum(axis=1)
        return log_loss(self.unknowns), np.sqrt(np.maximum(from_unknowns + from_misfit, 0.0))


def law_at(form: Form, unknowns: Array, points: Points, place: Array) -> Array:
    """ln loss (T,) of a form alone at settings (T, 2), its origin being that of the points."""
    n, d = (place - points.place.mean(axis=0)).T
    return form.curve(unknowns, n, d) + float(np.median(points.log_loss))


def misfit_covariance(left: Array, right: Array) -> Array:
    """(T, S) covariance of what a form misses at settings (T, 2) and (S, 2).

    Source: the Matern kernel of order 5/2, Rasmussen and Williams 2006, eq. 4.17.
    """
    distance = np.sqrt(5.0) / MISFIT_OCTAVES * np.linalg.norm(left[:, None] - right, axis=2)
    return np.asarray(LEVEL_SD**2 * (1.0 + distance + distance**2 / 3.0) * np.exp(-distance))


def fit_form(form: Form, points: Points) -> FittedForm:
    """The likeliest unknowns under Gaussian priors and misfit, and Student's noise by reweighting."""
    mean, sd = np.array(form.priors).T
    misfit, variance, unknowns = misfit_covariance(points.place, points.place), points.sd**2, mean
    for _ in range(NUM_PASSES):
        factor = cholesky(misfit + np.diag(variance), lower=True)
        whitening = solve_triangular(factor, np.eye(len(points)), lower=True)
        unknowns, jacobian = _least(form, points, whitening, unknowns)
        left = points.log_loss - law_at(form, unknowns, points, points.place)
        precision = np.asarray(whitening.T @ whitening, np.float64)
        luck = (variance * (precision @ left)) / points.sd  # what neither form nor misfit explains
        variance = points.sd**2 * np.maximum((STUDENT_DOF + luck**2) / (STUDENT_DOF + 1.0), 1.0)
    covariance = np.asarray(np.linalg.inv(jacobian.T @ jacobian), np.float64)
    return FittedForm(form, points, unknowns, covariance, precision)


def _least(form: Form, points: Points, whitening: Array, start: Array) -> tuple[Array, Array]:
    """Unknowns (Q,) of least cost from a start, and the Jacobian (S + Q, Q) there."""
    mean, sd = np.array(form.priors).T

    def residuals(unknowns: Array) -> Array:
        errors = law_at(form, unknowns, points, points.place) - points.log_loss
        return np.concatenate([whitening @ errors, (unknowns - mean) / sd])

    found = least_squares(residuals, start, x_scale=sd, xtol=1e-8)
    return np.asarray(found.x, np.float64), np.asarray(found.jac, np.float64)
