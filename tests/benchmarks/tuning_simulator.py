"""How much compute does a tuner need? Ours and those of today on a published sweep with secret units and drift.

    one_size        full runs' worth until the recommendation is within 0.3 % and 0.1 % of the best for good
    small_to_large  regret at a target never run, after 30 % and 100 % of one target run's FLOPs

Each rung of a rival is a run of its own, 6 N D, as the sweep's runs are: a schedule that ends there. With --resume
a run that goes on from a shorter one pays the difference only, and still has the loss of a run of its own.

    python -m tests.benchmarks.tuning_simulator [--track one_size|small_to_large] [--seeds 20] [--tuners a,b]
        [--priors neutral|public] [--drift on|off] [--units on|off] [--resume] [--horizon 20] [--our-horizon 6]
        [--processes 2] [--json] [-o FILE.svg]
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from tests.benchmarks.published import DENSE_TABLE, RUIN
from tests.benchmarks.tuning_measures import Estimate, Mark, Outcome, Reach, reach, spread
from tests.benchmarks.tuning_ours import OurTuner
from tests.benchmarks.tuning_problem import NOISE, TRACKS, Run, TuningProblem, draw_problem, flops, stream
from tests.benchmarks.tuning_rivals import LOOPS, Tuner, open_rival

OURS = "ours"
TOLERANCES = (0.003, 0.001)
FIRST_COST = 0.03  # full runs; the picture starts below the cheapest run
SMALL_BUDGETS = (0.3, 1.0)  # of one target run
TUNERS = {
    "one_size": (OURS, *LOOPS),
    "small_to_large": (OURS, "reuse-random", "reuse-tpe", "reuse-gp"),
}


@dataclass(frozen=True)
class Options:
    """The command line."""

    track: str
    seeds: int
    tuners: tuple[str, ...]
    priors: str
    drift: bool
    units: bool
    resume: bool
    horizon: float  # full runs, of rivals
    our_horizon: float
    processes: int
    json: bool
    output: Path

    def budgets(self, tuner: str) -> tuple[float, ...]:
        """In full runs; each is a problem of its own, as a tuner may plan for it."""
        if self.track == "small_to_large":
            return SMALL_BUDGETS
        return (self.our_horizon,) if tuner == OURS else (self.horizon,)


@dataclass(frozen=True)
class Job:
    """One tuner on one problem."""

    options: Options
    seed: int
    tuner: str
    budget: float  # full runs


def play(problem: TuningProblem, tuner: Tuner, budget_flops: float, resume: bool) -> tuple[Mark, ...]:
    """Runs what the tuner asks until the budget cannot pay the next run; judges it after each."""
    noise, told, spent = stream(problem.seed, NOISE), list[Run](), 0.0
    marks = []
    while (run := tuner.ask(budget_flops - spent)) is not None:
        cost = problem.cost(run, told, resume)
        if spent + cost > budget_flops:
            break
        tuner.tell(run, problem.evaluate(run, noise), cost)
        told.append(run)
        spent += cost
        config = tuner.recommend()
        if config is not None:
            marks.append(Mark(spent / problem.full_cost, problem.judge(config)))
    return tuple(marks)


def do(job: Job) -> Outcome:
    """Plays one job; it runs in a process of the pool."""
    options = job.options
    problem = draw_problem(options.track, job.seed, options.drift, options.units)
    budget_flops = job.budget * problem.full_cost
    with closing(open_tuner(job, problem, budget_flops)) as tuner:
        marks = play(problem, tuner, budget_flops, options.resume)
    return Outcome(job.tuner, job.seed, problem.target.params, job.budget, marks)


def open_tuner(job: Job, problem: TuningProblem, budget_flops: float) -> Tuner:
    """Ours, or a rival."""
    if job.tuner == OURS:
        return OurTuner(problem, budget_flops, job.options.priors, job.options.resume)
    return open_rival(job.tuner, problem, budget_flops)


def play_all(options: Options) -> list[Outcome]:
    """All tuners on all problems, sorted; a line on stderr for each."""
    jobs = [
        Job(options, seed, tuner, budget)
        for seed in range(options.seeds)
        for tuner in options.tuners
        for budget in options.budgets(tuner)
    ]
    outcomes = []
    with ProcessPoolExecutor(options.processes) as pool:
        for future in as_completed([pool.submit(do, job) for job in jobs]):
            outcome = future.result()
            outcomes.append(outcome)
            progress = (
                f"[{len(outcomes)}/{len(jobs)}] {outcome.tuner}, seed {outcome.seed}, {outcome.budget:g} full runs"
            )
            print(f"{progress}: {len(outcome.marks)} runs, regret {outcome.final:.2%}", file=sys.stderr, flush=True)
    order = {tuner: place for place, tuner in enumerate(options.tuners)}
    return sorted(outcomes, key=lambda outcome: (order[outcome.tuner], outcome.budget, outcome.seed))


def of_tuner(outcomes: Iterable[Outcome], tuner: str) -> list[Outcome]:
    """The outcomes of one tuner."""
    return [outcome for outcome in outcomes if outcome.tuner == tuner]


def reach_table(outcomes: Sequence[Outcome], options: Options) -> Table:
    """Cost of each tolerance, a row a tuner."""
    table = Table(title=f"full runs' worth until within a tolerance for good; {options.seeds} seeds")
    for column in ("tuner", "within", "median [90 %]", "p90 [90 %]", "mean", "reached"):
        table.add_column(column)
    for tuner in options.tuners:
        for tolerance in TOLERANCES:
            found = reach(of_tuner(outcomes, tuner), tolerance)
            (budget,) = options.budgets(tuner)
            cells = [runs(estimate, budget) for estimate in (found.cost.median, found.cost.p90)]
            table.add_row(tuner, f"{tolerance:.1%}", *cells, f"{found.cost.mean:.2f}", f"{found.share:.0%}")
    return table


def size_table(outcomes: Sequence[Outcome], options: Options) -> Table:
    """Medians and p90 by the size of the model, a row a tuner."""
    table = Table(title="by size: median / p90 full runs until within 0.3 % and 0.1 %; under N, its cheapest run")
    sizes = sorted({outcome.params for outcome in outcomes})
    table.add_column("tuner")
    for size in sizes:
        table.add_column(f"{size:.3g}\n{cheapest(size, options):.2f} full runs")
    for tuner in options.tuners:
        played = of_tuner(outcomes, tuner)
        by_size = [[outcome for outcome in played if outcome.params == size] for size in sizes]
        table.add_row(tuner, *(", ".join(both(reach(some, t)) for t in TOLERANCES) for some in by_size))
    return table


def cheapest(params: float, options: Options) -> float:
    """The cheapest run of a size, in full runs."""
    problems = (draw_problem(options.track, seed, options.drift, options.units) for seed in range(options.seeds))
    problem = next(problem for problem in problems if problem.target.params == params)
    return flops(problem.settings[0]) / problem.full_cost


def regret_table(outcomes: Sequence[Outcome], options: Options) -> Table:
    """Regret at each budget, a row a tuner and budget."""
    table = Table(title=f"regret at a target never run, in %; {options.seeds} seeds")
    for column in ("tuner", "of a target run", "median [90 %]", "p90 [90 %]", "mean"):
        table.add_column(column)
    for tuner in options.tuners:
        for budget in options.budgets(tuner):
            found = spread([o.final for o in of_tuner(outcomes, tuner) if o.budget == budget])
            table.add_row(tuner, f"{budget:.0%}", percent(found.median), percent(found.p90), f"{100 * found.mean:.2f}")
    return table


def runs(estimate: Estimate, budget: float) -> str:
    """An estimate of full runs; one at the whole budget is a bound."""
    value, low, high = (
        ("> " if x >= budget else "") + f"{x:.2f}" for x in (estimate.value, estimate.low, estimate.high)
    )
    return f"{value} [{low}, {high}]"


def percent(estimate: Estimate) -> str:
    """An estimate of a regret."""
    return f"{100 * estimate.value:.2f} [{100 * estimate.low:.2f}, {100 * estimate.high:.2f}]"


def both(found: Reach) -> str:
    """Median and p90 alone."""
    return f"{found.cost.median.value:.2f} / {found.cost.p90.value:.2f}"


def summary(outcomes: Sequence[Outcome], options: Options) -> dict[str, object]:
    """The tables as data."""
    found: dict[str, object] = {}
    for tuner in options.tuners:
        played = of_tuner(outcomes, tuner)
        if options.track == "one_size":
            found[tuner] = [asdict(reach(played, tolerance)) for tolerance in TOLERANCES]
        else:
            found[tuner] = [
                {"budget": budget, **asdict(spread([o.final for o in played if o.budget == budget]))}
                for budget in options.budgets(tuner)
            ]
    return found


def draw(path: Path, outcomes: Sequence[Outcome], options: Options) -> None:
    """Median regret against compute, a line a tuner."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    for tuner in options.tuners:
        budget = options.budgets(tuner)[-1]
        costs = np.geomspace(FIRST_COST, budget, 200)
        played = [outcome for outcome in of_tuner(outcomes, tuner) if outcome.budget == budget]
        medians = np.array([np.median([outcome.at(cost) for outcome in played]) for cost in costs])
        seen = medians < RUIN  # before, most have recommended nothing
        axes.plot(costs[seen], 100 * medians[seen], drawstyle="steps-post", label=tuner)
    if options.track == "one_size":
        for tolerance in TOLERANCES:
            axes.axhline(100 * tolerance, color="grey", linewidth=0.8, linestyle=":")
    axes.set(xscale="log", yscale="log", xlabel="compute, in runs of the target", ylabel="median regret, %")
    axes.legend()
    figure.savefig(path)


