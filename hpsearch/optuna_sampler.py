"""The drift-aware surface as a sampler for Optuna: for studies that are driven by somebody else's loop.

    sampler = SurfaceSampler(setting=(1e8, 2e9), target=(1.6e9, 3.2e10), seed=0)
    study = optuna.create_study(sampler=sampler)

Runs of other sizes and budgets may stand in the same study: a trial's user attributes `params` and `tokens` go before
the sampler's own setting, and `diverged` says that a failed trial is a measurement.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from optuna import Study
from optuna.distributions import BaseDistribution, FloatDistribution, IntDistribution
from optuna.samplers import BaseSampler, RandomSampler
from optuna.search_space import intersection_search_space
from optuna.trial import FrozenTrial, TrialState

from hpsearch.expected_gain import Setting
from hpsearch.laws import FLOPS_PER_PARAMETER_TOKEN
from hpsearch.next_trial import Option, next_trial
from hpsearch.surface import Priors, fit_surface
from hpsearch.surface_model import Array
from search_spaces.parameter import COMPLEMENTS, Parameter, Scale, SearchSpace, known_name


class SurfaceSampler(BaseSampler):
    """Proposes the trial that lowers the target's expected regret most.

    Numbers are proposed together; what else a trial asks for (categories, parameters that only some trials have) is
    drawn at random. Deterministic under its seed and the trials before.
    """

    def __init__(
        self,
        setting: Setting,
        target: Setting | None = None,
        seed: int = 0,
        priors: Priors = "neutral",
        space: Mapping[str, BaseDistribution] | None = None,
    ) -> None:
        """Sets the sampler up.

        Args:
            setting: N and D of the trials that are asked for now; change `setting` when the loop moves on.
            target: N and D that the search is for; the setting where None.
            seed: of all draws.
            priors: `neutral`, or `public` for published laws weighed by what they predict.
            space: the distributions, so that already the first trials are placed; else they are known from the
                second trial on.
        """
        self.setting = setting
        self._target, self._seed, self._priors = target, seed, priors
        self._space = dict(space or {})
        self._independent = RandomSampler(seed=seed)

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """The numbers that all trials so far had, or those that were given."""
        known = self._space or intersection_search_space(study.get_trials(deepcopy=False))
        return {name: given for name, given in known.items() if _is_searchable(given)}

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """The proposed numbers."""
        if not search_space:
            return {}
        parameters = tuple(_parameter(name, given) for name, given in search_space.items())
        names = [parameter.name for parameter in parameters]
        trials = [
            t for t in study.get_trials(deepcopy=False) if t.number != trial.number and set(names) <= set(t.params)
        ]
        told = pd.DataFrame([row for t in trials if (row := self._row(t, names)) is not None])
        finite = not told.empty and bool(np.isfinite(told["loss"]).any())
        surface = fit_surface(told, parameters, self._seed, self._priors, hold_out=False) if finite else None
        proposal = next_trial(
            surface,
            parameters,
            np.array([_coordinates(parameters, row) for row in told.to_dict("records")]).reshape(len(told), len(names)),
            [_option(self.setting)],
            self._target or self.setting,
            [
                (_coordinates(parameters, t.params), _option(self._place(t)))
                for t in trials
                if not t.state.is_finished()
            ],
            np.random.default_rng([self._seed, trial.number]),
        )
        values = SearchSpace(parameters).at(proposal.coordinates.tolist())
        return {
            name: int(value) if isinstance(search_space[name], IntDistribution) else value
            for name, value in values.items()
        }

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """At random."""
        return self._independent.sample_independent(study, trial, param_name, param_distribution)

    def _place(self, trial: FrozenTrial) -> Setting:
        """N and D of a trial."""
        params, tokens = (
            trial.user_attrs.get(name, default)
            for name, default in zip(("params", "tokens"), self.setting, strict=True)
        )
        return float(params), float(tokens)

    def _row(self, trial: FrozenTrial, names: list[str]) -> dict[str, Any] | None:
        """A measurement; None of a trial that says nothing: cut short, running, or failed for another reason."""
        diverged = trial.state is TrialState.FAIL and bool(trial.user_attrs.get("diverged"))
        if trial.state is not TrialState.COMPLETE and not diverged:
            return None
        params, tokens = self._place(trial)
        loss = math.nan if diverged else trial.value
        values = {name: float(trial.params[name]) for name in names}
        return {"trial": str(trial.number), "seed": 0, "params": params, "tokens": tokens, "loss": loss, **values}


def _option(setting: Setting) -> Option:
    return Option(*setting, FLOPS_PER_PARAMETER_TOKEN * setting[0] * setting[1])


def _coordinates(parameters: tuple[Parameter, ...], values: Mapping[Any, Any]) -> Array:
    """(P,) octaves."""
    return np.array([parameter.coordinate(float(values[parameter.name])) for parameter in parameters])


def _is_searchable(given: BaseDistribution) -> bool:
    """Whether it is a number with a range."""
    return isinstance(given, FloatDistribution | IntDistribution) and given.low < given.high


def _parameter(name: str, given: BaseDistribution) -> Parameter:
    assert isinstance(given, FloatDistribution | IntDistribution)
    complement = known_name(name).startswith(COMPLEMENTS) and given.low >= 0 and given.high < 1
    scale = Scale.LOG if given.log else Scale.LOG_COMPLEMENT if complement else Scale.LINEAR
    return Parameter(name, given.low, given.high, scale, integer=isinstance(given, IntDistribution))
