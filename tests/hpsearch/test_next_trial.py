"""The next trial, on surfaces of a made-up bowl: where it may lie, what it gains, and what it costs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import cache

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hpsearch.expected_gain import Knowledge, knowledge
from hpsearch.next_trial import (
    MAX_VALLEY_TRIALS,
    Option,
    Proposal,
    first_region,
    most_gain,
    next_trial,
    search_pattern,
    trusted,
    two_level_signs,
    valley_found,
)
from hpsearch.surface import Surface, fit_surface
from hpsearch.surface_model import Array
from search_spaces.parameter import Parameter, Scale

RATE = Parameter("learning_rate", 2.0**-14, 2.0**-4, Scale.LOG)
BATCH = Parameter("batch_sequences", 2.0**3, 2.0**11, Scale.LOG)
PARAMETERS = (RATE, BATCH)
BOX = np.array([parameter.bounds for parameter in PARAMETERS])
SMALL, LARGE = Option(1e8, 2e9, 1.2e18), Option(1e8, 8e9, 4.8e18)
TARGET = (1e8, 3.2e10)
NOTHING_TOLD = np.empty((0, 2))


def center(tokens: float) -> Array:
    """The best (rate, batch) in octaves."""
    octaves = math.log2(tokens / 2e9)
    return np.array([-9.0 + 0.1 * octaves, 6.0 + 0.4 * octaves])


def measured(points: Sequence[tuple[float, float]], options: Sequence[Option] = (SMALL,)) -> Surface:
    """The surface of runs at some octaves from the optimum of each option."""
    rng = np.random.default_rng(1)
    rows: list[dict[str, float]] = []
    for option in options:
        for offset in points:
            at = center(option.tokens) + offset
            excess = 0.004 * offset[0] ** 2 + 0.003 * offset[1] ** 2 + 0.001 * rng.standard_normal()
            loss = 3.0 * (option.tokens / 2e9) ** -0.07 * math.exp(excess)
            row = {"trial": len(rows), "params": option.params, "tokens": option.tokens, "loss": loss, "seed": 0}
            rows.append({**row, "learning_rate": 2.0 ** at[0], "batch_sequences": 2.0 ** at[1]})
    return fit_surface(pd.DataFrame(rows), PARAMETERS, seed=0, hold_out=False)


AROUND = ((0.0, 0.0), (-1.0, -1.0), (-1.0, 1.0), (1.0, -1.0), (1.0, 1.0), (0.5, 0.0))


@cache
def two_settings() -> Surface:
    return measured(AROUND, (SMALL, LARGE))


def views(surface: Surface) -> Knowledge:
    [view] = knowledge(surface, [SMALL.setting, LARGE.setting], TARGET)
    return view


def gain_of(surface: Surface, option: Option, pending: Sequence[tuple[Array, Option]] = ()) -> Proposal:
    return most_gain(surface, BOX, [option], TARGET, pending)


def ask(surface: Surface | None, told: Array = NOTHING_TOLD, num_pending: int = 0, seed: int = 0) -> Proposal:
    pending = [(point, SMALL) for point in search_pattern(BOX)[:num_pending]]
    return next_trial(surface, PARAMETERS, told, [SMALL, LARGE], TARGET, pending, np.random.default_rng(seed))


@given(
    ends=st.lists(st.tuples(st.floats(-20, 20), st.floats(0.1, 12)), min_size=1, max_size=7),
)
@settings(max_examples=10, deadline=None)
def test_the_pattern_is_inside_the_box_and_balanced_around_its_middle(ends: list[tuple[float, float]]) -> None:
    box = np.array([(low, low + width) for low, width in ends])
    pattern = search_pattern(box)
    assert (box[:, 0] < pattern).all() and (pattern < box[:, 1]).all()
    assert pattern[0] == pytest.approx(box.mean(axis=1))
    assert pattern[1:].mean(axis=0) == pytest.approx(box.mean(axis=1))
    assert len(np.unique(pattern, axis=0)) == len(pattern)
    assert (np.diff(pattern[1:, 0]) >= 0).all()  # from where no cliff is to where one may be


def test_the_pattern_lies_where_a_prior_is_and_over_the_range_where_it_is_beside_it() -> None:
    believed = [replace(RATE, prior_center=2.0**center, prior_sd_octaves=1.0) for center in (-8.0, 40.0)]
    inside, beside = (first_region((parameter, BATCH)) for parameter in believed)
    assert inside.tolist() == [[-10.0, -6.0], list(BATCH.bounds)]
    assert beside.tolist() == [list(RATE.bounds), list(BATCH.bounds)]


@pytest.mark.parametrize("count", [1, 2, 3, 4, 7, 8])
def test_the_columns_of_a_two_level_design_do_not_mix(count: int) -> None:
    signs = two_level_signs(count)
    assert signs.T @ signs == pytest.approx(len(signs) * np.eye(count))
    assert signs.sum(axis=0) == pytest.approx(np.zeros(count))


def test_the_first_asks_are_the_pattern_on_the_cheapest_setting() -> None:
    pattern = search_pattern(BOX)
    for number, point in enumerate(pattern):
        waiting, told = ask(None, num_pending=number), ask(None, pattern[:number])
        for proposal in (waiting, told):
            assert proposal.stage == "pattern" and proposal.option == SMALL
            assert proposal.coordinates == pytest.approx(point)


def test_where_all_diverged_the_rate_goes_halfway_down_each_time() -> None:
    told, (low, _) = search_pattern(BOX), RATE.bounds
    for _ in range(4):
        proposal = ask(None, told)
        lowest = told[:, 0].min()
        assert proposal.stage == "retreat" and proposal.option == SMALL
        assert proposal.coordinates[0] == pytest.approx((low + lowest) / 2)
        assert BATCH.bounds[0] <= proposal.coordinates[1] <= BATCH.bounds[1]
        told = np.vstack([told, proposal.coordinates])


def test_without_a_rate_the_retreat_is_to_where_there_is_room() -> None:
    """All diverged in one corner; the next one is nearer to the opposite corner."""
    parameters = (Parameter("a", 1.0, 256.0, Scale.LOG), Parameter("b", 1.0, 256.0, Scale.LOG))
    told = np.ones((5, 2))
    proposal = next_trial(None, parameters, told, [SMALL], TARGET, [], np.random.default_rng(0))
    assert proposal.stage == "retreat"
    assert proposal.coordinates.sum() > 12


def test_of_a_size_with_bad_runs_alone_the_next_run_is_lower() -> None:
    """Every run of the larger size diverged: another one at the same place would tell nothing."""
    larger = Option(4e8, 2e9, 1e10)  # cheap, so that it is chosen
    runs = pd.DataFrame(
        [
            {"trial": i, "params": option.params, "tokens": option.tokens, "loss": loss, "seed": 0}
            | {"learning_rate": 2.0 ** (-9.0 + rate), "batch_sequences": 2.0 ** (6.0 + batch)}
            for i, (option, rate, batch, loss) in enumerate(
                [(SMALL, *point, 3.0 * math.exp(0.004 * point[0] ** 2 + 0.003 * point[1] ** 2)) for point in AROUND]
                + [(larger, 0.0, 0.0, math.nan), (larger, 1.0, 0.0, math.nan)]
            )
        ]
    )
    for count, stage in ((7, "gain"), (8, "retreat")):
        surface = fit_surface(runs[:count], PARAMETERS, seed=0, hold_out=False)
        proposal = most_gain(surface, BOX, [SMALL, larger], (1.6e9, 3.2e10), [])
        assert (proposal.option, proposal.stage) == (larger, stage)
    assert proposal.coordinates[0] == pytest.approx((RATE.bounds[0] - 9.0) / 2)
    again = most_gain(surface, BOX, [larger], (1.6e9, 3.2e10), [(proposal.coordinates, larger)])
    assert again.coordinates[0] < proposal.coordinates[0]


def test_the_valley_is_found_by_four_good_runs() -> None:
    good, bad = [(0.1, 0.0), (0.0, 0.2), (-0.2, 0.0), (0.0, -0.1)], [(4.0, 0.0), (0.0, 5.0), (-4.0, 0.0)]
    assert valley_found(measured([*good, *bad]))
    assert not valley_found(measured([*good[:1], *bad]))


def test_until_the_valley_is_found_optima_are_drawn_and_then_gains_compared() -> None:
    flanks = [(4.0, 0.0), (0.0, 5.0), (-4.0, 0.0), (0.0, -5.0), (4.0, 5.0)]
    lost = measured([*flanks, (0.0, 0.0)])
    drawn = ask(lost)
    assert (drawn.stage, drawn.gain, drawn.option) == ("valley", 0.0, SMALL)
    assert not np.array_equal(drawn.coordinates, ask(lost, seed=1).coordinates)
    found = ask(measured([*AROUND, *flanks]))
    assert found.stage == "gain" and found.gain > 0


def test_draws_end_after_a_while_even_where_no_valley_is_found() -> None:
    distances = np.linspace(3.0, 10.0, len(search_pattern(BOX)) + MAX_VALLEY_TRIALS)
    lost = measured([(distance * (-1) ** i, 0.0) for i, distance in enumerate(distances)])
    assert not valley_found(lost)
    assert ask(lost).stage == "gain"


def test_trusted_where_each_parameter_is_bracketed_at_two_settings() -> None:
    assert trusted(two_settings())
    assert not trusted(measured(AROUND, (SMALL,)))
    one_sided = [(0.0, -1.0), (0.0, 1.0), (0.5, 0.0), (1.0, 0.5), (1.5, -0.5), (2.0, 0.0)]
    assert not trusted(measured([(rate + 2.0, batch) for rate, batch in one_sided], (SMALL, LARGE)))


def regret_variance(view: Knowledge, covariance: Array) -> float:
    """sum_j k_j h_j' S h_j: the target's expected regret by what is unknown."""
    return float(view.curvature @ np.einsum("pq,qr,pr->p", view.directions, covariance, view.directions))


def after_measuring(view: Knowledge, gradients: Array, variances: Array) -> Array:
    """The covariance after linear measurements with gradients (B, Q), by inverting the precision."""
    precision = np.linalg.inv(view.covariance) + gradients.T @ np.diag(1.0 / variances) @ gradients
    return np.asarray(np.linalg.inv(precision))


@pytest.mark.parametrize("option", [SMALL, LARGE, Option(4e8, 8e9, 1.9e19)], ids=["seen", "larger", "unseen"])
def test_the_closed_form_is_the_linear_gaussian_update(option: Option) -> None:
    [view] = knowledge(two_settings(), [option.setting], TARGET)
    points = center(option.tokens) + np.array([[1.0, 0.5], [-1.5, 0.0], [0.3, -1.2]])
    gradients, variance = view.gradients(option.setting, points)
    before = regret_variance(view, view.covariance)

    def fall(draw: int, chosen: list[int]) -> float:
        return before - regret_variance(view, after_measuring(view, gradients[draw, chosen], variance[draw, chosen]))

    draws, candidates = range(len(gradients)), range(len(points))
    alone = [np.mean([fall(draw, [i]) for draw in draws]) for i in candidates]
    both = [[np.mean([fall(draw, [i, j]) for draw in draws]) for j in candidates] for i in candidates]
    assert min(alone) > 0
    assert view.gains(gradients, variance) == pytest.approx(np.array(alone), rel=1e-5)
    assert view.pair_gains(gradients, variance) == pytest.approx(np.array(both), rel=1e-5)


def test_a_pair_gains_no_less_than_one_and_no_run_more_than_there_is_to_gain() -> None:
    view, points = views(two_settings()), center(LARGE.tokens) + np.array([[1.0, 0.5], [-1.5, 0.0], [0.3, -1.2]])
    gradients, variance = view.gradients(LARGE.setting, points)
    alone, both = view.gains(gradients, variance), view.pair_gains(gradients, variance)
    assert (both >= np.maximum(alone[:, None], alone[None]) - 1e-12).all()
    assert both.max() < regret_variance(view, view.covariance)


def test_a_run_that_is_surely_bad_gains_nothing() -> None:
    view = views(two_settings())
    gradients, variance = view.gradients(SMALL.setting, center(SMALL.tokens) + np.array([[8.0, 0.0], [1.0, 0.0]]))
    far, near = view.gains(gradients, variance)
    assert far == 0 < near


def test_what_still_runs_lowers_the_gain_of_asking_there_again() -> None:
    view, at = views(two_settings()), center(LARGE.tokens)
    points = at + np.array([(-1.0, 0.0), (-0.7, 0.0), (0.7, 0.0), (0.0, -0.7), (0.0, 0.7)])
    point = points[np.argmax(view.gains(*view.gradients(LARGE.setting, points)))]
    later = view.after(LARGE.setting, point)
    before, after = (v.gains(*v.gradients(LARGE.setting, point[None]))[0] for v in (view, later))
    assert 0 < after < before
    assert regret_variance(later, later.covariance) < regret_variance(view, view.covariance)


def test_a_second_slot_is_asked_for_something_else() -> None:
    first = gain_of(two_settings(), LARGE)
    second = gain_of(two_settings(), LARGE, [(first.coordinates, LARGE)])
    assert np.abs(second.coordinates - first.coordinates).max() > 0.05


@pytest.mark.parametrize(("price", "is_worth_it"), [(0.98, True), (1.02, False)])
def test_a_dearer_setting_is_chosen_only_where_a_flop_gains_more(price: float, is_worth_it: bool) -> None:
    gains = {option: gain_of(two_settings(), option).gain for option in (SMALL, LARGE)}
    even = SMALL.flops * gains[LARGE] / gains[SMALL]
    large = Option(LARGE.params, LARGE.tokens, price * even)
    chosen = most_gain(two_settings(), BOX, [SMALL, large], TARGET, [])
    assert even > SMALL.flops
    assert chosen.option == (large if is_worth_it else SMALL)


def test_the_same_seed_asks_for_the_same() -> None:
    flanks = [(4.0, 0.0), (0.0, 5.0), (-4.0, 0.0), (0.0, -5.0), (4.0, 5.0)]
    for surface, told in (
        (measured(flanks), NOTHING_TOLD),
        (two_settings(), NOTHING_TOLD),
        (None, search_pattern(BOX)),
    ):
        first, second = (ask(surface, told, seed=7) for _ in range(2))
        assert np.array_equal(first.coordinates, second.coordinates)
        assert (first.option, first.stage, first.gain) == (second.option, second.stage, second.gain)


@given(
    seed=st.integers(0, 999),
    middle=st.tuples(st.floats(-18, 0), st.floats(-1, 14)),
    spread=st.floats(0.2, 4),
    num_runs=st.integers(1, 16),
)
@settings(max_examples=10, deadline=None)
def test_whatever_was_told_the_proposal_is_inside_the_box(
    seed: int, middle: tuple[float, float], spread: float, num_runs: int
) -> None:
    """The best runs may lie far outside it."""
    rng = np.random.default_rng(seed)
    points = (middle - center(SMALL.tokens) + spread * rng.standard_normal((num_runs, 2))).tolist()
    proposal = ask(measured([(rate, batch) for rate, batch in points], (SMALL, LARGE)), num_pending=2, seed=seed)
    assert (BOX[:, 0] <= proposal.coordinates).all() and (proposal.coordinates <= BOX[:, 1]).all()
    assert proposal.option in (SMALL, LARGE) and proposal.gain >= 0