def read_options() -> Options:
    """The command line, checked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--track", choices=TRACKS, default="one_size")
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--tuners", default="", help="by commas; default: all of the track")
    parser.add_argument("--priors", choices=("neutral", "public"), default="neutral")
    parser.add_argument("--drift", choices=("on", "off"), default="on")
    parser.add_argument("--units", choices=("on", "off"), default="on", help="off for public laws, which need units")
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--horizon", type=float, default=20.0, help="full runs of a rival, in one_size")
    parser.add_argument("--our-horizon", type=float, default=6.0, help="full runs of ours, of hundreds of cheap ones")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("-o", "--output", type=Path, help="picture to write")
    read = parser.parse_args()
    known = TUNERS[read.track]
    tuners = tuple(read.tuners.split(",")) if read.tuners else known
    if unknown := set(tuners) - set(known):
        parser.error(
            f"--tuners: {', '.join(sorted(unknown))} is not of track {read.track}; choose from {', '.join(known)}"
        )
    switches = {"drift": read.drift == "on", "units": read.units == "on"}
    return Options(**{**vars(read), **switches, "tuners": tuners})


def main() -> None:
    options = read_options()
    if not DENSE_TABLE.exists():
        print(f"{DENSE_TABLE} is absent: the tuning simulator is made from it, and there is nothing to do without it")
        return
    outcomes = play_all(options)
    if options.output:
        draw(options.output, outcomes, options)
    if options.json:
        print(json.dumps({"summary": summary(outcomes, options), "outcomes": [asdict(o) for o in outcomes]}, indent=2))
        return
    console = Console(width=120)
    if options.track == "small_to_large":
        console.print(regret_table(outcomes, options))
        return
    console.print(reach_table(outcomes, options))
    console.print(size_table(outcomes, options))


if __name__ == "__main__":
    main()
