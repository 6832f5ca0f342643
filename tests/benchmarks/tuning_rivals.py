"""The tuners of today, asked and told a run at a time.

    random, tpe, gp          every run at the longest budget; Optuna's samplers
    halving                  Optuna's TPE with its SuccessiveHalvingPruner over the budgets of one N
    asha                     random configs under the bracket of Ray's ASHAScheduler, the budgets as rungs
    reuse-random, -tpe, -gp  the same at a small setting, its best reused at the target as it is

All recommend the config of the best loss at the longest budget reached. A pruned run goes on at the next budget
from its own last one, which costs less where runs may be resumed.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Protocol, cast

import numpy as np
import optuna
from optuna.trial import TrialState
from ray.tune.experiment import Trial
from ray.tune.schedulers import TrialScheduler
from ray.tune.schedulers.async_hyperband import _Bracket

from tests.benchmarks.published import NAMES, Setting
from tests.benchmarks.tuning_problem import TUNER, Config, Run, TuningProblem, config_at, flops, stream

# Chosen for the rivals' sake, by 30 seeds of one_size: mean full runs to 0.3 % were 9.2 and 9.9 (halving, asha) with 2,
# 10.7 and 11.1 with 3, 12.2 and 11.8 with 4; 9.7 and 6.8 (tpe, gp) with 4 random trials, 10.0 and 9.0 with Optuna's 10.
REDUCTION = 2  # of rungs, each of which is worth one power of it
STARTUP_TRIALS = 4  # random ones before there is a model
REUSE_RUNS = 8  # a small setting is the dearest one that the budget pays so often

Loop = Generator[Run, float, None]


class Tuner(Protocol):
    """What the simulator drives."""

    def ask(self, remaining_flops: float) -> Run | None:
        """The next run, or None where the tuner is done."""

    def tell(self, run: Run, loss: float, cost_flops: float) -> None:
        """The result of the run asked last; a loss that is not a number is a diverged run."""

    def recommend(self) -> Config | None:
        """The best config for the target, by what is known now."""

    def close(self) -> None:
        """Ends what the tuner started."""


@dataclass
class Incumbent:
    """The config of the best loss at the longest budget reached."""

    tokens: float = 0.0
    loss: float = math.inf
    config: Config | None = None

    def see(self, run: Run, loss: float) -> None:
        """Takes a result in."""
        if math.isfinite(loss) and (-run.setting.tokens, loss) < (-self.tokens, self.loss):
            self.tokens, self.loss, self.config = run.setting.tokens, loss, run.config


@dataclass
class Rival:
    """A tuner that is a loop: it yields runs and is sent their losses."""

    loop: Loop
    incumbent: Incumbent = field(default_factory=Incumbent)
    losses: list[float] = field(default_factory=list)

    def ask(self, remaining_flops: float) -> Run | None:
        """The loop's next run; no loop ends by itself."""
        return self.loop.send(self.losses[-1]) if self.losses else next(self.loop)

    def tell(self, run: Run, loss: float, cost_flops: float) -> None:
        """Keeps the loss for the loop and for the recommendation."""
        self.losses.append(loss)
        self.incumbent.see(run, loss)

    def recommend(self) -> Config | None:
        """The incumbent."""
        return self.incumbent.config

    def close(self) -> None:
        """A loop holds nothing open."""


def open_rival(name: str, problem: TuningProblem, budget_flops: float) -> Rival:
    """A rival by its name."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    kind = name.removeprefix("reuse-")
    if kind == name and problem.target not in problem.settings:
        raise ValueError(f"{name}: the target may not be run here; use reuse-{name}")
    setting = problem.target if kind == name else small_setting(problem, budget_flops)
    return Rival(LOOPS[kind](problem, setting))


def small_setting(problem: TuningProblem, budget_flops: float) -> Setting:
    """The dearest setting that the budget pays often enough to tune at."""
    paid = [setting for setting in problem.settings if REUSE_RUNS * flops(setting) <= budget_flops]
    return paid[-1] if paid else problem.settings[0]


def random_loop(problem: TuningProblem, setting: Setting) -> Loop:
    """Uniform in the box, by octaves."""
    rng = stream(problem.seed, TUNER)
    while True:
        yield Run(random_config(problem, rng), setting)


def tpe_loop(problem: TuningProblem, setting: Setting) -> Loop:
    """Optuna's TPE, both parameters in one model."""
    return sampler_loop(problem, setting, tpe_sampler(problem))


