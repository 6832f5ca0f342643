"""Where the next configuration of a proxy comes from: a pure function of the search so far.

Every dimension is drawn, then conditions are applied: what is off has its default, and is told back as that.

A sampler is built anew for every ask, seeded from (search seed, trial number), on an Optuna study refilled
from the state: a sampler that lives on carries a generator that no replay can bring back.
"""

from __future__ import annotations

import math
import warnings

import numpy as np
import optuna
from optuna.distributions import FloatDistribution
from optuna.trial import FrozenTrial
from optuna.trial import TrialState as OptunaState
from scipy.stats import qmc

from hpsearch.conditions import active_values
from hpsearch.events import Role, TrialState
from hpsearch.state import SearchState, Trial
from search_spaces.parameter import Parameter, SearchSpace

optuna.logging.set_verbosity(optuna.logging.WARNING)

OPTUNA_STATES = {
    TrialState.RUNNING: OptunaState.RUNNING,
    TrialState.STOPPED: OptunaState.RUNNING,
    TrialState.PAUSED: OptunaState.PRUNED,  # with its rung as step: TPE ranks by (step, value)
    TrialState.PRUNED: OptunaState.PRUNED,
    TrialState.COMPLETE: OptunaState.COMPLETE,
    TrialState.DIVERGED: OptunaState.FAIL,
    TrialState.FAIL: OptunaState.FAIL,
}


def propose(state: SearchState, proxy: int, number: int) -> dict[str, float]:
    """The searched values of the next trial of a proxy; `number` is the trial's own, which seeds the draw."""
    return active_values(state.spec.space, _draw(state, proxy, number))


def _draw(state: SearchState, proxy: int, number: int) -> dict[str, float]:
    sampler, explored = state.spec.sampler, len(state.of(proxy, Role.EXPLORE))
    space = SearchSpace(state.spec.parameters)
    if sampler.name == "random":
        generator = np.random.default_rng([state.spec.seed, number])
        return space.from_unit(tuple(generator.random(len(space.parameters))))
    startup = math.ceil(sampler.startup_share * state.spec.ladder[proxy].trials)
    if sampler.name == "qmc" or explored < startup:
        return space.from_unit(_sobol_point(len(space.parameters), explored, [state.spec.seed, proxy]))
    return _tpe(state, proxy, number)


def _sobol_point(dimensions: int, index: int, seed: list[int]) -> tuple[float, ...]:
    """Point `index` of a scrambled Sobol sequence, which any prefix of covers the cube evenly.

    Source: Sobol 1967, scrambled after Owen 1998, as scipy.stats.qmc implements it.
    """
    engine = qmc.Sobol(dimensions, scramble=True, rng=np.random.default_rng(seed))
    if index:
        engine.fast_forward(index)  # which cannot take a step of zero
    return tuple(float(u) for u in engine.random(1)[0])


def _tpe(state: SearchState, proxy: int, number: int) -> dict[str, float]:
    """Optuna's TPE over the coordinates, with running trials as pending (constant liar)."""
    parameters = state.spec.parameters
    distributions = {parameter.name: FloatDistribution(*parameter.bounds) for parameter in parameters}
    seed = int(np.random.SeedSequence([state.spec.seed, number]).generate_state(1)[0])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)  # constant_liar, multivariate
        sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=1, multivariate=True, constant_liar=True)
    study = optuna.create_study(sampler=sampler)
    study.add_trials([_frozen(trial, parameters, distributions) for trial in state.of(proxy, Role.EXPLORE)])
    asked = study.ask({**distributions})
    return {
        parameter.name: parameter.nearest(parameter.value(asked.params[parameter.name])) for parameter in parameters
    }


def _frozen(
    trial: Trial, parameters: tuple[Parameter, ...], distributions: dict[str, FloatDistribution]
) -> FrozenTrial:
    coordinates = {
        parameter.name: float(np.clip(parameter.coordinate(trial.asked.values[parameter.name]), *parameter.bounds))
        for parameter in parameters
    }
    # One that was promoted and runs again counts by what it has shown, not as pending, which TPE takes for bad.
    optuna_state = OptunaState.PRUNED if trial.is_live and trial.measurements else OPTUNA_STATES[trial.state]
    return optuna.trial.create_trial(
        state=optuna_state,
        value=trial.loss if optuna_state is OptunaState.COMPLETE else None,
        params=coordinates,
        distributions={**distributions},
        intermediate_values={rung: measured.loss for rung, measured in enumerate(trial.measurements)}
        if optuna_state is OptunaState.PRUNED
        else {},
    )
