"""Each way to diverge has its own sequence of losses; a hump, a spike that comes back and slow learning are none."""

from __future__ import annotations

import json
import math
from functools import reduce
from itertools import accumulate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trials.stability import LOST_STEPS, WINDOW_STEPS, LossTrace

LOSSES = st.lists(st.floats(0.01, 20.0), max_size=60)
ANY_LOSSES = st.lists(st.floats(), max_size=60)


def trace(*losses: float) -> LossTrace:
    return reduce(LossTrace.add, losses, LossTrace())


def window(loss: float) -> list[float]:
    return [loss] * WINDOW_STEPS


def test_nothing_seen_is_nothing_wrong() -> None:
    assert LossTrace().divergence(True) == LossTrace().divergence(False) == ""
    assert math.isnan(LossTrace().mean)


@pytest.mark.parametrize("loss", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("before", [[], [4.0], [4.0] * 40], ids=["first", "second", "late"])
@pytest.mark.parametrize("warmed_up", [False, True])
def test_a_loss_that_is_no_number_is_told_at_once(loss: float, before: list[float], warmed_up: bool) -> None:
    assert trace(*before, loss).divergence(warmed_up).startswith(f"training loss {loss:g}, ")


@given(LOSSES, st.sampled_from([math.nan, math.inf]), st.lists(st.floats(0.01, 20.0), max_size=WINDOW_STEPS - 1))
def test_a_loss_that_is_no_number_is_not_overlooked_later(before: list[float], loss: float, after: list[float]) -> None:
    """Nor by who looks some steps after it."""
    assert trace(*before, loss, *after).divergence(True).startswith("training loss ")


@pytest.mark.parametrize(
    ("loss", "in_warmup", "after_warmup"),
    [(4.1, False, False), (4.19, False, False), (4.21, False, True), (4.99, False, True), (5.01, True, True)],
)
def test_above_the_start_is_divergence_in_warmup_only_when_far_above(
    loss: float, in_warmup: bool, after_warmup: bool
) -> None:
    diverged = trace(4.0, *window(loss))
    assert (diverged.divergence(False) != "", diverged.divergence(True) != "") == (in_warmup, after_warmup)


def test_above_the_start_is_no_divergence_before_the_window_is_full() -> None:
    high = [4.0, *[9.0] * (WINDOW_STEPS - 2)]
    assert trace(*high).divergence(True) == ""
    assert trace(*high, 9.0).divergence(True) == "mean training loss 8.688 is above the loss 4 at the start"


def lost(steps: int, loss: float) -> list[float]:
    """Ten at the start, learned down to two, then the given loss."""
    return [10.0, *window(2.0), *[loss] * steps]


def test_half_of_what_was_learned_lost_for_long_is_divergence() -> None:
    """The mean over the window passes 6, halfway between 10 and 2, at the thirteenth loss of 7."""
    first = 13
    assert trace(*lost(first - 1, 7.0)).lost_steps == 0
    assert trace(*lost(first, 7.0)).lost_steps == 1
    last = first + LOST_STEPS - 1
    assert trace(*lost(last - 1, 7.0)).divergence(True) == ""
    why = trace(*lost(last, 7.0)).divergence(True)
    assert why.startswith("mean training loss 7 has been above 2 by half of what was learned for 64 steps")


def test_less_than_half_lost_is_no_divergence() -> None:
    assert trace(*lost(500, 5.9)).divergence(True) == ""


def test_a_spike_that_comes_back_is_counted_and_forgiven() -> None:
    before = lost(LOST_STEPS, 7.0)
    assert trace(*before).lost_steps > 0
    recovered = trace(*before, *window(2.0))
    assert recovered.lost_steps == 0
    assert recovered.spikes > 0
    assert trace(*before, *window(2.0), *[7.0] * LOST_STEPS).divergence(True) == ""


def test_nothing_learned_is_nothing_lost() -> None:
    """A tenth of the first loss has to be learned before it can be lost."""
    assert trace(4.0, *window(3.61), *[3.95] * 500).divergence(True) == ""
    assert trace(4.0, *window(3.59), *[3.95] * 500).divergence(True) != ""


@pytest.mark.parametrize(("loss", "spikes"), [(4.7, 0), (4.9, 1), (40.0, 1)])
def test_a_spike_is_a_step_a_fifth_above_those_before(loss: float, spikes: int) -> None:
    assert trace(*window(4.0), loss).spikes == spikes
    assert trace(*window(4.0)[1:], loss).spikes == 0, "no window to compare with"


def test_every_step_of_a_spike_is_counted_until_it_is_the_mean() -> None:
    assert trace(*window(4.0), 8.0, 8.0).spikes == 2
    assert trace(*window(4.0), *[8.0] * 100).spikes == 11, "from a mean of 4 + 11 / 16 x 4 on, 8 is no fifth above"


@given(LOSSES.map(lambda losses: sorted(losses, reverse=True)))
def test_losses_that_only_fall_are_never_divergence(losses: list[float]) -> None:
    traces = list(accumulate(losses, LossTrace.add, initial=LossTrace()))
    assert {trace.divergence(warmed_up) for trace in traces for warmed_up in (False, True)} == {""}
    assert all(trace.spikes == trace.lost_steps == 0 for trace in traces)


@given(LOSSES)
def test_keeps_the_first_the_lowest_and_the_last(losses: list[float]) -> None:
    seen = trace(*losses)
    assert seen.recent == tuple(losses[-WINDOW_STEPS:])
    windows = [losses[end - WINDOW_STEPS : end] for end in range(WINDOW_STEPS, len(losses) + 1)]
    assert seen.best == pytest.approx(min(map(math.fsum, windows), default=math.inf) / WINDOW_STEPS)
    assert losses == [] or seen.start == losses[0]


@given(ANY_LOSSES, ANY_LOSSES)
def test_goes_on_from_a_checkpoint_as_if_nothing_had_been(before: list[float], after: list[float]) -> None:
    """Through JSON, and with losses that are no numbers."""
    straight = trace(*before, *after)
    text = json.dumps(trace(*before).to_dict())
    again = reduce(LossTrace.add, after, LossTrace.from_dict(json.loads(text)))
    assert json.dumps(again.to_dict()) == json.dumps(straight.to_dict())
    assert again.divergence(True) == straight.divergence(True)
