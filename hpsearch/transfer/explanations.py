"""Early losses of a run against the course that was predicted: what explains them best.

Each explanation is a Gaussian over what the losses differ from the course by, so that each has a likelihood:

    as predicted  nothing but what is uncertain of the course, and the noise of the log
    gap grows     by a factor with each doubling of tokens: a rate that is too high stops at a floor of its own
    gap opened    over the first two doublings, or as that of a run that is some doublings late: a rate that is too low
    shifted       by a factor that is the same all along: another tokenizer, other text, another kind of loss
    below         any of these, with the losses below the course

Eight runs of 9e5 parameters over 9e5 tokens, whose best rate was known: 1, 3 and 4 octaves too high the gap grew to
the end; 4 octaves too low it opened over 1.7 doublings, stayed, and began to close; 2 octaves too high it opened over
three and stayed, so the second shape also fits a rate that is too high; 2 too low there was hardly any.

Shapes: R rows of the log, T bins.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from scipy.linalg import cho_factor, cho_solve
from scipy.special import log_ndtr

from hpsearch.loss_log import LossLog
from hpsearch.surface_model import Array
from hpsearch.transfer.course import Course

MIN_LOSSES = 8
MIN_OCTAVES = 1.0  # of tokens between the first loss that counts and the last
NUM_BINS = 16
LEVEL_SD = 0.1  # another tokenizer or corpus moves a loss by about a tenth
SLOPE_SD, OPENING_SD = 0.02, 0.04  # a doubling; rates some octaves off cost some percents of each
DELAY_SD = 1.0  # doublings by which a run is late; a rate 4 octaves too low made it two
OPENING_OCTAVES = 2.0  # of tokens
CERTAIN = 0.9  # probability from which something is said
MAX_SHIFT = 0.5


class Verdict(StrEnum):
    """What the losses say."""

    TOO_EARLY = "TOO_EARLY"
    ON_TRACK = "ON_TRACK"
    RATE_TOO_LOW = "RATE_TOO_LOW"
    RATE_TOO_HIGH = "RATE_TOO_HIGH"
    LEVEL_SHIFT = "LEVEL_SHIFT"
    WORSE = "WORSE"  # one of the last three, and the losses do not tell which
    BETTER = "BETTER"
    UNSTABLE = "UNSTABLE"

    @property
    def needs_action(self) -> bool:
        return self not in (Verdict.TOO_EARLY, Verdict.ON_TRACK, Verdict.BETTER)


class Explanation(StrEnum):
    """Of what the losses differ from the course by."""

    AS_PREDICTED = "as predicted"
    GAP_GROWS = "gap grows"
    GAP_OPENED = "gap opened"
    SHIFTED = "shifted"
    BELOW = "below"


PRIOR = {explanation: 0.7 if explanation is Explanation.AS_PREDICTED else 0.075 for explanation in Explanation}
FAULTS = {
    Explanation.GAP_GROWS: Verdict.RATE_TOO_HIGH,
    Explanation.GAP_OPENED: Verdict.RATE_TOO_LOW,
    Explanation.SHIFTED: Verdict.LEVEL_SHIFT,
}


@dataclass(frozen=True)
class Bins:
    """The losses that count, a bin for each stretch of tokens; ln loss."""

    tokens: Array  # (T,)
    log_loss: Array  # (T,)
    sd: Array  # (T,) by the noise of the log


@dataclass(frozen=True)
class Judgement:
    """What the losses say, and how surely."""

    verdict: Verdict
    probability: Mapping[Explanation, float]
    excess: float  # the last bin's loss over the course, less 1
    level: float  # excess all along, if it is one: fraction of the loss, and its sd
    level_sd: float
    slope: float  # excess a doubling of tokens, if it grows
    slope_sd: float
    detectable: float  # least excess all along that these losses would tell from the course


def binned(log: LossLog) -> Bins:
    """Medians over equal stretches of ln tokens, which a spike does not move; R rows that are all finite."""
    noise = log_noise(np.log(log.loss))
    octaves = np.log2(log.tokens)
    width = max(float(np.ptp(octaves)), 1e-9) / NUM_BINS
    place = np.minimum(((octaves - octaves[0]) / width).astype(int), NUM_BINS - 1)
    members = [np.flatnonzero(place == i) for i in np.unique(place)]
    return Bins(
        tokens=np.array([2.0 ** octaves[rows].mean() for rows in members]),
        log_loss=np.array([np.median(np.log(log.loss[rows])) for rows in members]),
        sd=np.array([noise * (np.pi / 2.0 / len(rows)) ** 0.5 for rows in members]),  # a median's
    )


def log_noise(log_loss: Array) -> float:
    """Sd of a row's ln loss (R,) around a smooth course, from second differences, which a trend does not move."""
    if len(log_loss) < 3:
        return 0.0
    return float(1.4826 * np.median(np.abs(np.diff(log_loss, 2))) / 6.0**0.5)


