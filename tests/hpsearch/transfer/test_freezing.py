"""The freeze decision, on bowls whose drift, cliff and noise are known."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hpsearch.transfer.freezing import Frozen, decide_profile
from hpsearch.transfer.profile import make_profile
from hpsearch.transfer.status import Status
from search_spaces.parameter import Parameter, Scale

RATE = Parameter("rate", 2.0**-4, 2.0**4, Scale.LOG)
OCTAVES = (-2.0, -1.0, 0.0, 1.0, 2.0)
ONE_SIZE = ((1e8, 2e9), (1e8, 4e9))
LADDER = ((1e7, 1e9), (1e7, 4e9), (4e7, 1e9), (4e7, 4e9))
LONGER, LARGER = (1e8, 1.6e10), (6.4e8, 1.6e10)
NOISE = 0.0003

Curve = Callable[[float, float, float], float]  # octaves, params, tokens -> relative loss; NaN where it diverges


def decided(
    curve: Curve,
    places: Sequence[tuple[float, float]],
    target: tuple[float, float],
    seed: int = 0,
    freezable: bool = True,
) -> Frozen:
    rng = np.random.default_rng(seed)
    rows = [
        {
            "params": n,
            "tokens": d,
            "value": 2.0**x,
            "loss": 3 * math.exp(curve(x, n, d) + NOISE * rng.standard_normal()),
        }
        for n, d in places
        for x in OCTAVES
    ]
    profile, _ = make_profile("rate", RATE, pd.DataFrame(rows).assign(block=""))
    return decide_profile(profile, target, NOISE, freezable)


def flat(x: float, n: float, d: float) -> float:
    return 0.0


def bowl(
    drift_by_size: float = 0.0, drift_by_tokens: float = 0.0, edge: float = math.inf, edge_drift: float = 0.0
) -> Curve:
    """A bowl of 0.4 % an octave^2 around a drifting centre, with an edge of stability that drifts with size."""

    def curve(x: float, n: float, d: float) -> float:
        size, tokens = math.log2(n / 1e7), math.log2(d / 1e9)
        if x >= edge + edge_drift * size:
            return math.nan
        return 0.004 * (x - drift_by_size * size - drift_by_tokens * tokens) ** 2

    return curve


def share_frozen(curve: Curve, num_seeds: int = 60) -> float:
    """Over the luck of the runs."""
    return float(np.mean([decided(curve, LADDER, LARGER, seed).status is Status.FROZEN for seed in range(num_seeds)]))


def test_what_is_flat_is_frozen() -> None:
    assert share_frozen(flat) >= 0.95


def test_a_bowl_that_stays_is_frozen_at_its_bottom() -> None:
    assert share_frozen(bowl()) >= 0.95
    assert decided(bowl(), LADDER, LARGER).value == 1.0


@pytest.mark.parametrize("drift", [-0.5, -0.35, 0.35, 0.5])
def test_a_bowl_that_drifts_visibly_with_size_is_not(drift: float) -> None:
    assert share_frozen(bowl(drift)) <= 0.02
    assert decided(bowl(drift), LADDER, LARGER).damage.mean > 0


def test_the_reason_tells_the_rival_and_the_axis() -> None:
    frozen = decided(bowl(0.25), LADDER, (6.4e9, 1.6e10))
    assert "drifts with size and budget" in frozen.reason and frozen.damage.rival == 2.0
    together = [(n, 20 * n) for n in (1e7, 2e7, 4e7)]
    assert "not separable here" in decided(bowl(0.6), together, (6.4e8, 1.28e10)).reason


def test_one_size_licenses_longer_budgets_of_that_size_only() -> None:
    longer, larger = decided(bowl(), ONE_SIZE, LONGER), decided(bowl(), ONE_SIZE, LARGER)
    assert longer.status is Status.FROZEN and "size untested" in longer.reason
    assert larger.status is Status.OPEN and "size untested" in larger.reason


@pytest.mark.parametrize(
    ("places", "reason"),
    [
        (ONE_SIZE[:1], "one setting"),
        (((1e7, 1e9), (4e7, 4e9)), "2 settings of 2 sizes and 2 budgets are too few"),
        (((1e7, 1e9), (2e7, 1e9), (4e7, 1e9)), "1 budgets are too few"),
    ],
)
def test_too_few_settings_freeze_nothing(places: Sequence[tuple[float, float]], reason: str) -> None:
    target = (places[-1][0], 1.6e10)
    frozen = decided(flat, places, target)
    assert frozen.status is Status.OPEN and reason in frozen.reason


def test_the_user_may_say_never() -> None:
    assert "the space says never" in decided(flat, LADDER, LARGER, freezable=False).reason


def test_next_to_a_cliff_nothing_is_frozen() -> None:
    """One notch above the best value everything diverges; three notches away nothing is to fear."""
    near, far = decided(bowl(edge=1.0), LADDER, LARGER), decided(bowl(edge=3.0), LADDER, LARGER)
    assert near.status is Status.OPEN and "near a cliff" in near.reason
    assert far.status is Status.FROZEN and far.damage.chance_of_divergence < 0.05


def test_a_cliff_that_comes_nearer_is_seen_before_it_arrives() -> None:
    """The value is the best everywhere; only its bad neighbours tell."""
    comes = decided(bowl(edge=2.5, edge_drift=-0.5), LADDER, LARGER)
    assert comes.status is Status.OPEN and "near a cliff" in comes.reason


def test_a_value_that_diverged_anywhere_is_not_frozen() -> None:
    def falls(x: float, n: float, d: float) -> float:
        return math.nan if x == 0 and n > 1e7 else bowl()(x, n, d)

    frozen = decided(falls, LADDER, LARGER)
    assert frozen.status is Status.OPEN and frozen.value != 1.0


def test_where_everything_diverged_nothing_is_frozen() -> None:
    def ruined(x: float, n: float, d: float) -> float:
        return math.nan if n > 1e7 else 0.0

    frozen = decided(ruined, LADDER, LARGER)
    assert frozen.status is Status.OPEN and "no one value came out at every setting" in frozen.reason


def test_what_is_flat_when_small_is_not_frozen_where_it_steepens_around_an_optimum_that_moves() -> None:
    def steepens(x: float, n: float, d: float) -> float:
        size = math.log2(n / 1e7)
        return 0.0016 * size * (x - 0.5 * size) ** 2

    assert decided(steepens, (*LADDER, (1.6e8, 1e9), (1.6e8, 4e9)), (6.4e8, 1.6e10)).status is Status.OPEN


def test_an_outermost_value_whose_neighbour_falls_behind_is_not_frozen() -> None:
    """The optimum leaves what was tested; no tested value says so."""

    def leaves(x: float, n: float, d: float) -> float:
        return 0.004 * (x - 2.0 - 0.25 * math.log2(n / 1e7)) ** 2

    left = decided(leaves, LADDER, LARGER)
    assert left.status is Status.OPEN and "a value beyond what was tested" in left.reason
    assert decided(lambda x, n, d: 0.004 * (x - 2.0) ** 2, LADDER, LARGER).status is Status.FROZEN


@given(octaves=st.integers(-8, 8), scale=st.floats(0.2, 5))
@settings(max_examples=20, deadline=None)
def test_units_do_not_matter(octaves: int, scale: float) -> None:
    curve = bowl(0.1)
    rows = [
        {"params": n, "tokens": d, "value": 2.0 ** (x + octaves), "loss": scale * math.exp(curve(x, n, d))}
        for n, d in LADDER
        for x in OCTAVES
    ]
    profile, _ = make_profile("rate", RATE, pd.DataFrame(rows).assign(block=""))
    found = decide_profile(profile, LARGER, NOISE)
    rows = [
        {"params": n, "tokens": d, "value": 2.0**x, "loss": math.exp(curve(x, n, d))}
        for n, d in LADDER
        for x in OCTAVES
    ]
    plain, _ = make_profile("rate", RATE, pd.DataFrame(rows).assign(block=""))
    expected = decide_profile(plain, LARGER, NOISE)
    assert found.status is expected.status
    assert found.value == pytest.approx(float(expected.value) * 2.0**octaves)
    assert found.damage.bound90 == pytest.approx(expected.damage.bound90, abs=1e-9)
