"""How a device computes: where, how precisely, compiled or not. Chosen once, when a device is taken."""

from __future__ import annotations

import os
import shutil
import sysconfig
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from search_spaces.errors import UserError
from trials.model import Precision

COMPILERS = {"CXX": ("g++",), "CC": ("gcc", "clang")}  # that torch looks for, by the variable that names another one


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


def choose_engine(precision: str, compiled: bool, slots: int, threads: int, kind: str = "auto") -> Engine:
    """The GPU that this process has been given, else its CPUs, shared out among the slots.

    Args:
        precision: float32, bfloat16, or auto: bfloat16 where products in it are fast and compiled code hides
            the conversions.
        compiled: whether to compile, where that can be done.
        slots: trials trained at once.
        threads: CPUs that there are for them.
        kind: cpu, cuda, or auto: a GPU where there is one.

    Raises:
        UserError: a GPU is wanted and there is none.
    """
    on_gpu = kind != "cpu" and torch.cuda.is_available()
    if kind == "cuda" and not on_gpu:
        raise UserError("device.kind: must be a device that is there, got cuda where torch finds no GPU; say auto")
    compiled = compiled and not compile_obstacle(on_gpu)
    if precision == "auto":
        precision = Precision.BFLOAT16 if compiled and (on_gpu or has_fast_bfloat16()) else Precision.FLOAT32
    if on_gpu:
        return Engine("cuda", Precision(precision), compiled, batched=True, threads=threads)
    lanes = min(slots, threads)
    return Engine("cpu", Precision(precision), compiled, threads=threads // lanes, lanes=lanes)


def shortfalls(precision: str, compiled: bool, engine: Engine) -> Iterator[str]:
    """Why this machine is slower than it could be at what `choose_engine` was asked for, and the remedies."""
    if compiled and not engine.compiled:
        in_float32 = " and in float32" if precision == "auto" and has_fast_bfloat16() else ""
        yield (
            f"no {compile_obstacle(engine.device != 'cpu')}: trials run eagerly{in_float32}, slower; install it, or "
            "say compile: false under device"
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


def keep_compiled(cache: Path) -> None:
    """Code that this process compiles is kept under a folder, where every later process finds it again.

    To be called before anything is compiled.
    """
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(cache / "compiled"))


def compile_obstacle(on_gpu: bool) -> str:
    """What this machine lacks for compiled steps, or nothing: a CPU's are C++, a GPU's are launched from C."""
    language, variable = ("C", "CC") if on_gpu else ("C++", "CXX")
    compilers: Sequence[str] = [os.environ[variable]] if variable in os.environ else COMPILERS[variable]
    if not any(shutil.which(compiler) for compiler in compilers):
        return f"{language} compiler ({' or '.join(compilers)})"
    if not Path(sysconfig.get_path("include"), "Python.h").is_file():
        return "Python.h (Debian's package python3-dev)"
    return ""
