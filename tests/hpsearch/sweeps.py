"""A past sweep with a known optimum, as runs that any tool may have recorded."""

from __future__ import annotations

import csv
import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

SIZES = (1e6, 4e6, 16e6)
RATIOS = (10.0, 20.0, 40.0)
RATES = (5e-4, 1e-3, 2e-3, 4e-3, 8e-3)
HEADER = ("params", "tokens", "loss", "lr")


@dataclass(frozen=True)
class PastRun:
    """One run; its loss is annealed."""

    params: float
    tokens: float
    lr: float
    loss: float

    @property
    def cells(self) -> tuple[float, float, float, float]:
        return self.params, self.tokens, self.loss, self.lr


def past_runs(seed: int = 1) -> list[PastRun]:
    """Every learning rate at every size and budget; the best moves as N^-0.2."""
    return list(_runs(random.Random(seed)))


def _runs(luck: random.Random) -> Iterator[PastRun]:
    for params in SIZES:
        best = math.log2(2e-3) - 0.2 * math.log2(params / 4e6)
        for ratio in RATIOS:
            for lr in RATES:
                level = 1.8 + 200 / params**0.34 + 400 / (ratio * params) ** 0.3
                loss = level + 0.03 * (math.log2(lr) - best) ** 2 + luck.gauss(0, 0.003)
                yield PastRun(params, ratio * params, lr, loss)


def write_csv(path: Path, header: Sequence[str], rows: Sequence[Sequence[object]]) -> Path:
    """A CSV file as a spreadsheet would write it."""
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows(rows)
    return path


def sweep_csv(folder: Path) -> Path:
    """The sweep as a plain table."""
    return write_csv(folder / "sweep.csv", HEADER, [run.cells for run in past_runs()])
