"""What goes with the recommended values, on a surface whose truth is known."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from hpsearch.laws import step_law_batch, step_law_rate
from hpsearch.surface import Backtest, Surface, fit_surface
from hpsearch.transfer.advice import (
    REUSE,
    alternatives,
    best_next_trial,
    beyond_the_space,
    compared,
    early_loss,
    model_error_share,
    tie_set,
)
from hpsearch.transfer.reach import LEAST_REACH_PARAMS, MAX_REACH_PARAMS, costly_misses, reach, refusal, supported_reach
from search_spaces.parameter import Parameter, Scale

SETTINGS = ((1e8, 2e9), (1e8, 8e9), (2e8, 2e9), (2e8, 8e9), (4e8, 2e9), (4e8, 8e9))
TARGET = (1.6e9, 1.6e10)
RATE = Parameter("learning_rate", 2.0**-14, 2.0**-4, Scale.LOG)
BATCH = Parameter("batch_sequences", 8, 2048, Scale.LOG)


def runs_of(shift: float = 0.0) -> pd.DataFrame:
    """Runs around the optimum of Step Law; of the rate all lie `shift` octaves above it."""
    rng = np.random.default_rng(3)
    rows: list[dict[str, object]] = []
    for params, tokens in SETTINGS:
        for _ in range(8):
            rate, batch = rng.uniform(-1.5, 1.5, 2) + (shift, 0.0)
            loss = 3 * (params / 1e8) ** -0.08 * (tokens / 2e9) ** -0.08
            excess = 0.004 * (1.5 if rate > 0 else 1.0) * rate**2 + 0.003 * batch**2 + 0.0005 * rng.standard_normal()
            rows.append(
                {
                    "trial": str(len(rows)),
                    "seed": 0,
                    "params": params,
                    "tokens": tokens,
                    "loss": loss * math.exp(excess),
                    "learning_rate": step_law_rate(params, tokens) * 2**rate,
                    "batch_sequences": step_law_batch(params, tokens) * 2**batch,
                }
            )
    return pd.DataFrame(rows)


@pytest.fixture(scope="module")
def surface() -> Surface:
    return fit_surface(runs_of(), (RATE, BATCH), seed=0)


@pytest.fixture(scope="module")
def config(surface: Surface) -> dict[str, float]:
    return {name: estimate.value for name, estimate in surface.optimum(*TARGET).items()}


def test_the_tie_set_holds_the_value_and_no_more_than_the_trials_cannot_tell(
    surface: Surface, config: dict[str, float]
) -> None:
    tied = tie_set(surface, RATE, config, TARGET)
    assert tied.low <= config["learning_rate"] <= tied.high
    assert "too high costs more" in tied.rule
    assert "too high" not in tie_set(surface, BATCH, config, TARGET).rule
    best = surface.expected_regret(*TARGET, config).mean
    for end in (tied.low, tied.high):
        cost = surface.expected_regret(*TARGET, {**config, "learning_rate": end}).mean
        assert cost <= best + 0.0015


def test_the_law_that_holds_costs_least_of_all_that_others_would_take(
    surface: Surface, config: dict[str, float]
) -> None:
    found = alternatives(surface, config, TARGET)
    assert set(found) >= {REUSE, "step_law", "deepseek", "kaplan", "porian"}
    assert min(found, key=lambda name: found[name].expected_regret) == "step_law"
    assert found["step_law"].values["learning_rate"] == pytest.approx(step_law_rate(*TARGET))
    assert found[REUSE].expected_regret > surface.expected_regret(*TARGET, config).mean


def test_what_a_law_leaves_out_has_the_recommended_value(surface: Surface, config: dict[str, float]) -> None:
    """Kaplan's law has no batch: at the best one for each draw it would look better than it can be."""
    found = alternatives(surface, config, TARGET)["kaplan"]
    assert set(found.values) == {"learning_rate"}
    filled = {**config, **found.values}
    assert found.expected_regret == surface.expected_regret(*TARGET, filled).mean
    assert found.expected_regret > surface.expected_regret(*TARGET, found.values).mean


