"""What the benchmarks of training share: a text, a device, and trials trained on it without a search."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import platformdirs

from hpsearch.plan import run_config
from hpsearch.spec import Spec, check_spec
from trials.corpus import CorpusSource
from trials.device import Device
from trials.engine import Engine, choose_engine, keep_compiled
from trials.free_memory import free_bytes
from trials.tokens import TokenSet, prepare
from trials.trial import Assignment, Measurement, TrialConfig

VOCABULARY, CONTEXT_TOKENS, BATCH_SEQUENCES = 1024, 64, 8
VALIDATION_TOKENS = 65_536
SLOTS = 4


def spec_of(widths: Sequence[int], **sections: Any) -> Spec:
    """A search over proxies of these widths, depth 2, as a place to take configurations from."""
    data = {
        "name": "benchmark",
        "text": {"vocabulary": VOCABULARY},
        "context_tokens": CONTEXT_TOKENS,
        "ladder": [{"width": width, "depth": 2, "heads": max(1, width // 32), "trials": 1} for width in widths],
        "space": {"learning_rate": {"low": 1e-5, "high": 1.0}},
        "fixed": {"batch_sequences": BATCH_SEQUENCES, "warmup_fraction": 0.05},
        "scheduler": {"rung_ratios": [1.0]},
        "budget_flops": 1e15,
        "target": {"width": 1024, "depth": 2, "heads": 8, "tokens": 1e9},
    }
    return check_spec({**data, **sections}, "benchmark")


def config_of(spec: Spec, proxy: int, run_tokens: int, learning_rate: float, seed: int) -> TrialConfig:
    """A trial of one proxy whose run is so long."""
    shape = spec.architecture(spec.ladder[proxy])
    return run_config(spec, shape, run_tokens, {"learning_rate": learning_rate}, seed)


def read_options(what: str | None, picture: str, tokens: int, **more: str) -> argparse.Namespace:
    """The command line of a benchmark that trains and draws; `more` are options of its own with their defaults."""
    parser = argparse.ArgumentParser(description=what, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--output", type=Path, default=Path(picture))
    parser.add_argument("--tokens", type=int, default=tokens)
    for name, default in more.items():
        parser.add_argument(f"--{name}", default=default)
    return parser.parse_args()


def whole_steps(tokens: float) -> int:
    """Tokens rounded to whole optimizer steps."""
    step_tokens = BATCH_SEQUENCES * CONTEXT_TOKENS
    return max(1, round(tokens / step_tokens)) * step_tokens


def text(vocabulary: int = VOCABULARY) -> TokenSet:
    """The installed Python source, tokenized once."""
    cache = Path(os.environ.get("HPSEARCH_CACHE", platformdirs.user_cache_path("hpsearch")))
    keep_compiled(cache)
    return prepare(CorpusSource("python"), vocabulary, cache, lambda note: None)


def open_device(precision: str = "auto", compiled: bool = True) -> tuple[Device, Engine]:
    """This machine's device."""
    engine = choose_engine(precision, compiled, SLOTS, os.cpu_count() or 1)
    return Device(text(), SLOTS, VALIDATION_TOKENS, engine, free_bytes(engine)), engine


def train(device: Device, trials: Iterable[tuple[TrialConfig, Sequence[int]]], folder: Path) -> list[list[Measurement]]:
    """Each trial through its rungs; measurements in the order given, a list a trial."""

    def one(number: int, config: TrialConfig, rungs: Sequence[int]) -> list[Measurement]:
        measured: list[Measurement] = []
        for rung in rungs:
            files = tuple(m.checkpoint for m in reversed(measured))
            save_to = str(folder / f"{number}-{rung}.safetensors")
            measured.append(device.advance(Assignment(str(number), config, rung, files, save_to)))
            if not measured[-1].checkpoint:
                break
        return measured

    with ThreadPoolExecutor(SLOTS + 1) as pool:
        futures = [pool.submit(one, number, config, rungs) for number, (config, rungs) in enumerate(trials)]
        return [future.result() for future in futures]
