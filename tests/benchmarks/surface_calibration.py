"""Is the surface as sure as it may be? Its intervals and bounds on made-up model families whose optimum is known.

Each family has a cliff, arms that are no parabolas, settings whose optimum strays and whose noise differs, and drifts
that are drawn: once about as widely as the neutral prior, once from a narrower law. A sweep of it is fitted and asked
for a larger size. Coverage can fail on both sides: 80 % intervals that always hold are too wide.

    OMP_NUM_THREADS=1 python -m tests.benchmarks.surface_calibration [--families 300] [--processes 2] [--json]
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial

import numpy as np
import pandas as pd
from rich.console import Console
from rich.table import Table

from hpsearch.surface import Surface, fit_surface
from search_spaces.parameter import Parameter, Scale
from tests.benchmarks.published import NAMES, NOISE_GROWTH, Array
from tests.benchmarks.tuning_measures import DRAWS, INTERVAL, Estimate

BOX = (Parameter("learning_rate", 2.0**-16, 2.0**-2, Scale.LOG), Parameter("batch_sequences", 1, 2.0**16, Scale.LOG))
REFERENCE = np.log2([2e8, 2e10])  # N and D from which a family counts its drift
FIRST_PARAMS = 1e8
MIN_FINITE = 5  # runs; a sweep with fewer is drawn again
DRIFT_MEAN = np.array([[-0.3, 0.1], [0.0, 0.45]])  # octaves of learning rate, batch per octave of N, D
DRIFTS = {
    "wide": np.array([[0.5, 0.5], [0.2, 0.25]]),
    "narrow": np.array([[0.35, 0.25], [0.15, 0.2]]),
}  # sd around these
RUN_GROUPS, REACH_GROUPS = ((12, 18), (19, 28), (29, 39)), ((0.3, 1.0), (1.0, 1.8), (1.8, 2.5))
MISSED = 1 - 0.8  # of an interval
COLUMNS = ("", "n", "regret, %", "p90 / worst", "stated", "bound holds", "bound / regret", *NAMES)
LEGEND = "of each parameter: share of 80 % intervals that cover, their mean width and mean score in octaves"


@dataclass(frozen=True)
class Answer:
    """What a surface says at a setting, against the truth. Regrets are fractions of the loss."""

    regret: float  # realised
    stated: float  # expected
    bound: float
    covered: tuple[bool, ...]  # of each parameter, by its 80 % interval
    width: tuple[float, ...]  # octaves
    score: tuple[float, ...]  # octaves


@dataclass(frozen=True)
class Summary:
    """Many answers; intervals by the bootstrap."""

    count: int
    regret: Estimate  # mean
    p90: float
    worst: float
    stated: float  # mean
    bound_holds: Estimate  # share
    bound_over_regret: Estimate  # of the means
    coverage: dict[str, Estimate]
    width: dict[str, float]
    score: dict[str, float]


def judge(
    surface: Surface, params: float, tokens: float, optimum: Array, regret: Callable[[Array], float], units: Array
) -> Answer:
    """The answer at a setting.

    Args:
        optimum: (2,) true octaves.
        regret: of octaves (2,), the truth.
        units: (2,) octaves by which the surface's values exceed those of the truth.
    """
    estimates = surface.optimum(params, tokens)
    config = {name: estimates[name].value for name in NAMES}
    stated = surface.expected_regret(params, tokens, config)
    ends = np.log2([[estimates[name].low80, estimates[name].high80] for name in NAMES]) - units[:, None]
    realised = regret(np.log2([config[name] for name in NAMES]) - units)
    pairs = list(zip(ends.tolist(), optimum.tolist(), strict=True))
    return Answer(
        regret=realised,
        stated=stated.mean,
        bound=stated.bound90,
        covered=tuple(low <= truth <= high for (low, high), truth in pairs),
        width=tuple(high - low for (low, high), _ in pairs),
        score=tuple(interval_score(low, high, truth) for (low, high), truth in pairs),
    )


def interval_score(low: float, high: float, truth: float) -> float:
    """Width of an 80 % interval plus what it pays for missing; the least is best.

    Source: Gneiting and Raftery 2007, eq. 43.
    """
    return high - low + 2 / MISSED * (max(low - truth, 0.0) + max(truth - high, 0.0))


def ratio(numerators: Array, denominators: Array) -> Estimate:
    """Of sums over draws, each (R,); draws are resampled whole, as the answers of one are correlated."""
    chosen = np.random.default_rng(0).integers(0, len(numerators), (DRAWS, len(numerators)))
    resampled = numerators[chosen].sum(axis=1) / denominators[chosen].sum(axis=1)
    low, high = np.quantile(resampled, INTERVAL).tolist()
    return Estimate(float(numerators.sum() / denominators.sum()), low, high)


def mean(values: Array) -> Estimate:
    """The mean (R,) of draws."""
    return ratio(values, np.ones(len(values)))


def summarize(draws: Sequence[Sequence[Answer]]) -> Summary:
    """Over draws with as many answers each."""

    def column(pick: Callable[[Answer], float]) -> Array:
        return np.array([[pick(answer) for answer in answers] for answers in draws], np.float64)

    regret, bound = column(lambda answer: answer.regret), column(lambda answer: answer.bound)
    held = (regret <= bound).astype(np.float64)

    def by_name(part: str) -> dict[str, Array]:
        table = np.array([[getattr(answer, part) for answer in answers] for answers in draws], np.float64)
        return {name: table[..., i] for i, name in enumerate(NAMES)}

    covered, width, score = (by_name(part) for part in ("covered", "width", "score"))
    return Summary(
        count=regret.size,
        regret=mean(regret.mean(axis=1)),
        p90=float(np.quantile(regret, 0.9)),
        worst=float(regret.max()),
        stated=float(column(lambda answer: answer.stated).mean()),
        bound_holds=mean(held.mean(axis=1)),
        bound_over_regret=ratio(bound.sum(axis=1), regret.sum(axis=1)),
        coverage={name: mean(values.mean(axis=1)) for name, values in covered.items()},
        width={name: float(values.mean()) for name, values in width.items()},
        score={name: float(values.mean()) for name, values in score.items()},
    )


def cells(found: Summary) -> list[str]:
    """A row of a table, under `COLUMNS` but the first."""
    return [
        str(found.count),
        interval(found.regret, 100, 3),
        f"{100 * found.p90:.2f} / {100 * found.worst:.2f}",
        f"{100 * found.stated:.3f}",
        interval(found.bound_holds, 100, 0),
        interval(found.bound_over_regret, 1, 1),
        *(f"{interval(found.coverage[n], 100, 0)} {found.width[n]:.2f} {found.score[n]:.2f}" for n in NAMES),
    ]


def interval(estimate: Estimate, scale: float, digits: int) -> str:
    """An estimate as text."""
    value, low, high = (f"{scale * x:.{digits}f}" for x in (estimate.value, estimate.low, estimate.high))
    return f"{value} [{low}, {high}]"


class Family:
    """A made-up model family. What is special about a setting is drawn when it is first met."""

    def __init__(self, seed: int, drift_sd: Array) -> None:
        rng = self.rng = np.random.default_rng(seed)
        self.place = rng.uniform([-11, 5], [-6, 9])
        self.drift = rng.normal(DRIFT_MEAN, drift_sd)
        self.curvature = np.exp(rng.normal(np.log([0.0038, 0.0032]), 0.35))
        self.steeper = float(np.exp(rng.normal(0.5, 0.35)))  # too high a rate than too low a one
        self.ridge = rng.normal(0.3, 0.25)
        self.power = rng.uniform(1.7, 2.3, 2)
        self.stray, self.noise = rng.uniform(0.05, 0.2), rng.uniform(0.0005, 0.002)
        self.cliff = rng.uniform(2, 4)  # octaves above the optimum
        self.law = rng.uniform([1.2, 0.3, 0.3, 0.25, 0.25], [1.9, 0.8, 0.8, 0.45, 0.45]).tolist()
        self.settings: dict[tuple[float, float], tuple[Array, float, float]] = {}

    def setting(self, params: float, tokens: float) -> tuple[Array, float, float]:
        """Its optimum (2,) in octaves, its floor's ln loss and the relative sd of a run there."""
        if (params, tokens) not in self.settings:
            size, budget = offset = np.log2([params, tokens]) - REFERENCE
            optimum = self.place + self.drift @ offset + self.rng.normal(0, self.stray, 2)
            floor, by_params, by_tokens, a, b = self.law
            level = np.log(floor + by_params * 2 ** (-a * size) + by_tokens * 2 ** (-b * budget))
            noise = self.noise * self.rng.lognormal(0, 0.4)
            self.settings[params, tokens] = optimum, float(level + self.rng.normal(0, 0.002)), noise
        return self.settings[params, tokens]

    def excess(self, point: Array, params: float, tokens: float) -> float:
        """ln loss above the floor of octaves (2,)."""
        rate, batch = self.offsets(point, params, tokens)
        steeper = self.steeper if rate > 0 else 1.0
        arms = self.curvature * np.abs([rate, batch]) ** self.power
        return float(steeper * arms[0] + arms[1])

    def offsets(self, point: Array, params: float, tokens: float) -> tuple[float, float]:
        """Octaves from the optimum, the rate's from the ridge."""
        rate, batch = (point - self.setting(params, tokens)[0]).tolist()
        return rate - self.ridge * batch, batch

    def loss(self, point: Array, params: float, tokens: float) -> float:
        """Of one run; not a number beyond the cliff."""
        if self.offsets(point, params, tokens)[0] > self.cliff:
            return float("nan")
        _, floor, noise = self.setting(params, tokens)
        excess = self.excess(point, params, tokens)
        return float(np.exp(floor + excess + np.hypot(noise, NOISE_GROWTH * excess) * self.rng.standard_normal()))

    def sweep(self) -> pd.DataFrame:
        """12 to 39 runs at two or three sizes, on a grid of half octaves about the smallest size's optimum."""
        rng = self.rng
        sizes = FIRST_PARAMS * rng.uniform(1.25, 4) ** np.arange(rng.integers(2, 4))
        ratios = [rng.choice([10, 20, 40, 80, 200], rng.integers(1, 4), replace=False) for _ in sizes]
        settings = [(float(n), float(n * r)) for n, some in zip(sizes, ratios, strict=True) for r in some]
        middle = self.place + [self.drift[0, 0] * (np.log2(1.5 * FIRST_PARAMS) - REFERENCE[0]), 0.0]
        rows = []
        for trial in range(rng.integers(12, 40)):
            params, tokens = settings[rng.integers(len(settings))]
            point = np.round(2 * (middle + rng.uniform([-3.5, -3], 3))) / 2
            values = dict(zip(NAMES, (2**point).tolist(), strict=True))
            loss = self.loss(point, params, tokens)
            rows.append({"trial": str(trial), "params": params, "tokens": tokens, "seed": 0, **values, "loss": loss})
        table = pd.DataFrame(rows)
        return table if table["loss"].notna().sum() >= MIN_FINITE else self.sweep()