def gp_loop(problem: TuningProblem, setting: Setting) -> Loop:
    """Optuna's Gaussian process."""
    sampler = optuna.samplers.GPSampler(seed=sampler_seed(problem), n_startup_trials=STARTUP_TRIALS)
    return sampler_loop(problem, setting, sampler)


def sampler_loop(problem: TuningProblem, setting: Setting, sampler: optuna.samplers.BaseSampler) -> Loop:
    """Runs at one setting; a diverged one counts as the worst loss seen, as most users would have it."""
    study = optuna.create_study(sampler=sampler)
    worst = -math.inf
    while True:
        trial = study.ask()
        loss = yield Run(suggest(problem, trial), setting)
        worst = max(worst, loss) if math.isfinite(loss) else worst
        value = loss if math.isfinite(loss) else worst
        study.tell(trial, value) if math.isfinite(value) else study.tell(trial, state=TrialState.FAIL)


def halving_loop(problem: TuningProblem, setting: Setting) -> Loop:
    """TPE, its trials pruned by successive halving over the budgets of one N."""
    pruner = optuna.pruners.SuccessiveHalvingPruner(min_resource=1, reduction_factor=REDUCTION)
    study = optuna.create_study(sampler=tpe_sampler(problem), pruner=pruner)
    told = 0
    while True:
        trial = study.ask()
        config, loss, pruned = suggest(problem, trial), math.nan, False
        for rung, at in enumerate(problem.rungs()):
            loss = yield Run(config, at, parent=told - 1 if rung else None)
            told += 1
            trial.report(loss, REDUCTION**rung)
            pruned = at is not setting and trial.should_prune()
            if pruned or not math.isfinite(loss):
                break
        finished = math.isfinite(loss) and not pruned
        study.tell(trial, loss) if finished else study.tell(trial, state=TrialState.PRUNED)


def asha_loop(problem: TuningProblem, setting: Setting) -> Loop:
    """Random configs, each stopped where Ray's bracket says so or where it diverges."""
    rng, rungs, told = stream(problem.seed, TUNER), problem.rungs(), 0
    bracket = _Bracket(1, REDUCTION ** (len(rungs) - 1) + 0.5, REDUCTION, 0)  # the half: its logarithm is rounded down
    for number in itertools.count():
        config, trial = random_config(problem, rng), cast(Trial, SimpleNamespace(trial_id=str(number)))
        for rung, at in enumerate(rungs):
            loss = yield Run(config, at, parent=told - 1 if rung else None)
            told += 1
            if not math.isfinite(loss) or bracket.on_result(trial, REDUCTION**rung, -loss) == TrialScheduler.STOP:
                break


def tpe_sampler(problem: TuningProblem) -> optuna.samplers.TPESampler:
    """Optuna's default sampler."""
    return optuna.samplers.TPESampler(seed=sampler_seed(problem), multivariate=True, n_startup_trials=STARTUP_TRIALS)


def suggest(problem: TuningProblem, trial: optuna.Trial) -> Config:
    """A config of the box, by octaves."""
    bounds = zip(NAMES, problem.low, problem.high, strict=True)
    return config_at(np.array([trial.suggest_float(name, float(low), float(high)) for name, low, high in bounds]))


def random_config(problem: TuningProblem, rng: np.random.Generator) -> Config:
    """Uniform in the box, by octaves."""
    return config_at(rng.uniform(problem.low, problem.high))


def sampler_seed(problem: TuningProblem) -> int:
    """Optuna wants a number, not a generator."""
    return int(stream(problem.seed, TUNER).integers(2**31))


LOOPS: dict[str, Callable[[TuningProblem, Setting], Loop]] = {
    "random": random_loop,
    "tpe": tpe_loop,
    "gp": gp_loop,
    "halving": halving_loop,
    "asha": asha_loop,
}
