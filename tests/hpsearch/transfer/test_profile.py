"""Profiles: what each value loses at each setting, freed of what its runs have in common."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpsearch.transfer.profile import Spread, make_profile, pooled_noise
from search_spaces.parameter import Parameter, Scale

WARMUP = Parameter("warmup", 100, 4000, Scale.LOG)


def runs(rows: Sequence[tuple[float, float | str, float]], block: str = "") -> pd.DataFrame:
    """(tokens, value, loss) at one size."""
    table = pd.DataFrame(rows, columns=["tokens", "value", "loss"])
    return table.assign(params=1e8, block=block)


def test_costs_are_counted_from_the_best_of_each_setting() -> None:
    profile, _ = make_profile(
        "warmup", WARMUP, runs([(1e9, 100, 3.3), (1e9, 400, 3.0), (4e9, 100, 2.0), (4e9, 400, 2.2)])
    )
    assert profile.values == (100, 400)
    assert profile.cost == pytest.approx(np.array([[math.log(1.1), 0.0], [0.0, math.log(1.1)]]))


def test_what_was_not_tested_lies_on_a_line_between_near_neighbours() -> None:
    rows = [(1e9, 100, 3.3), (1e9, 400, 3.0), (4e9, 200, 2.0), (4e9, 3200, 2.2), (4e9, 800, math.nan)]
    profile, _ = make_profile("warmup", WARMUP, runs(rows))
    assert profile.values == (100, 200, 400, 800, 3200)
    assert profile.cost[0, 1] == pytest.approx(math.log(1.1) / 2)  # halfway in octaves
    assert np.isnan(profile.cost[0, 3:]).all()  # beyond what was tested
    assert np.isnan(profile.cost[1, 2])  # its neighbours are four octaves apart
    assert profile.diverged[1, 3] and np.isnan(profile.cost[1, 3])  # which a line may not hide
    assert profile.tested[1].tolist() == [False, True, False, True, True]


@given(shift=st.floats(-1, 1), scale=st.floats(0.5, 2))
def test_a_block_and_the_unit_of_the_loss_change_no_cost(shift: float, scale: float) -> None:
    here = runs([(1e9, 100, 3.3), (1e9, 400, 3.0), (1e9, 1600, 3.1)], "a")
    there = runs([(1e9, 100, 3.3), (1e9, 1600, 3.1)], "b")  # without the best
    moved = there.assign(loss=there["loss"] * math.exp(shift))
    whole, spread = make_profile("warmup", WARMUP, pd.concat([here, moved]).assign(loss=lambda t: t["loss"] * scale))
    alone, _ = make_profile("warmup", WARMUP, here)
    assert whole.cost == pytest.approx(alone.cost, abs=1e-9)
    assert spread.dof == 1 and spread.squares == pytest.approx(0.0, abs=1e-12)


def test_repeats_tell_the_noise() -> None:
    rng = np.random.default_rng(0)
    rows = [(1e9, value, math.exp(1 + 0.01 * rng.standard_normal())) for value in (100.0, 400.0) for _ in range(200)]
    _, spread = make_profile("warmup", WARMUP, runs(rows))
    assert spread.dof == 398
    assert pooled_noise([spread], 0.0003, 20) == pytest.approx(0.01, rel=0.1)
    assert pooled_noise([], 0.0003, 20) == pytest.approx(0.0003)
    assert pooled_noise([Spread(0.0, 20)], 0.0003, 20) == pytest.approx(0.0003 / math.sqrt(2))


def test_categories_and_what_is_off_have_no_place_on_a_scale() -> None:
    profile, _ = make_profile("schedule", None, runs([(1e9, "linear", 3.1), (1e9, "cosine", 3.0)]))
    assert profile.values == ("cosine", "linear") and np.isnan(profile.coordinates).all()
    off, _ = make_profile("warmup", WARMUP, runs([(1e9, 0.0, 3.1), (1e9, 400, 3.0), (1e9, "None", 3.2)]))
    assert off.values == (0.0, 400.0, "None")
    assert np.isfinite(off.coordinates).tolist() == [False, True, False]


def test_values_that_agree_in_six_digits_are_one() -> None:
    profile, _ = make_profile("epsilon", None, runs([(1e9, 1e-25, 3.1), (1e9, 1.0000000000000001e-25, 3.1)]))
    assert profile.values == (1e-25,)
    assert profile.runs.tolist() == [[2.0]]
