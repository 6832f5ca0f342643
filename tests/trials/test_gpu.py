"""The same trials on a GPU: batched rows, a captured step, bfloat16, and running out of its memory for real."""

from __future__ import annotations

import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.trials.conftest import ARCHITECTURE, CONFIG, ENGINE, VALIDATION_TOKENS, finish, next_segment, segment
from trials.architecture import Architecture, gpt, llama
from trials.data import validation_batches
from trials.device import Device
from trials.engine import Engine
from trials.memory import predicted_bytes
from trials.model import Precision
from trials.parametrization import OptimizerKind, standard
from trials.program import Program, shape_of
from trials.stack import Stack
from trials.tokens import TokenSet, load_split
from trials.trial import Assignment, Measurement, Outcome, TrialConfig
from trials.validation import HeldOut

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")]

STEPS = 30
EAGER = Engine("cuda", Precision.FLOAT32, compiled=False, batched=True)
CAPTURED = replace(EAGER, compiled=True)
BFLOAT16 = replace(CAPTURED, precision=Precision.BFLOAT16)
ROUNDING = 1e-3  # of losses after 30 steps whose sums had another order
SHAPES = {
    "gpt": ARCHITECTURE,
    "gpt-banded": replace(ARCHITECTURE, band_tokens=5),
    "llama": replace(llama(16, 2, 4, 16, 61, kv_heads=2), qk_norm=True),
}


def config_of(architecture: Architecture, optimizer: OptimizerKind = OptimizerKind.ADAMW) -> TrialConfig:
    return replace(CONFIG, architecture=architecture, parametrization=standard(architecture), optimizer=optimizer)


def stack_of(token_set: TokenSet, config: TrialConfig, engine: Engine, slots: int = 5) -> Stack:
    sequences = (
        validation_batches(load_split(token_set, split), VALIDATION_TOKENS, config.architecture.context_tokens)
        for split in ("validation", "far_validation")
    )
    held_out = HeldOut(*(torch.from_numpy(windows).to(engine.device) for windows in sequences))
    shape = shape_of(config)
    return Stack(shape, slots, Program(shape, engine), load_split(token_set, "train"), held_out)


def measured(stack: Stack, *assignments: Assignment) -> list[Measurement]:
    """Trains until the stack is empty; measurements in the order asked for."""
    by_trial = finish(stack, *assignments)
    return [by_trial[assignment.trial_id] for assignment in assignments]


def assert_same(found: Measurement, expected: Measurement, rel: float) -> None:
    assert found.outcome is expected.outcome is Outcome.MEASURED, (found.message, expected.message)
    for name in ("loss", "raw_loss", "far_loss", "train_loss"):
        assert getattr(found, name) == pytest.approx(getattr(expected, name), rel=rel), name
    for name in ("update_ratio", "max_attention_logit"):
        assert getattr(found, name) == pytest.approx(getattr(expected, name), rel=20 * rel), name


@pytest.mark.parametrize("optimizer", OptimizerKind)
@pytest.mark.parametrize("name", SHAPES)
def test_trial_is_that_of_the_cpu(token_set: TokenSet, tmp_path: Path, name: str, optimizer: OptimizerKind) -> None:
    """Among neighbours with other rates and seeds, of which one diverges."""
    config = config_of(SHAPES[name], optimizer)
    neighbours = [replace(config, seed=4, learning_rate=1e-3), replace(config, learning_rate=1e30, warmup_tokens=0)]
    (expected,) = measured(stack_of(token_set, config, ENGINE), segment(tmp_path / "cpu", "a", STEPS, config))
    assignments = [segment(tmp_path, str(k), STEPS, each) for k, each in enumerate([config, *neighbours])]
    found, _, wild = measured(stack_of(token_set, config, EAGER), *assignments)
    assert_same(found, expected, ROUNDING)
    assert wild.outcome is Outcome.DIVERGED
    assert found.device == "cuda"


