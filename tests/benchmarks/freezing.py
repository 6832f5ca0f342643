"""Is what is frozen really flat? The freeze decision on made-up families whose truth is known.

Each family has a learning rate with a cliff that drifts with size, a batch that drifts with tokens and drags the rate
along a ridge, a parameter that does nothing, one without a name whose optimum drifts visibly within the ladder, and one
that is flat at the smallest size and steep at the largest. The same families are read twice: as random runs, told apart
by the surface, and as one-at-a-time sweeps around each setting's best, compared run by run.

    OMP_NUM_THREADS=1 python -m tests.benchmarks.freezing [--families 200] [--processes 2] [--json]
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass

import numpy as np
import pandas as pd
from rich.console import Console
from rich.table import Table

from hpsearch.surface import fit_surface
from hpsearch.transfer.profile import make_profile
from hpsearch.transfer.sensitivity import from_profiles, from_surface
from hpsearch.transfer.status import Status
from search_spaces.parameter import Parameter, Scale
from tests.benchmarks.published import Array

NAMES = ("learning_rate", "batch_sequences", "flat", "drifter", "late")
LADDER = tuple((n, d) for n in (1e7, 4e7, 1.6e8) for d in (1e9, 4e9))
TARGET = (1.28e9, 2.56e10)  # 8x the largest size, 6.4x the longest budget
RUNS = 20  # a setting, of the random design
SWEEP = (-2.0, -1.0, 0.0, 1.0, 2.0)  # octaves around the base, of the one-at-a-time design
STRAY = 0.1  # octaves
COSTLY = 0.003
SPREAD = 2.0  # octaves on either side of each optimum over which random runs lie
PARAMETERS = tuple(Parameter(name, 2.0**-20, 2.0**20, Scale.LOG) for name in NAMES)


@dataclass(frozen=True)
class Family:
    """The truth. Coordinates are octaves from the first setting's optimum; P = 5, in the order of the names."""

    by_size: Array  # (P,) octaves by which each optimum moves per octave of N
    by_tokens: Array  # (P,)
    curvature: Array  # (P,) relative loss per octave^2; of `late` at the largest size of the ladder
    ridge: float  # octaves of rate per octave of batch off its best
    edge: float  # octaves of rate above its optimum beyond which runs diverge
    asymmetry: float
    growth: float  # by how much the curvature of `late` grows per octave of N
    noise: float
    seed: int  # of what strays

    def stray(self, params: float, tokens: float) -> Array:
        """Octaves (P,) by which a setting's optimum misses the log-linear drift."""
        return np.random.default_rng([self.seed, int(params), int(tokens)]).normal(0.0, STRAY, len(NAMES))

    def center(self, params: float, tokens: float) -> Array:
        """The optimum (P,) at a setting."""
        n, d = np.log2([params / LADDER[0][0], tokens / LADDER[0][1]])
        return np.asarray(self.by_size * n + self.by_tokens * d + self.stray(params, tokens))

    def excess(self, point: Array, params: float, tokens: float) -> float:
        """Relative loss above the floor; infinite where the run diverges."""
        off = point - self.center(params, tokens)
        off[0] -= self.ridge * off[1]
        if off[0] > self.edge:
            return float("inf")
        curvature = self.curvature.copy()
        curvature[0] *= self.asymmetry if off[0] > 0 else 1.0
        curvature[4] *= self.growth ** min(np.log2(params / LADDER[-1][0]), 0.0)
        return float(curvature @ off**2)

    def alone(self, i: int, value: float) -> float:
        """What a value of parameter `i` costs at the target with the others at their best."""
        point = self.center(*TARGET)
        point[i] = np.log2(value)
        return min(self.excess(point, *TARGET), 1.0)

    def loss(self, point: Array, params: float, tokens: float, rng: np.random.Generator) -> float:
        """Of one run; NaN where it diverges."""
        floor = 1.7 + 1.1 * (params / 1e7) ** -0.3 + 1.3 * (tokens / 1e9) ** -0.3
        excess = self.excess(point, params, tokens)
        noise = np.hypot(self.noise, 0.1 * min(excess, 1.0)) * rng.standard_normal()
        return float(floor * np.exp(excess + noise)) if np.isfinite(excess) else float("nan")


def family(seed: int) -> Family:
    """One drawn family; `drifter` moves by 1.2 to 2.4 octaves from one end of the ladder to the other."""
    rng = np.random.default_rng([seed, 1])
    sign = rng.choice([-1, 1])
    visible = sign * rng.uniform(1.2, 2.4) / np.log2(LADDER[-1][0] / LADDER[0][0])
    return Family(
        by_size=np.array([rng.normal(-0.3, 0.35), rng.normal(0, 0.15), 0.0, visible, 0.0]),
        by_tokens=np.array([rng.normal(0.1, 0.25), rng.normal(0.45, 0.2), 0.0, 0.0, 0.0]),
        curvature=np.array(
            [*rng.uniform(0.0025, 0.0045, 2), 0.0, rng.uniform(0.002, 0.004), rng.uniform(0.003, 0.005)]
        ),
        ridge=float(rng.uniform(0.1, 0.5)),
        edge=float(rng.uniform(2.0, 4.0)),
        asymmetry=float(rng.uniform(1.0, 2.0)),
        growth=2.0,
        noise=float(rng.uniform(0.0003, 0.001)),
        seed=seed,
    )