def test_a_batch_in_shorter_sequences_is_the_same_batch(surface: Surface, config: dict[str, float]) -> None:
    found = alternatives(surface, config, TARGET, sequence_tokens=512)
    assert found["step_law"].values["batch_sequences"] == pytest.approx(4 * step_law_batch(*TARGET))


def test_the_recommended_configuration_is_no_better_than_itself(surface: Surface, config: dict[str, float]) -> None:
    same = compared(surface, config, config, TARGET)
    assert same.better_than_recommended_probability == 0.0
    assert same.expected_regret == surface.expected_regret(*TARGET, config).mean


def test_the_next_trial_lies_in_the_box_and_promises_a_lower_regret(surface: Surface, config: dict[str, float]) -> None:
    regret = surface.expected_regret(*TARGET, config).mean
    following = best_next_trial(surface, (RATE, BATCH), TARGET, regret)
    assert 0 <= following.expected_regret_after < regret
    for parameter in (RATE, BATCH):
        assert parameter.low * 0.999 <= following.parameters[parameter.name] <= parameter.high * 1.001


def test_the_early_loss_lies_above_that_of_the_whole_run(surface: Surface, config: dict[str, float]) -> None:
    early, late = early_loss(surface, config, TARGET), surface.predict_loss(*TARGET, config)
    assert early.tokens == pytest.approx(0.02 * TARGET[1])
    assert early.interval90[0] < early.loss < early.interval90[1]
    assert early.loss > late.high90


def missed(surface: Surface, octaves: float) -> Surface:
    """The same surface, had the rate at the largest size been predicted so many octaves too low, and surely so."""
    tested = surface.backtest["learning_rate"]
    guess = tested.fitted * 2.0**-octaves
    predicted = replace(tested.predicted, value=guess, median=guess, low95=guess * 0.9, high95=guess * 1.1)
    bad = replace(tested, predicted=predicted, inside=False, misfit_octaves=octaves)
    backtest: dict[str, Backtest] = {**surface.backtest, "learning_rate": bad}
    return replace(surface, backtest=backtest)


def test_a_back_test_that_missed_at_a_cost_limits_the_reach(surface: Surface) -> None:
    assert supported_reach(surface) == MAX_REACH_PARAMS and costly_misses(surface) == ()
    assert refusal(surface, *TARGET) == ""
    cheap, dear = missed(surface, 0.3), missed(surface, 2.0)
    assert refusal(cheap, *TARGET) == ""
    assert supported_reach(dear) == LEAST_REACH_PARAMS  # the ladder's own step of 2x is less than that
    assert refusal(dear, *TARGET) == ""
    further = (3.2e9, 3.2e10)
    assert refusal(surface, *further) == "" and reach(dear, *further).params == pytest.approx(8.0)
    assert "the back-test missed learning_rate" in refusal(dear, *further)


def test_model_error_has_its_share_of_the_regret(surface: Surface, config: dict[str, float]) -> None:
    none = replace(surface, backtest={})
    assert model_error_share(none, config, TARGET) == 0.0
    assert 0.0 < model_error_share(missed(surface, 2.0), config, TARGET) < 1.0


def test_an_optimum_outside_the_space_is_refused_where_it_costs() -> None:
    """All rates lie two and a half octaves above the best."""
    runs = runs_of(shift=2.5)
    low, high = float(runs["learning_rate"].min()), float(runs["learning_rate"].max())
    surface = fit_surface(runs, (replace(RATE, low=low, high=high), BATCH), seed=0)
    assert beyond_the_space(surface) in ((), ("learning_rate",))
    wide = fit_surface(runs, (RATE, BATCH), seed=0)
    assert beyond_the_space(wide) == ()
    narrow = fit_surface(runs, (replace(RATE, low=2.0**-8, high=high), BATCH), seed=0)
    assert beyond_the_space(narrow) == ("learning_rate",)
    assert "edge: at the largest size the best learning_rate lies outside" in refusal(narrow, *TARGET)
