"""A confirm: a size on the way to the target, a prediction written down first, trials around it, what they say."""

from __future__ import annotations

import json
import math
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hpsearch.conductor import Conductor
from hpsearch.confirm_command import ConfirmOptions, plan_confirm
from hpsearch.decisions import Idle, next_decision
from hpsearch.events import Asked, ConfirmOpened, ConfirmPlan, Role, TrialState
from hpsearch.ledger import Entry, Ledger
from hpsearch.plan import confirm_proxy
from hpsearch.spec import Size
from hpsearch.state import SearchState, fold
from hpsearch.targets import resolve_target
from hpsearch.transfer.confirm import LEAST_STEP, affordable_plan, plan_of_size, sizes_between
from hpsearch.transfer.confirm_report import ConfirmReport, confirm_report
from hpsearch.transfer.recommend import recommend
from hpsearch.trials_table import read_state, trials_table
from search_spaces.errors import UserError
from tests.hpsearch.simulation import EVERYTHING, SIZE, SPEC, World, begin, confirm, drive, scratch, spec_of
from tests.hpsearch.simulation import report as loss_report
from trials.trial import Assignment, Measurement

THREE_SIZES = [{"width": width, "depth": 1, "heads": 2, "trials": 9} for width in (16, 24, 32)]
NOTHING_ASKED = ConfirmOptions(target=None, flops=None, size=None, trials=3)
SIZE_TEXT = "width=48,depth=1,heads=2,tokens=2e5"


def complete(folder: Path, world: World, **changes: Any) -> Conductor:
    """A search that has come to its end."""
    conductor = begin(folder, spec_of(ladder=THREE_SIZES, **changes))
    drive(conductor, world, slots=3)
    conductor.close(complete=True, device_seconds={})
    return conductor


@cache
def searched() -> SearchState:
    """One for all tests that only ask."""
    with scratch() as folder:
        return complete(Path(folder), World(noise=0.002)).state


def confirmed(folder: Path, world: World, trials: int = 3, size: Size = SIZE) -> ConfirmReport:
    """The report of a search that is searched in one world and confirmed in the same."""
    before = complete(folder, world).state
    plan = plan_of_size(before, before.spec.target, size, trials)
    conductor = confirm(folder, plan)
    drive(conductor, world)
    conductor.close(complete=True, device_seconds={})
    return confirm_report(before, conductor.state)


# The size


@given(
    changes=st.sampled_from([{}, EVERYTHING]),
    largest=st.sampled_from([(16, 1, 2), (64, 2, 4), (128, 3, 8)]),
    target=st.sampled_from([(256, 4, 8), (640, 6, 10), (4096, 32, 32)]),
    ratio=st.floats(0.5, 300),
)
@settings(max_examples=10, deadline=None)
def test_sizes_ascend_from_the_ladder_to_the_target(
    changes: dict[str, Any], largest: tuple[int, ...], target: tuple[int, ...], ratio: float
) -> None:
    shape = dict(zip(("width", "depth", "heads"), largest, strict=True))
    goal = dict(zip(("width", "depth", "heads"), target, strict=True))
    params = spec_of(**changes).architecture(Size(**goal, tokens=1)).params
    spec = spec_of(
        **{
            **changes,
            "ladder": [{**shape, "trials": 4}],
            "target": {**goal, "tokens": ratio * params},
            "budget_flops": 1e15,
            "parametrization": {"rule": "standard"},
        }
    )
    resolved = resolve_target(spec.target, spec)
    sizes = sizes_between(spec, resolved)
    counts = [spec.architecture(size).params for size in sizes]
    assert counts == sorted(set(counts)) and len(counts) >= 3
    assert spec.architecture(spec.ladder[-1]).params < counts[0] and counts[-1] <= resolved.architecture.params
    tokens = [size.tokens for size in sizes]
    assert tokens in (sorted(tokens), sorted(tokens, reverse=True)) and max(tokens) <= resolved.tokens
    assert all(size.width % 8 == 0 and size.heads % spec.model.heads_per_kv == 0 for size in sizes)


