"""The learning rate is a function of tokens: right at its corners, without jumps, the same on trunk and branch."""

from __future__ import annotations

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from trials.schedule import branch_tokens, learning_rate_factor

TOKENS = st.floats(0, 1e12)
SHARES = st.floats(0.01, 1.0)


@pytest.mark.parametrize(
    ("tokens", "factor"),
    [(0, 0.0), (50, 0.5), (100, 1.0), (500, 1.0), (800, 1.0), (900, 0.5), (950, 0.25), (1000, 0.0), (1100, 0.0)],
)
def test_corners(tokens: float, factor: float) -> None:
    assert learning_rate_factor(tokens, 100, 800, 1000) == factor


def test_without_warmup_the_first_step_has_the_whole_rate() -> None:
    assert learning_rate_factor(0, 0, 800, 1000) == 1.0


def test_warmup_that_reaches_into_the_decay_gives_the_smaller_of_the_two() -> None:
    factors = [learning_rate_factor(tokens, 1000, 400, 800) for tokens in (400, 500, 600, 700)]
    assert factors == [0.4, 0.5, 0.5, 0.25]


@given(TOKENS, TOKENS, TOKENS, st.floats(1, 1e12))
def test_never_above_one_nor_below_zero(tokens: float, warmup: float, start: float, decay: float) -> None:
    assert 0.0 <= learning_rate_factor(tokens, warmup, start, start + decay) <= 1.0


@given(st.floats(0, 2000), st.floats(0, 10), st.floats(1, 1000), st.floats(0, 1000), st.floats(1, 1000))
def test_no_jumps(tokens: float, ahead: float, warmup: float, start: float, decay: float) -> None:
    """Between two places the factor moves no more than the steeper of its two slopes allows."""
    end = start + decay
    moved = abs(
        learning_rate_factor(tokens + ahead, warmup, start, end) - learning_rate_factor(tokens, warmup, start, end)
    )
    assert moved <= ahead * max(1 / warmup, 1 / decay) + 1e-9


@given(st.integers(1, 500), st.integers(1, 500), SHARES, st.integers(1, 10_000), st.integers(0, 10**6), st.data())
def test_trunk_is_the_schedule_of_any_rung_before_its_branch(
    steps: int, later: int, share: float, step_tokens: int, warmup: int, data: st.DataObject
) -> None:
    rung, last_rung = steps * step_tokens, (steps + later) * step_tokens
    branch, last_branch = (branch_tokens(end, share, step_tokens) for end in (rung, last_rung))
    assert branch <= last_branch
    assume(branch > 0)
    tokens = data.draw(st.floats(0, branch, exclude_max=True))
    assert learning_rate_factor(tokens, warmup, branch, rung) == learning_rate_factor(
        tokens, warmup, last_branch, last_rung
    )


@given(st.integers(1, 10_000), SHARES, st.integers(1, 10**6))
def test_branch_leaves_on_a_whole_step_near_its_share(steps: int, share: float, step_tokens: int) -> None:
    rung = steps * step_tokens
    branch = branch_tokens(rung, share, step_tokens)
    assert 0 <= branch <= rung - step_tokens
    assert branch % step_tokens == 0
    decay_steps = (rung - branch) // step_tokens
    assert decay_steps == 1 or abs(decay_steps - share * steps) <= 0.5 + 1e-6


@given(st.integers(1, 1000), SHARES, st.integers(1, 10**6), st.integers(0, 10**6))
def test_every_step_of_a_branch_learns(steps: int, share: float, step_tokens: int, warmup: int) -> None:
    """At the middle of a step the rate is above zero, so the last step is not wasted."""
    rung = steps * step_tokens
    last_middle = rung - step_tokens / 2
    assert learning_rate_factor(last_middle, warmup, branch_tokens(rung, share, step_tokens), rung) > 0


def test_rung_off_the_steps_is_a_programming_error() -> None:
    with pytest.raises(AssertionError):
        branch_tokens(1000, 0.2, 64)