@pytest.mark.parametrize(("name", "optimizer"), [("gpt-banded", OptimizerKind.ADAMW), ("llama", OptimizerKind.MUON)])
def test_captured_step_is_the_eager_step(
    token_set: TokenSet, tmp_path: Path, name: str, optimizer: OptimizerKind
) -> None:
    """Compiled and replayed as a CUDA graph, with slots that are freed and filled again; in bfloat16 nearly so."""
    config = config_of(SHAPES[name], optimizer)
    others = [replace(config, seed=seed, learning_rate=3e-3) for seed in (5, 6)]

    def trained(engine: Engine) -> list[Measurement]:
        stack, folder = stack_of(token_set, config, engine, slots=2), tmp_path / f"{engine.compiled}{engine.precision}"
        first = measured(stack, *(segment(folder, f"a{k}", STEPS, each) for k, each in enumerate([config, others[0]])))
        return first + measured(stack, segment(folder, "b", STEPS, others[1]))

    eager, captured, coarse = trained(EAGER), trained(CAPTURED), trained(BFLOAT16)
    for found, expected in zip(captured, eager, strict=True):
        assert_same(found, expected, ROUNDING)
    for found, expected in zip(coarse, eager, strict=True):
        assert found.loss == pytest.approx(expected.loss, rel=0.02)


def test_captured_step_does_not_wait_for_the_gpu(token_set: TokenSet, tmp_path: Path) -> None:
    stack = stack_of(token_set, CONFIG, BFLOAT16, slots=2)
    for name in ("a", "b"):
        stack.admit(segment(tmp_path, name, 1000))
    stack.run(0, 3)  # captured
    torch.cuda.set_sync_debug_mode("error")
    try:
        stack.run(0, 5)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    stack.settle()
    assert all(len(slot.losses) == 8 and math.isfinite(slot.losses[-1]) for slot in stack.slots)


def test_trial_goes_on_in_another_slot_of_another_stack(token_set: TokenSet, tmp_path: Path) -> None:
    first = segment(tmp_path, "a", STEPS)
    measured(stack_of(token_set, CONFIG, EAGER), first)
    other = stack_of(token_set, CONFIG, EAGER)
    _, found = measured(
        other, segment(tmp_path, "n", 2 * STEPS, replace(CONFIG, seed=7)), next_segment(first, 2 * STEPS)
    )
    (expected,) = measured(other, segment(tmp_path / "whole", "a", 2 * STEPS))
    assert_same(found, expected, ROUNDING)


@pytest.fixture
def _memory_returned() -> Iterator[None]:
    yield
    torch.cuda.set_per_process_memory_fraction(1.0)
    torch.cuda.empty_cache()


@pytest.mark.usefixtures("_memory_returned")
@pytest.mark.parametrize("engine", [EAGER, BFLOAT16])
def test_gpu_that_runs_out_of_memory_has_fewer_slots_and_loses_nothing(
    token_set: TokenSet, tmp_path: Path, engine: Engine
) -> None:
    """The memory model is told of memory without end, so that the GPU itself refuses."""
    config = replace(config_of(gpt(256, 4, 4, 256, 2048)), batch_sequences=16, batch_start_sequences=16)
    shape, asked = shape_of(config), 8
    torch.cuda.empty_cache()
    enough = predicted_bytes({shape: asked // 2}, engine, VALIDATION_TOKENS)
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + 1.3 * enough) / total)
    device = Device(token_set, asked, VALIDATION_TOKENS, engine, math.inf)
    trials = [segment(tmp_path, str(k), 6, replace(config, seed=k)) for k in range(asked)]
    with ThreadPoolExecutor(asked) as pool:
        answers = list(pool.map(device.advance, trials))
    assert [m.outcome for m in answers] == [Outcome.MEASURED] * asked, [m.message for m in answers]
    assert device.slots < asked
