"""How fast does a stack train on a GPU? Beside a plain training loop, and a share of what the GPU can multiply.

Each way in a process of its own, all of which compile side by side and are then timed one after the other: a plain
eager loop with bfloat16 autocast (torch.nn, torch.optim.AdamW, one model), the same compiled, and stacks of several
sizes whose step is compiled and captured as a CUDA graph. Random tokens, so nothing is needed but torch:

    python -m tests.benchmarks.gpu_throughput [--json] [CASE[:SLOTS,...] ...]
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from multiprocessing.connection import Connection

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from tests.benchmarks.training_speed import best_rounds, call_s, matmul_peak, plain_loop, stack_turn
from tests.trials.conftest import CONFIG
from trials import model
from trials.architecture import Architecture, gpt
from trials.data import validation_batches
from trials.device import TURN_STEPS
from trials.engine import Engine
from trials.memory import predicted_bytes
from trials.model import Precision
from trials.parametrization import standard
from trials.program import Program, shape_of
from trials.rates import idle_numbers
from trials.trial import TrialConfig
from trials.validation import HeldOut

DEVICE = "cuda"
VOCABULARY, BATCH_SEQUENCES, HEAD_SIZE = 4096, 16, 64
ROUND_S = 0.5
CORPUS_TOKENS, VALIDATION_TOKENS = 10_000_000, 65_536


def proxy(width: int, depth: int, context_tokens: int) -> Architecture:
    """A GPT with heads of 64."""
    return gpt(width, depth, width // HEAD_SIZE, context_tokens, VOCABULARY)


CASES = {  # a shape, and how many trials at once
    "w128": (proxy(128, 4, 256), (8, 16, 32, 64)),
    "w256": (proxy(256, 4, 256), (8, 16, 32)),
    "w512": (proxy(512, 6, 512), (4, 8, 16)),
}


@dataclass(frozen=True)
class Way:
    """One way to train one shape."""

    case: str
    slots: int  # trials at once; 0 for a plain loop
    compiled: bool = True

    @property
    def trials(self) -> int:
        return max(1, self.slots)

    @property
    def how(self) -> str:
        return "stack" if self.slots else f"plain loop, {'compiled' if self.compiled else 'eager'}"

    @property
    def config(self) -> TrialConfig:
        shape = CASES[self.case][0]
        return replace(
            CONFIG,
            architecture=shape,
            parametrization=standard(shape),
            batch_sequences=BATCH_SEQUENCES,
            batch_start_sequences=BATCH_SEQUENCES,
            learning_rate=1e-4,
        )

    @property
    def engine(self) -> Engine:
        return Engine(DEVICE, Precision.BFLOAT16, compiled=True, batched=True)

    @property
    def call_tokens(self) -> int:
        """Of all trials together, in one call."""
        return self.config.step_tokens * (self.slots * TURN_STEPS if self.slots else 1)


@dataclass(frozen=True)
class Row:
    """What a way reached."""

    case: str
    how: str
    slots: int
    tokens_per_s: float  # of all its trials together
    tflops_per_s: float
    over_plain: float  # eager
    of_matmul_peak: float  # of bfloat16's
    first_call_s: float  # compiling
    validation_ms: float  # of one trial of a stack, on VALIDATION_TOKENS
    memory_gb: float  # most that torch had allocated
    predicted_gb: float  # by the memory model, of a stack


def validation(config: TrialConfig, tokens: np.ndarray, program: Program, slots: int) -> Callable[[], float]:
    """The validation of one trial of a stack at a rung."""
    shape = config.architecture
    windows = torch.from_numpy(validation_batches(tokens, VALIDATION_TOKENS, shape.context_tokens)).to(DEVICE)
    weights = model.initial_weights(shape, config.parametrization, config.init_std, config.seed).to(DEVICE)
    numbers = torch.from_numpy(idle_numbers().astype(np.float32)).to(DEVICE)
    held_out = HeldOut(windows, windows)
    return lambda: held_out.loss(program, weights.unsqueeze(0), numbers.unsqueeze(0), slots)


def serve(way: Way, pipe: Connection) -> None:
    """A process of its own: sends the seconds of the first call, which compiles, then of each round asked for.

    In the end its memory, and the seconds of a validation.
    """
    tokens = np.random.default_rng(0).integers(0, VOCABULARY, CORPUS_TOKENS, dtype=np.uint16)
    config, validate = way.config, None
    torch.set_num_threads(way.engine.threads)  # what was compiled with others is compiled again
    started_s = time.perf_counter()
    if way.slots:
        program = Program(shape_of(config), way.engine)
        call = stack_turn(config, tokens, program, way.slots)
        validate = validation(config, tokens, program, way.slots)
        validate()
    else:
        call = plain_loop(config, tokens, way.compiled, DEVICE)
    call()
    pipe.send(time.perf_counter() - started_s)
    while pipe.recv():
        pipe.send(call_s(call, ROUND_S))
    num_bytes = torch.cuda.max_memory_allocated()
    pipe.send((num_bytes, call_s(validate, ROUND_S) if validate else 0.0))


def timed(every: Sequence[Way]) -> Iterator[tuple[Way, float, float, tuple[int, float]]]:
    """Each way with the seconds of its first call and of its best round, and what it sends last. Rounds alternate."""
    spawn, pipes = multiprocessing.get_context("spawn"), list[Connection]()
    for way in every:
        here, there = spawn.Pipe()
        spawn.Process(target=serve, args=(way, there), daemon=True).start()
        pipes.append(here)
    first_s = [pipe.recv() for pipe in pipes]
    best_s, last = best_rounds(pipes), list[tuple[int, float]]()
    for pipe in pipes:  # one after the other, as the last thing sent is timed too
        pipe.send(False)
        last.append(pipe.recv())
    yield from zip(every, first_s, best_s, last, strict=True)


def measure(cases: dict[str, Sequence[int]]) -> tuple[float, list[Row]]:
    """The matmul peak in TFLOP/s, and a row for every case and way."""
    peak, plain, rows = matmul_peak(torch.bfloat16, 2.0, DEVICE) / 1e3, dict[str, float](), list[Row]()
    every = [Way(case, 0, compiled) for case in cases for compiled in (False, True)]
    every += [Way(case, count) for case, counts in cases.items() for count in counts]
    for way, first_call_s, best_s, (num_bytes, validation_s) in timed(every):
        shape = shape_of(way.config)
        speed = way.call_tokens / best_s
        over_plain = speed / plain.setdefault(way.case, speed)
        tflops = speed * shape.architecture.training_flops_per_token / 1e12
        predicted = predicted_bytes({shape: way.slots}, way.engine, VALIDATION_TOKENS) if way.slots else 0
        rows.append(
            Row(
                way.case,
                way.how,
                way.trials,
                speed,
                tflops,
                over_plain,
                tflops / peak,
                first_call_s,
                1e3 * validation_s,
                num_bytes / 1e9,
                predicted / 1e9,
            )
        )
    return peak, sorted(rows, key=lambda row: list(CASES).index(row.case))


def parse_case(text: str) -> tuple[str, Sequence[int]]:
    """`CASE` or `CASE:SLOTS,SLOTS`."""
    name, _, counts = text.partition(":")
    return name, tuple(int(count) for count in counts.split(",")) if counts else CASES[name][1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*", metavar="CASE", default=list(CASES))
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        raise SystemExit("no GPU here; tests.benchmarks.stack_throughput measures CPUs")
    gpu = torch.cuda.get_device_name()
    peak, rows = measure(dict(map(parse_case, options.cases)))
    if options.json:
        data = {"gpu": gpu, "torch": torch.__version__, "matmul_tflops": peak, "rows": [asdict(row) for row in rows]}
        print(json.dumps(data, indent=2))
        return
    table = Table(title=f"{gpu}, torch {torch.__version__}, bfloat16; matmul peak {peak:.0f} TFLOP/s")
    for column in ("case", "how", "trials", "M tokens/s", "TFLOP/s", "over plain", "of peak", "first call"):
        table.add_column(column)
    for column in ("validation", "GB", "predicted"):
        table.add_column(column)
    for row in rows:
        cells = [row.case, row.how, str(row.slots), f"{row.tokens_per_s / 1e6:.2f}", f"{row.tflops_per_s:.1f}"]
        cells += [f"{row.over_plain:.1f}x", f"{row.of_matmul_peak:.0%}", f"{row.first_call_s:.0f} s"]
        cells += [f"{row.validation_ms:.1f} ms", f"{row.memory_gb:.1f}", f"{row.predicted_gb:.1f}"]
        table.add_row(*cells)
    Console(width=130).print(table)


if __name__ == "__main__":
    main()
