"""How fast this machine trains: a few real steps of a real stack."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from torch import Tensor

from trials import model
from trials.engine import Engine
from trials.lanes import Lanes
from trials.program import Captured, Program, State, shape_of
from trials.rates import step_numbers
from trials.trial import TrialConfig

WARMUP_STEPS = 2
TIMED_STEPS = 5


def training_flops_per_s(config: TrialConfig, engine: Engine, slots: int) -> float:
    """Training FLOPs per second of a stack of `slots` such trials on random tokens, compiling left out."""
    shape, architecture = shape_of(config), config.architecture
    program, group, lanes = Program(shape, engine), engine.group(slots), Lanes(engine.lanes, engine.threads)
    row = model.initial_weights(architecture, config.parametrization, config.init_std, config.seed)
    weights = row.repeat(slots, 1).to(engine.device)
    state = State(weights, torch.zeros_like(weights), torch.zeros_like(weights))
    sizes = (group, config.batch_sequences, architecture.context_tokens + 1)
    tokens = torch.randint(architecture.vocabulary, sizes, device=engine.device)
    share = torch.full(sizes[:2], 1 / config.batch_sequences, device=engine.device)
    numbers = step_numbers(config, 0, config.step_tokens, 1).astype(np.float32)
    columns = torch.from_numpy(np.tile(numbers, (group, 1))).to(engine.device)

    def step_of(start: int) -> Callable[..., tuple[Tensor, Tensor]]:
        rows = state.rows(start, start + group)
        return Captured(program, rows, tokens, share, columns) if engine.captures else partial(program.step, rows)

    every = {start: step_of(start) for start in range(0, slots, group)}

    def steps(count: int, start: int) -> None:
        for _ in range(count):
            loss, _ = every[start](tokens, share, columns)
        loss.sum().item()  # waits for the device

    lanes.work_off(every, partial(steps, WARMUP_STEPS))
    started_s = time.monotonic()
    lanes.work_off(every, partial(steps, TIMED_STEPS))
    step_s = (time.monotonic() - started_s) / TIMED_STEPS
    step_tokens = slots * config.batch_sequences * architecture.context_tokens
    return step_tokens * architecture.training_flops_per_token / step_s
