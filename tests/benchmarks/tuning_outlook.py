"""Does a tuning budget give what `hpsearch plan` promises? Whole searches on made-up families, none of them trained.

Each family has a cliff, arms that are no parabolas and settings that stray. Our own next trial climbs a ladder of the
plan until the runs of the plan's answer are paid for; then the surface is asked for the target, 16 times larger.

    OMP_NUM_THREADS=1 python -m tests.benchmarks.tuning_outlook [--families 40] [--processes 2]
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache

import numpy as np
import pandas as pd

from hpsearch.next_trial import Option, next_trial
from hpsearch.surface import fit_surface
from hpsearch.transfer.tuning_plan import Expectation, outlook, run_flops
from search_spaces.parameter import Parameter, Scale
from tests.benchmarks.published import NAMES
from tests.benchmarks.surface_calibration import DRIFTS, Answer, Family, judge

TARGET = (1.26e10, 3e11)
NOISE = 0.0012
WIDE = (10.0, 10.0)  # octaves of the box
MAX_RUNS = 120


@dataclass(frozen=True)
class Search:
    """What a search spent, and what it then said."""

    num_runs: int
    share: float  # of one run of the target
    answer: Answer


@cache
def promised() -> Expectation:
    """The plan's cheapest answer."""
    answer = outlook(TARGET, NOISE).answer
    assert answer is not None
    return answer


def search(seed: int) -> Search:
    """Runs a search on one family; it runs in a process of the pool."""
    family, rng, expected = Family(seed, DRIFTS["wide"]), np.random.default_rng(seed), promised()
    options = [Option(params, tokens, run_flops((params, tokens))) for params, tokens in expected.ladder.settings]
    middle = family.setting(*expected.ladder.settings[0])[0] + rng.normal(0.0, 1.0, 2)
    low, high = (2.0 ** (middle + side * np.array(WIDE) / 2) for side in (-1, 1))
    box = [Parameter(name, float(low[i]), float(high[i]), Scale.LOG) for i, name in enumerate(NAMES)]
    rows: list[dict[str, float]] = []
    spent = 0.0
    while len(rows) < MAX_RUNS:
        affordable = [option for option in options if spent + option.flops <= expected.flops]
        if not affordable:
            break
        table = pd.DataFrame(rows)
        measured = bool(rows) and bool(table["loss"].notna().any())
        surface = fit_surface(table, box, seed=0, hold_out=False) if measured else None
        diverged = np.log2(table[list(NAMES)].to_numpy()) if rows and not measured else np.empty((0, 2))
        proposal = next_trial(surface, box, diverged, affordable, TARGET, [], rng)
        params, tokens = proposal.option.setting
        loss = family.loss(proposal.coordinates, params, tokens)
        values = dict(zip(NAMES, (2.0**proposal.coordinates).tolist(), strict=True))
        rows.append({"trial": len(rows), "params": params, "tokens": tokens, "seed": 0, "loss": loss, **values})
        spent += proposal.option.flops
    optimum = family.setting(*TARGET)[0]
    surface = fit_surface(pd.DataFrame(rows), box, seed=0)
    answer = judge(surface, *TARGET, optimum, lambda point: float(np.expm1(family.excess(point, *TARGET))), np.zeros(2))
    return Search(len(rows), spent / run_flops(TARGET), answer)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--families", type=int, default=40)
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args()
    with ProcessPoolExecutor(options.processes) as pool:
        searches = list(pool.map(search, range(options.families)))
    expected = promised()
    answers = [each.answer for each in searches]
    regrets = np.array([answer.regret for answer in answers])
    runs, share = np.mean([(each.num_runs, each.share) for each in searches], axis=0).tolist()
    held = np.mean(regrets <= expected.regret_bound90)
    print(f"planned: {expected.num_runs} runs, {expected.share:.2%} of the target's FLOPs")
    print(
        f"  regret {expected.expected_regret:.2%}, at most {expected.regret_bound90:.2%} (90 %); 80 % intervals of "
        f"{_octaves(expected.width80_octaves)} octaves"
    )
    print(f"{len(searches)} searches: {runs:.0f} runs, {share:.2%}")
    print(
        f"  regret {regrets.mean():.2%} (median {np.median(regrets):.2%}, 90 % {np.quantile(regrets, 0.9):.2%}, worst "
        f"{regrets.max():.2%}), stated {np.mean([answer.stated for answer in answers]):.2%}; {held:.0%} within the "
        f"planned bound; 80 % intervals of {_octaves(np.mean([answer.width for answer in answers], axis=0).tolist())} "
        f"octaves cover {_octaves(np.mean([answer.covered for answer in answers], axis=0).tolist())}"
    )


def _octaves(values: Sequence[float]) -> str:
    return " and ".join(f"{value:.2f}" for value in values)


if __name__ == "__main__":
    main()
