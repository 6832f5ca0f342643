"""How fast does a stack train? Beside a plain training loop, and a share of what this machine can multiply.

In one run on one machine: a plain eager loop (torch.nn, torch.optim.AdamW, one model), the same compiled by
torch.compile, and stacks of several sizes, eager and compiled, in float32 and in bfloat16. Widths of depth 2.

    python -m tests.benchmarks.stack_throughput [--json] [--widths 32,64,128] [--slots 1,4,8] [--seconds 2]
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from tests.benchmarks.harness import BATCH_SEQUENCES, CONTEXT_TOKENS, VOCABULARY, config_of, spec_of, text
from tests.benchmarks.plain_gpt import PlainGPT
from trials import model
from trials.data import training_batch
from trials.engine import Engine, choose_engine
from trials.model import Precision
from trials.program import Program, shape_of
from trials.stack import Stack
from trials.tokens import load_split
from trials.trial import Assignment, TrialConfig
from trials.validation import HeldOut

ROUNDS = 5  # the best of so many is reported: what else runs on the machine only slows
ENDLESS_TOKENS = 10**12 // (BATCH_SEQUENCES * CONTEXT_TOKENS) * BATCH_SEQUENCES * CONTEXT_TOKENS


@dataclass(frozen=True)
class Row:
    """One way to train one width."""

    width: int
    how: str
    slots: int
    tokens_per_s: float  # of all its trials together
    gflops_per_s: float
    over_plain: float
    of_matmul_peak: float  # of float32's
    first_step_s: float  # compiling


def matmul_peak(dtype: torch.dtype, seconds: float) -> float:
    """Best GFLOP/s of a product of two 2048 x 2048 matrices."""
    left, right = torch.randn(2, 2048, 2048).to(dtype)
    return 2 * 2048**3 / fastest(lambda: torch.mm(left, right), seconds) / 1e9


def fastest(step: Callable[[], object], seconds: float) -> float:
    """Seconds of one step: the best round, each long enough to be timed."""
    step()
    best = float("inf")
    for _ in range(ROUNDS):
        steps, started_s = 0, time.perf_counter()
        while time.perf_counter() - started_s < seconds / ROUNDS:
            step()
            steps += 1
        best = min(best, (time.perf_counter() - started_s) / steps)
    return best


def plain_loop(config: TrialConfig, tokens: np.ndarray, compiled: bool) -> Callable[[], float]:
    """The step that everybody writes: one torch.nn model, eager or compiled."""
    network, shape = PlainGPT(config.architecture), config.architecture
    network.load_row(shape, model.initial_weights(shape, config.parametrization, config.init_std, config.seed))
    optimizer = torch.optim.AdamW(
        network.decayed(), weight_decay=config.weight_decay, lr=config.learning_rate, betas=(config.beta1, config.beta2)
    )
    forward: Callable[[torch.Tensor], torch.Tensor] = torch.compile(network) if compiled else network
    steps = 0

    def step() -> float:
        nonlocal steps
        batch = training_batch(tokens, config.seed, steps, config.batch_sequences, CONTEXT_TOKENS)
        steps += 1
        optimizer.zero_grad()
        loss = forward(torch.from_numpy(batch))
        loss.backward()  # type: ignore[no-untyped-call]  # of torch
        torch.nn.utils.clip_grad_norm_(network.parameters(), config.gradient_clip)
        optimizer.step()
        return loss.item()

    return step


def stack_step(config: TrialConfig, tokens: np.ndarray, engine: Engine, slots: int) -> Callable[[], object]:
    """A step of a full stack, losses read each time as the device does each turn."""
    nothing = HeldOut(torch.zeros(0), torch.zeros(0))
    stack = Stack(shape_of(config), slots, Program(shape_of(config), engine), tokens, nothing)
    for slot in range(slots):
        stack.admit(Assignment(str(slot), config, ENDLESS_TOKENS, (), ""))

    def step() -> None:
        stack.step()
        stack.settle()

    return step


def ways(config: TrialConfig, tokens: np.ndarray, slots: list[int]) -> Iterator[tuple[str, int, Callable[[], object]]]:
    """Every way to train this width: a name, trials at once, and the step."""
    yield "plain loop, eager", 1, plain_loop(config, tokens, compiled=False)
    yield "plain loop, compiled", 1, plain_loop(config, tokens, compiled=True)
    auto = choose_engine("auto", True)
    engines = [
        Engine(auto.device, Precision.FLOAT32, False),
        Engine(auto.device, Precision.FLOAT32, auto.compiled),
        auto,
    ]
    for engine in dict.fromkeys(engines):
        name = f"stack, {'compiled' if engine.compiled else 'eager'}, {engine.precision}"
        for count in slots:
            yield name, count, stack_step(config, tokens, engine, count)


def measure(widths: list[int], slots: list[int], seconds: float) -> tuple[dict[str, float], list[Row]]:
    """Matmul peaks in GFLOP/s, and a row for every width and way."""
    peaks = {str(p): matmul_peak(p.dtype, seconds) for p in Precision}
    tokens, rows = load_split(text(), "train"), []
    spec = spec_of(widths)
    for proxy, width in enumerate(widths):
        config, plain = config_of(spec, proxy, ENDLESS_TOKENS, 1e-3, 0), 0.0
        for how, count, step in ways(config, tokens, slots):
            started_s = time.perf_counter()
            step()
            first_step_s = time.perf_counter() - started_s
            tokens_per_s = count * config.step_tokens / fastest(step, seconds)
            plain = plain or tokens_per_s
            gflops = tokens_per_s * config.architecture.training_flops_per_token / 1e9
            share = gflops / peaks[Precision.FLOAT32]
            rows.append(Row(width, how, count, tokens_per_s, gflops, tokens_per_s / plain, share, first_step_s))
            torch._dynamo.reset()
    return peaks, rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--widths", default="32,64,128")
    parser.add_argument("--slots", default="1,4,8")
    parser.add_argument("--seconds", type=float, default=2.0)
    options = parser.parse_args()
    threads = os.cpu_count() or 1
    torch.set_num_threads(threads)
    widths, slots = ([int(part) for part in text_.split(",")] for text_ in (options.widths, options.slots))
    peaks, rows = measure(widths, slots, options.seconds)
    if options.json:
        print(json.dumps({"threads": threads, "matmul_gflops": peaks, "rows": [asdict(row) for row in rows]}, indent=2))
        return
    title = f"{threads} threads, batch {BATCH_SEQUENCES} x {CONTEXT_TOKENS}, vocabulary {VOCABULARY}; matmul peak "
    table = Table(title=title + ", ".join(f"{name} {peak:.0f} GFLOP/s" for name, peak in peaks.items()))
    for column in ("width", "how", "trials", "tokens/s", "GFLOP/s", "over plain", "of float32 peak", "first step"):
        table.add_column(column)
    for row in rows:
        speed = (f"{row.tokens_per_s:,.0f}", f"{row.gflops_per_s:.0f}", f"{row.over_plain:.2f}x")
        table.add_row(
            str(row.width), row.how, str(row.slots), *speed, f"{row.of_matmul_peak:.0%}", f"{row.first_step_s:.1f} s"
        )
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
