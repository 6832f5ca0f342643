"""Made-up changes whose truth is known: what stands, what has moved, and what three trials cannot tell."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hpsearch.imported_table import ImportedTable, read_table
from hpsearch.surface import Surface, fit_surface
from hpsearch.transfer.recheck import Finding, NewRuns, Outcome, Recheck, RecheckPlan, plan_recheck, probed, recheck
from hpsearch.transfer.table_recommendation import Setting
from tests.hpsearch import big_run as truth

TARGET = Setting(params=truth.PARAMS, tokens=truth.TOKENS)
NOISE = (0.4e-3, -0.3e-3, 0.2e-3)  # of the three new runs


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> ImportedTable:
    runs = truth.runs()
    decay = np.tile([0.1, 0.05, 0.2, 0.1, 0.05, 0.1, 0.2], len(runs) // 7)
    path = truth.written(tmp_path_factory.mktemp("runs") / "runs.csv", runs.assign(weight_decay=decay))
    return read_table(path)


@pytest.fixture(scope="module")
def surface(table: ImportedTable) -> Surface:
    return fit_surface(table.observations, table.parameters, seed=0)


@pytest.fixture(scope="module")
def plan(surface: Surface) -> RecheckPlan:
    return plan_recheck(surface)


def changed(
    plan: RecheckPlan, octaves: float = 0.0, level: float = 1.0, steeper: float = 1.0, scale: float = 1.0
) -> NewRuns:
    """The three trials after a change that moves the best rate, the level, or the curvature."""
    setting, losses = plan.setting, []
    for trial, noise in zip(plan.trials, NOISE, strict=True):
        off = math.log2(trial["lr"]) - truth.best_octaves(setting.params, setting.tokens) - octaves
        loss = truth.floor(setting.params, setting.tokens) * (1 + steeper * truth.cost(off) + noise)
        losses.append(math.log(loss * level * scale))
    return NewRuns(setting, plan.trials, np.array(losses))


def judged(surface: Surface, runs: NewRuns) -> Recheck:
    best = surface.optimum(TARGET.params, TARGET.tokens)
    return recheck(surface, runs, TARGET, {name: estimate.value for name, estimate in best.items()})


def finding(answer: Recheck, name: str) -> Finding:
    return next(found for found in answer.findings if found.name == name)


def test_the_plan_is_the_cheapest_setting_that_tells(plan: RecheckPlan, surface: Surface) -> None:
    costs = (surface.sweep.settings[:, 0] * surface.sweep.settings[:, 1] * 18).tolist()
    assert plan.tells and plan.expected_sd_octaves < 0.4 and plan.flops in costs
    rates = [math.log2(trial["lr"]) for trial in plan.trials]
    assert rates[0] - rates[1] == pytest.approx(1.5) and rates[2] - rates[0] == pytest.approx(1.5)
    assert abs(rates[0] - truth.best_octaves(plan.setting.params, plan.setting.tokens)) < 0.4
    assert len({trial["weight_decay"] for trial in plan.trials}) == 1 and plan.parameter == "lr"


def test_a_setting_without_a_bowl_is_passed_over(plan: RecheckPlan, tmp_path: Path) -> None:
    runs = truth.runs()
    short = (runs["params"] == plan.setting.params) & (runs["tokens"] == plan.setting.tokens)
    flat = truth.floor(plan.setting.params, plan.setting.tokens) * (1 + 0.003 * np.cos(np.arange(len(runs))))
    table = read_table(truth.written(tmp_path / "runs.csv", runs.assign(loss=np.where(short, flat, runs["loss"]))))
    found = plan_recheck(fit_surface(table.observations, table.parameters, seed=0))
    assert found.tells and found.setting != plan.setting and found.flops > plan.flops


@pytest.mark.parametrize("level", [1.0, 0.9, 1.15])
def test_a_level_is_no_finding_against_the_optimum(level: float, plan: RecheckPlan, surface: Surface) -> None:
    answer = judged(surface, changed(plan, level=level))
    assert finding(answer, "best lr").outcome is Outcome.STANDS
    assert finding(answer, "level of the loss").outcome is (Outcome.STANDS if level == 1 else Outcome.MOVED)
    assert not answer.needs_action and abs(math.log2(answer.after / answer.before)) < 0.3


@pytest.mark.parametrize("octaves", [-2.0, 1.5])
def test_an_optimum_that_has_moved_takes_the_target_along(octaves: float, plan: RecheckPlan, surface: Surface) -> None:
    answer = judged(surface, changed(plan, octaves=octaves, level=1.05))
    place = finding(answer, "best lr")
    assert place.outcome is Outcome.MOVED and answer.needs_action and "search it again" in place.redo
    assert place.measured80 is not None and place.measured is not None
    best = 2 ** (truth.best_octaves(plan.setting.params, plan.setting.tokens) + octaves)
    assert place.measured80[0] / 1.2 < best < place.measured80[1] * 1.2
    assert math.log2(answer.after / answer.before) == pytest.approx(octaves, abs=0.5)


def test_a_steeper_bowl_is_seen(plan: RecheckPlan, surface: Surface) -> None:
    cost = finding(judged(surface, changed(plan, steeper=6.0)), "cost of an octave")
    assert cost.outcome is Outcome.MOVED and cost.measured is not None and cost.predicted is not None
    assert cost.measured > 2 * cost.predicted and "times what they were" in cost.redo


def test_a_run_that_should_not_have_diverged_is_news(plan: RecheckPlan, surface: Surface) -> None:
    runs = changed(plan)
    lost = NewRuns(runs.setting, runs.values, np.append(runs.log_loss[:2], np.nan))
    answer = judged(surface, lost)
    assert finding(answer, "edge of stability").outcome is Outcome.MOVED and answer.needs_action
    assert any("2 runs with a loss" in warning for warning in answer.warnings)
    assert finding(judged(surface, runs), "edge of stability").outcome is Outcome.STANDS


def test_runs_that_all_diverged_are_no_measure(plan: RecheckPlan, surface: Surface) -> None:
    runs = changed(plan)
    hot = tuple({**trial, "weight_decay": trial["weight_decay"] * 4} for trial in [*plan.trials, plan.trials[0]])
    more = NewRuns(runs.setting, (*runs.values, *hot), np.append(runs.log_loss, [np.nan] * 4))
    assert finding(judged(surface, more), "best lr").outcome is Outcome.STANDS


@pytest.mark.parametrize(("better", "outcome"), [(0.02, Outcome.MOVED), (-0.01, Outcome.STANDS)])
def test_one_more_run_judges_another_value(
    better: float, outcome: Outcome, plan: RecheckPlan, surface: Surface
) -> None:
    runs = changed(plan)
    name = "value of weight_decay"
    assert finding(judged(surface, runs), name).outcome is Outcome.NOT_TOLD
    fourth = {**plan.trials[0], "weight_decay": plan.trials[0]["weight_decay"] * 4}
    more = NewRuns(runs.setting, (*runs.values, fourth), np.append(runs.log_loss, runs.log_loss[0] - better))
    assert finding(judged(surface, more), name).outcome is outcome


def numbers(answer: Recheck) -> Sequence[float]:
    return [found.probability_stands for found in answer.findings if found.probability_stands is not None]


@settings(max_examples=5, deadline=None)
@given(scale=st.floats(0.2, 5), octaves=st.sampled_from([0.0, 1.5]), order=st.permutations(range(3)))
def test_units_and_order_change_no_finding(
    scale: float,
    octaves: float,
    order: Sequence[int],
    plan: RecheckPlan,
    surface: Surface,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    runs = truth.runs()
    decay = np.tile([0.1, 0.05, 0.2, 0.1, 0.05, 0.1, 0.2], len(runs) // 7)
    scaled = runs.assign(weight_decay=decay, loss=runs["loss"] * scale)
    table = read_table(truth.written(Path(tmp_path_factory.mktemp("scaled")) / "runs.csv", scaled))
    other = fit_surface(table.observations, table.parameters, seed=0)
    new = changed(plan, octaves=octaves, scale=scale)
    shuffled = NewRuns(new.setting, tuple(new.values[i] for i in order), new.log_loss[list(order)])
    plain, answer = judged(surface, changed(plan, octaves=octaves)), judged(other, shuffled)
    assert [found.outcome for found in answer.findings] == [found.outcome for found in plain.findings]
    assert numbers(answer) == pytest.approx(numbers(plain), abs=1e-3)
    assert answer.after == pytest.approx(plain.after, rel=1e-3)


def test_without_a_learning_rate_the_first_parameter_is_varied(table: ImportedTable) -> None:
    other = next(parameter for parameter in table.parameters if parameter.name == "weight_decay")
    surface = fit_surface(table.observations, [other], seed=0)
    assert probed(surface) is surface.sweep.parameters[0]
    answer = judged(surface, NewRuns(TARGET, ({"weight_decay": 0.1}, {"weight_decay": 0.2}), np.zeros(2)))
    assert not any(found.name == "edge of stability" for found in answer.findings)
