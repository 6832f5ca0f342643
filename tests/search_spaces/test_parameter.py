"""Parameters: scales that invert, priors that stay inside."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from search_spaces.parameter import LINEAR_OCTAVES, Parameter, Scale, SearchSpace

RATE = Parameter("learning_rate", 2**-10, 2**-4, Scale.LOG)
BETA = Parameter("beta2", 0.5, 0.999, Scale.LOG_COMPLEMENT)
LINEAR = Parameter("weight_decay", 0.0, 0.8, Scale.LINEAR)
BATCH = Parameter("batch_sequences", 4, 64, Scale.LOG, integer=True)
ON_VALUES = Parameter("batch_sequences", 4, 64, Scale.LOG, values=(4.0, 6.0, 64.0), integer=True)
NORMAL = Parameter("learning_rate", 2**-10, 2**-4, Scale.LOG, prior_center=2**-8, prior_sd_octaves=1.0)
EVERY = [RATE, BETA, LINEAR, BATCH, ON_VALUES, NORMAL]

quick = settings(max_examples=50, deadline=None)
units = st.floats(0, 1, exclude_max=True)
every_parameter = pytest.mark.parametrize("parameter", EVERY, ids=lambda parameter: parameter.scale)


@st.composite
def parameters(draw: st.DrawFn) -> Parameter:
    scale = draw(st.sampled_from(Scale))
    ends = st.floats(1e-9, 0.999 if scale is Scale.LOG_COMPLEMENT else 1e6)
    low, high = sorted(draw(st.lists(ends, min_size=2, max_size=2, unique=True)))
    prior: dict[str, Any] = {}
    if draw(st.booleans()):
        prior = {"prior_center": draw(st.floats(low, high)), "prior_sd_octaves": draw(st.floats(1e-3, 32))}
    return Parameter("any", low, high, scale, **prior)


@every_parameter
@given(share=st.floats(0, 1))
@quick
def test_a_value_comes_back_from_its_coordinate(parameter: Parameter, share: float) -> None:
    value = parameter.low + share * (parameter.high - parameter.low)
    assert parameter.value(parameter.coordinate(value)) == pytest.approx(value, rel=1e-9, abs=1e-12)


@every_parameter
@given(octaves=st.floats(0, 20))
@quick
def test_a_coordinate_comes_back_from_its_value(parameter: Parameter, octaves: float) -> None:
    coordinate = parameter.bounds[0] + octaves if parameter.scale is not Scale.LOG_COMPLEMENT else -octaves
    assert parameter.coordinate(parameter.value(coordinate)) == pytest.approx(coordinate, rel=1e-9, abs=1e-9)


def test_a_notch_is_a_factor_of_two() -> None:
    assert RATE.coordinate(2 * RATE.low) - RATE.coordinate(RATE.low) == 1
    assert BETA.coordinate(0.98) - BETA.coordinate(0.99) == pytest.approx(1)
    assert LINEAR.bounds == (0.0, LINEAR_OCTAVES)


def test_where_a_scale_ends_a_parameter_is_off() -> None:
    assert RATE.coordinate(0.0) == BETA.coordinate(1.0) == -math.inf
    assert LINEAR.coordinate(0.0) == 0


def test_an_optimum_may_lie_outside_the_range() -> None:
    assert RATE.value(RATE.coordinate(4 * RATE.high)) == 4 * RATE.high


@given(parameter=parameters(), u=units)
@settings(max_examples=200, deadline=None)
def test_a_draw_stays_inside(parameter: Parameter, u: float) -> None:
    assert parameter.low <= parameter.from_unit(u) <= parameter.high
    assert parameter.from_unit(u) == parameter.from_unit(u)


@given(parameter=parameters(), u=st.lists(units, min_size=2, max_size=2))
@quick
def test_a_prior_is_a_quantile_function(parameter: Parameter, u: list[float]) -> None:
    """Monotone in octaves, hence ascending or descending in the value as the scale runs."""
    first, second = (parameter.coordinate(parameter.from_unit(one)) for one in sorted(u))
    assert first <= second + 1e-9 * max(1.0, abs(second))


@given(u=units)
@quick
def test_a_draw_is_on_the_allowed_values(u: float) -> None:
    assert ON_VALUES.from_unit(u) in ON_VALUES.values
    assert BATCH.from_unit(u) == int(BATCH.from_unit(u))


@pytest.mark.parametrize(
    "parameter", [ON_VALUES, Parameter("beta2", 0.9, 0.99, Scale.LOG_COMPLEMENT, (0.9, 0.95, 0.99))]
)
def test_uniform_over_a_list_means_each_as_often(parameter: Parameter) -> None:
    drawn = [parameter.from_unit((i + 0.5) / 300) for i in range(300)]
    assert [drawn.count(value) for value in parameter.values] == [100, 100, 100]


@pytest.mark.parametrize("value, nearest", [(5.2, 6), (3, 4), (1e9, 64), (18, 6), (20, 64)])
def test_nearest_on_a_list_is_by_octaves(value: float, nearest: float) -> None:
    """Between 6 and 64 the middle is their geometric mean, 19.6."""
    assert ON_VALUES.nearest(value) == nearest


@pytest.mark.parametrize("value, nearest", [(5.2, 5), (5.6, 6), (0.1, 4), (1e9, 64)])
def test_nearest_is_whole_and_inside(value: float, nearest: float) -> None:
    assert BATCH.nearest(value) == nearest
    assert RATE.nearest(1.0) == RATE.high


def test_a_normal_prior_has_its_median_and_its_spread() -> None:
    """The range is two sd below the centre and four above, so its median is a little above the centre."""
    octaves = [NORMAL.coordinate(NORMAL.from_unit((i + 0.5) / 1000)) for i in range(1000)]
    assert octaves[500] == pytest.approx(-8, abs=0.05)
    within_one_sd = sum(abs(octave + 8) < 1 for octave in octaves) / 1000
    assert within_one_sd == pytest.approx(0.6827 / 0.9772, abs=0.005)


def test_a_uniform_prior_is_uniform_in_octaves() -> None:
    assert RATE.from_unit(0.0) == RATE.low
    assert RATE.from_unit(0.5) == pytest.approx(math.sqrt(RATE.low * RATE.high))


def test_a_space_keeps_the_order_of_its_parameters() -> None:
    space = SearchSpace((RATE, LINEAR))
    assert space.names == ("learning_rate", "weight_decay")
    assert space.from_unit((0.0, 0.5)) == {"learning_rate": RATE.low, "weight_decay": 0.4}


@pytest.mark.parametrize(
    "low, high, scale", [(1, 1, "linear"), (2, 1, "log"), (0, 1, "log"), (0.5, 1, "log_complement")]
)
def test_a_parameter_that_was_not_checked_is_refused(low: float, high: float, scale: str) -> None:
    with pytest.raises(AssertionError):
        Parameter("any", low, high, Scale(scale))
