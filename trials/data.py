"""Batches as pure functions: which tokens a step trains on follows from its seed and its place in the run alone.

Shapes: B sequences a batch, T tokens of context, W windows. A window has T + 1 tokens: inputs and, one place
on, their targets.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Tokens = npt.NDArray[np.uint16]
Windows = npt.NDArray[np.int64]

DATA_STREAM = 0x64617461  # second word of the key: other uses of the same seed draw from other streams
BLOCK_WORDS = 4  # that Philox makes of one count


def training_batch(
    tokens: Tokens, seed: int, first_sequence: int, batch_sequences: int, context_tokens: int
) -> Windows:
    """Windows at random places, drawn anew each time (with replacement).

    The generator is counter based: its key is the seed, and the n-th word of the stream is the place of a run's n-th
    sequence, however they are dealt out to steps. So trials of one seed see the same tokens at the same position, with
    any batch or batch ramp, and any step can be drawn without the ones before. The raw words are used, as NumPy keeps
    those, and only those, the same between versions.

    Args:
        tokens: shape (num_tokens,), more than `context_tokens` long.
        seed: from 0 to 2^64 - 1.
        first_sequence: how many sequences the run has seen before.

    Returns:
        Tokens of shape (B, T + 1).

    Source: Philox4x64-10, Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3".
    """
    num_starts = len(tokens) - context_tokens
    assert num_starts >= 1, f"{len(tokens)} tokens hold no window of {context_tokens} + 1"
    key = np.array([seed, DATA_STREAM], dtype=np.uint64)
    count, before = divmod(first_sequence, BLOCK_WORDS)
    counter = np.array([count, 0, 0, 0], dtype=np.uint64)
    words = np.random.Philox(key=key, counter=counter).random_raw(before + batch_sequences)[before:]
    return _windows(tokens, (words % np.uint64(num_starts)).astype(np.int64), context_tokens)


def expected_unique_tokens(corpus_tokens: int, trained_tokens: int, context_tokens: int) -> int:
    """How many of the corpus' tokens a trial has met, on average: windows are drawn with replacement.

    A token is in a window with probability T / U, so U (1 - (1 - T / U)^(D / T)) of U are met after D tokens.
    Repeats up to some four times are nearly as good as new text, Muennighoff et al. 2023 (arXiv 2305.16264).
    """
    missed = float((1 - min(1.0, context_tokens / corpus_tokens)) ** (trained_tokens / context_tokens))
    return round(corpus_tokens * (1 - missed))


def validation_batches(tokens: Tokens, num_tokens: int, context_tokens: int) -> Windows:
    """The held-out windows that every trial is measured on: spread evenly, no target twice.

    Args:
        tokens: a held-out split, shape (num_tokens,), more than `context_tokens` long.
        num_tokens: predicted tokens asked for; rounded down to whole windows, and to what the split holds.

    Returns:
        Tokens of shape (W, T + 1), in the order of the text, the same on every call.
    """
    num_targets = len(tokens) - 1
    num_windows = min(num_tokens, num_targets) // context_tokens
    assert num_windows >= 1, f"{num_tokens} of {len(tokens)} tokens hold no window of {context_tokens} + 1"
    index = np.arange(num_windows)
    unused_tokens = num_targets - num_windows * context_tokens
    return _windows(tokens, index * context_tokens + index * unused_tokens // num_windows, context_tokens)


def _windows(tokens: Tokens, starts: npt.NDArray[np.int64], context_tokens: int) -> Windows:
    """Copies out `context_tokens` + 1 tokens from each start."""
    windows: Tokens = np.asarray(tokens)[starts[:, None] + np.arange(context_tokens + 1)]
    return windows.astype(np.int64)
