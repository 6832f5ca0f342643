"""Predicted memory follows what it is made of; against measured memory, see also tests.benchmarks.memory_model."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.benchmarks.memory_model import CASES, MIB, measured_bytes
from tests.trials.conftest import CONFIG, VALIDATION_TOKENS
from trials.engine import Engine
from trials.memory import fits, is_out_of_memory, predicted_bytes
from trials.model import Precision
from trials.parametrization import OptimizerKind
from trials.program import Shape, shape_of

ENGINES = st.builds(
    Engine,
    device=st.sampled_from(["cpu", "cuda"]),
    precision=st.sampled_from(Precision),
    compiled=st.booleans(),
    batched=st.booleans(),
    lanes=st.integers(1, 4),
)
SHAPE = shape_of(CONFIG)
OTHER = replace(CONFIG, architecture=replace(CONFIG.architecture, feed_forward_width=128))


def predicted(slots: int, engine: Engine, shape: Shape = SHAPE) -> int:
    return predicted_bytes({shape: slots}, engine, VALIDATION_TOKENS)


@given(slots=st.integers(1, 40), engine=ENGINES)
def test_every_slot_takes_what_it_holds(slots: int, engine: Engine) -> None:
    more = predicted(slots + 1, engine) - predicted(slots, engine)
    assert more >= 3 * 4 * CONFIG.architecture.params_total  # weights, mean and square


@given(slots=st.integers(4, 40), engine=ENGINES)
def test_lanes_take_more_and_stacks_add_up(slots: int, engine: Engine) -> None:
    if engine.device == "cpu":
        assert predicted(slots, replace(engine, lanes=engine.lanes + 1)) >= predicted(slots, engine)
    both = predicted_bytes({SHAPE: slots, shape_of(OTHER): slots}, engine, VALIDATION_TOKENS)
    assert both > max(predicted(slots, engine), predicted(slots, engine, shape_of(OTHER)))


@given(slots=st.integers(1, 40), engine=ENGINES)
def test_a_larger_batch_or_muon_takes_more(slots: int, engine: Engine) -> None:
    plain = predicted(slots, engine)
    assert predicted(slots, engine, replace(SHAPE, batch_sequences=64)) > plain
    assert predicted(slots, engine, replace(SHAPE, optimizer=OptimizerKind.MUON)) >= plain


@given(slots=st.integers(1, 40), engine=ENGINES)
def test_what_is_predicted_fits_and_a_byte_less_does_not(slots: int, engine: Engine) -> None:
    need = predicted(slots, engine)
    assert fits({SHAPE: slots}, engine, VALIDATION_TOKENS, need)
    assert not fits({SHAPE: slots}, engine, VALIDATION_TOKENS, need - 1)


def test_refusals_of_memory_are_told_from_other_errors() -> None:
    with pytest.raises(RuntimeError) as refused:
        torch.empty(2**60, dtype=torch.uint8)
    assert is_out_of_memory(refused.value) and is_out_of_memory(MemoryError())
    with pytest.raises(RuntimeError) as mistaken:
        torch.zeros(2) @ torch.zeros(3)
    assert not is_out_of_memory(mistaken.value)


@pytest.mark.slow
@pytest.mark.parametrize("case", ["wide gpt adamw", "many slots gpt adamw", "many slots gpt adamw, two lanes"])
def test_predicted_is_measured(case: str) -> None:
    measured = measured_bytes(case)
    assert measured > 500 * MIB
    assert CASES[case].predicted_bytes == pytest.approx(measured, rel=0.15)
