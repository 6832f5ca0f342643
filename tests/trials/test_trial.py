"""What crosses processes comes out as it went in, and segments add up to the trial."""

from __future__ import annotations

import json
from dataclasses import MISSING, fields, is_dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.trials.conftest import CONFIG, segment
from trials.architecture import Architecture, Kind
from trials.parametrization import OptimizerKind, Parametrization, Rule
from trials.schedule import Decay
from trials.trial import Assignment, DecayConvention, Measurement, Outcome, TrialConfig

T = TypeVar("T")
BY_TYPE: dict[str, st.SearchStrategy[Any]] = {
    "int": st.integers(0, 2**64 - 1),
    "float": st.floats(allow_nan=False),
    "str": st.text(),
    "bool": st.booleans(),
    "tuple[str, ...]": st.lists(st.text(), max_size=3).map(tuple),
    **{kind.__name__: st.sampled_from(kind) for kind in (Decay, DecayConvention, OptimizerKind, Outcome, Rule)},
}


def any_of(cls: type[T]) -> st.SearchStrategy[T]:
    """Any values of the types that the fields declare."""
    assert is_dataclass(cls)
    return st.builds(cls, **{field.name: BY_TYPE[str(field.type)] for field in fields(cls)})


def architecture(kind: Kind, heads: tuple[int, int], counts: list[int], qk_norm: bool) -> Architecture:
    kv_heads, group = heads
    width, depth, half_head, feed_forward, context, vocabulary, band = counts
    return Architecture(
        kind,
        width,
        depth,
        kv_heads * group,
        kv_heads,
        2 * half_head,
        feed_forward,
        context,
        vocabulary,
        band,
        qk_norm,
        False,
    )


COUNTS = st.integers(1, 2**40)
BY_TYPE["Architecture"] = st.builds(
    architecture,
    st.sampled_from(Kind),
    st.tuples(st.integers(1, 128), st.integers(1, 128)),
    st.lists(COUNTS, min_size=7, max_size=7),
    st.booleans(),
)
BY_TYPE["Parametrization"] = any_of(Parametrization)
BY_TYPE["TrialConfig"] = any_of(TrialConfig)


def through_json(data: dict[str, Any]) -> dict[str, Any]:
    again: dict[str, Any] = json.loads(json.dumps(data))
    return again


@settings(max_examples=50)
@given(BY_TYPE["TrialConfig"])
def test_config_survives_json(config: TrialConfig) -> None:
    again = TrialConfig.from_dict(through_json(config.to_dict()))
    assert again == config
    assert hash(again) == hash(config), "what follows from a configuration is kept by it"
    assert [type(value) for value in vars(again).values()] == [type(value) for value in vars(config).values()]
    assert isinstance(again.architecture.kind, Kind)
    assert isinstance(again.parametrization.rule, Rule)


@settings(max_examples=30)
@given(any_of(Assignment))
def test_assignment_survives_json(assignment: Assignment) -> None:
    again = Assignment.from_dict(through_json(assignment.to_dict()))
    assert again == assignment
    assert isinstance(again.resume_from, tuple)


@given(any_of(Measurement))
def test_measurement_survives_json(measurement: Measurement) -> None:
    again = Measurement.from_dict(through_json(measurement.to_dict()))
    assert again == measurement
    assert isinstance(again.outcome, Outcome)


ASSIGNMENT = segment(Path("folder"), "a", 20)
Told = TrialConfig | Assignment | Measurement


@pytest.mark.parametrize("told", [CONFIG, ASSIGNMENT, Measurement.fault(ASSIGNMENT, Outcome.FAIL, "out of luck")])
@pytest.mark.parametrize("change", ["missing", "unknown"])
def test_incomplete_or_foreign_data_is_refused(told: Told, change: str) -> None:
    whole = told.to_dict()
    name = next(reversed(whole))
    data = whole | {"colour": 1} if change == "unknown" else {key: whole[key] for key in whole if key != name}
    with pytest.raises(TypeError, match="colour" if change == "unknown" else name):
        told.from_dict(data)


def test_a_config_is_complete() -> None:
    """No number of a trial is left to a default that another version may have otherwise."""
    classes = (TrialConfig, Architecture, Parametrization)
    assert all(field.default is field.default_factory is MISSING for cls in classes for field in fields(cls))


@pytest.mark.parametrize("outcome", [Outcome.DIVERGED, Outcome.FAIL])
def test_fault_names_the_segment_and_has_no_numbers(outcome: Outcome) -> None:
    fault = Measurement.fault(ASSIGNMENT, outcome, "out of luck")
    assert (fault.trial_id, fault.tokens, fault.outcome, fault.message) == ("a", 20 * 64, outcome, "out of luck")
    rest = {field.name: field.type for field in fields(fault)}
    for name in ("trial_id", "tokens", "outcome", "message"):
        del rest[name]
    assert {name: getattr(fault, name) for name in rest} == {
        name: {"int": 0, "float": 0.0, "str": "", "bool": False}[str(kind)] for name, kind in rest.items()
    }
    assert {type(getattr(fault, name)).__name__ == kind for name, kind in rest.items()} == {True}


def test_step_tokens_are_sequences_times_context() -> None:
    assert CONFIG.step_tokens == 4 * 16


@given(st.lists(st.integers(1, 10_000), min_size=1, max_size=6, unique=True), st.floats(0.01, 1.0))
def test_segments_of_a_trial_cost_the_last_rung_and_the_branches_before_it(steps: list[int], share: float) -> None:
    """Each goes on from where the last one's branch left the trunk."""
    config = replace(CONFIG, decay_share=share)
    rungs = [num * config.step_tokens for num in sorted(steps)]
    starts = [0, *map(config.branch_tokens, rungs[:-1])]
    cost = sum(config.segment_flops(start, rung) for start, rung in zip(starts, rungs, strict=True))
    branches = sum(config.segment_flops(config.branch_tokens(rung), rung) for rung in rungs[:-1])
    assert cost == config.segment_flops(0, rungs[-1]) + branches
    assert all(before <= after for before, after in pairwise(starts))


@given(st.integers(1, 12), st.integers(1, 12), st.integers(4, 200), st.floats(0.01, 1.0), st.floats(0.0, 1.0))
def test_steps_meet_every_branch_and_rung_that_a_ramp_ends_before(
    full: int, start: int, rung_steps: int, share: float, ramp: float
) -> None:
    """A ramp ends two steps before the branch, where a search file is accepted; the rest is whole steps."""
    config = replace(CONFIG, batch_sequences=full, batch_start_sequences=min(start, full), decay_share=share)
    rung = rung_steps * config.step_tokens
    branch = config.branch_tokens(rung)
    config = replace(config, batch_ramp_tokens=round(ramp * max(0, branch - 2 * config.step_tokens)))
    places, tokens = {0}, 0
    while tokens < rung:
        tokens += config.batch_sequences_at(tokens) * config.architecture.context_tokens
        places.add(tokens)
    assert {branch, rung} <= places


@given(st.integers(1, 100), st.floats(0.01, 1.0), st.floats(0.0, 1.0))
def test_schedule_of_a_rung_ends_at_its_floor(steps: int, share: float, floor: float) -> None:
    config = replace(CONFIG, warmup_tokens=0, decay_share=share, decay_floor=floor)
    rung = steps * config.step_tokens
    assert config.schedule(0, 2 * rung) == 1.0
    assert config.schedule(config.branch_tokens(rung), rung) == 1.0
    assert config.schedule(rung, rung) == floor
