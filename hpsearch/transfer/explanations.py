"""Early losses of a run against the course that was predicted: what explains them best.

Each explanation is a Gaussian over what the losses differ from the course by, so that each has a likelihood:

    as predicted  nothing but what is uncertain of the course, and the noise of the log
    gap opens     it grows with each doubling of tokens, to the end or over the first two, and then stays
    shifted       the same factor all along, above the course
    below         any of these, below it

A low rate costs nothing at the first step and more with each, which is why its gap opens; another tokenizer costs as
much at the first as at the last. Once a gap has opened it looks like a shift. A rate that is far too high has a gap
that opens too, but its loss stops falling, which a low one's does not.

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
SLOPE_SD, OPENING_SD = 0.02, 0.04  # a doubling; a rate two to four octaves too low costs percents over a few
OPENING_OCTAVES = 2.0  # of tokens; a rate 4 octaves too low took 1.7 of them (9e5 parameters)
CERTAIN = 0.9  # probability from which something is said
MAX_SHIFT = 0.5
# Share of the fall that was predicted over the last doubling, below which a loss has stopped falling. At 9e5
# parameters it was 0.8 or more with rates 4 and 2 octaves too low, and 0.1 or less with one 4 octaves too high.
STALLED_SHARE = 0.25


class Verdict(StrEnum):
    """What the losses say."""

    TOO_EARLY = "TOO_EARLY"
    ON_TRACK = "ON_TRACK"
    RATE_TOO_LOW = "RATE_TOO_LOW"
    LEVEL_SHIFT = "LEVEL_SHIFT"
    WORSE = "WORSE"  # one of the last two, and the losses do not tell which
    BETTER = "BETTER"
    STALLED = "STALLED"
    UNSTABLE = "UNSTABLE"

    @property
    def needs_action(self) -> bool:
        return self not in (Verdict.TOO_EARLY, Verdict.ON_TRACK, Verdict.BETTER)


class Explanation(StrEnum):
    """Of what the losses differ from the course by."""

    AS_PREDICTED = "as predicted"
    GAP_OPENS = "gap opens"
    SHIFTED = "shifted"
    BELOW = "below"


PRIOR = {
    Explanation.AS_PREDICTED: 0.7,
    Explanation.GAP_OPENS: 0.1,
    Explanation.SHIFTED: 0.1,
    Explanation.BELOW: 0.1,
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
    fall_share: float  # of the fall that was predicted over the last doubling, how much there was
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

    Worse than predicted is said from a probability of 0.9 for both of its explanations together, and one of them is
    named from 0.9 against the other.

    Args:
        bins: the losses that count.
        course: at the tokens of the bins.
    """
    left, fit = bins.log_loss - course.mean, _Residuals(course, bins)
    probability, share = fit.explained(left), fall_share(bins, course)
    level, level_sd = fit.estimate(left, fit.flat, LEVEL_SD)
    slope, slope_sd = fit.estimate(left, fit.growing, SLOPE_SD)
    return Judgement(
        verdict=_said(probability, share),
        probability=probability,
        excess=float(np.expm1(left[-1])),
        level=level,
        level_sd=level_sd,
        slope=slope,
        slope_sd=slope_sd,
        fall_share=share,
        detectable=fit.detectable(),
    )


def fall_share(bins: Bins, course: Course) -> float:
    """How much of the predicted fall of the ln loss there was over the last doubling of tokens."""
    last = np.log2(bins.tokens[-1] / bins.tokens) <= MIN_OCTAVES
    octaves = np.log2(bins.tokens[last])
    if len(octaves) < 2:
        return 1.0
    slope, predicted = (np.polyfit(octaves, values[last], 1)[0] for values in (bins.log_loss, course.mean))
    return float(slope / predicted) if predicted < 0 else 1.0


def _said(probability: Mapping[Explanation, float], share: float) -> Verdict:
    opens, shifted = probability[Explanation.GAP_OPENS], probability[Explanation.SHIFTED]
    if probability[Explanation.BELOW] >= CERTAIN:
        return Verdict.BETTER
    if opens + shifted < CERTAIN:
        return Verdict.ON_TRACK
    if share < STALLED_SHARE:
        return Verdict.STALLED
    if max(opens, shifted) < CERTAIN * (opens + shifted):
        return Verdict.WORSE
    return Verdict.RATE_TOO_LOW if opens > shifted else Verdict.LEVEL_SHIFT


class _Residuals:
    """The Gaussians over what the losses differ from the course by."""

    def __init__(self, course: Course, bins: Bins) -> None:
        self._factor = cho_factor(course.covariance + np.diag(bins.sd**2))
        self.flat = np.ones(len(bins.tokens))
        self.growing = np.log2(bins.tokens / bins.tokens[0])
        self.opening = np.minimum(self.growing, OPENING_OCTAVES)

    def estimate(self, left: Array, direction: Array, prior_sd: float) -> tuple[float, float]:
        """Mean and sd of the amount of a direction (T,) in residuals (T,)."""
        solved = cho_solve(self._factor, direction)
        variance = 1.0 / (prior_sd**-2 + direction @ solved)
        return float(variance * (solved @ left)), float(variance**0.5)

    def explained(self, left: Array) -> dict[Explanation, float]:
        """Probability of each explanation of residuals (T,)."""
        flat = [(self.flat, LEVEL_SD)]
        opening = [(self.growing, SLOPE_SD), (self.opening, OPENING_SD)]
        evidence = {
            Explanation.AS_PREDICTED: 0.0,
            Explanation.GAP_OPENS: self._evidence(left, opening, 1.0),
            Explanation.SHIFTED: self._evidence(left, flat, 1.0),
            Explanation.BELOW: self._evidence(left, flat + opening, -1.0),
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
            if _said(self.explained(np.log1p(shift) * self.flat), 1.0) is not Verdict.ON_TRACK:
                return float(shift)
        return MAX_SHIFT
