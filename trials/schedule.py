"""Learning rate and batch as pure functions of tokens: warmup, stable, decay (WSD), and a ramp of the batch."""

from __future__ import annotations

import math
from enum import StrEnum


class Decay(StrEnum):
    """The form of the tail from the peak rate to its floor."""

    LINEAR = "linear"
    COSINE = "cosine"
    ONE_MINUS_SQRT = "one_minus_sqrt"

    def factor(self, share: float) -> float:
        """What is left of the peak once `share` of the tail is over, from 1 to 0.

        Source: linear and 1 - sqrt, Haegele et al. 2024 (arXiv 2405.18392); half a cosine, Loshchilov and Hutter
        2017 (arXiv 1608.03983), as GPT-3 has it.
        """
        if self is Decay.LINEAR:
            return 1 - share
        return 1 - math.sqrt(share) if self is Decay.ONE_MINUS_SQRT else (1 + math.cos(math.pi * share)) / 2


def branch_tokens(rung_tokens: int, decay_share: float, step_tokens: int) -> int:
    """Where the anneal branch of a rung leaves the trunk: (1 - decay_share) of the rung, on a whole step.

    Args:
        rung_tokens: tokens at which the branch ends, a multiple of `step_tokens`.
        decay_share: share of the rung that the branch decays over, in (0, 1]; 1 is a whole run of its own.
        step_tokens: tokens of one optimizer step at the full batch.
    """
    assert rung_tokens % step_tokens == 0
    decay_steps = max(1, round(decay_share * rung_tokens / step_tokens))
    return max(0, rung_tokens - decay_steps * step_tokens)


def learning_rate_factor(
    tokens: float, warmup_tokens: float, decay_start_tokens: float, end_tokens: float, decay: Decay, floor: float
) -> float:
    """Multiplier of the peak learning rate at `tokens`, taken at the middle of a step.

    Linear from 0 over `warmup_tokens`, then 1, then from 1 to `floor` between `decay_start_tokens` and
    `end_tokens`. A trunk is the same function with the decay still ahead. A decay begins where the warmup has
    ended, so `decay_start_tokens` = 0 is GPT-3's schedule: a warmup and a cosine over all the rest.

    Source: warmup-stable-decay, Hu et al. 2024 (MiniCPM, arXiv 2404.06395).
    """
    if tokens < warmup_tokens:
        return tokens / warmup_tokens
    start_tokens = max(decay_start_tokens, warmup_tokens)
    if tokens < start_tokens:
        return 1.0
    share = 1.0 if tokens >= end_tokens else (tokens - start_tokens) / (end_tokens - start_tokens)
    return floor + (1 - floor) * decay.factor(share)


def batch_sequences_at(
    tokens: int, full_sequences: int, start_sequences: int, ramp_tokens: int, context_tokens: int
) -> int:
    """Sequences of the step that starts at `tokens`: a linear ramp, then the full batch.

    The first step after the ramp is cut so that all later steps start at multiples of a full step, where rungs
    and branch points lie.

    Source: Brown et al. 2020 (GPT-3), appendix B: from 32k tokens to the full batch over the first 4 to 12
    billion tokens.
    """
    if tokens < ramp_tokens:
        return min(full_sequences, int(start_sequences + (full_sequences - start_sequences) * tokens / ramp_tokens))
    return full_sequences - tokens // context_tokens % full_sequences
