"""How much each parameter matters over a whole space, beside what it costs near the best value.

Two measures, each for a question of its own, on the runs of one size and budget: across sizes the loss would mostly
tell the size.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np
import optuna
import pandas as pd
from optuna.distributions import FloatDistribution
from optuna.importance import (
    BaseImportanceEvaluator,
    FanovaImportanceEvaluator,
    PedAnovaImportanceEvaluator,
    get_param_importances,
)

from hpsearch.transfer.part import Part
from search_spaces.parameter import Parameter

MIN_RUNS = 20  # below, both measures follow luck
MAX_RUNS = 1000  # more change nothing but the time
SEED = 0

optuna.logging.set_verbosity(optuna.logging.WARNING)


class Importance(Part):
    """Shares that add up to one, by parameter."""

    params: float  # of the setting
    tokens: float
    runs: int
    fanova: dict[str, float]  # what moves the loss over the whole space: Hutter et al. 2014 (ICML)
    ped_anova: dict[str, float]  # what tells the best tenth of runs from all: Watanabe et al. 2023 (arXiv 2304.10255)


def importance(runs: pd.DataFrame, parameters: Sequence[Parameter]) -> Importance | None:
    """Of the setting with most runs, the larger where two have as many; None where it has too few.

    Args:
        runs: `params`, `tokens`, `loss` (NaN: diverged, which is left out) and the parameters.
        parameters: those that vary.
    """
    finite = runs[np.isfinite(runs["loss"])]
    sizes = finite.groupby(["params", "tokens"]).size()
    if sizes.empty or sizes.max() < MIN_RUNS:
        return None
    params, tokens = max(sizes.index[sizes == sizes.max()])
    here = finite[(finite["params"] == params) & (finite["tokens"] == tokens)]
    if len(here) > MAX_RUNS:
        here = here.sample(MAX_RUNS, random_state=SEED)
    varied = [parameter for parameter in parameters if here[parameter.name].nunique() > 1]
    if not varied:
        return None
    study = _study(here, varied)
    return Importance(
        params=float(params),
        tokens=float(tokens),
        runs=len(here),
        fanova=_shares(study, FanovaImportanceEvaluator(seed=SEED)),
        ped_anova=_shares(study, PedAnovaImportanceEvaluator()),
    )


def _shares(study: optuna.Study, evaluator: BaseImportanceEvaluator) -> dict[str, float]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # experimental
        return {name: float(share) for name, share in get_param_importances(study, evaluator=evaluator).items()}


def _study(runs: pd.DataFrame, parameters: Sequence[Parameter]) -> optuna.Study:
    """The runs over their coordinates, each a trial; what is off lies an octave below the rest."""
    columns = {}
    for parameter in parameters:
        octaves = np.array([parameter.coordinate(float(value)) for value in runs[parameter.name]])
        least = octaves[np.isfinite(octaves)].min()
        columns[parameter.name] = np.where(np.isfinite(octaves), octaves, least - 1.0)
    distributions = {name: FloatDistribution(at.min(), at.max()) for name, at in columns.items()}
    study = optuna.create_study()
    losses = runs["loss"].tolist()
    for i, loss in enumerate(losses):
        params = {name: float(at[i]) for name, at in columns.items()}
        study.add_trial(optuna.trial.create_trial(value=loss, params=params, distributions={**distributions}))
    return study
