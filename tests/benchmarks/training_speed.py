"""What the benchmarks of speed share: a plain training loop, a turn of a full stack, and what a device can multiply."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection

import numpy as np
import torch

from tests.benchmarks.plain_gpt import PlainGPT
from trials import model
from trials.data import training_batch
from trials.device import TURN_STEPS
from trials.lanes import Lanes
from trials.program import Program, shape_of
from trials.stack import Stack
from trials.trial import Assignment, TrialConfig
from trials.validation import HeldOut

ROUNDS = 5  # the best of so many is reported: what else runs on the machine only slows
ENDLESS_STEPS = 10**8


def wait_for(device: str) -> None:
    """Until a device has done what it was given."""
    if device != "cpu":
        torch.cuda.synchronize(device)


def call_s(call: Callable[[], object], seconds: float) -> float:
    """Mean seconds of a call that waits for its device, over so many seconds of them."""
    times, started_s = 0, time.perf_counter()
    while time.perf_counter() - started_s < seconds:
        call()
        times += 1
    return (time.perf_counter() - started_s) / times


def best_rounds(pipes: Sequence[Connection]) -> list[float]:
    """The best of each process's rounds, which alternate, as the speed of a shared machine drifts."""
    best_s = [math.inf] * len(pipes)
    for _ in range(ROUNDS):
        for which, pipe in enumerate(pipes):
            pipe.send(True)
            best_s[which] = min(best_s[which], pipe.recv())
    return best_s


def matmul_peak(dtype: torch.dtype, seconds: float, device: str = "cpu") -> float:
    """Best GFLOP/s of a product of two square matrices, of 2048 rows on a CPU and 8192 on a GPU."""
    size = 2048 if device == "cpu" else 8192
    left, right = torch.randn(2, size, size, device=device).to(dtype)

    def product() -> None:
        torch.mm(left, right)
        wait_for(device)

    return 2 * size**3 / min(call_s(product, seconds / ROUNDS) for _ in range(ROUNDS)) / 1e9


def plain_loop(config: TrialConfig, tokens: np.ndarray, compiled: bool, device: str = "cpu") -> Callable[[], float]:
    """The step that everybody writes: one torch.nn model, eager or compiled; on a GPU in bfloat16 by autocast."""
    network, shape = PlainGPT(config.architecture), config.architecture
    network.load_row(shape, model.initial_weights(shape, config.parametrization, config.init_std, config.seed))
    network = network.to(device)
    optimizer = torch.optim.AdamW(
        network.decayed(), weight_decay=config.weight_decay, lr=config.learning_rate, betas=(config.beta1, config.beta2)
    )
    forward: Callable[[torch.Tensor], torch.Tensor] = torch.compile(network) if compiled else network
    seen = 0  # sequences

    def step() -> float:
        nonlocal seen
        batch = training_batch(tokens, config.seed, seen, config.batch_sequences, shape.context_tokens)
        seen += config.batch_sequences
        optimizer.zero_grad()
        with torch.autocast(device, torch.bfloat16, enabled=device != "cpu"):
            loss = forward(torch.from_numpy(batch).to(device))
        loss.backward()  # type: ignore[no-untyped-call]  # of torch
        torch.nn.utils.clip_grad_norm_(network.parameters(), config.gradient_clip)
        optimizer.step()
        return loss.item()

    return step


def stack_turn(config: TrialConfig, tokens: np.ndarray, program: Program, slots: int) -> Callable[[], object]:
    """A turn of a full stack, as the device gives it: so many steps of every trial."""
    nothing, engine = HeldOut(torch.zeros(0), torch.zeros(0)), program.engine
    stack = Stack(shape_of(config), slots, program, tokens, nothing)
    for slot in range(slots):
        stack.admit(Assignment(str(slot), config, ENDLESS_STEPS * config.step_tokens, (), ""))
    lanes = Lanes(engine.lanes, engine.threads)

    def turn() -> None:
        lanes.work_off(stack.groups, lambda start: stack.run(start, TURN_STEPS))
        stack.settle()

    return turn
