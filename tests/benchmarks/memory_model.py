"""Is the predicted memory of a stack the measured one? Growth of the peak of resident memory, in fresh processes.

A process imports all, trains one tiny trial, and then a stack: all slots to their branches, with validation, and to
measurements with checkpoints. Run (about three minutes on two cores, most of it for the compiled cases; those in
bfloat16 only where the CPU multiplies in it, unless they are named):

    python -m tests.benchmarks.memory_model [--json] [CASE ...]
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from tests.trials.conftest import CONFIG
from trials.architecture import Architecture, Kind, gpt, llama
from trials.data import validation_batches
from trials.engine import Engine, has_fast_bfloat16
from trials.lanes import Lanes
from trials.memory import predicted_bytes
from trials.model import Precision
from trials.parametrization import OptimizerKind, standard
from trials.program import Program, shape_of
from trials.stack import Stack
from trials.trial import Assignment, Measurement, TrialConfig
from trials.validation import HeldOut

MIB = 2**20
STEPS = 4  # to the rung, the second half of them on the branch
STEPS_IN_LANES = 24  # until rows side by side have been at their peaks together
VALIDATION_SEQUENCES = 64
RATE = 1e-6  # random text teaches nothing; at this rate nothing diverges either


@dataclass(frozen=True)
class Case:
    """A stack whose slots are all filled."""

    config: TrialConfig
    engine: Engine
    slots: int

    @property
    def steps(self) -> int:
        return STEPS if self.engine.lanes == 1 else STEPS_IN_LANES

    @property
    def validation_tokens(self) -> int:
        return VALIDATION_SEQUENCES * self.config.architecture.context_tokens

    @property
    def predicted_bytes(self) -> int:
        return predicted_bytes({shape_of(self.config): self.slots}, self.engine, self.validation_tokens)


def case(
    architecture: Architecture,
    slots: int,
    sequences: int,
    optimizer: OptimizerKind = OptimizerKind.ADAMW,
    precision: Precision = Precision.FLOAT32,
    compiled: bool = False,
) -> Case:
    """On the CPU, with batches of so many sequences."""
    engine = Engine("cpu", precision, compiled)
    return Case(config_of(architecture, optimizer, sequences), engine, slots)


def config_of(architecture: Architecture, optimizer: OptimizerKind, sequences: int) -> TrialConfig:
    """A trial that branches in the middle."""
    return replace(
        CONFIG,
        architecture=architecture,
        parametrization=standard(architecture),
        optimizer=optimizer,
        batch_sequences=sequences,
        batch_start_sequences=sequences,
        learning_rate=RATE,
        decay_share=0.5,
    )


def in_lanes(plain: Case, lanes: int) -> Case:
    """The same with so many rows side by side."""
    return replace(plain, engine=replace(plain.engine, lanes=lanes))


def with_logit_knobs(plain: Case) -> Case:
    """The same with a z-loss and a soft cap."""
    return replace(plain, config=replace(plain.config, z_loss=1e-4, logit_softcap=30.0))


MUON, BFLOAT16 = OptimizerKind.MUON, Precision.BFLOAT16
WIDE_GPT = gpt(width=1024, depth=1, heads=8, context_tokens=16, vocabulary=512)
WIDE_LLAMA = llama(width=1024, depth=1, heads=8, context_tokens=16, vocabulary=512)
SMALL_GPT = gpt(width=128, depth=4, heads=4, context_tokens=32, vocabulary=2048)
SMALL_LLAMA = llama(width=256, depth=4, heads=8, context_tokens=32, vocabulary=1024)
WORDY_GPT = gpt(width=64, depth=2, heads=2, context_tokens=32, vocabulary=32_000)
WORDY_LLAMA = llama(width=64, depth=2, heads=2, context_tokens=32, vocabulary=32_000)
LONG_GPT = gpt(width=128, depth=4, heads=4, context_tokens=1024, vocabulary=256)
LONG_LLAMA = llama(width=128, depth=4, heads=4, kv_heads=2, context_tokens=1024, vocabulary=256)
BANDED_GPT = gpt(width=128, depth=4, heads=4, context_tokens=1024, vocabulary=256, band_tokens=128)
DEEP_GPT = gpt(width=256, depth=12, heads=4, context_tokens=128, vocabulary=512)
DEEP_LLAMA = llama(width=256, depth=12, heads=4, context_tokens=128, vocabulary=512)

CASES = {
    "wide gpt adamw": case(WIDE_GPT, 2, 2),
    "wide gpt muon": case(WIDE_GPT, 2, 2, MUON),
    "wide llama muon bfloat16": case(WIDE_LLAMA, 2, 2, MUON, BFLOAT16),
    "many slots gpt adamw": case(SMALL_GPT, 30, 2),
    "many slots gpt adamw, two lanes": in_lanes(case(SMALL_GPT, 30, 2), 2),
    "many slots llama muon": case(SMALL_LLAMA, 10, 2, MUON),
    "many slots gpt muon bfloat16": case(SMALL_GPT, 30, 2, MUON, BFLOAT16),
    "vocabulary gpt adamw": case(WORDY_GPT, 1, 64),
    "vocabulary llama adamw bfloat16": case(WORDY_LLAMA, 1, 64, precision=BFLOAT16),
    "vocabulary gpt adamw, z-loss and cap": with_logit_knobs(case(WORDY_GPT, 1, 64)),
    "vocabulary gpt adamw, small batch": case(WORDY_GPT, 4, 4),
    "long context gpt adamw": case(LONG_GPT, 1, 16),
    "long context llama adamw": case(LONG_LLAMA, 1, 12),
    "long context llama adamw bfloat16": case(LONG_LLAMA, 1, 12, precision=BFLOAT16),
    "long context banded gpt muon": case(BANDED_GPT, 1, 16, MUON),
    "deep gpt adamw": case(DEEP_GPT, 1, 16),
    "deep gpt adamw, two lanes": in_lanes(case(DEEP_GPT, 3, 16), 2),
    "deep gpt muon bfloat16": case(DEEP_GPT, 1, 16, MUON, BFLOAT16),
    "deep llama adamw": case(DEEP_LLAMA, 2, 16),
    "wide gpt adamw, compiled": case(WIDE_GPT, 3, 2, compiled=True),
    "wide llama muon bfloat16, compiled": case(WIDE_LLAMA, 2, 2, MUON, BFLOAT16, compiled=True),
    "many slots gpt adamw, compiled": case(SMALL_GPT, 30, 2, compiled=True),
    "vocabulary gpt adamw, z-loss and cap, compiled": with_logit_knobs(case(WORDY_GPT, 1, 64, compiled=True)),
    "vocabulary llama adamw bfloat16, compiled": case(WORDY_LLAMA, 1, 64, precision=BFLOAT16, compiled=True),
    "long context gpt adamw, compiled": case(LONG_GPT, 1, 24, compiled=True),
    "long context llama adamw bfloat16, compiled": case(LONG_LLAMA, 1, 24, precision=BFLOAT16, compiled=True),
    "deep gpt adamw, two lanes, compiled": in_lanes(case(DEEP_GPT, 3, 16, compiled=True), 2),
    "deep llama muon, compiled": case(DEEP_LLAMA, 2, 16, MUON, compiled=True),
}


def affordable() -> list[str]:
    """The cases that this machine computes in seconds each."""
    return [name for name, case in CASES.items() if case.engine.precision is not BFLOAT16 or has_fast_bfloat16()]


def peak_bytes() -> int:
    """Most resident memory that this process has had."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