@given(exponents=st.lists(st.floats(10.2, 12), min_size=3, max_size=3), trials=st.integers(1, 3))
@settings(max_examples=5, deadline=None)
def test_a_larger_limit_never_gives_a_smaller_setting_and_none_is_exceeded(exponents: list[float], trials: int) -> None:
    state, limits = searched(), sorted(10.0**exponent for exponent in exponents)
    plans = [affordable_plan(state, state.spec.target, limit, trials) for limit in limits]
    assert all(plan.cost_flops <= limit for plan, limit in zip(plans, limits, strict=True))
    settings = [(state.spec.architecture(plan.size).params, plan.size.tokens) for plan in plans]
    assert settings == sorted(settings)
    assert settings[0][0] >= LEAST_STEP * state.spec.architecture(state.spec.ladder[-1]).params


def test_what_is_asked_for_at_least_is_enough() -> None:
    state = searched()
    with pytest.raises(UserError, match="--flops: must cover --trials 3 at") as refused:
        affordable_plan(state, state.spec.target, 1e6, 3)
    least = float(str(refused.value).partition("raise it to ")[2].partition(",")[0])
    assert 0.9 * least < affordable_plan(state, state.spec.target, least, 3).cost_flops <= least


def test_without_a_limit_a_tenth_of_what_was_spent_is_taken() -> None:
    state = searched()
    assert plan_confirm(state, NOTHING_ASKED).cost_flops <= 0.1 * state.spent_flops


