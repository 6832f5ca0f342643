"""Published laws as competing hypotheses: each is weighed by how well it predicts settings that it has not seen.

A law that holds narrows the answer to what it says; one that does not gets next to no weight. The blind
hypothesis, which knows no law, never falls below a tenth. A law is weighed where the trials can contradict it: at three
settings, with the optimum of all that it speaks of bracketed at one of them.

Source: predictive stacking by leave-one-group-out density, Yao et al. 2018 (arXiv 1704.02030), with weights
proportional to the density itself, as three to ten settings cannot carry an optimization of the weights.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import chi2, multivariate_t

from hpsearch.laws import LAWS, SEQUENCE_TOKENS
from hpsearch.surface_fit import Fit, refit
from hpsearch.surface_model import row_loss, row_loss_jacobian, row_offsets

BLIND = "neutral"
BLIND_FLOOR = 0.1
BLIND_SHARE = 0.5  # before any trial: that no law holds is as likely as that one of them does
MIN_SETTINGS = 3  # below, leaving one out leaves too little to be predicted from
NEWTON_STEPS = 2
TAIL_DOF = 4
MOST_PREDICTED = 300  # runs of a setting, whose density is taken together
LEAST_WEIGHT = 0.005  # a hypothesis below it is left out of the mixture


@dataclass(frozen=True)
class Hypothesis:
    """A fit under what a law says, and its share in the answer."""

    name: str
    fit: Fit
    weight: float


def weigh_laws(blind: Fit, sequence_tokens: float = SEQUENCE_TOKENS) -> tuple[Hypothesis, ...]:
    """The blind fit and that under each law that can be weighed, heaviest first."""
    sweep = blind.problem.sweep
    if len(sweep.settings) < MIN_SETTINGS:
        return (Hypothesis(BLIND, blind, 1.0),)
    fits = {BLIND: blind}
    params, tokens = (2.0**sweep.origin).tolist()
    brackets = {p.known_name: n for p, n in zip(sweep.parameters, bracketed_settings(blind).tolist(), strict=True)}
    for law in LAWS:
        said = law.drifts(params, tokens, sequence_tokens)
        drifts = {name: drift for name, drift in said.items() if name in brackets}
        if drifts and min(brackets[name] for name in drifts) > 0:
            fits[law.name] = refit(blind, drifts)
    density = {name: predictive_density(fit) + agreement(fit, blind) for name, fit in fits.items()}
    weights = _weights(density)
    kept = [Hypothesis(name, fits[name], weight) for name, weight in weights.items() if weight > 0]
    return tuple(sorted(kept, key=lambda hypothesis: -hypothesis.weight))


def bracketed_settings(fit: Fit) -> NDArray[np.int64]:
    """(P,) at how many settings runs, good or bad, lie on both sides of a parameter's optimum."""
    rows = fit.problem.sweep.rows
    offsets = row_offsets(fit.problem.sweep.layout.unpack(fit.vector), rows)
    below, above = (rows.setting_of.T @ side > 0 for side in ((offsets < 0) * 1.0, (offsets > 0) * 1.0))
    return np.asarray((below & above).sum(axis=0))


def agreement(fit: Fit, blind: Fit) -> float:
    """ln of the chance that trials obeying the law would contradict it as much as these do; 0 for the blind fit.

    A few settings can by luck be predicted well by a law that the trials as a whole rule out.

    Source: a check of prior against data, Evans and Moshonov 2006 (Bayesian Analysis 1), by the likelihood ratio
    with as many degrees of freedom as the law makes claims.
    """
    num_claims = len(fit.problem.claims.values)
    return float(chi2.logsf(2.0 * max(fit.cost - blind.cost, 0.0), num_claims)) if num_claims else 0.0


def _weights(density: dict[str, float]) -> dict[str, float]:
    """Log densities -> weights that add up to one, the blind one's at least its floor."""
    top, num_laws = max(density.values()), max(len(density) - 1, 1)
    before = {name: BLIND_SHARE if name == BLIND else (1.0 - BLIND_SHARE) / num_laws for name in density}
    share = {name: before[name] * float(np.exp(value - top)) for name, value in density.items()}
    total = sum(share.values())
    share = {name: value / total if value / total >= LEAST_WEIGHT else 0.0 for name, value in share.items()}
    laws = sum(value for name, value in share.items() if name != BLIND)
    blind = max(BLIND_FLOOR, 1.0 - laws) if laws else 1.0
    scale = (1.0 - blind) / laws if laws else 0.0
    return {name: blind if name == BLIND else value * scale for name, value in share.items()}


def predictive_density(fit: Fit) -> float:
    """Sum over settings of the log density of its runs, jointly, as predicted from the other settings."""
    setting_of = np.argmax(fit.problem.sweep.rows.setting_of, axis=1)
    return sum(_left_out(fit, setting_of == setting) for setting in np.unique(setting_of[fit.problem.good]))


def _left_out(fit: Fit, held: NDArray[np.bool_]) -> float:
    """The log density of the held rows (R,) under the fit without them, t-tailed."""
    problem, sweep = fit.problem, fit.problem.sweep
    vector, others = fit.vector, problem.without(held)
    for _ in range(NEWTON_STEPS):
        jacobian = others.jacobian(vector)
        precision = jacobian.T @ jacobian
        vector = vector - np.linalg.solve(precision, jacobian.T @ others.residuals(vector))
    unknowns, rows = sweep.layout.unpack(vector), np.flatnonzero(held & problem.good)
    if len(rows) > MOST_PREDICTED:
        rows = np.sort(np.random.default_rng(0).choice(rows, MOST_PREDICTED, replace=False))
    slopes = row_loss_jacobian(unknowns, sweep.rows, sweep.form)[rows]
    errors = (sweep.log_loss - row_loss(unknowns, sweep.rows, sweep.form))[rows]
    shape = slopes @ np.linalg.solve(precision, slopes.T) + np.diag(problem.sd[np.cumsum(problem.good)[rows] - 1] ** 2)
    return float(multivariate_t.logpdf(errors, shape=shape, df=TAIL_DOF))
