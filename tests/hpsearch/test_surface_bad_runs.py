"""What bad runs say, alone and as a whole size."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpsearch.surface_bad_runs import (
    CHANCE_BROKEN,
    chance_sound,
    shortfall,
    shortfall_slope,
    unless_broken,
    unless_broken_slope,
)
from hpsearch.surface_model import Array

STEP = 1e-5


def numeric(value: Callable[[Array], Array], at: Array) -> Array:
    return (value(at + STEP) - value(at - STEP)) / (2 * STEP)


@given(above=st.lists(st.floats(-30, 30), min_size=1, max_size=9))
def test_the_slope_of_a_shortfall(above: list[float]) -> None:
    at = np.array(above)
    assert shortfall_slope(at) == pytest.approx(numeric(shortfall, at), rel=1e-3, abs=1e-4)


@given(squared=st.lists(st.floats(1e-3, 500), min_size=1, max_size=9))
def test_the_slope_of_a_size_that_may_be_broken(squared: list[float]) -> None:
    at = np.array(squared)
    assert unless_broken_slope(at) / 2 == pytest.approx(numeric(unless_broken, at), rel=1e-3, abs=1e-4)


@given(squared=st.floats(0, 1e4))
def test_a_broken_size_costs_no_more_than_that_it_is_broken(squared: float) -> None:
    """And no more than its runs' own shortfall, from which it does not differ where that is small."""
    cost = float(unless_broken(np.array(squared))) ** 2 / 2
    assert cost <= min(squared / 2, -math.log(CHANCE_BROKEN)) + 1e-9
    assert 0 <= float(chance_sound(np.array(squared))) <= 1 - CHANCE_BROKEN
    if squared < 0.1:
        assert cost == pytest.approx(squared / 2, rel=2 * CHANCE_BROKEN)


def test_far_above_the_threshold_nothing_is_divided_by_zero() -> None:
    with np.errstate(divide="raise", invalid="raise", over="raise"):
        assert float(unless_broken_slope(np.array(0.0))) * 0.0 == 0.0
        assert shortfall_slope(np.array([40.0])) == pytest.approx([0.0])
