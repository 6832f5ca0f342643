"""Batches are functions of their arguments alone, hold-out windows never overlap, and repeats are counted."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trials.data import Tokens, expected_unique_tokens, training_batch, validation_batches

COUNTING: Tokens = np.arange(50_000, dtype=np.uint16)  # a token is its own position


@given(st.integers(0, 2**64 - 1), st.integers(0, 2**40), st.integers(1, 9), st.integers(1, 99))
def test_training_batch_is_made_of_windows_of_the_text(seed: int, first: int, batch: int, context: int) -> None:
    windows = training_batch(COUNTING, seed, first, batch, context)
    assert windows.shape == (batch, context + 1)
    assert windows.dtype == np.int64
    assert np.array_equal(windows, windows[:, :1] + np.arange(context + 1))


@given(st.integers(0, 2**64 - 1), st.integers(0, 2**40))
def test_training_batch_is_a_pure_function_of_seed_and_place(seed: int, seen: int) -> None:
    batch = training_batch(COUNTING, seed, seen, 8, 16)
    assert np.array_equal(training_batch(COUNTING, seed, seen, 8, 16), batch)
    assert not np.array_equal(training_batch(COUNTING, seed, seen + 8, 8, 16), batch)
    assert not np.array_equal(training_batch(COUNTING, seed ^ 1, seen, 8, 16), batch)


@given(st.integers(0, 2**64 - 1), st.integers(0, 2**40), st.lists(st.integers(1, 9), min_size=1, max_size=9))
def test_the_same_tokens_at_the_same_position_with_any_batch(seed: int, seen: int, batches: list[int]) -> None:
    """However sequences are dealt out to steps: trials of one seed are paired though their batches differ."""
    starts = seen + np.cumsum([0, *batches[:-1]])
    dealt = [training_batch(COUNTING, seed, int(first), batch, 4) for first, batch in zip(starts, batches, strict=True)]
    assert np.array_equal(np.concatenate(dealt), training_batch(COUNTING, seed, seen, sum(batches), 4))


def test_streams_of_neighbouring_seeds_and_steps_share_no_draws() -> None:
    """Streams that overlap would repeat starts more often than independent draws do."""
    starts = [training_batch(COUNTING, seed, 64 * step, 64, 1)[:, 0] for seed in range(5) for step in range(5)]
    drawn = np.concatenate(starts)
    expected_unique = 49_999 * (1 - np.exp(-drawn.size / 49_999))
    assert np.unique(drawn).size == pytest.approx(expected_unique, rel=0.02)


def test_starts_are_uniform_and_reach_both_ends() -> None:
    tokens = COUNTING[:12]
    starts = np.concatenate([training_batch(tokens, 3, 100 * step, 100, 9)[:, 0] for step in range(100)])
    counts = np.bincount(starts)
    assert counts.size == 3
    assert counts == pytest.approx([10_000 / 3] * 3, rel=0.05)


def test_draws_do_not_change_with_versions() -> None:
    """A recorded trial names its data by its seed, so these numbers are a promise."""
    assert training_batch(COUNTING, 1, 0, 4, 1)[:, 0].tolist() == [43367, 3822, 44141, 31266]
    assert training_batch(COUNTING, 1, 4, 4, 1)[:, 0].tolist() == [17061, 29020, 1881, 49860]


def test_training_batch_reads_a_memory_map(tmp_path: Path) -> None:
    COUNTING.tofile(tmp_path / "tokens.bin")
    mapped = np.memmap(tmp_path / "tokens.bin", dtype=np.uint16, mode="r")
    windows = training_batch(mapped, 5, 6, 7, 8)
    assert type(windows) is np.ndarray
    assert np.array_equal(windows, training_batch(COUNTING, 5, 6, 7, 8))


@given(st.integers(2, 2000), st.integers(1, 3000), st.integers(1, 64))
def test_validation_windows_are_disjoint_and_spread(num_tokens: int, asked_tokens: int, context: int) -> None:
    if min(num_tokens - 1, asked_tokens) < context:
        return
    windows = validation_batches(COUNTING[:num_tokens], asked_tokens, context)
    num_windows = min(num_tokens - 1, asked_tokens) // context
    assert windows.shape == (num_windows, context + 1)
    assert np.array_equal(windows, windows[:, :1] + np.arange(context + 1))
    targets = windows[:, 1:].ravel()
    assert np.unique(targets).size == targets.size
    assert targets.max() < num_tokens
    gaps = np.diff(windows[:, 0])
    assert gaps.size == 0 or gaps.max() - gaps.min() <= 1
    assert num_tokens - targets.max() <= num_tokens / num_windows + 1


def test_too_short_a_text_is_a_programming_error() -> None:
    with pytest.raises(AssertionError, match="no window"):
        training_batch(COUNTING[:8], 0, 0, 1, 8)
    with pytest.raises(AssertionError, match="no window"):
        validation_batches(COUNTING, 7, 8)


@pytest.mark.parametrize("epochs", [0.05, 0.5, 1.0, 2.0, 4.0])
def test_expected_unique_tokens_are_those_of_a_simulation(epochs: float) -> None:
    """Targets that were met in windows drawn as in training, over ten seeds."""
    corpus, context, batch = COUNTING[:8_000], 16, 10
    steps = round(epochs * corpus.size / (batch * context))
    unique = [
        np.unique(
            np.concatenate([training_batch(corpus, seed, step * batch, batch, context)[:, 1:] for step in range(steps)])
        ).size
        for seed in range(10)
    ]
    expected = expected_unique_tokens(corpus.size, steps * batch * context, context)
    assert expected == pytest.approx(np.mean(unique), rel=0.02)


@given(st.integers(1, 10**12), st.integers(1, 4096), st.integers(0, 10**8), st.integers(0, 10**8))
def test_unique_tokens_grow_and_are_no_more_than_there_are(corpus: int, context: int, windows: int, more: int) -> None:
    before, after = (expected_unique_tokens(corpus, count * context, context) for count in (windows, windows + more))
    assert 0 <= before <= after <= corpus


@given(st.integers(10**4, 10**12), st.integers(64, 4096), st.integers(0, 10**6))
def test_unique_tokens_are_no_more_than_were_trained_on(corpus: int, context: int, windows: int) -> None:
    assert expected_unique_tokens(corpus, windows * context, context) <= windows * context * (1 + 1e-5) + 1


def test_unique_tokens_at_both_ends() -> None:
    assert expected_unique_tokens(10**6, 0, 1024) == 0
    assert expected_unique_tokens(10**11, 10**7, 1000) == pytest.approx(10**7, rel=1e-4)
    assert expected_unique_tokens(10**6, 10**9, 1024) == 10**6
    assert expected_unique_tokens(10, 1024, 1024) == 10