def test_where_all_is_affordable_the_target_itself_is_tried() -> None:
    state = searched()
    plan = affordable_plan(state, state.spec.target, 1e20, 1)
    assert plan.size == Size(width=64, depth=2, heads=2, tokens=5e5)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"flops": 1e6}, r"--flops: must cover --trials 3 at the nearest size above the ladder, .*raise it to"),
        ({"size": "width=32,depth=1,heads=2,tokens=2e5"}, r"--size: must lie above the ladder's largest proxy \(12"),
        (
            {"size": "width=128,depth=2,heads=2,tokens=2e5"},
            r"not above the target \(100,096\), got 396,800; change width or depth",
        ),
        ({"size": "width=48,depth=1,heads=2,tokens=2e6"}, r"--size: tokens: .* at most the target's \(500000\)"),
        ({"size": "width=48,depth=1,heads=2,tokens=100"}, r"--size: tokens: .* the ladder's shortest run .*got 100;"),
        ({"size": "width=48,depth=1,heads=5,tokens=2e5"}, r"--size: heads: must divide the width 48, got 5; use"),
        ({"size": "width=48,depth=1,heads=2"}, r"--size: tokens: required; add it"),
        ({"size": "width=48,width=56"}, r"--size: every key may stand once"),
        ({"size": SIZE_TEXT, "flops": 1e9}, r"--flops: chooses a size, got --size .* remove one of the two"),
        ({"target": "width=32,depth=1,heads=2,tokens=5e5"}, r"--target: must leave room .*; name a larger target"),
        ({"target": "width=16,depth=1,heads=2,tokens=5e5"}, r"--target: must not be smaller than the ladder's"),
    ],
)
def test_a_mistake_is_told(options: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        plan_confirm(searched(), ConfirmOptions(**{**NOTHING_ASKED.__dict__, **options}))


def test_a_search_that_is_not_complete_is_refused_with_the_remedy(tmp_path: Path) -> None:
    conductor = begin(tmp_path, spec_of())
    drive(conductor, World(), transactions=40)
    conductor.close(complete=False, device_seconds={})
    with pytest.raises(UserError, match="must be complete .* finish it with `hpsearch resume simulated`"):
        plan_confirm(conductor.state, NOTHING_ASKED)


def test_a_confirm_that_is_not_complete_is_refused_too(tmp_path: Path) -> None:
    state = complete(tmp_path, World()).state
    conductor = confirm(tmp_path, plan_of_size(state, state.spec.target, SIZE, 3))
    drive(conductor, World(), transactions=2)
    with pytest.raises(UserError, match="must be complete"):
        plan_confirm(conductor.state, NOTHING_ASKED)


@pytest.mark.parametrize(
    ("space", "fixed", "said"),
    [
        ({"weight_decay": {"low": 0.01, "high": 0.64}}, {"learning_rate": 0.01}, "got it fixed; search it"),
        ({"learning_rate": {"low": 1e-3, "high": 6e-2, "scale": "linear"}}, {"weight_decay": 0.1}, "on scale linear"),
    ],
)
def test_a_search_without_octaves_of_a_rate_is_refused(
    space: dict[str, Any], fixed: dict[str, Any], said: str, tmp_path: Path
) -> None:
    state = complete(tmp_path, World(), space=space, fixed={**SPEC["fixed"], **fixed}).state
    with pytest.raises(UserError, match=said):
        plan_confirm(state, NOTHING_ASKED)


# The trials


@pytest.mark.parametrize("trials", [1, 2, 3])
def test_the_trials_are_the_prediction_and_half_an_octave_to_either_side(tmp_path: Path, trials: int) -> None:
    state = complete(tmp_path, World()).state
    plan = plan_of_size(state, state.spec.target, SIZE, trials)
    conductor = confirm(tmp_path, plan)
    drive(conductor, World(), slots=3)
    conductor.close(complete=True, device_seconds={})
    asked = [trial.asked for trial in conductor.state.of(confirm_proxy(0), Role.CONFIRM)]
    moved = [ask.values["learning_rate"] / plan.prediction.values["learning_rate"] for ask in asked]
    assert moved == pytest.approx([1, 2**-0.5, 2**0.5][:trials])
    assert {ask.values["weight_decay"] for ask in asked} == {plan.prediction.values["weight_decay"]}
    assert all(
        trial.config.architecture.width == 48 for trial in conductor.state.trials.values() if trial.asked in asked
    )
    assert sum(ask.cost_flops for ask in asked) == plan.cost_flops
    assert next_decision(conductor.state) is Idle.FINISHED


def test_the_prediction_is_written_before_any_trial_of_its_size(tmp_path: Path) -> None:
    confirmed(tmp_path, World())
    ledger = [entry.event for entry in entries_of(tmp_path)]
    opened = next(i for i, event in enumerate(ledger) if isinstance(event, ConfirmOpened))
    asked = [i for i, event in enumerate(ledger) if isinstance(event, Asked) and event.role is Role.CONFIRM]
    assert len(asked) == 3 and min(asked) > opened


def entries_of(folder: Path) -> list[Entry]:
    ledger = Ledger(folder / "ledger.sqlite")
    entries = ledger.read()
    ledger.close()
    return entries


def test_its_flops_are_added_to_the_budget_and_its_trials_stay(tmp_path: Path) -> None:
    before = complete(tmp_path, World()).state
    plan = plan_of_size(before, before.spec.target, SIZE, 3)
    conductor = confirm(tmp_path, plan)
    assert conductor.state.budget_flops == before.spec.budget_flops + plan.cost_flops
    drive(conductor, World())
    conductor.close(complete=True, device_seconds={})
    state = read_state(tmp_path / "ledger.sqlite")
    assert state.spent_flops == before.spent_flops + plan.cost_flops
    rows = trials_table(state)
    rows = rows[rows["role"] == "confirm"]
    assert list(rows["params"]) == [state.spec.architecture(SIZE).params] * 3 and rows["loss"].notna().all()
    target = resolve_target(state.spec.target, state.spec)
    assert recommend(state, target).evidence.observations == recommend(before, target).evidence.observations + 3


def test_a_budget_that_is_spent_does_not_hinder_it(tmp_path: Path) -> None:
    """What a confirm may spend is its own, whatever the search has left."""
    state = complete(tmp_path, World()).state
    tight = state.spec.model_copy(update={"budget_flops": float(state.spent_flops)})
    opened = [(entry.seq, entry.event) for entry in entries_of(tmp_path)]
    opened[0] = (1, opened[0][1].model_copy(update={"spec": tight.model_dump(mode="json")}))
    plan = plan_of_size(state, state.spec.target, SIZE, 1)
    event = ConfirmOpened(plan=plan, incarnation="b", versions={})
    assert isinstance(next_decision(fold([*opened, (len(opened) + 1, event)], "test")), Asked)


def test_a_second_confirm_has_another_size_and_seed_and_sees_the_first(tmp_path: Path) -> None:
    first = complete(tmp_path, World()).state
    plans: list[ConfirmPlan] = []
    for number, width in enumerate((40, 56)):
        state = read_state(tmp_path / "ledger.sqlite")
        plans.append(plan_of_size(state, state.spec.target, SIZE.model_copy(update={"width": width}), 2))
        conductor = confirm(tmp_path, plans[-1], f"confirm{number}")
        drive(conductor, World())
        conductor.close(complete=True, device_seconds={})
    state = read_state(tmp_path / "ledger.sqlite")
    configs = [[t.config for t in state.of(confirm_proxy(number), Role.CONFIRM)] for number in (0, 1)]
    assert [[(c.architecture.width, c.seed) for c in each] for each in configs] == [[(40, 0)] * 2, [(56, 1)] * 2]
    assert plans[1].prediction.observations == plans[0].prediction.observations + 2
    assert state.budget_flops == first.budget_flops + plans[0].cost_flops + plans[1].cost_flops


# What comes out


def test_on_a_known_surface_the_prediction_holds(tmp_path: Path) -> None:
    world = World(noise=0.002)
    report = confirmed(tmp_path, world)
    best = 2 ** world.best_log2_rate(report.params, report.size.tokens)
    assert report.predicted.low80 <= best <= report.predicted.high80
    assert report.measured is not None and report.hit
    assert report.lost is not None and 0 <= report.lost < 0.01
    assert report.loss_inside
    assert set(report.before.parameters) == set(report.after.parameters) == {"learning_rate", "weight_decay"}


def test_what_drifts_otherwise_above_the_ladder_is_found_and_moves_the_recommendation(tmp_path: Path) -> None:
    class Surprise(World):
        def best_log2_rate(self, params: float, tokens: float) -> float:
            return super().best_log2_rate(params, tokens) - (1.5 if params > 20_000 else 0.0)

    report = confirmed(tmp_path, Surprise(noise=0.001))
    assert not report.bracketed and report.measured is not None
    assert report.measured.value < report.predicted.value
    after, before = (side.parameters["learning_rate"].value for side in (report.after, report.before))
    assert after < before


def test_with_fewer_trials_only_the_loss_is_measured(tmp_path: Path) -> None:
    one, two = (confirmed(tmp_path / str(trials), World(), trials) for trials in (1, 2))
    assert one.measured is two.measured is None and one.lost is None
    assert two.lost is not None and two.lost >= 0


def test_a_prediction_that_diverges_is_told(tmp_path: Path) -> None:
    class Cliff(World):
        def best_log2_rate(self, params: float, tokens: float) -> float:
            return super().best_log2_rate(params, tokens) - (math.inf if params > 20_000 else 0.0)

    report = confirmed(tmp_path, Cliff())
    assert [trial.loss for trial in report.trials] == [None] * 3
    assert not report.loss_inside and report.lost is None and report.hit is None
    assert json.loads(report.model_dump_json())["trials"][0]["loss"] is None


def test_one_that_diverges_beside_the_prediction_leaves_the_rest(tmp_path: Path) -> None:
    rates: list[float] = []

    class Edge(World):
        """An octave above the lowest rate of the size, all diverges: that is the third trial."""

        def measure(self, assignment: Assignment) -> Measurement:
            rate = assignment.config.learning_rate
            if assignment.config.architecture.width != SIZE.width:
                return super().measure(assignment)
            rates.append(rate)
            return loss_report(assignment, math.inf) if rate > 1.9 * min(rates) else super().measure(assignment)

    report = confirmed(tmp_path, Edge())
    assert [trial.loss is None for trial in report.trials] == [False, False, True]
    assert report.measured is None and report.lost is not None
    assert [t.state for t in read_state(tmp_path / "ledger.sqlite").trials.values()][-1] is TrialState.DIVERGED
