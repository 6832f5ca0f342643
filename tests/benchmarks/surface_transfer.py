"""Small to large on a published sweep: how good and how sure is the surface at a size that it has not seen?

Random draws of 12 to 28 runs at N <= 2.7e8 are judged at the four settings of N = 4.3e8, by a smooth surrogate and not
by the luckiest run: blind, with published laws (the table is one law's own family), and with laws where rate and batch
are multiplied by constants that make every law wrong. Then the same with settings added one by one, and how long it
takes.

    OMP_NUM_THREADS=1 python -m tests.benchmarks.surface_transfer [--draws 1000] [--processes 2] [--json]
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import lru_cache, partial

import numpy as np
import pandas as pd
from rich.console import Console

from hpsearch.next_trial import Option, next_trial
from hpsearch.surface import Priors, fit_surface
from search_spaces.parameter import Parameter, Scale
from tests.benchmarks.published import DENSE_TABLE, NAMES, Setting, read_settings
from tests.benchmarks.surface_calibration import Answer, Summary, draw_table, judge, mean, summarize
from tests.benchmarks.tuning_problem import SMALL_PARAMS

BOX = (Parameter("learning_rate", 2.0**-14, 2.0**-3, Scale.LOG), Parameter("batch_sequences", 4, 2.0**13, Scale.LOG))
FEWEST, MOST = 12, 28  # runs of a draw
RUNS_A_SETTING = 6
WRONG_RUNS, WRONG_SETTINGS = 16, 3


@dataclass(frozen=True)
class Case:
    """What the fit is told."""

    name: str
    priors: Priors
    units: tuple[float, float]  # octaves by which rate and batch are multiplied


CASES = (
    Case("neutral", "neutral", (0.0, 0.0)),
    Case("public", "public", (0.0, 0.0)),
    Case("public, laws wrong", "public", (2.0, -2.0)),
)


@lru_cache
def small_runs() -> pd.DataFrame:
    """The table below the judged size, cheapest settings first."""
    table = pd.read_csv(DENSE_TABLE).assign(seed=0)
    small = table[table["params"] <= SMALL_PARAMS]
    cost = (small["params"] * small["tokens"]).rename("cost")
    return small.assign(trial=small.index.astype(str), cost=cost, setting=cost.rank(method="dense").astype(int))


def draw(seed: int) -> pd.DataFrame:
    """Random runs at random settings."""
    return small_runs().sample(FEWEST + seed % (MOST - FEWEST + 1), random_state=seed)


def some_of(seed: int, num_settings: int, runs_a_setting: int) -> pd.DataFrame:
    """Runs of the cheapest settings; with a further one those of the others stay the same."""
    parts = [small_runs().query("setting == @place") for place in range(1, num_settings + 1)]
    return pd.concat([part.sample(runs_a_setting, random_state=seed) for part in parts])


def answers(runs: pd.DataFrame, case: Case, seed: int) -> list[Answer]:
    """At every setting of the judged size."""
    factors = dict(zip(NAMES, case.units, strict=True))
    told = runs.assign(**{name: runs[name] * 2.0**octaves for name, octaves in factors.items()})
    surface = fit_surface(told, BOX, seed, case.priors)
    units = np.array(case.units)
    return [judge(surface, s.params, s.tokens, s.optimum, s.regret, units) for s in judged_settings()]


@lru_cache
def judged_settings() -> tuple[Setting, ...]:
    """The surrogates of the judged size."""
    return tuple(setting for setting in read_settings() if setting.params > SMALL_PARAMS)


def drawn(seed: int, case: Case) -> list[Answer]:
    """One draw."""
    return answers(draw(seed), case, seed)


def added(seed: int, num_settings: int) -> list[Answer]:
    """One draw of the first settings."""
    return answers(some_of(seed, num_settings, RUNS_A_SETTING), CASES[0], seed)


def wrong_prior(seed: int) -> float:
    """By how much laws that are wrong by two octaves raise the mean regret of 16 runs on three settings."""
    runs = some_of(seed, WRONG_SETTINGS, RUNS_A_SETTING).sample(WRONG_RUNS, random_state=seed)
    cases = Case("wrong", "public", (2.0, -2.0)), Case("blind", "neutral", (2.0, -2.0))
    public, neutral = (answers(runs, case, seed) for case in cases)
    return float(np.mean([answer.regret for answer in public]) - np.mean([answer.regret for answer in neutral]))


def seconds() -> dict[str, float]:
    """Of a fit with its answer at 100 and 1,000 runs, and of an ask with its refit at 100."""
    every, found = pd.read_csv(DENSE_TABLE).assign(seed=0), {}
    every = every.assign(trial=every.index.astype(str))
    for count in (100, 1000):
        runs, start = every.sample(count, random_state=0), time.perf_counter()
        fit_surface(runs, BOX, 0).optimum(1.07e9, 2e10)
        found[f"fit and answer, {count} runs"] = time.perf_counter() - start
    runs, start = every.sample(100, random_state=0), time.perf_counter()
    surface = fit_surface(runs, BOX, 0, hold_out=False)
    options = [Option(n, d, 6 * n * d) for n, d in surface.sweep.settings.tolist()]
    next_trial(surface, BOX, np.empty((0, 2)), options, (1.07e9, 2e10), [], np.random.default_rng(0))
    found["ask with its refit, 100 runs"] = time.perf_counter() - start
    return found


def main() -> None:
    """All four parts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=1000)
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if not DENSE_TABLE.exists():
        print("skipped: the published table is not beside the repository", file=sys.stderr)
        return
    found: dict[str, Summary] = {}
    with ProcessPoolExecutor(options.processes) as pool:
        for case in CASES:
            print(f"{options.draws} draws, {case.name}", file=sys.stderr, flush=True)
            found[case.name] = summarize(list(pool.map(partial(drawn, case=case), range(options.draws), chunksize=20)))
        for count in range(2, small_runs()["setting"].max() + 1):
            print(f"{count} settings", file=sys.stderr, flush=True)
            one = partial(added, num_settings=count)
            found[f"{count} settings"] = summarize(list(pool.map(one, range(options.draws // 5), chunksize=20)))
        difference = mean(np.array(list(pool.map(wrong_prior, range(options.draws), chunksize=10))))
    timed = seconds()
    if options.json:
        rows = {name: asdict(summary) for name, summary in found.items()}
        print(json.dumps({"rows": rows, "wrong_prior": asdict(difference), "seconds": timed}, indent=2))
        return
    Console(width=160).print(draw_table("judged at N = 4.3e8, never seen", found))
    said = f"{100 * difference.value:+.3f} % [{100 * difference.low:+.3f}, {100 * difference.high:+.3f}]"
    print(f"laws wrong by two octaves, {WRONG_RUNS} runs on {WRONG_SETTINGS} settings: mean regret {said}")
    print(", ".join(f"{name}: {value:.2f} s" for name, value in timed.items()))


if __name__ == "__main__":
    main()