@dataclass(frozen=True)
class Asked:
    """One family, asked for a size beyond its sweep."""

    num_runs: int
    reach: float  # octaves of N beyond the largest of the sweep
    answer: Answer


def ask(seed: int, drift: str) -> Asked:
    """Draws a family, fits its sweep, judges the answer; it runs in a process of the pool."""
    family = Family(seed, DRIFTS[drift])
    runs = family.sweep()
    reach = float(family.rng.uniform(REACH_GROUPS[0][0], REACH_GROUPS[-1][1]))
    params = float(runs["params"].max() * 2**reach)
    tokens = params * float(family.rng.choice([20, 40, 100]))

    def regret(point: Array) -> float:
        return float(np.expm1(family.excess(point, params, tokens)))

    surface = fit_surface(runs, BOX, seed)
    optimum = family.setting(params, tokens)[0]
    return Asked(len(runs), reach, judge(surface, params, tokens, optimum, regret, np.zeros(2)))


def summaries(asked: Sequence[Asked]) -> dict[str, Summary]:
    """Of all, by number of runs and by reach."""
    groups = {"all": [one.answer for one in asked]}
    for low, high in RUN_GROUPS:
        groups[f"{low} to {high} runs"] = [one.answer for one in asked if low <= one.num_runs <= high]
    for start, end in REACH_GROUPS:
        groups[f"{start} to {end} octaves on"] = [one.answer for one in asked if start <= one.reach < end]
    return {name: summarize([[answer] for answer in answers]) for name, answers in groups.items() if answers}


def draw_table(title: str, rows: dict[str, Summary]) -> Table:
    """A row a summary."""
    table = Table(*COLUMNS, title=title, caption=LEGEND)
    for name, found in rows.items():
        table.add_row(name, *cells(found))
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--families", type=int, default=300)
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    found = {}
    with ProcessPoolExecutor(options.processes) as pool:
        for drift in DRIFTS:
            print(f"{options.families} families of {drift} drift", file=sys.stderr, flush=True)
            found[drift] = summaries(list(pool.map(partial(ask, drift=drift), range(options.families), chunksize=8)))
    if options.json:
        print(json.dumps({name: {row: asdict(s) for row, s in rows.items()} for name, rows in found.items()}, indent=2))
        return
    for drift, rows in found.items():
        Console(width=150).print(draw_table(f"{drift} drift", rows))


if __name__ == "__main__":
    main()
