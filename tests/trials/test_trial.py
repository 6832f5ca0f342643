"""What crosses processes comes out as it went in, and segments add up to the trial."""

from __future__ import annotations

import json
from dataclasses import fields
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.trials.conftest import CONFIG, segment
from trials.architecture import Architecture
from trials.trial import Assignment, Measurement, Outcome, TrialConfig

NUMBERS = st.floats(allow_nan=False, allow_infinity=False)
COUNTS = st.integers(0, 2**63)
ARCHITECTURES = st.builds(lambda d, *rest: Architecture(d, rest[0], 1, rest[1], rest[2]), *[st.integers(1, 9999)] * 4)
CONFIGS = st.builds(
    TrialConfig,
    ARCHITECTURES,
    st.integers(1, 512),
    NUMBERS,
    COUNTS,
    *[NUMBERS] * 6,
    st.integers(0, 2**64 - 1),
)
ASSIGNMENTS = st.builds(Assignment, st.text(), CONFIGS, COUNTS, st.text(), st.text())
MEASUREMENTS = st.builds(
    Measurement,
    st.text(),
    COUNTS,
    st.sampled_from(Outcome),
    st.text(),
    *[NUMBERS] * 5,
    *[COUNTS] * 2,
    st.text(),
    *[COUNTS] * 2,
    NUMBERS,
)


@given(ASSIGNMENTS)
def test_assignment_survives_json(assignment: Assignment) -> None:
    assert Assignment.from_dict(json.loads(json.dumps(assignment.to_dict()))) == assignment


@given(MEASUREMENTS)
def test_measurement_survives_json(measurement: Measurement) -> None:
    again = Measurement.from_dict(json.loads(json.dumps(measurement.to_dict())))
    assert again == measurement
    assert isinstance(again.outcome, Outcome)


@pytest.mark.parametrize("outcome", [Outcome.DIVERGED, Outcome.FAIL])
def test_fault_names_the_segment_and_has_no_numbers(outcome: Outcome) -> None:
    assignment = segment(Path("folder"), "a", 20)
    fault = Measurement.fault(assignment, outcome, "out of luck")
    assert (fault.trial_id, fault.tokens, fault.outcome, fault.message) == ("a", 20 * 64, outcome, "out of luck")
    assert fault.checkpoint == ""
    numbers = {field.name: getattr(fault, field.name) for field in fields(fault) if field.name != "tokens"}
    assert {value for value in numbers.values() if not isinstance(value, str)} == {0}
    assert all(type(numbers[name]) is int for name in ("flops", "anneal_flops", "slots", "threads"))


def test_step_tokens_are_sequences_times_context() -> None:
    assert CONFIG.step_tokens == 4 * 16


@given(st.lists(st.integers(1, 10_000), min_size=1, max_size=6, unique=True), st.floats(0.01, 1.0))
def test_segments_of_a_trial_cost_the_last_rung_and_the_branches_before_it(steps: list[int], share: float) -> None:
    """Each goes on from where the last one's branch left the trunk."""
    config = TrialConfig(**{**vars(CONFIG), "decay_share": share})
    rungs = [num * config.step_tokens for num in sorted(steps)]
    starts = [0, *map(config.branch_tokens, rungs[:-1])]
    cost = sum(config.segment_flops(start, rung) for start, rung in zip(starts, rungs, strict=True))
    branches = sum(config.segment_flops(config.branch_tokens(rung), rung) for rung in rungs[:-1])
    assert cost == config.segment_flops(0, rungs[-1]) + branches
    assert all(before <= after for before, after in pairwise(starts))
