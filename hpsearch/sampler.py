"""Where the next configuration of a proxy comes from: a pure function of the search so far.

Every dimension is drawn, then conditions are applied: what is off has its default, and is told back as that.

A sampler is built anew for every ask, seeded from (search seed, trial number), on an Optuna study refilled
from the state: a sampler that lives on carries a generator that no replay can bring back.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import optuna
from optuna.distributions import FloatDistribution
from optuna.trial import FrozenTrial
from optuna.trial import TrialState as OptunaState
from scipy.stats import qmc

from hpsearch.conditions import active_values
from hpsearch.events import Role, TrialState
from hpsearch.fits import surface_so_far
from hpsearch.freeze_stage import AUDIT, FROZEN, free_optimum, frozen_values, is_audit_due
from hpsearch.next_trial import Option, Proposal, most_gain, valley_found
from hpsearch.plan import architecture, rung_tokens, segment_flops, trial_config
from hpsearch.state import SearchState, Trial
from hpsearch.surface import Surface
from hpsearch.surface_model import Array
from hpsearch.targets import target_tokens
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


@dataclass(frozen=True)
class Proposed:
    """The searched values of a trial, and why these."""

    values: dict[str, float]
    reasons: dict[str, float]


def propose(state: SearchState, proxy: int, number: int) -> Proposed:
    """The searched values of the next trial of a proxy; `number` is the trial's own, which seeds the draw."""
    free = free_optimum(state, proxy) if is_audit_due(state, proxy) else {}
    if free:
        return Proposed(active_values(state.spec.space, free), {AUDIT: 1.0})
    drawn, frozen = _draw(state, proxy, number), frozen_values(state)
    kept = {f"{FROZEN}{name}": value for name, value in frozen.items()}
    return Proposed(active_values(state.spec.space, drawn.values | frozen), drawn.reasons | kept)


def in_order_of_gain(state: SearchState, proxies: Sequence[int]) -> list[int]:
    """The proxies, those first where a trial lowers the target's expected regret most for its FLOPs.

    Small ones first with another sampler, or while one of them has not begun or the valley is not found.
    """
    begun = all(_startup(state, proxy) <= len(state.of(proxy, Role.EXPLORE)) for proxy in proxies)
    surface = surface_so_far(state) if state.spec.sampler.name == "surface" and begun else None
    if surface is None or not valley_found(surface):
        return list(proxies)
    gain = {proxy: _most_gain(state, surface, proxy) for proxy in proxies}
    return sorted(proxies, key=lambda proxy: -gain[proxy].gain / gain[proxy].option.flops)


def _draw(state: SearchState, proxy: int, number: int) -> Proposed:
    name, explored = state.spec.sampler.name, len(state.of(proxy, Role.EXPLORE))
    space = SearchSpace(state.spec.parameters)
    if name == "random":
        generator = np.random.default_rng([state.spec.seed, number])
        return Proposed(space.from_unit(tuple(generator.random(len(space.parameters)))), {})
    if name == "grid":
        return Proposed(space.from_unit(_grid_point(space, state.spec.ladder[proxy].trials, explored)), {})
    if name == "qmc" or explored < _startup(state, proxy):
        return Proposed(space.from_unit(_sobol_point(len(space.parameters), explored, [state.spec.seed, proxy])), {})
    if name == "surface":
        return _from_surface(state, proxy, explored)
    return Proposed(_optuna(state, proxy, number), {})


def _startup(state: SearchState, proxy: int) -> int:
    """Quasi-random trials of a proxy before its sampler begins."""
    return math.ceil(state.spec.sampler.startup_share * state.spec.ladder[proxy].trials)


def _from_surface(state: SearchState, proxy: int, explored: int) -> Proposed:
    """Where the target's regret is expected to fall most; quasi-random until the valley is found."""
    surface, parameters = surface_so_far(state), state.spec.parameters
    if surface is None or not valley_found(surface):
        point = _sobol_point(len(parameters), explored, [state.spec.seed, proxy])
        return Proposed(SearchSpace(parameters).from_unit(point), {})
    proposal = _most_gain(state, surface, proxy)
    values = SearchSpace(parameters).at(proposal.coordinates.tolist())
    return Proposed(values, {"expected_gain": proposal.gain, "observations": float(surface.num_observations)})


def _most_gain(state: SearchState, surface: Surface, proxy: int) -> Proposal:
    """The trial of a proxy with the largest expected gain at its first rung, given those that run."""
    key = ("gain", surface.num_observations, proxy, len(state.trials), tuple(state.running))
    if key not in state.memo:
        parameter_of = {parameter.name: parameter for parameter in state.spec.parameters}
        frozen = {name: parameter_of[name].coordinate(value) for name, value in frozen_values(state).items()}
        ends = [(frozen[p.name],) * 2 if p.name in frozen else p.bounds for p in state.spec.parameters]
        box = np.array(ends)
        target = state.spec.target_architecture(state.spec.target).params, target_tokens(state.spec)
        running = [(_coordinates(state, trial), _first_rung(trial)) for trial in state.running.values()]
        config = trial_config(state.spec, proxy, _middle(state), state.spec.seed)
        rungs = rung_tokens(state.spec, proxy, config.batch_sequences)
        option = Option(architecture(state.spec, proxy).params, rungs[0], segment_flops(config, rungs, 0))
        state.memo[key] = most_gain(surface, box, [option], target, running)
    proposal: Proposal = state.memo[key]
    return proposal