def tells_from(first_tokens: float) -> float:
    """Tokens from which losses that begin to count at `first_tokens` may tell something."""
    return float(first_tokens * 2.0**MIN_OCTAVES)


def is_too_early(log: LossLog) -> bool:
    """Whether the losses that count are too few, or too close together."""
    return len(log.tokens) < MIN_LOSSES or bool(log.tokens[-1] < tells_from(log.tokens[0]) * (1.0 - 1e-9))


def judge(bins: Bins, course: Course) -> Judgement:
    """The verdict.

    Worse than predicted is said from a probability of 0.9 for its three explanations together, and one of them is
    named from 0.9 against the others.

    Args:
        bins: the losses that count.
        course: at the tokens of the bins.
    """
    left, fit = bins.log_loss - course.mean, _Residuals(course, bins)
    probability = fit.explained(left)
    level, level_sd = fit.estimate(left, fit.flat, LEVEL_SD)
    slope, slope_sd = fit.estimate(left, fit.growing, SLOPE_SD)
    return Judgement(
        verdict=_said(probability),
        probability=probability,
        excess=float(np.expm1(left[-1])),
        level=level,
        level_sd=level_sd,
        slope=slope,
        slope_sd=slope_sd,
        detectable=fit.detectable(),
    )


def _said(probability: Mapping[Explanation, float]) -> Verdict:
    if probability[Explanation.BELOW] >= CERTAIN:
        return Verdict.BETTER
    worse = sum(probability[fault] for fault in FAULTS)
    if worse < CERTAIN:
        return Verdict.ON_TRACK
    likeliest = max(FAULTS, key=lambda fault: probability[fault])
    return FAULTS[likeliest] if probability[likeliest] >= CERTAIN * worse else Verdict.WORSE


class _Residuals:
    """The Gaussians over what the losses differ from the course by."""

    def __init__(self, course: Course, bins: Bins) -> None:
        self._factor = cho_factor(course.covariance + np.diag(bins.sd**2))
        octaves = np.log2(bins.tokens / bins.tokens[0])
        self.flat, self.growing = np.ones(len(octaves)), octaves
        self.opening = np.minimum(octaves, OPENING_OCTAVES)
        self.late = -np.gradient(course.mean, octaves)  # by a doubling

    def estimate(self, left: Array, direction: Array, prior_sd: float) -> tuple[float, float]:
        """Mean and sd of the amount of a direction (T,) in residuals (T,)."""
        solved = cho_solve(self._factor, direction)
        variance = 1.0 / (prior_sd**-2 + direction @ solved)
        return float(variance * (solved @ left)), float(variance**0.5)

    def explained(self, left: Array) -> dict[Explanation, float]:
        """Probability of each explanation of residuals (T,)."""
        grows, shifted = [(self.growing, SLOPE_SD)], [(self.flat, LEVEL_SD)]
        opened = [(self.opening, OPENING_SD), (self.late, DELAY_SD)]
        evidence = {
            Explanation.AS_PREDICTED: 0.0,
            Explanation.GAP_GROWS: self._evidence(left, grows, 1.0),
            Explanation.GAP_OPENED: self._evidence(left, opened, 1.0),
            Explanation.SHIFTED: self._evidence(left, shifted, 1.0),
            Explanation.BELOW: self._evidence(left, [*grows, *opened, *shifted], -1.0),
        }
        log_weight = {name: value + np.log(PRIOR[name]) for name, value in evidence.items()}
        total = np.logaddexp.reduce(list(log_weight.values()))
        return {name: float(np.exp(value - total)) for name, value in log_weight.items()}

    def _evidence(self, left: Array, directions: Sequence[tuple[Array, float]], sign: float) -> float:
        """ln of how much likelier residuals are with some of a direction in them, of one sign, than without.

        With an amount of prior N(0, s^2) cut to one sign, posterior N(m, v) before the cut: 2 Phi(m / sqrt(v)) times
        sqrt(v) / s exp(m^2 / 2 v). The mean over the directions, each with its s.
        """
        each = []
        for direction, prior_sd in directions:
            mean, sd = self.estimate(left, direction, prior_sd)
            each.append(np.log(2.0 * sd / prior_sd) + 0.5 * (mean / sd) ** 2 + log_ndtr(sign * mean / sd))
        return float(np.logaddexp.reduce(each) - np.log(len(each)))

    def detectable(self) -> float:
        """The least excess all along that is told from the course, were all else as predicted."""
        for shift in np.arange(0.005, MAX_SHIFT, 0.005).tolist():
            if _said(self.explained(np.log1p(shift) * self.flat)) is not Verdict.ON_TRACK:
                return float(shift)
        return MAX_SHIFT
