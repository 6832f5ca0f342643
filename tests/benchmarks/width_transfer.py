"""Does the best learning rate stay where it is when width grows? Under mup, and under standard beside it.

Widths 64 and 256, depth 2, on real text: 9 learning rates half an octave apart, 4 paired seeds. The centre of
each width is that of a parabola through the losses near the best, its interval from resampled seeds. Says
`not resolved` where the interval of the shift is wider than the question.

    python -m tests.benchmarks.width_transfer [--json] [--output FILE.svg] [--tokens 200000] [--widths 64,256]
        [--rules mup,standard]
"""

from __future__ import annotations

import json
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.table import Table

from tests.benchmarks.harness import config_of, open_device, read_options, spec_of, train, whole_steps

SEEDS = (0, 1, 2, 3)
OCTAVES = np.arange(-4, 5) / 2  # of the grid, around the centre
GRID_CENTRE = 2**-9.5
WINDOW = 0.08  # losses this near the best are on the parabola
DRAWS = 2000
ALLOWED_OCTAVES = 0.5
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Shift:
    """Where the best rate goes from the narrow to the wide model, in octaves, with its 80 % interval."""

    rule: str
    centres: tuple[float, ...]  # best learning rate of each width
    shift: float
    low: float
    high: float
    bracketed: bool  # whether the grid goes beyond the best rate of each width, on both sides

    @property
    def verdict(self) -> str:
        """What the interval allows to say."""
        if not self.bracketed:
            return "not resolved: a best rate lies at the edge of the grid"
        if max(abs(self.low), abs(self.high)) <= ALLOWED_OCTAVES:
            return f"within {ALLOWED_OCTAVES} octaves"
        if self.low > ALLOWED_OCTAVES or self.high < -ALLOWED_OCTAVES:
            return f"more than {ALLOWED_OCTAVES} octaves"
        return "not resolved"


def centre(octaves: Floats, losses: Floats) -> float:
    """Lowest point of a parabola through the mean losses near the best, no further out than the grid."""
    near = losses <= losses.min() * (1 + WINDOW)
    if near.sum() < 4:
        near = np.argsort(np.argsort(losses)) < 4
    curvature, slope, _ = np.polyfit(octaves[near], losses[near], 2)
    lowest = -slope / (2 * curvature) if curvature > 0 else octaves[np.argmin(losses)]
    return float(np.clip(lowest, octaves.min(), octaves.max()))


def shift_of(rule: str, losses: Floats) -> Shift:
    """The shift of `losses` (widths, rates, seeds), seeds paired, its interval by resampling them."""
    finite = np.where(np.isfinite(losses), losses, np.nanmax(np.where(np.isfinite(losses), losses, np.nan)))
    generator = np.random.Generator(np.random.PCG64(0))

    def centres(chosen: npt.NDArray[Any]) -> Floats:
        return np.array([centre(OCTAVES, of_width[:, chosen].mean(1)) for of_width in finite])

    best = centres(np.arange(losses.shape[2]))
    draws = [centres(chosen) for chosen in generator.integers(0, losses.shape[2], (DRAWS, losses.shape[2]))]
    low, high = np.percentile([draw[-1] - draw[0] for draw in draws], [10, 90])
    rates = tuple(float(GRID_CENTRE * 2**octave) for octave in best)
    bracketed = bool(np.all(np.abs(best) < OCTAVES.max()))
    return Shift(rule, rates, float(best[-1] - best[0]), float(low), float(high), bracketed)


def sweep(rule: str, widths: list[int], tokens: int) -> Floats:
    """Losses `(widths, rates, seeds)`."""
    spec = spec_of(widths, parametrization=rule)
    device, _ = open_device()
    rates = [float(GRID_CENTRE * 2**octave) for octave in OCTAVES]
    run_tokens = whole_steps(tokens)
    found = []
    for proxy, width in enumerate(widths):
        started_s = time.monotonic()
        trials = [(config_of(spec, proxy, run_tokens, rate, seed), [run_tokens]) for rate in rates for seed in SEEDS]
        with tempfile.TemporaryDirectory() as folder:
            measured = [m[-1].loss or float("inf") for m in train(device, trials, Path(folder))]
        found.append(np.array(measured).reshape(len(rates), len(SEEDS)))
        print(f"{rule} width {width}: {len(trials)} trials in {time.monotonic() - started_s:.0f} s", flush=True)
    return np.array(found)


def draw(path: Path, widths: list[int], losses: dict[str, Floats], shifts: list[Shift]) -> None:
    """Losses over the learning rate, a panel a parametrization, a curve a width."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.6), layout="constrained")
    for axes, shift in zip(figure.subplots(1, len(shifts), sharey=True, squeeze=False)[0], shifts, strict=True):
        rates = GRID_CENTRE * 2**OCTAVES
        for width, of_width, best in zip(widths, losses[shift.rule], shift.centres, strict=True):
            (line,) = axes.plot(rates, of_width.mean(1), marker="o", label=f"width {width}")
            axes.plot(rates, of_width, ".", color=line.get_color(), alpha=0.4)
            axes.axvline(best, color=line.get_color(), linestyle=":")
        finite = losses[shift.rule][np.isfinite(losses[shift.rule])]
        axes.set(xscale="log", xlabel="learning rate (of the base)", ylim=(finite.min() - 0.1, finite.min() + 1.5))
        axes.set_title(f"{shift.rule}: shift {shift.shift:+.2f} octaves [{shift.low:+.2f}, {shift.high:+.2f}]")
        axes.legend()
    figure.savefig(path)


def main() -> None:
    options = read_options(__doc__, "width_transfer.svg", tokens=200_000, widths="64,256", rules="mup,standard")
    widths = [int(part) for part in options.widths.split(",")]
    losses = {rule: sweep(rule, widths, options.tokens) for rule in options.rules.split(",")}
    shifts = [shift_of(rule, of_rule) for rule, of_rule in losses.items()]
    draw(options.output, widths, losses, shifts)
    if options.json:
        tables = {rule: of_rule.mean(2).tolist() for rule, of_rule in losses.items()}
        print(
            json.dumps([{**asdict(s), "verdict": s.verdict, "mean_losses": tables[s.rule]} for s in shifts], indent=2)
        )
        return
    table = Table(title=f"best learning rate at widths {options.widths}, {options.tokens:,} tokens, {len(SEEDS)} seeds")
    for column in ("parametrization", "best rates", "shift, octaves", "80 % interval", "verdict"):
        table.add_column(column)
    for shift in shifts:
        rates = ", ".join(f"{rate:.2e}" for rate in shift.centres)
        table.add_row(shift.rule, rates, f"{shift.shift:+.2f}", f"{shift.low:+.2f} to {shift.high:+.2f}", shift.verdict)
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