def _middle(state: SearchState) -> dict[str, float]:
    """The middle of the space, whose cost stands for that of a trial."""
    parameters = state.spec.parameters
    return SearchSpace(parameters).at([sum(parameter.bounds) / 2 for parameter in parameters])


def _coordinates(state: SearchState, trial: Trial) -> Array:
    """(P,) octaves, inside the box: what is off counts as at its end."""
    values = trial.asked.values
    return np.array([np.clip(p.coordinate(values[p.name]), *p.bounds) for p in state.spec.parameters])


def _first_rung(trial: Trial) -> Option:
    tokens = trial.asked.rungs[trial.rung]
    return Option(trial.config.architecture.params, tokens, trial.asked.cost_flops)


def _grid_point(space: SearchSpace, trials: int, index: int) -> tuple[float, ...]:
    """Point `index` of the finest full grid that `trials` can walk through, cell middles, then again from its start."""
    sides = max(1, math.floor(trials ** (1 / len(space.parameters)) + 1e-9))
    places = np.unravel_index(index % sides ** len(space.parameters), [sides] * len(space.parameters))
    return tuple((int(place) + 0.5) / sides for place in places)


def _sobol_point(dimensions: int, index: int, seed: list[int]) -> tuple[float, ...]:
    """Point `index` of a scrambled Sobol sequence, which any prefix of covers the cube evenly.

    Source: Sobol 1967, scrambled after Owen 1998, as scipy.stats.qmc implements it.
    """
    engine = qmc.Sobol(dimensions, scramble=True, rng=np.random.default_rng(seed))
    if index:
        engine.fast_forward(index)  # which cannot take a step of zero
    return tuple(float(u) for u in engine.random(1)[0])


def _optuna(state: SearchState, proxy: int, number: int) -> dict[str, float]:
    """One of Optuna's samplers over the coordinates."""
    parameters = state.spec.parameters
    distributions = {parameter.name: FloatDistribution(*parameter.bounds) for parameter in parameters}
    seed = int(np.random.SeedSequence([state.spec.seed, number]).generate_state(1)[0])
    sampler = _optuna_sampler(state.spec.sampler.name, seed)
    storage = optuna.storages.InMemoryStorage()
    study = optuna.create_study(storage=storage, sampler=sampler)
    study_id = storage.get_study_id_from_name(study.study_name)
    for trial in state.of(proxy, Role.EXPLORE):  # `study.add_trials` would check each anew
        storage.create_new_trial(study_id, _told(state, trial, distributions))
    asked = study.ask({**distributions})
    return SearchSpace(parameters).at([asked.params[parameter.name] for parameter in parameters])


def _optuna_sampler(name: str, seed: int) -> optuna.samplers.BaseSampler:
    """TPE takes running trials as pending (constant liar); the others leave them out."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        if name == "gp":
            return optuna.samplers.GPSampler(seed=seed, n_startup_trials=1)
        if name == "cmaes":
            return optuna.samplers.CmaEsSampler(seed=seed, n_startup_trials=1)
        return optuna.samplers.TPESampler(seed=seed, n_startup_trials=1, multivariate=True, constant_liar=True)


class _Told(FrozenTrial):
    """A trial as it is told to one study after another: nobody changes it, so none needs a copy."""

    def __deepcopy__(self, memo: dict[int, Any]) -> _Told:
        return self


def _told(state: SearchState, trial: Trial, distributions: dict[str, FloatDistribution]) -> _Told:
    """A trial as it is now; made once for every state and rung that it comes to."""
    key, shown = ("told", trial.trial_id), (trial.state, len(trial.measurements))
    if state.memo.get(key, ((), None))[0] != shown:
        state.memo[key] = shown, _frozen(trial, state.spec.parameters, distributions)
    told: _Told = state.memo[key][1]
    return told


def _frozen(trial: Trial, parameters: tuple[Parameter, ...], distributions: dict[str, FloatDistribution]) -> _Told:
    coordinates = {
        parameter.name: float(np.clip(parameter.coordinate(trial.asked.values[parameter.name]), *parameter.bounds))
        for parameter in parameters
    }
    # One that was promoted and runs again counts by what it has shown, not as pending, which TPE takes for bad.
    optuna_state = OptunaState.PRUNED if trial.is_live and trial.measurements else OPTUNA_STATES[trial.state]
    return _Told(
        number=-1,  # the study gives it, as its id
        trial_id=-1,
        state=optuna_state,
        value=trial.loss if optuna_state is OptunaState.COMPLETE else None,
        datetime_start=None,
        datetime_complete=None,
        params=coordinates,
        distributions={**distributions},
        user_attrs={},
        system_attrs={},
        intermediate_values={rung: measured.loss for rung, measured in enumerate(trial.measurements)}
        if optuna_state is OptunaState.PRUNED
        else {},
    )
