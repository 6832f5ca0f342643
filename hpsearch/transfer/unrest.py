"""Signs of an unstable run that need no prediction: no finite loss, spikes, a loss that stays up, growing gradients."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hpsearch.loss_log import LossLog
from hpsearch.surface_model import Array
from trials.stability import LEARNED_SHARE, LOST_SHARE, SPIKE_RATIO, WINDOW_STEPS

MIN_SPIKES = 2  # after the warmup; a single one may be an odd batch
# The last quarter's median over the least quarter's before it. Of 23 trials of small proxies that trained well none
# grew by more than 2.4 times over four times the tokens, of 8 runs of 9e5 parameters none by more than 3 over 25.
GRADIENT_GROWTH = 4.0
NUM_QUARTERS = 4


@dataclass(frozen=True)
class Unrest:
    """What was found after the warmup; a loss that is not finite also within it."""

    signs: tuple[str, ...]  # in words; none: nothing is wrong
    spikes: tuple[float, ...]  # tokens at which each began
    restart_tokens: float  # before which the run was sound; the last tokens where nothing is wrong


def find_unrest(log: LossLog, warmup_tokens: float) -> Unrest:
    """Looks through a log.

    Args:
        log: all of it.
        warmup_tokens: until which spikes and growth say nothing.
    """
    broken = log.tokens[~np.isfinite(log.loss)]
    settled = log.part((log.tokens > warmup_tokens) & np.isfinite(log.loss))
    spikes, lost, growth = _spikes(settled), _lost(log, settled), _gradient_growth(settled)
    signs, since = [], []
    if len(broken):
        signs.append(f"no finite loss at {broken[0]:,.0f} tokens")
        since.append(float(broken[0]))
    if len(spikes) >= MIN_SPIKES:
        signs.append(
            f"{len(spikes)} spikes, each {SPIKE_RATIO - 1:.0%} above the {WINDOW_STEPS} losses before it or more"
        )
        since.append(spikes[0])
    if lost:
        signs.append(f"the last {WINDOW_STEPS} losses are above the best by half of what was learned or more")
        since.append(spikes[-1] if spikes else float(settled.tokens[-WINDOW_STEPS]))
    if growth >= GRADIENT_GROWTH:
        signs.append(f"gradient norm {growth:.1f} times what it was")
        since.append(float(settled.tokens[len(settled.tokens) * (NUM_QUARTERS - 1) // NUM_QUARTERS]))
    sound = log.tokens[log.tokens < min(since)] if since else log.tokens
    return Unrest(tuple(signs), tuple(spikes), float(sound[-1]) if len(sound) else 0.0)


def _spikes(log: LossLog) -> list[float]:
    """Tokens at which losses leap above those before; rows of one window are one spike. As in `trials.stability`."""
    if len(log.loss) <= WINDOW_STEPS:
        return []
    before = _means(log.loss, WINDOW_STEPS)[:-1]
    leaps = np.flatnonzero(log.loss[WINDOW_STEPS:] > SPIKE_RATIO * before) + WINDOW_STEPS
    first = np.diff(leaps, prepend=-WINDOW_STEPS) >= WINDOW_STEPS
    return [float(tokens) for tokens in log.tokens[leaps[first]]]


def _lost(log: LossLog, settled: LossLog) -> bool:
    """Whether the loss has gone up by half of what was learned, and is there still."""
    start = log.loss[np.isfinite(log.loss)][:1]
    if len(settled.loss) < 2 * WINDOW_STEPS or not len(start):
        return False
    means = _means(settled.loss, WINDOW_STEPS)
    learned = float(start[0] - means.min())
    return learned > LEARNED_SHARE * start[0] and bool(means[-1] > means.min() + LOST_SHARE * learned)


def _gradient_growth(log: LossLog) -> float:
    """How many times the gradient norm of the last quarter is that of the least quarter before; NaN: not logged."""
    norms = log.gradient_norm[np.isfinite(log.gradient_norm)]
    if len(norms) < NUM_QUARTERS * MIN_SPIKES:
        return float("nan")
    quarters = [float(np.median(quarter)) for quarter in np.array_split(norms, NUM_QUARTERS)]
    least = min(quarters[:-1])
    return quarters[-1] / least if least > 0 else float("nan")


def _means(values: Array, width: int) -> NDArray[np.float64]:
    """Running means, one for each place where a window is full."""
    return np.asarray(np.convolve(values, np.full(width, 1.0 / width), mode="valid"))
