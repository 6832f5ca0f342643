"""How fast does a stack train? Beside a plain training loop, and a share of what this machine can multiply.

In one run on one machine, each in a process of its own: a plain eager loop (torch.nn, torch.optim.AdamW, one model),
the same compiled by torch.compile, and stacks of several sizes, eager and compiled, in float32 and in bfloat16.
Widths of depth 2.

    python -m tests.benchmarks.stack_throughput [--json] [--widths 32,64,128] [--slots 1,4,8] [--seconds 2]
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection

import torch
from rich.console import Console
from rich.table import Table

from tests.benchmarks.harness import BATCH_SEQUENCES, CONTEXT_TOKENS, VOCABULARY, config_of, spec_of, text
from tests.benchmarks.training_speed import ROUNDS, best_rounds, call_s, matmul_peak, plain_loop, stack_turn
from trials.device import TURN_STEPS
from trials.engine import Engine, choose_engine, has_fast_bfloat16
from trials.model import Precision
from trials.program import Program, shape_of
from trials.tokens import load_split
from trials.trial import TrialConfig

CPUS = os.cpu_count() or 1
ENDLESS_TOKENS = 10**12 // (BATCH_SEQUENCES * CONTEXT_TOKENS) * BATCH_SEQUENCES * CONTEXT_TOKENS


@dataclass(frozen=True)
class Way:
    """One way to train one width."""

    width: int
    slots: int  # trials at once; 0 for a plain loop
    precision: Precision
    compiled: bool

    @property
    def trials(self) -> int:
        return max(1, self.slots)

    @property
    def steps(self) -> int:
        """Of all trials together, in one call."""
        return self.slots * TURN_STEPS if self.slots else 1

    @property
    def engine(self) -> Engine:
        return choose_engine(self.precision, self.compiled, self.trials, CPUS)

    @property
    def how(self) -> str:
        what = "compiled" if self.engine.compiled else "eager"
        return f"stack, {what}, {self.engine.precision}" if self.slots else f"plain loop, {what}"

    @property
    def config(self) -> TrialConfig:
        return config_of(spec_of([self.width]), 0, ENDLESS_TOKENS, 1e-3, 0)


@dataclass(frozen=True)
class Row:
    """What a way reached."""

    width: int
    how: str
    slots: int
    tokens_per_s: float  # of all its trials together
    gflops_per_s: float
    over_plain: float
    of_matmul_peak: float  # of float32's
    first_call_s: float  # a step or a turn, compiling


def ways(width: int, slots: list[int]) -> Iterator[Way]:
    """Every way to train this width, the plain loop first."""
    yield Way(width, 0, Precision.FLOAT32, False)
    yield Way(width, 0, Precision.FLOAT32, True)
    stacks = [(Precision.FLOAT32, False), *((precision, True) for precision in precisions())]
    for precision, compiled in stacks:
        yield from (Way(width, count, precision, compiled) for count in slots)


def precisions() -> list[Precision]:
    """Those that this machine computes fast; without bfloat16 a peak of it takes minutes and says nothing."""
    return list(Precision) if has_fast_bfloat16() else [Precision.FLOAT32]


def serve(way: Way, seconds: float, pipe: Connection) -> None:
    """A process of its own: sends the seconds of the first call, which compiles, then of each round asked for."""
    engine, tokens = way.engine, load_split(text(), "train")
    torch.set_num_threads(engine.threads)
    if way.slots:
        call = stack_turn(way.config, tokens, Program(shape_of(way.config), engine), way.slots)
    else:
        call = plain_loop(way.config, tokens, way.compiled)
    started_s = time.perf_counter()
    call()
    pipe.send(time.perf_counter() - started_s)
    while pipe.recv():
        pipe.send(call_s(call, seconds / ROUNDS))


def fastest(every: Sequence[Way], seconds: float) -> Iterator[tuple[Way, float, float]]:
    """Each way with the seconds of its first call and of its best round.

    Each way has a process of its own, as idle threads of one hold up the threads of another.
    """
    spawn, pipes, first_s = multiprocessing.get_context("spawn"), [], []
    for way in every:
        here, there = spawn.Pipe()
        spawn.Process(target=serve, args=(way, seconds, there), daemon=True).start()
        first_s.append(here.recv())
        pipes.append(here)
    best_s = best_rounds(pipes)
    for pipe in pipes:
        pipe.send(False)
    yield from zip(every, first_s, best_s, strict=True)


def measure(widths: list[int], slots: list[int], seconds: float) -> tuple[dict[str, float], list[Row]]:
    """Matmul peaks in GFLOP/s, and a row for every width and way."""
    peaks, rows = {str(p): matmul_peak(p.dtype, seconds) for p in precisions()}, []
    for width in widths:
        plain = 0.0
        for way, first_call_s, best_s in fastest(list(ways(width, slots)), seconds):
            speed = way.steps * way.config.step_tokens / best_s
            plain = plain or speed
            gflops = speed * way.config.architecture.training_flops_per_token / 1e9
            share = gflops / peaks[Precision.FLOAT32]
            rows.append(Row(width, way.how, way.trials, speed, gflops, speed / plain, share, first_call_s))
    return peaks, rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--widths", default="32,64,128")
    parser.add_argument("--slots", default="1,4,8")
    parser.add_argument("--seconds", type=float, default=2.0)
    options = parser.parse_args()
    widths, slots = ([int(part) for part in text_.split(",")] for text_ in (options.widths, options.slots))
    peaks, rows = measure(widths, slots, options.seconds)
    if options.json:
        print(json.dumps({"threads": CPUS, "matmul_gflops": peaks, "rows": [asdict(row) for row in rows]}, indent=2))
        return
    title = f"{CPUS} threads, batch {BATCH_SEQUENCES} x {CONTEXT_TOKENS}, vocabulary {VOCABULARY}; matmul peak "
    table = Table(title=title + ", ".join(f"{name} {peak:.0f} GFLOP/s" for name, peak in peaks.items()))
    for column in ("width", "how", "trials", "tokens/s", "GFLOP/s", "over plain", "of float32 peak", "first call"):
        table.add_column(column)
    for row in rows:
        speed = (f"{row.tokens_per_s:,.0f}", f"{row.gflops_per_s:.0f}", f"{row.over_plain:.2f}x")
        table.add_row(
            str(row.width), row.how, str(row.slots), *speed, f"{row.of_matmul_peak:.0%}", f"{row.first_call_s:.1f} s"
        )
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
