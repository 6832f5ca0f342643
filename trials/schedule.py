"""The learning rate as a pure function of tokens: warmup, stable, decay (WSD)."""

from __future__ import annotations


def branch_tokens(rung_tokens: int, decay_share: float, step_tokens: int) -> int:
    """Where the anneal branch of a rung leaves the trunk: (1 - decay_share) of the rung, on a whole step.

    Args:
        rung_tokens: tokens at which the branch ends, a multiple of `step_tokens`.
        decay_share: share of the rung that the branch decays over, in (0, 1].
        step_tokens: tokens of one optimizer step.
    """
    assert rung_tokens % step_tokens == 0
    decay_steps = max(1, round(decay_share * rung_tokens / step_tokens))
    return max(0, rung_tokens - decay_steps * step_tokens)


def learning_rate_factor(tokens: float, warmup_tokens: float, decay_start_tokens: float, end_tokens: float) -> float:
    """Multiplier of the peak learning rate at `tokens`, taken at the middle of a step.

    Linear from 0 over `warmup_tokens`, then 1, then linear to 0 between `decay_start_tokens` and `end_tokens`.
    A trunk is the same function with the decay still ahead. Where warmup reaches into the decay the smaller
    of the two holds.

    Source: warmup-stable-decay, Hu et al. 2024 (MiniCPM, arXiv 2404.06395), with a linear tail to zero
    (Haegele et al. 2024, arXiv 2405.18392).
    """
    warmup = 1.0 if tokens >= warmup_tokens else tokens / warmup_tokens
    if tokens < decay_start_tokens:
        return warmup
    return min(warmup, max(0.0, (end_tokens - tokens) / (end_tokens - decay_start_tokens)))
