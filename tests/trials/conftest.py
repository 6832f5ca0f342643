"""A tiny text and tiny trials: small enough that a hundred steps take a third of a second."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import settings

from trials.architecture import gpt
from trials.corpus import Split
from trials.engine import Engine
from trials.model import Precision
from trials.parametrization import OptimizerKind, standard
from trials.schedule import Decay
from trials.stack import Stack
from trials.tokens import TOKEN_DTYPE, TokenSet
from trials.trial import Assignment, DecayConvention, Measurement, Outcome, TrialConfig

settings.register_profile("trials", deadline=None)  # the first call of a product takes torch a second
settings.load_profile("trials")

ENGINE = Engine("cpu", Precision.FLOAT32, compiled=False)
ARCHITECTURE = gpt(width=16, depth=2, heads=2, context_tokens=16, vocabulary=61)
CONFIG = TrialConfig(
    architecture=ARCHITECTURE,
    parametrization=standard(ARCHITECTURE),
    optimizer=OptimizerKind.ADAMW,
    batch_sequences=4,
    batch_start_sequences=4,
    batch_ramp_tokens=0,
    learning_rate=1e-2,
    embedding_rate_ratio=1.0,
    unembedding_rate_ratio=1.0,
    hidden_rate_ratio=1.0,
    vector_rate_ratio=1.0,
    warmup_tokens=5 * 64,
    decay=Decay.LINEAR,
    decay_share=0.2,
    decay_floor=0.0,
    weight_decay=0.1,
    weight_decay_convention=DecayConvention.COUPLED,
    beta1=0.9,
    beta2=0.95,
    eps=1e-8,
    muon_momentum=0.95,
    gradient_clip=1.0,
    init_std=0.02,
    embedding_multiplier=1.0,
    output_multiplier=1.0,
    z_loss=0.0,
    logit_softcap=0.0,
    seed=3,
)
STEP_TOKENS = CONFIG.step_tokens
VALIDATION_TOKENS = 512


@pytest.fixture(scope="package", autouse=True)
def _one_thread() -> Iterator[None]:
    """Tiny products are slower on two threads than on one."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def token_set(tmp_path_factory: pytest.TempPathFactory) -> TokenSet:
    """A text of 61 tokens, each of which narrows the next down to three."""
    directory = tmp_path_factory.mktemp("tokens")
    num_tokens: dict[Split, int] = {"train": 20_000, "validation": 2_000, "far_validation": 2_000}
    for stream, (split, length) in enumerate(num_tokens.items()):
        noise = np.random.Generator(np.random.PCG64(stream)).integers(0, 3, length)
        text = np.zeros(length, dtype=TOKEN_DTYPE)
        for place in range(1, length):
            text[place] = (3 * int(text[place - 1]) + 7 + noise[place]) % ARCHITECTURE.vocabulary
        text.tofile(directory / f"{split}.bin")
    return TokenSet(directory, "corpus", "tokenizer", ARCHITECTURE.vocabulary, num_tokens)


def segment(folder: Path, trial_id: str, steps: int, config: TrialConfig = CONFIG) -> Assignment:
    """A segment from the initial weights to a rung of so many steps."""
    return Assignment(trial_id, config, steps * config.step_tokens, (), str(folder / f"{trial_id}-{steps}.safetensors"))


def next_segment(before: Assignment, steps: int) -> Assignment:
    """The segment that takes a trial from its rung to a later one."""
    save_to = Path(before.save_to).with_name(f"{before.trial_id}-{steps}.safetensors")
    rung_tokens = steps * before.config.step_tokens
    resume_from = (before.save_to, *before.resume_from)
    return replace(before, rung_tokens=rung_tokens, resume_from=resume_from, save_to=str(save_to))


def measurement(assignment: Assignment, loss: float) -> Measurement:
    """One that no training produced."""
    fault = Measurement.fault(assignment, Outcome.MEASURED, "")
    return replace(fault, loss=loss, checkpoint=assignment.save_to)


def finish(stack: Stack, *assignments: Assignment) -> dict[str, Measurement]:
    """Admits the segments and trains until the stack is empty; measurements by trial."""
    for assignment in assignments:
        stack.admit(assignment)
    measured: dict[str, Measurement] = {}
    while stack.slots:
        stack.step()
        measured |= {assignment.trial_id: measurement for assignment, measurement in stack.measure()}
    return measured
