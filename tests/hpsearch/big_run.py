"""A made-up family of models with a known truth, its table of runs, and the log of a big run of it."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pandas as pd

SIZES, RATIOS = (2.5e5, 1e6, 4e6), (8, 40)
PARAMS, TOKENS = 1.6e7, 3.2e8  # of the big run
TARGET = f"params={PARAMS:g},tokens={TOKENS:g}"
GAP = 0.04  # ln of the un-annealed loss over the annealed one
NOISE = 0.001  # relative sd of a run's loss
LOG_NOISE = 0.003  # of a logged one
DECAY_SHARE = 0.2


def best_octaves(params: float, tokens: float) -> float:
    """log2 of the best learning rate."""
    return -8 - 0.4 * math.log2(params / 1e6) + 0.1 * math.log2(tokens / 1e7)


def floor(params: float, tokens: float) -> float:
    """The annealed loss at the best learning rate."""
    return float(0.8 + 60 * params**-0.35 + 120 * tokens**-0.35)


def cost(octaves: float) -> float:
    """Relative loss of a learning rate some octaves above the best."""
    return 0.006 * octaves**2


def runs(with_raw: bool = True) -> pd.DataFrame:
    """Seven learning rates a setting."""
    generator, rows = np.random.default_rng(3), []
    for params, tokens in [(size, ratio * size) for size in SIZES for ratio in RATIOS]:
        for octaves in (-2.0, -1.3, -0.6, 0.1, 0.8, 1.5, 2.2):
            loss = floor(params, tokens) * (1 + cost(octaves) + NOISE * generator.standard_normal())
            raw = loss * math.exp(GAP + 0.003 * octaves + 0.001 * generator.standard_normal())
            rows.append((params, tokens, loss, raw, 2 ** (best_octaves(params, tokens) + octaves)))
    table = pd.DataFrame(rows, columns=["params", "tokens", "loss", "raw_loss", "lr"])
    return table if with_raw else table.drop(columns="raw_loss")


def big_run(share: float = 0.4, rows: int = 60, params: float = PARAMS, seed: int = 0) -> pd.DataFrame:
    """The log of a run that is on track, up to a share of its tokens; it warms up over the first fiftieth."""
    generator = np.random.default_rng(seed)
    tokens = np.linspace(share * TOKENS / rows, share * TOKENS, rows)
    annealed = np.array([floor(params, t / (1 - DECAY_SHARE)) for t in tokens])
    loss = annealed * np.exp(GAP + LOG_NOISE * generator.standard_normal(rows))
    return pd.DataFrame({"tokens": tokens, "loss": loss})


def falling_behind(log: pd.DataFrame, a_doubling: float) -> pd.DataFrame:
    """The same with a gap that opens from the end of the warmup on."""
    octaves = np.maximum(np.log2(log["tokens"] / (TOKENS / 50)), 0.0)
    return log.assign(loss=log["loss"] * np.exp(a_doubling * octaves))


def late(log: pd.DataFrame, doublings: float) -> pd.DataFrame:
    """The same as that of a run that is some doublings late, having fallen behind after its warmup."""
    octaves = np.clip(np.log2(log["tokens"] / (TOKENS / 50)), 0.0, doublings)
    now, then = (
        np.array([floor(PARAMS, t / (1 - DECAY_SHARE)) for t in tokens])
        for tokens in (log["tokens"], log["tokens"] / 2**octaves)
    )
    return log.assign(loss=log["loss"] * then / now)


def written(path: Path, table: pd.DataFrame) -> Path:
    table.to_csv(path, index=False)
    return path
