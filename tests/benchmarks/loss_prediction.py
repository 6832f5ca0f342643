"""How well is the loss at larger settings predicted from smaller ones, and how surely?

Three published tables. For growing windows of compute the settings inside are fitted and the larger ones outside are
predicted, by the stack of all laws and by each law alone; the errors are grouped by how far the compute reaches beyond
the window. A setting of more compute but fewer parameters or tokens than any fitted one is not larger; one more row
shows what happens there. Intervals of means by the bootstrap over windows, whose errors go together.

    OMP_NUM_THREADS=1 python -m tests.benchmarks.loss_prediction [--json]
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from rich.console import Console
from rich.table import Table

from hpsearch.transfer.loss_laws import fit_losses, is_larger
from tests.benchmarks.published import DENSE_TABLE, TABLES, Array, read_settings
from tests.benchmarks.surface_calibration import interval, ratio
from tests.benchmarks.tuning_measures import Estimate

RUN_NOISE = 0.0015  # relative sd of a setting's loss: about one run's luck, or one step of a digitised colour scale
MIN_SETTINGS, MIN_SPAN = 4, 3.0  # of a window; compute of its largest setting over its smallest
MAX_WINDOWS = 50  # of a table: with few of them the mean hangs on where one happens to end
REACHES = {"up to 3x": (0.0, 3.0), "3 to 18x": (3.0, 18.0), "beyond 18x": (18.0, float("inf"))}
BARS = {"up to 3x": 0.004, "3 to 18x": 0.008}  # mean relative error
WORSE_THAN_BEST = 0.001
MIN_COVERAGE, MISSED = 0.8, 1 - 0.9  # of 90 % intervals
STACK = "stack"


@dataclass(frozen=True)
class Answer:
    """One held-out setting. Errors are relative."""

    window: int
    reach: float  # its compute over the window's
    error: Mapping[str, float]  # absolute, of the stack and of each law
    covered: bool
    width: float
    score: float


@dataclass(frozen=True)
class Group:
    """The answers of one reach."""

    count: int
    error: dict[str, Estimate]  # mean
    coverage: Estimate
    width: float
    score: float  # mean

    @property
    def best_form(self) -> str:
        """The law that turned out best."""
        return min((name for name in self.error if name != STACK), key=lambda name: self.error[name].value)

    def verdict(self, bar: float) -> str:
        """The stack against what is asked of it."""
        mean, best = self.error[STACK].value, self.error[self.best_form].value
        asked = {
            f"error {mean:.2%} (at most {bar:.1%})": mean <= bar,
            f"{mean - best:+.2%} against {self.best_form} (at most {WORSE_THAN_BEST:+.1%})": mean
            <= best + WORSE_THAN_BEST,
            f"90 % intervals cover {self.coverage.value:.0%} (at least {MIN_COVERAGE:.0%})": self.coverage.value
            >= MIN_COVERAGE,
        }
        return ", ".join(f"{'ok' if held else 'MISSED'}: {text}" for text, held in asked.items())


def read_tables() -> dict[str, pd.DataFrame]:
    """Settings of each table, cheapest first; a table of hyperparameters by the floors of smooth fits to its runs."""
    floors = [(one.params, one.tokens, float(np.exp(one.floor))) for one in read_settings()]
    tables = {DENSE_TABLE.name: pd.DataFrame(floors, columns=["params", "tokens", "loss"])}
    tables |= {path.name: pd.read_csv(path) for path in other_tables()}
    return {
        name: table.assign(sd=RUN_NOISE, compute=6 * table["params"] * table["tokens"]).sort_values(
            "compute", ignore_index=True
        )
        for name, table in tables.items()
    }


def other_tables() -> list[Path]:
    """Those without hyperparameters."""
    return [TABLES / "isoflop_reference.csv", TABLES / "loss_ladder.csv"]


def windows(compute: Array) -> list[int]:
    """Numbers of settings to fit, evenly spaced over the log of their compute (S,), which ascends."""
    ends = [
        i
        for i in range(MIN_SETTINGS, len(compute))
        if compute[i - 1] >= MIN_SPAN * compute[0] and compute[i] > compute[i - 1]
    ]
    wanted = np.geomspace(compute[ends[0]], compute[ends[-1]], MAX_WINDOWS)
    return sorted({min(ends, key=lambda i: abs(np.log(compute[i] / at))) for at in wanted.tolist()})


def ask(settings: pd.DataFrame, window: int, everywhere: bool) -> Iterator[Answer]:
    """The settings beyond a window, with those that are no larger in size or tokens if asked for everywhere."""
    laws = fit_losses(settings.iloc[:window], RUN_NOISE)
    place = np.log2(settings[["params", "tokens"]].to_numpy(np.float64))
    largest = settings["compute"].iloc[window - 1]
    chosen = is_larger(place, place[:window]) | (everywhere & (np.arange(len(settings)) >= window))
    for _, (params, tokens, loss, compute) in settings.loc[chosen, ["params", "tokens", "loss", "compute"]].iterrows():
        told = laws.predict(params, tokens)
        each = {STACK: told.median, **laws.predict_each(params, tokens)}
        low, high = told.low90 / loss - 1, told.high90 / loss - 1
        yield Answer(
            window=window,
            reach=compute / largest,
            error={name: abs(value / loss - 1) for name, value in each.items()},
            covered=low <= 0 <= high,
            width=high - low,
            score=interval_score(low, high),
        )


def interval_score(low: float, high: float) -> float:
    """Width of a 90 % interval plus what it pays for missing a truth at 0; the least is best.

    Source: Gneiting and Raftery 2007, eq. 43.
    """
    return high - low + 2 / MISSED * (max(low, 0.0) + max(-high, 0.0))


def judge(settings: pd.DataFrame, everywhere: bool) -> dict[str, Group]:
    """All windows of a table, by reach."""
    sizes = windows(settings["compute"].to_numpy(np.float64))
    answers = [answer for size in sizes for answer in ask(settings, size, everywhere)]
    by_reach = {
        name: [answer for answer in answers if low < answer.reach <= high] for name, (low, high) in REACHES.items()
    }
    return {name: summarize(chosen) for name, chosen in by_reach.items() if chosen}


def summarize(answers: list[Answer]) -> Group:
    table = pd.DataFrame([{**answer.error, "covered": answer.covered} for answer in answers]).astype(np.float64)
    by_window = table.groupby([answer.window for answer in answers])
    count = np.asarray(by_window.size(), np.float64)
    mean = {
        str(name): ratio(column.to_numpy(np.float64), np.asarray(count)) for name, column in by_window.sum().items()
    }
    return Group(
        count=len(answers),
        coverage=mean.pop("covered"),
        error=mean,
        width=float(np.mean([answer.width for answer in answers])),
        score=float(np.mean([answer.score for answer in answers])),
    )


def draw_table(title: str, groups: Mapping[str, Group]) -> Table:
    """A row a law, a column a reach."""
    columns = (f"{name}, n = {group.count}" for name, group in groups.items())
    table = Table("mean error, %", *columns, title=title)
    for form in next(iter(groups.values())).error:
        table.add_row(form, *(interval(group.error[form], 100, 2) for group in groups.values()))
    table.add_section()
    table.add_row("90 % intervals cover, %", *(interval(group.coverage, 100, 0) for group in groups.values()))
    table.add_row("their width / score, %", *(f"{g.width:.2%} / {g.score:.2%}" for g in groups.values()))
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if missing := [path.name for path in (DENSE_TABLE, *other_tables()) if not path.exists()]:
        print(f"skipped: {', '.join(missing)} not in {TABLES}", file=sys.stderr)
        return
    tables = read_tables()
    found = {name: judge(table, everywhere=False) for name, table in tables.items()}
    anywhere = {name: judge(table, everywhere=True) for name, table in tables.items()}
    if options.json:
        parts = {"larger": found, "more compute": anywhere}
        plain = {
            part: {name: {reach: asdict(group) for reach, group in groups.items()} for name, groups in all_.items()}
            for part, all_ in parts.items()
        }
        print(json.dumps(plain, indent=2))
        return
    console = Console(width=120)
    for name, groups in found.items():
        console.print(draw_table(name, groups))
    for name, groups in found.items():
        for reach, bar in BARS.items():
            console.print(f"{name}, {reach}: {groups[reach].verdict(bar)}")
    for name, groups in anywhere.items():
        told = (f"{reach} {group.error[STACK].value:.2%} (n = {group.count})" for reach, group in groups.items())
        console.print(f"{name}, all settings of more compute, few tokens or not: {', '.join(told)}")


if __name__ == "__main__":
    main()
