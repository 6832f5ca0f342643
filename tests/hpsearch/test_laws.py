"""Published laws at the values that their papers give, and the tangents that the surface takes of them."""

from __future__ import annotations

import math

import pytest

from hpsearch.laws import (
    LAWS,
    SEQUENCE_TOKENS,
    Drift,
    Law,
    deepseek_batch,
    deepseek_rate,
    first_guess,
    kaplan_rate,
    kaplan_tokens,
    porian_batch,
    porian_rate,
    porian_tokens,
    step_law_batch,
    step_law_rate,
)

BY_NAME = {law.name: law for law in LAWS}
PLACED = [(law.name, parameter) for law in LAWS for parameter in law.formulas]
ANYWHERE = [(law, parameter) for law, parameter in PLACED if BY_NAME[law].line is None]


def drift_of(law: Law, parameter: str, params: float, tokens: float) -> Drift:
    return law.drifts(params, tokens)[parameter]


def test_step_law_at_a_billion_parameters_and_a_hundred_billion_tokens() -> None:
    assert step_law_rate(1e9, 1e11) == pytest.approx(1.6325e-3, rel=1e-4)
    assert step_law_batch(1e9, 1e11) * SEQUENCE_TOKENS == pytest.approx(1.1077e6, rel=1e-4)
    assert step_law_batch(1e9, 1e11) == step_law_batch(7e9, 1e11)


@pytest.mark.parametrize(
    ("params", "rate", "batch_tokens"), [(6.6e9, 4.2e-4, 2304 * 4096), (6.6e10, 3.2e-4, 4608 * 4096)]
)
def test_deepseek_names_the_settings_of_its_own_models(params: float, rate: float, batch_tokens: float) -> None:
    """DeepSeek LLM 7B and 67B, each on 2e12 tokens, as its table 2 has them."""
    assert deepseek_rate(params, 2e12) == pytest.approx(rate, rel=0.03)
    assert deepseek_batch(params, 2e12) * SEQUENCE_TOKENS == pytest.approx(batch_tokens, rel=0.06)


def test_kaplan_falls_with_the_logarithm_until_it_is_nothing() -> None:
    assert kaplan_rate(1.0, 1.0) == 0.003239
    assert kaplan_rate(1e6, 1e9) == pytest.approx(1.3117e-3, rel=1e-3)
    assert kaplan_rate(1e6, 1e9) - kaplan_rate(1e7, 1e9) == pytest.approx(0.0001395 * math.log(10))
    assert kaplan_rate(1.2e10, 1e9) > 0 > kaplan_rate(1.3e10, 1e9)


def test_porian_at_its_reference_and_at_eight_times_its_size() -> None:
    assert [porian_rate(108e6, 1e9), porian_batch(108e6, 1e9)] == pytest.approx([0.0047, 160])
    assert [porian_rate(864e6, 1e9), porian_batch(864e6, 1e9)] == pytest.approx([0.00235, 640])


@pytest.mark.parametrize(
    ("law", "parameter", "by_params", "by_tokens"),
    [
        ("step_law", "learning_rate", -0.713, 0.307),
        ("step_law", "batch_sequences", 0.0, 0.571),
        ("deepseek", "learning_rate", -0.125, -0.125),
        ("deepseek", "batch_sequences", 0.3271, 0.3271),
        ("porian", "learning_rate", -1 / 3, None),
        ("porian", "batch_sequences", 2 / 3, None),
    ],
)
def test_the_tangent_of_a_power_law_is_its_exponents_anywhere(
    law: str, parameter: str, by_params: float, by_tokens: float | None
) -> None:
    for params, tokens in ((1e6, 1e11), (3e9, 2e8)):
        drift = drift_of(BY_NAME[law], parameter, params, tokens)
        assert drift.by_params == pytest.approx(by_params)
        assert drift.by_tokens == (None if by_tokens is None else pytest.approx(by_tokens))


@pytest.mark.parametrize(("law", "parameter"), ANYWHERE)
def test_a_tangent_touches_its_law_and_has_its_slope(law: str, parameter: str) -> None:
    params, tokens, octaves = 2e8, 6e9, 1e-3
    formula, drift = BY_NAME[law].formulas[parameter], drift_of(BY_NAME[law], parameter, params, tokens)
    here = math.log2(formula(params, tokens))
    by_params = (math.log2(formula(params * 2**octaves, tokens)) - here) / octaves
    by_tokens = (math.log2(formula(params, tokens * 2**octaves)) - here) / octaves
    assert drift.center == pytest.approx(here)
    assert drift.by_params == pytest.approx(by_params, abs=0.003)
    assert drift.by_tokens == pytest.approx(by_tokens, abs=0.003)


@pytest.mark.parametrize(("law", "parameter"), [placed for placed in PLACED if placed not in ANYWHERE])
def test_a_law_of_a_line_holds_along_it_and_is_silent_beside_it(law: str, parameter: str) -> None:
    """Porian et al. trained 20 tokens a parameter, Kaplan et al. 1.3e11 at every size."""
    line, formula = BY_NAME[law].line, BY_NAME[law].formulas[parameter]
    assert line is not None
    params, tokens, octaves = 2e8, 6e9, 1e-3
    drift = drift_of(BY_NAME[law], parameter, params, tokens)
    assert drift.center == pytest.approx(math.log2(formula(params, tokens)))
    assert drift.tokens_away == pytest.approx(math.log2(line(params) / tokens))
    assert drift.tokens_along == pytest.approx(math.log2(line(2 * params) / line(params)))
    rise = math.log2(formula(params * 2**octaves, tokens) / formula(params, tokens)) / octaves
    assert drift.by_params == pytest.approx(rise, abs=0.003)
    assert drift.by_tokens is None


def test_the_lines_are_those_of_the_papers() -> None:
    assert [kaplan_tokens(params) for params in (1e8, 1e9)] == pytest.approx([1.31e11, 1.31e11], rel=1e-3)
    assert [porian_tokens(params) for params in (1e8, 1e9)] == [2e9, 2e10]


def test_a_law_without_a_place_gives_its_exponents_and_leaves_the_rest_open() -> None:
    assert BY_NAME["power_lines"].drifts(1e8, 1e9) == {"batch_sequences": Drift(None, 0.0, 0.383)}
    assert BY_NAME["mup_width"].drifts(1e8, 1e9) == {"learning_rate": Drift(None, -1 / 3, None)}


@pytest.mark.parametrize("params", [1e10, 1e11])  # the first is still inside, half an octave above it no more
def test_a_law_that_has_left_its_domain_says_nothing(params: float) -> None:
    assert BY_NAME["kaplan"].drifts(params, 1e11) == {}
    assert set(BY_NAME["kaplan"].drifts(1e9, 1e11)) == {"learning_rate"}
    assert set(BY_NAME["step_law"].drifts(params, 1e11)) == {"learning_rate", "batch_sequences"}


def test_a_first_guess_is_the_mean_of_laws_that_speak_of_the_setting() -> None:
    """Kaplan et al. trained five octaves more tokens than these 4e9, and have no part in it."""
    place, sd = first_guess("learning_rate", 2.15e8, 4e9) or (math.nan, math.nan)
    rates = [rate(2.15e8, 4e9) for rate in (step_law_rate, deepseek_rate, porian_rate)]
    assert place == pytest.approx(sum(math.log2(rate) for rate in rates) / 3)
    assert 0.5 < sd < 1.0
    assert first_guess("weight_decay", 2.15e8, 4e9) is None
