"""The surface as a sampler of real Optuna studies."""

from __future__ import annotations

import math

import optuna
import pytest
from optuna.distributions import FloatDistribution, IntDistribution
from optuna.trial import TrialState

from hpsearch.optuna_sampler import SurfaceSampler

SETTING, TARGET = (1e8, 2e9), (1.6e9, 3.2e10)
SPACE = {
    "learning_rate": FloatDistribution(1e-5, 1e-1, log=True),
    "batch_sequences": IntDistribution(8, 2048, log=True),
}


def loss_of(trial: optuna.Trial, tokens: float = 2e9) -> float:
    """Least at a rate of 1e-3 and a batch of 128."""
    rate = trial.suggest_float("learning_rate", 1e-5, 1e-1, log=True)
    batch = trial.suggest_int("batch_sequences", 8, 2048, log=True)
    off = math.log2(rate / 1e-3), math.log2(batch / 128)
    return 3.0 * math.pow(tokens / 2e9, -0.08) * math.exp(0.004 * off[0] ** 2 + 0.003 * off[1] ** 2)


def study(
    count: int, seed: int = 0, space: dict[str, optuna.distributions.BaseDistribution] | None = None
) -> optuna.Study:
    made = optuna.create_study(sampler=SurfaceSampler(SETTING, TARGET, seed, space=space))
    made.optimize(loss_of, n_trials=count)
    return made


def test_a_study_finds_the_optimum() -> None:
    best = study(18, space={**SPACE}).best_params
    assert abs(math.log2(best["learning_rate"] / 1e-3)) < 0.8
    assert abs(math.log2(best["batch_sequences"] / 128)) < 0.8


def test_without_a_space_the_second_trial_knows_it() -> None:
    asked = study(6).trials
    assert len({tuple(trial.params.values()) for trial in asked}) == 6
    assert all(isinstance(trial.params["batch_sequences"], int) for trial in asked)


def test_the_same_seed_asks_for_the_same() -> None:
    runs = [[trial.params for trial in study(9, seed, {**SPACE}).trials] for seed in (1, 1)]
    assert runs[0] == runs[1]


def test_trials_that_run_at_once_differ() -> None:
    made = study(8, space={**SPACE})
    asked = [made.ask({**SPACE}).params["learning_rate"] for _ in range(3)]
    assert len(set(asked)) == 3


def test_a_failed_trial_counts_where_it_is_said_to_have_diverged() -> None:
    rates = {}
    for diverged in (False, True):
        made = optuna.create_study(sampler=SurfaceSampler(SETTING, TARGET, space={**SPACE}))
        for _ in range(6):
            trial = made.ask({**SPACE})
            trial.set_user_attr("diverged", diverged)
            made.tell(trial, state=TrialState.FAIL)
        rates[diverged] = made.ask({**SPACE}).params["learning_rate"]
    assert rates[True] < rates[False]  # away from where all diverged; else the pattern begins anew


def test_runs_of_another_size_and_what_is_no_number_are_taken_along() -> None:
    made = optuna.create_study(sampler=SurfaceSampler(SETTING, TARGET))

    def objective(trial: optuna.Trial) -> float:
        large = trial.number % 2 == 1
        trial.set_user_attr("tokens", 8e9 if large else 2e9)
        trial.suggest_categorical("schedule", ["cosine", "linear"])
        return loss_of(trial, 8e9 if large else 2e9)

    made.optimize(objective, n_trials=10)
    assert len(made.trials) == 10
    assert {trial.params["schedule"] for trial in made.trials} == {"cosine", "linear"}


@pytest.mark.parametrize("name", ["beta2", "momentum"])
def test_a_beta_is_searched_by_its_distance_from_one(name: str) -> None:
    space = {name: FloatDistribution(0.9, 0.999)}
    made = optuna.create_study(sampler=SurfaceSampler(SETTING, space={**space}))
    middle = made.ask({**space}).params[name]
    assert middle == pytest.approx(1 - math.sqrt(0.1 * 0.001), rel=1e-6)
