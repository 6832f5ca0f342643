"""How a device computes: where, how precisely, compiled or not. Chosen once, when a device is taken."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil
import torch

from trials.model import Precision

MEMORY_SHARE = 0.8  # of what is free when the device is taken; the rest is for everybody else
COMPILERS = ("g++", "clang++")


@dataclass(frozen=True)
class Engine:
    """It decides the bits of a trial, whatever its neighbours are and whatever else the machine has to do."""

    device: str  # as torch names it: cpu, cuda, cuda:1
    precision: Precision
    compiled: bool
    batched: bool = False  # all rows of a stack as one product, or one by one
    threads: int = 1  # that a row is computed with
    lanes: int = 1  # rows that are computed side by side; of no consequence for bits

    def group(self, slots: int) -> int:
        """Rows that are computed together."""
        return slots if self.batched else 1

    @property
    def captures(self) -> bool:
        """Whether a step is one graph, which a GPU replays."""
        return self.compiled and self.device != "cpu"


def choose_engine(precision: str, compiled: bool, slots: int, threads: int) -> Engine:
    """The GPU that this process has been given, else its CPUs, shared out among the slots.

    Args:
        precision: float32, bfloat16, or auto: bfloat16 where products in it are fast and compiled code hides
            the conversions.
        compiled: whether to compile, where that can be done.
        slots: trials trained at once.
        threads: CPUs that there are for them.
    """
    on_gpu = torch.cuda.is_available()
    compiled = compiled and (on_gpu or can_compile())
    if precision == "auto":
        precision = Precision.BFLOAT16 if compiled and (on_gpu or has_fast_bfloat16()) else Precision.FLOAT32
    if on_gpu:
        return Engine("cuda", Precision(precision), compiled, batched=True, threads=threads)
    lanes = min(slots, threads)
    return Engine("cpu", Precision(precision), compiled, threads=threads // lanes, lanes=lanes)


def shortfalls(precision: str, compiled: bool, engine: Engine) -> Iterator[str]:
    """Why this machine is slower than it could be at what `choose_engine` was asked for, and the remedies."""
    if compiled and not engine.compiled:
        yield (
            f"no C++ compiler ({' or '.join(_compilers())}): trials run eagerly, slower, with the same results; "
            "install one, or say compile: false under device"
        )
    if precision == Precision.BFLOAT16 and engine.device == "cpu" and not has_fast_bfloat16():
        yield (
            "this CPU has no products in bfloat16, and takes dozens of times as long for them as in float32; "
            "say precision: auto under device"
        )


def has_fast_bfloat16() -> bool:
    """Whether this machine's CPUs multiply in bfloat16; others take dozens of times as long as in float32."""
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


def free_bytes(engine: Engine) -> float:
    """Memory that the stacks of a device may take, unless a search says so itself."""
    free = psutil.virtual_memory().available if engine.device == "cpu" else torch.cuda.mem_get_info()[0]
    return MEMORY_SHARE * free


def keep_compiled(cache: Path) -> None:
    """Code that this process compiles is kept under a folder, where every later process finds it again.

    To be called before anything is compiled.
    """
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(cache / "compiled"))


def can_compile() -> bool:
    """Whether this machine has the C++ compiler that compiled CPU code needs."""
    return any(shutil.which(compiler) for compiler in _compilers())


def _compilers() -> Sequence[str]:
    return [os.environ["CXX"]] if "CXX" in os.environ else COMPILERS
