"""Laws as competing hypotheses, on made-up families that obey one of them, or none."""

from __future__ import annotations

import math
from functools import cache

import numpy as np
import pandas as pd
import pytest

from hpsearch.laws import step_law_batch, step_law_rate
from hpsearch.surface import Priors, Surface, fit_surface
from hpsearch.surface_hypotheses import BLIND, BLIND_FLOOR
from search_spaces.parameter import Parameter, Scale

NAMES = ("learning_rate", "batch_sequences")
SETTINGS = tuple((params, tokens) for params in (1e8, 2e8, 4e8) for tokens in (2e9, 1e10))
NUM_RUNS = 5  # a setting
TARGET = (6.4e9, 2e11)
OTHER_UNITS = 2.0**3  # of the rate: what the law says of its place is then wrong, and only that


def runs_of(
    settings: tuple[tuple[float, float], ...] = SETTINGS, rate_factor: float = 1.0, names: tuple[str, str] = NAMES
) -> pd.DataFrame:
    """A sweep of a family whose optimum is Step Law's, times a factor of the rate."""
    rng = np.random.default_rng(5)
    rows: list[dict[str, float]] = []
    for params, tokens in settings:
        for _ in range(NUM_RUNS):
            rate, batch = rng.uniform(-2, 2, 2).tolist()
            floor = math.log(1.7 + 1.1 * (params / 1e8) ** -0.35 + 1.3 * (tokens / 1e9) ** -0.35)
            steeper = 1.6 if rate > 0 else 1.0
            along = rate - 0.3 * batch
            excess = 0.0038 * steeper * along**2 + 0.0032 * batch**2 + 0.0012 * rng.standard_normal()
            rows.append(
                {
                    "trial": len(rows),
                    "params": params,
                    "tokens": tokens,
                    "seed": 0,
                    "loss": math.exp(floor + excess),
                    names[0]: step_law_rate(params, tokens) * rate_factor * 2**rate,
                    names[1]: step_law_batch(params, tokens) * 2**batch,
                }
            )
    return pd.DataFrame(rows)


def fitted(runs: pd.DataFrame, priors: Priors, names: tuple[str, str] = NAMES) -> Surface:
    parameters = [Parameter(name, runs[name].min() / 4, runs[name].max() * 4, Scale.LOG) for name in names]
    return fit_surface(runs, parameters, seed=0, priors=priors, hold_out=False)


@cache
def surface(rate_factor: float, priors: Priors) -> Surface:
    return fitted(runs_of(rate_factor=rate_factor), priors)


def misses(surface: Surface, rate_factor: float) -> dict[str, float]:
    """By parameter, the octaves between the answer at the target and the truth."""
    best, truth = surface.optimum(*TARGET), (step_law_rate(*TARGET) * rate_factor, step_law_batch(*TARGET))
    return {name: math.log2(best[name].median / value) for name, value in zip(NAMES, truth, strict=True)}


def width(surface: Surface, name: str) -> float:
    estimate = surface.optimum(*TARGET)[name]
    return math.log2(estimate.high80 / estimate.low80)


def test_a_law_that_holds_is_found_and_narrows_the_answer() -> None:
    public, neutral = surface(1.0, "public"), surface(1.0, "neutral")
    assert public.weights["step_law"] > 0.6
    for name in NAMES:
        assert width(public, name) < 0.6 * width(neutral, name)
        assert abs(misses(public, 1.0)[name]) < max(0.25, abs(misses(neutral, 1.0)[name]))


def test_a_law_that_places_the_rate_wrongly_is_not_believed() -> None:
    public, neutral = surface(OTHER_UNITS, "public"), surface(OTHER_UNITS, "neutral")
    assert public.weights.get("step_law", 0.0) == 0.0
    for name in NAMES:
        far, near = (abs(misses(answer, OTHER_UNITS)[name]) for answer in (public, neutral))
        assert far < near + 0.25
        assert width(public, name) < 1.25 * width(neutral, name)