def train(case: Case, folder: Path) -> None:
    """Every slot from the start to its rung."""
    config, shape = case.config, shape_of(case.config)
    context_tokens, vocabulary = config.architecture.context_tokens, config.architecture.vocabulary
    size = (VALIDATION_SEQUENCES + 1) * context_tokens
    text = np.random.default_rng(0).integers(0, vocabulary, size, dtype=np.uint16)
    sequences = torch.from_numpy(validation_batches(text, case.validation_tokens, context_tokens))
    stack = Stack(shape, case.slots, Program(shape, case.engine), text, HeldOut(sequences, sequences))
    for slot in range(case.slots):
        save_to = str(folder / f"{config.architecture.width}-{slot}.safetensors")
        stack.admit(Assignment(str(slot), replace(config, seed=slot), case.steps * config.step_tokens, (), save_to))
    lanes, measured = Lanes(case.engine.lanes, case.engine.threads), list[tuple[Assignment, Measurement]]()

    def to_the_rung(start: int) -> None:
        stack.run(start, case.steps)
        measured.extend(stack.measured(start))

    lanes.work_off(stack.groups, to_the_rung)
    assert len(measured) == case.slots and all(measurement.checkpoint for _, measurement in measured), measured


def growth_bytes(case: Case) -> int:
    """Growth of this process's peak with the stack, once a tiny one has had all libraries loaded."""
    build = gpt if case.config.architecture.kind is Kind.GPT else llama
    tiny = build(width=32, depth=1, heads=2, context_tokens=16, vocabulary=64)
    with tempfile.TemporaryDirectory() as folder:
        train(replace(case, config=config_of(tiny, case.config.optimizer, 2), slots=1), Path(folder))
        before_bytes = peak_bytes()
        train(case, Path(folder))
        return peak_bytes() - before_bytes


def measured_bytes(name: str) -> int:
    """Of a case, in a process of its own."""
    command = [sys.executable, "-m", "tests.benchmarks.memory_model", "--here", name]
    environment = {**os.environ, "MALLOC_ARENA_MAX": "1"}
    return int(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment).stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*", metavar="CASE", help=", ".join(CASES))
    parser.add_argument("--json", action="store_true", help="one object a line")
    parser.add_argument("--here", metavar="CASE", help="measure one in this process and print bytes")
    options = parser.parse_args()
    if options.here:
        print(growth_bytes(CASES[options.here]))
        return
    for name in options.cases or affordable():
        predicted, measured = CASES[name].predicted_bytes, measured_bytes(name)
        row = {"case": name, "predicted_mib": predicted // MIB, "measured_mib": measured // MIB}
        row["ratio"] = round(predicted / measured, 3)
        line = f"{name:48s} {row['predicted_mib']:>6} {row['measured_mib']:>6} {row['ratio']:>6}"
        print(json.dumps(row) if options.json else line)
        sys.stdout.flush()


if __name__ == "__main__":
    main()
