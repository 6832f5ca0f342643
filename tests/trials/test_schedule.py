"""Rate and batch are functions of tokens: right at their corners, without jumps, the same on trunk and branch."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from trials.schedule import Decay, batch_sequences_at, branch_tokens, learning_rate_factor

DECAYS = st.sampled_from(Decay)
SHARES = st.floats(0.01, 1.0)
FLOORS = st.floats(0.0, 1.0)
LENGTHS = st.integers(1, 10**12)
PLACES = st.floats(0.0, 1.0)  # of a whole run

TAILS: dict[Decay, Callable[[float], float]] = {
    Decay.LINEAR: lambda share: 1 - share,
    Decay.COSINE: lambda share: math.cos(share * math.pi / 2) ** 2,
    Decay.ONE_MINUS_SQRT: lambda share: 1 - share**0.5,
}
# How far a tail moves at most over a share of itself; the square root starts with an infinite slope, yet no jump.
MOVES: dict[Decay, Callable[[float], float]] = {
    Decay.LINEAR: lambda share: share,
    Decay.COSINE: lambda share: share * math.pi / 2,
    Decay.ONE_MINUS_SQRT: lambda share: share**0.5,
}


@dataclass(frozen=True)
class Run:
    """A schedule by the lengths of its three parts."""

    warmup: int
    stable: int
    tail: int
    decay: Decay
    floor: float

    @property
    def start(self) -> int:
        return self.warmup + self.stable

    @property
    def end(self) -> int:
        return self.start + self.tail

    def at(self, tokens: float) -> float:
        return learning_rate_factor(tokens, self.warmup, self.start, self.end, self.decay, self.floor)


RUNS = st.builds(Run, st.just(0) | LENGTHS, st.just(0) | LENGTHS, LENGTHS, DECAYS, FLOORS)


@pytest.mark.parametrize(
    ("tokens", "linear", "cosine", "one_minus_sqrt"),
    [
        (0, 0.0, 0.0, 0.0),
        (50, 0.5, 0.5, 0.5),
        (100, 1.0, 1.0, 1.0),
        (800, 1.0, 1.0, 1.0),
        (850, 0.775, 0.1 + 0.9 * (2 + math.sqrt(2)) / 4, 0.55),
        (900, 0.55, 0.55, 0.1 + 0.9 * (1 - math.sqrt(0.5))),
        (1000, 0.1, 0.1, 0.1),
        (1100, 0.1, 0.1, 0.1),
    ],
)
def test_corners(tokens: float, linear: float, cosine: float, one_minus_sqrt: float) -> None:
    factors = [learning_rate_factor(tokens, 100, 800, 1000, decay, 0.1) for decay in Decay]
    assert factors == pytest.approx([linear, cosine, one_minus_sqrt], rel=1e-12)


def test_without_warmup_the_first_step_has_the_whole_rate() -> None:
    assert learning_rate_factor(0, 0, 800, 1000, Decay.LINEAR, 0.0) == 1.0


def test_a_decay_waits_for_the_end_of_the_warmup() -> None:
    factors = [learning_rate_factor(tokens, 600, 400, 1000, Decay.LINEAR, 0.0) for tokens in (300, 500, 600, 800)]
    assert factors == [0.5, 500 / 600, 1.0, 0.5]


@given(RUNS, PLACES)
def test_is_the_plain_formula_of_its_part(run: Run, place: float) -> None:
    tokens = round(place * run.end)
    if tokens < run.warmup:
        expected = tokens / run.warmup
    elif tokens <= run.start:
        expected = 1.0
    else:
        expected = run.floor + (1 - run.floor) * TAILS[run.decay]((tokens - run.start) / run.tail)
    assert run.at(tokens) == pytest.approx(expected, rel=1e-9, abs=1e-12)


@given(RUNS, st.floats(0.0, 2.0))
def test_stays_between_zero_and_one_and_above_the_floor_once_warm(run: Run, place: float) -> None:
    tokens = place * run.end
    assert (run.floor if tokens >= run.warmup else 0.0) <= run.at(tokens) <= 1.0


@given(RUNS, st.integers(0, 10**12))
def test_reaches_its_floor_at_the_end_and_stays(run: Run, beyond: int) -> None:
    assert run.at(run.end) == run.floor
    assert run.at(run.end + beyond) == run.floor


@given(RUNS, PLACES, PLACES)
def test_rises_up_to_the_peak_and_falls_from_there(run: Run, one: float, other: float) -> None:
    early, late = sorted((one, other))
    assert run.at(early * run.warmup) <= run.at(late * run.warmup)
    length = run.end - run.warmup
    assert run.at(run.warmup + early * length) >= run.at(run.warmup + late * length)


@given(RUNS, st.sampled_from(["warmup", "start", "end"]) | PLACES, st.floats(0, 10))
def test_no_jumps(run: Run, place: str | float, behind: float) -> None:
    """Up to its corners, too, the factor moves no more than the slopes of its parts allow."""
    tokens = getattr(run, place) if isinstance(place, str) else place * run.end
    before = max(0.0, tokens - behind)
    moved = abs(run.at(tokens) - run.at(before))
    ahead = tokens - before
    bound = ahead / max(run.warmup, 1) + (1 - run.floor) * MOVES[run.decay](min(1.0, ahead / run.tail))
    assert moved <= bound + 1e-9


@given(st.integers(1, 300), st.integers(1, 300), st.integers(1, 5000), PLACES)
def test_a_branch_at_zero_is_the_schedule_of_gpt3(
    warmup_steps: int, cosine_steps: int, step_tokens: int, place: float
) -> None:
    """Linear warmup, then a cosine down to 10 % over all the rest (Brown et al. 2020, appendix B)."""
    warmup, end = warmup_steps * step_tokens, (warmup_steps + cosine_steps) * step_tokens
    branch = branch_tokens(end, 1.0, step_tokens)
    assert branch == 0
    tokens = place * end
    cosine = 0.1 + 0.45 * (1 + math.cos(math.pi * (tokens - warmup) / (end - warmup)))
    expected = tokens / warmup if tokens < warmup else cosine
    assert learning_rate_factor(tokens, warmup, branch, end, Decay.COSINE, 0.1) == pytest.approx(expected, rel=1e-9)


@given(
    st.integers(1, 500), st.integers(1, 500), SHARES, st.integers(1, 10_000), st.integers(0, 10**6), DECAYS, st.data()
)
def test_trunk_is_the_schedule_of_any_rung_before_its_branch(
    steps: int, later: int, share: float, step_tokens: int, warmup: int, decay: Decay, data: st.DataObject
) -> None:
    rung, last_rung = steps * step_tokens, (steps + later) * step_tokens
    branch, last_branch = (branch_tokens(end, share, step_tokens) for end in (rung, last_rung))
    assert branch <= last_branch
    assume(branch > 0)
    tokens = data.draw(st.floats(0, branch, exclude_max=True))
    to_rung, to_last = (
        learning_rate_factor(tokens, warmup, start, end, decay, 0.1)
        for start, end in ((branch, rung), (last_branch, last_rung))
    )
    assert to_rung == to_last


@given(st.integers(1, 10_000), SHARES, st.integers(1, 10**6))
def test_branch_leaves_on_a_whole_step_near_its_share(steps: int, share: float, step_tokens: int) -> None:
    rung = steps * step_tokens
    branch = branch_tokens(rung, share, step_tokens)
    assert 0 <= branch <= rung - step_tokens
    assert branch % step_tokens == 0
    decay_steps = (rung - branch) // step_tokens
    assert decay_steps == 1 or abs(decay_steps - share * steps) <= 0.5 + 1e-6


@given(st.integers(1, 1000), SHARES, st.integers(1, 10**6), st.integers(0, 10**6), DECAYS)
def test_every_step_of_a_branch_learns(steps: int, share: float, step_tokens: int, warmup: int, decay: Decay) -> None:
    """At the middle of a step the rate is above zero even without a floor, so the last step is not wasted."""
    rung = steps * step_tokens
    branch = branch_tokens(rung, share, step_tokens)
    assert learning_rate_factor(rung - step_tokens / 2, warmup, branch, rung, decay, 0.0) > 0


def test_rung_off_the_steps_is_a_programming_error() -> None:
    with pytest.raises(AssertionError):
        branch_tokens(1000, 0.2, 64)


@st.composite
def ramps(draw: st.DrawFn) -> tuple[int, int, int, int]:
    """Full and first batch in sequences, tokens of the ramp, tokens of a sequence."""
    full, context = draw(st.integers(1, 40)), draw(st.integers(1, 50))
    return full, draw(st.integers(1, full)), draw(st.integers(0, 60 * context)), context


def walk(full: int, start: int, ramp: int, context: int) -> list[tuple[int, int]]:
    """Where each step starts and its sequences: all steps of the ramp, and four after it."""
    steps, tokens, after = [], 0, 0
    while after < 4:
        sequences = batch_sequences_at(tokens, full, start, ramp, context)
        steps.append((tokens, sequences))
        after += tokens >= ramp
        tokens += sequences * context
    return steps


@given(ramps())
def test_ramp_grows_in_a_line_from_the_first_batch_to_the_full_one(ramp: tuple[int, int, int, int]) -> None:
    full, start, ramp_tokens, _ = ramp
    inside = [(tokens, sequences) for tokens, sequences in walk(*ramp) if tokens < ramp_tokens]
    for tokens, sequences in inside:
        assert sequences == math.floor(start + (full - start) * Fraction(tokens, ramp_tokens))
    assert all(start <= before <= after <= full for (_, before), (_, after) in pairwise(inside))


@given(ramps())
def test_after_the_ramp_steps_start_at_multiples_of_the_full_one(ramp: tuple[int, int, int, int]) -> None:
    """The first one is cut to get there."""
    full, _, ramp_tokens, context = ramp
    (_, cut), *later = [(tokens, sequences) for tokens, sequences in walk(*ramp) if tokens >= ramp_tokens]
    assert 1 <= cut <= full
    assert [sequences for _, sequences in later] == [full] * 3
    assert all(tokens % (full * context) == 0 for tokens, _ in later)


@given(st.integers(1, 4096), st.integers(1, 4096), st.integers(0, 10**6), st.integers(1, 4096))
def test_without_a_ramp_every_batch_is_full(full: int, start: int, step: int, context: int) -> None:
    assert batch_sequences_at(step * full * context, full, start, 0, context) == full


def test_ramp_of_gpt3() -> None:
    """From 32k tokens to 3.2 million over the first 10 billion, in sequences of 2048."""
    places = [0, 2_500_001_792, 5_000_001_536, 10_000_001_024]
    assert [batch_sequences_at(tokens, 1562, 16, 10_000_000_000, 2048) for tokens in places[:3]] == [16, 402, 789]
    cut = batch_sequences_at(places[3], 1562, 16, 10_000_000_000, 2048)
    assert (places[3] // 2048 + cut) % 1562 == 0