@dataclass(frozen=True)
class Judged:
    """One family, one design."""

    status: dict[str, str]
    damage: dict[str, float]  # of each value alone at the target, realised
    regret: float  # of the recommended configuration at the target, realised
    bound: float  # stated, 90 %
    covered: dict[str, bool]  # 80 % intervals


def random_design(seed: int) -> pd.DataFrame:
    """Runs around the optima of every setting."""
    truth, rng = family(seed), np.random.default_rng([seed, 2])
    rows: list[dict[str, object]] = []
    for params, tokens in LADDER:
        for _ in range(RUNS):
            point = truth.center(params, tokens) + rng.uniform(-SPREAD, SPREAD, len(NAMES))
            loss = truth.loss(point, params, tokens, rng)
            rows.append(
                {"trial": str(len(rows)), "seed": 0, "params": params, "tokens": tokens, "loss": loss}
                | dict(zip(NAMES, (2.0**point).tolist(), strict=True))
            )
    return pd.DataFrame(rows)


def by_surface(seed: int) -> Judged:
    """What the surface decides, and how good its recommendation is."""
    truth = family(seed)
    surface = fit_surface(random_design(seed), PARAMETERS, seed)
    best = surface.optimum(*TARGET)
    point = np.log2([best[name].value for name in NAMES])
    regret = surface.expected_regret(*TARGET, {name: best[name].value for name in NAMES})
    center = dict(zip(NAMES, truth.center(*TARGET).tolist(), strict=True))
    decided = from_surface(surface, TARGET)
    return Judged(
        status={name: str(found.status) for name, found in decided.items()},
        damage={name: truth.alone(i, float(decided[name].value)) for i, name in enumerate(NAMES)},
        regret=min(truth.excess(point, *TARGET), 0.5),
        bound=regret.bound90,
        covered={n: best[n].low80 <= 2.0 ** center[n] <= best[n].high80 for n in NAMES if n != "flat"},
    )


def by_profiles(seed: int) -> tuple[dict[str, str], dict[str, float]]:
    """What one-at-a-time sweeps around the first setting's optimum decide."""
    truth, rng = family(seed), np.random.default_rng([seed, 3])
    profiles, spreads = {}, []
    for i, (name, parameter) in enumerate(zip(NAMES, PARAMETERS, strict=True)):
        rows: list[dict[str, object]] = []
        for params, tokens in LADDER:
            base = truth.center(params, tokens)
            for octaves in SWEEP:
                point = base.copy()
                point[i] = octaves
                loss = truth.loss(point, params, tokens, rng)
                rows.append({"params": params, "tokens": tokens, "value": 2.0**octaves, "loss": loss, "block": ""})
        profiles[name], spread = make_profile(name, parameter, pd.DataFrame(rows))
        spreads.append(spread)
    _, found = from_profiles(profiles, tuple(spreads), TARGET, truth.noise)
    status = {name: str(sensitivity.status) for name, sensitivity in found.items()}
    return status, {name: truth.alone(i, float(found[name].value)) for i, name in enumerate(NAMES)}


def share_frozen(status: Sequence[dict[str, str]], name: str) -> float:
    """Of the families."""
    return float(np.mean([each[name] == Status.FROZEN for each in status]))


def share_costly(status: Sequence[dict[str, str]], damage: Sequence[dict[str, float]], name: str) -> float:
    """Of the families, those where it was frozen and costs more than COSTLY at the target."""
    pairs = zip(status, damage, strict=True)
    return float(np.mean([each[name] == Status.FROZEN and cost[name] > COSTLY for each, cost in pairs]))


def main() -> None:
    """Both designs over all families."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--families", type=int, default=200)
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with ProcessPoolExecutor(options.processes) as pool:
        judged = list(pool.map(by_surface, range(options.families), chunksize=5))
        profiled = list(pool.map(by_profiles, range(options.families), chunksize=5))
    designs = {
        "random runs, surface": ([each.status for each in judged], [each.damage for each in judged]),
        "one at a time": ([status for status, _ in profiled], [damage for _, damage in profiled]),
    }
    frozen = {design: {n: share_frozen(status, n) for n in NAMES} for design, (status, _) in designs.items()}
    costly = {design: {n: share_costly(*answers, n) for n in NAMES} for design, answers in designs.items()}
    regret, bound = np.array([[each.regret, each.bound] for each in judged]).T
    covered = {name: float(np.mean([each.covered[name] for each in judged])) for name in judged[0].covered}
    calibration = {
        "mean_regret": regret.mean(),
        "worst": regret.max(),
        "bound_holds": (regret <= bound).mean(),
        "bound_over_regret": bound.mean() / regret.mean(),
    }
    if options.json:
        print(
            json.dumps({"frozen": frozen, "costly": costly, "covered": covered, **calibration}, indent=2, default=float)
        )
        return
    table = Table(
        title=f"of {options.families} families: frozen / frozen and more than {COSTLY:.1%} lost at the target"
    )
    for heading in ("", *NAMES):
        table.add_column(heading)
    for design, shares in frozen.items():
        table.add_row(design, *(f"{shares[name]:.1%} / {costly[design][name]:.1%}" for name in NAMES))
    console = Console(width=140)
    console.print(table)
    console.print("80 % intervals cover", {name: f"{share:.0%}" for name, share in covered.items()})
    console.print({name: f"{value:.4f}" for name, value in calibration.items()})


if __name__ == "__main__":
    main()
