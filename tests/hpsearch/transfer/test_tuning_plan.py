"""Backwards from the target: ladders, and what a budget is expected to say. Nothing is trained."""

from __future__ import annotations

from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hpsearch.transfer.reach import MAX_REACH_PARAMS, MAX_REACH_TOKENS
from hpsearch.transfer.tuning_plan import (
    ANSWER_BOUND,
    LEAST_PARAMS,
    MAX_RUNS,
    REACHES,
    Ladder,
    Outlook,
    candidate_ladders,
    outlook,
    path,
    run_flops,
)

TARGET = (1.26e10, 3e11)


@cache
def looked() -> Outlook:
    return outlook(TARGET, 0.0012)


@given(params=st.floats(1e8, 1e13), ratio=st.floats(1, 1000))
def test_every_ladder_may_be_extrapolated_from(params: float, ratio: float) -> None:
    ladders = candidate_ladders((params, ratio * params))
    assert len(ladders) == len(REACHES) + 1
    for ladder in ladders:
        sizes = ladder.sizes
        assert sizes[-1] / sizes[0] == pytest.approx(16) and len(sizes) == 3
        assert params / sizes[-1] <= MAX_REACH_PARAMS * (1 + 1e-9)
        assert ratio * params / max(tokens for _, tokens in ladder.settings) <= MAX_REACH_TOKENS * (1 + 1e-9)
        two_ratios = [size for size in sizes if sum(params == size for params, _ in ladder.settings) == 2]
        assert len(two_ratios) == 2, "else N and D are collinear"
        assert max(map(run_flops, ladder.settings)) <= 0.1 * run_flops((params, ratio * params))
        assert list(ladder.settings) == sorted(ladder.settings, key=run_flops)


def test_a_target_without_room_for_proxies_has_no_ladder() -> None:
    assert candidate_ladders((LEAST_PARAMS * 60, 1e9)) == ()
    assert outlook((1e6, 2e7), 0.0012) == Outlook((), ())


def test_more_budget_never_knows_less() -> None:
    budgets = looked().budgets
    assert [budget.share for budget in budgets] == [0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0]
    bounds = [budget.expected.regret_bound90 for budget in budgets]
    assert bounds == sorted(bounds, reverse=True) and bounds[0] > 4 * bounds[-1]
    for budget in budgets:
        expected = budget.expected
        assert expected.share <= budget.share
        assert expected.expected_regret < expected.regret_bound90
        assert expected.flops == pytest.approx(
            sum(n * run_flops(setting) for n, setting in zip(expected.runs, expected.ladder.settings, strict=True))
        )
        assert expected.num_runs <= MAX_RUNS
        assert min(expected.width80_octaves) > 2 * 1.28 * 0.14, "a setting strays by 0.14 octaves whatever is known"


def test_the_cheapest_answer_is_one_and_needs_no_run_of_the_target() -> None:
    answer = looked().answer
    assert answer is not None
    assert answer.regret_bound90 <= ANSWER_BOUND and answer.untold == ()
    assert answer.share < 0.05
    assert answer.flops == min(each.answer.flops for each in looked().ladders if each.answer is not None)


@settings(max_examples=4, deadline=None)
@given(params=st.floats(1e9, 1e12), ratio=st.floats(3, 300), reach=st.sampled_from(REACHES))
def test_each_pair_of_runs_lowers_the_bound(params: float, ratio: float, reach: float) -> None:
    target = (params, ratio * params)
    ladder = next(ladder for ladder in candidate_ladders(target) if ladder.reach == reach)
    steps = list(path(ladder, target, 0.0012, 0.01))
    for before, after in zip(steps, steps[1:], strict=False):
        assert after.num_runs == before.num_runs + 2
        assert after.flops > before.flops
        assert after.regret_bound90 <= before.regret_bound90 * (1 + 1e-6)
        assert after.expected_regret <= before.expected_regret * (1 + 1e-6)


def test_noise_costs() -> None:
    [quiet, loud] = [list(path(candidate_ladders(TARGET)[0], TARGET, noise, 0.003))[-1] for noise in (0.0005, 0.005)]
    assert quiet.regret_bound90 < loud.regret_bound90


def test_it_agrees_with_what_was_measured_on_a_published_sweep() -> None:
    """24 runs there at N <= 2.7e8, judged at 4.3e8: mean regret 0.10 %, 80 % intervals of 1.0 and 0.84 octaves."""
    settings = [(n, d) for n in (2.147e8, 2.683e8) for d in (20 * n, 55 * n, 95 * n)]
    ladder = Ladder(1.6, tuple(sorted(settings, key=run_flops)))
    steps = path(ladder, (4.3e8, 2.27e10), 0.001, 30.0)
    expected = next(step for step in steps if step.num_runs >= 24)
    assert expected.expected_regret == pytest.approx(0.001, rel=0.5)
    assert expected.width80_octaves == pytest.approx((1.0, 0.84), rel=0.4)
