"""The simulated tuning problem: its secret is undone, its units are of no matter, its costs are 6 N D."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from tests.benchmarks.published import DENSE_TABLE, RUIN
from tests.benchmarks.tuning_measures import Mark, Outcome, reach
from tests.benchmarks.tuning_problem import NOISE, TRACKS, Run, config_at, draw_problem, flops, stream
from tests.benchmarks.tuning_rivals import open_rival
from tests.benchmarks.tuning_simulator import play

needs_table = pytest.mark.skipif(not DENSE_TABLE.exists(), reason="the published sweep is not here")
pytestmark = needs_table


@pytest.mark.parametrize("track", TRACKS)
@pytest.mark.parametrize("seed", range(4))
def test_secret_is_undone(track: str, seed: int) -> None:
    problem = draw_problem(track, seed, drift=True, units=True)
    answer = problem.answer()
    octaves = np.log2(list(answer.values()))
    assert problem.judge(answer) == pytest.approx(0, abs=1e-6)
    assert np.all(octaves >= problem.low + 1) and np.all(octaves <= problem.high - 1)
    for setting in problem.settings:
        best = config_at(setting.optimum + problem.secret.shift(setting, problem.target))
        assert setting.regret(problem.undo(best, setting)) == pytest.approx(0, abs=1e-6)


def test_units_change_no_regret() -> None:
    with_units, without = (draw_problem("one_size", 1, drift=True, units=units) for units in (True, False))
    for offset in np.random.default_rng(0).uniform(-2, 2, (5, 2)):
        configs = [config_at(np.log2(list(p.answer().values())) + offset) for p in (with_units, without)]
        assert with_units.judge(configs[0]) == pytest.approx(without.judge(configs[1]), abs=1e-9)
        cheapest = with_units.settings[0], without.settings[0]
        losses = [
            problem.evaluate(Run(config, setting), stream(1, NOISE))
            for problem, config, setting in zip((with_units, without), configs, cheapest, strict=True)
        ]
        assert losses[0] == pytest.approx(losses[1], rel=1e-9)


def test_without_drift_and_units_values_are_those_of_the_sweep() -> None:
    problem = draw_problem("small_to_large", 0, drift=False, units=False)
    assert list(problem.answer().values()) == pytest.approx(list(2**problem.target.optimum))


def test_tracks() -> None:
    sizes = [draw_problem("one_size", seed, True, True).target.params for seed in range(3)]
    assert len(set(sizes)) == 3
    problem = draw_problem("small_to_large", 0, True, True)
    assert problem.target not in problem.settings and len(problem.settings) == 8
    assert max(setting.params for setting in problem.settings) < problem.target.params


def test_cost_is_six_n_d() -> None:
    problem = draw_problem("one_size", 0, True, True)
    first, second = problem.rungs()[:2]
    runs = [Run(problem.answer(), first), Run(problem.answer(), second, parent=0)]
    assert problem.cost(runs[0], [], resume=True) == 6 * first.params * first.tokens
    assert problem.cost(runs[1], runs[:1], resume=False) == 6 * second.params * second.tokens
    assert problem.cost(runs[1], runs[:1], resume=True) == pytest.approx(flops(second) - flops(first))


def test_divergence_is_not_a_number() -> None:
    problem = draw_problem("one_size", 0, True, True)
    far = config_at(np.log2(list(problem.answer().values())) + np.array([40.0, 0.0]))
    assert math.isnan(problem.evaluate(Run(far, problem.target), stream(0, NOISE)))
    assert problem.judge(far) == RUIN
    assert problem.judge(problem.clip(far)) <= RUIN


@pytest.mark.parametrize("name", ["random", "asha", "halving"])
def test_rivals_stay_within_the_budget(name: str) -> None:
    problem = draw_problem("one_size", 0, True, True)
    budget = 2 * problem.full_cost
    marks = play(problem, open_rival(name, problem, budget), budget, resume=False)
    assert marks and marks[-1].full_runs <= 2 and all(mark.regret >= -1e-6 for mark in marks)


def test_a_regret_is_reached_when_it_stays() -> None:
    marks = (Mark(1.0, 0.002), Mark(2.0, 0.01), Mark(3.0, 0.002), Mark(4.0, 0.001))
    outcome = Outcome("random", 0, 1e8, 5.0, marks)
    assert outcome.reached(0.003) == 3.0 and outcome.reached(0.0005) == math.inf
    assert outcome.at(2.5) == 0.01 and outcome.final == 0.001 and replace(outcome, marks=()).final == RUIN
    found = reach([outcome, replace(outcome, marks=())], 0.003)
    assert found.share == 0.5 and found.cost.mean == 4.0