@pytest.mark.parametrize("rate_factor", [1.0, OTHER_UNITS])
def test_weights_are_shares_and_the_blind_one_keeps_a_tenth(rate_factor: float) -> None:
    weights = surface(rate_factor, "public").weights
    assert sum(weights.values()) == pytest.approx(1.0)
    assert weights[BLIND] >= BLIND_FLOOR - 1e-12
    assert min(weights.values()) > 0
    assert list(weights.values()) == sorted(weights.values(), reverse=True)


def test_neutral_priors_weigh_no_law() -> None:
    assert dict(surface(1.0, "neutral").weights) == {BLIND: 1.0}


@pytest.mark.parametrize("num_settings", [1, 2])
def test_below_three_settings_no_law_is_weighed(num_settings: int) -> None:
    runs = runs_of(SETTINGS[:num_settings])
    public, neutral = fitted(runs, "public"), fitted(runs, "neutral")
    assert dict(public.weights) == {BLIND: 1.0}
    assert public.optimum(*TARGET) == neutral.optimum(*TARGET)


def test_a_law_is_not_weighed_before_the_trials_bracket_what_it_speaks_of() -> None:
    runs = runs_of()
    best = [step_law_rate(params, tokens) for params, tokens in zip(runs["params"], runs["tokens"], strict=True)]
    above = fitted(runs[runs["learning_rate"] > best], "public")
    assert above.weights.keys() == {BLIND, "power_lines"}


def test_short_names_mean_the_same() -> None:
    short = fitted(runs_of(names=("lr", "bs")), "public", ("lr", "bs"))
    long = surface(1.0, "public")
    assert short.weights == long.weights
    assert list(short.optimum(*TARGET).values()) == list(long.optimum(*TARGET).values())


def test_a_law_has_no_say_over_names_that_nobody_knows() -> None:
    """Under other names the place of the optimum is as good as in other units."""
    names = ("step_size", "microbatches")
    assert dict(fitted(runs_of(names=names), "public", names).weights) == {BLIND: 1.0}


@pytest.mark.parametrize("num_runs", [1, 2, 3])
def test_a_run_a_setting_or_less_still_answers(num_runs: int) -> None:
    runs = runs_of()[::NUM_RUNS].head(num_runs)
    answer = fitted(runs, "public").optimum(*TARGET)
    assert all(math.isfinite(estimate.value) for estimate in answer.values())


def test_a_setting_where_every_run_diverged_or_is_bad_does_not_spoil_the_rest() -> None:
    runs = runs_of()
    ruined = (runs["params"] == 1e8) & (runs["tokens"] == 2e9)
    for loss in (runs["loss"].mask(ruined), runs["loss"].mask(ruined, runs["loss"] * 1.5)):
        public = fitted(runs.assign(loss=loss), "public")
        assert public.weights["step_law"] > 0.6
        assert abs(misses(public, 1.0)["learning_rate"]) < 0.5


@pytest.mark.parametrize("size", [1e8, 2e8, 4e8])
@pytest.mark.parametrize("factor", [math.nan, 1.5])
def test_a_size_whose_runs_are_all_bad_does_not_bend_the_drift(size: float, factor: float) -> None:
    runs = runs_of()
    ruined = runs["params"] == size
    broken = runs.assign(loss=runs["loss"].mask(ruined, runs["loss"] * factor))
    for priors, octaves in (("neutral", 1.0), ("public", 0.25)):
        answer = fitted(broken, priors)  # type: ignore[arg-type]  # a literal
        assert answer.broken_sizes == (size,)
        rest = fitted(runs[~ruined], priors)  # type: ignore[arg-type]
        for name in NAMES:
            assert abs(misses(answer, 1.0)[name]) < max(octaves, abs(misses(rest, 1.0)[name]) + 0.1)


def test_a_sound_sweep_has_no_broken_size() -> None:
    assert surface(1.0, "neutral").broken_sizes == ()
