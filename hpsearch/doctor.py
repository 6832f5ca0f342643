"""Is this machine fit for a search, and how long will it take? Each finding is measured, not guessed."""

from __future__ import annotations

import importlib.metadata
import importlib.resources
import os
import shutil
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil

from hpsearch.corpus_source import corpus_source
from hpsearch.finding import Finding
from hpsearch.plan import PROOF, architecture, expected_flops, smallest_batch, trial_config
from hpsearch.search import RECORDED_VERSIONS
from hpsearch.spec import Spec, load_spec
from hpsearch.ui import LOOPBACK, free_port
from search_spaces.errors import UserError
from trials.engine import choose_engine, keep_compiled, shortfalls
from trials.speed import training_flops_per_s
from trials.tokens import prepare

MIN_FREE_BYTES = 2 * 2**30  # Ray's session, the MLflow store, checkpoints and tokens of a small search
MIN_MEMORY_BYTES = 3 * 2**30
START_S = 25.0  # Ray, workers and the store, before the first step and after the last


def examine(file: Path | None, home: Path, cache: Path) -> list[Finding]:
    """Looks at everything that a search needs.

    Args:
        file: the search to time; the quickstart where there is none.
        home: folder of the searches.
        cache: folder of the tokens and of compiled code.
    """
    keep_compiled(cache)
    spec = load_spec(file) if file else quickstart()
    findings = [_versions(), _threads(), _memory(), _disk(home), _ports(), _text(spec, cache)]
    return [*findings, *_time(spec)]


def quickstart() -> Spec:
    """The shipped quickstart."""
    with importlib.resources.as_file(importlib.resources.files("search_spaces") / "quickstart.yaml") as path:
        return load_spec(path)


def _versions() -> Finding:
    python = f"python {sys.version_info.major}.{sys.version_info.minor}.{sys.version_info.micro}"
    packages = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in RECORDED_VERSIONS)
    return Finding("versions", sys.version_info >= (3, 11), f"{python}, {packages}")


def _threads() -> Finding:
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    busy = psutil.cpu_percent(interval=0.3) / 100
    return Finding("threads", usable >= 1, f"{usable} usable, {busy:.0%} busy now")


def _memory() -> Finding:
    available = psutil.virtual_memory().available
    text = f"{available / 2**30:.1f} GiB available"
    return Finding("memory", available >= MIN_MEMORY_BYTES, _needs(text, available, MIN_MEMORY_BYTES))


def _disk(home: Path) -> Finding:
    existing = next(folder for folder in (home, *home.parents) if folder.exists())
    free = shutil.disk_usage(existing).free
    writable = os.access(existing, os.W_OK)
    text = f"{free / 2**30:.0f} GiB free at {existing}" if writable else f"{existing} is not writable; give --home"
    return Finding("disk", writable and free >= MIN_FREE_BYTES, _needs(text, free, MIN_FREE_BYTES))


def _ports() -> Finding:
    try:
        port = free_port()
        with socket.create_server((LOOPBACK, port)):
            return Finding("ports", True, f"loopback can be listened on ({port} was free)")
    except OSError as error:
        return Finding("ports", False, f"no port on loopback: {error.strerror}; Ray and the MLflow UI need some")


def _text(spec: Spec, cache: Path) -> Finding:
    try:
        tokens = prepare(corpus_source(spec), spec.text.vocabulary, cache, lambda note: None)
    except UserError as error:
        return Finding("text", False, str(error))
    sizes = ", ".join(f"{split} {count:,}" for split, count in tokens.num_tokens.items())
    return Finding("text", True, f"corpus {tokens.corpus_id}, tokens: {sizes}")


def _time(spec: Spec) -> Iterator[Finding]:
    """One measured step a size, and what they add up to."""
    batch = smallest_batch(spec)
    seconds = START_S
    wanted = spec.device.precision, spec.device.compile
    try:
        engine = choose_engine(*wanted, spec.slots, os.cpu_count() or 1, spec.device.kind)
    except UserError as error:
        yield Finding("speed", False, str(error))
        return
    yield from (Finding("speed", True, remark) for remark in shortfalls(*wanted, engine))
    lowest = {name: spec.ends(name)[0] for name in spec.space}
    for proxy in [*range(len(spec.ladder)), *([PROOF] if spec.proof else [])]:
        shape = architecture(spec, proxy)
        config = trial_config(spec, proxy, {**lowest, "batch_sequences": float(batch)}, spec.seed)
        speed = training_flops_per_s(config, engine, spec.slots)
        seconds += expected_flops(spec, proxy) / speed
        step_s = spec.slots * batch * spec.context_tokens * shape.training_flops_per_token / speed
        text = f"{shape.width}x{shape.depth}: {step_s * 1000:.1f} ms a step, {speed / 1e9:.0f} GFLOP/s"
        yield Finding("step", True, text)
    yield Finding("time", True, f"{spec.name} will take about {seconds / 60:.1f} minutes on this machine as it is now")


def _needs(text: str, has: int, least: int) -> str:
    return text if has >= least else f"{text}; at least {least / 2**30:.0f} GiB are needed"
