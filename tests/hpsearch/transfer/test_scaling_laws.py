"""The published laws: their papers' numbers, and what must hold of any split of a budget."""

from __future__ import annotations

from math import log

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpsearch.transfer.published_runs import published_runs
from hpsearch.transfer.scaling_laws import (
    HOFFMANN,
    KAPLAN,
    PETAFLOP_DAY,
    REFIT,
    SCALING_LAWS,
    SumLaw,
    critical_batch,
    kaplan_batch,
    kaplan_least_steps,
    kaplan_loss,
    kaplan_loss_of_compute,
    kaplan_loss_of_params,
    kaplan_loss_of_tokens,
    kaplan_tokens_needed,
)

GOPHER_FLOPS = 5.76e23  # Hoffmann et al. 2022, abstract and table 3
FLOPS = st.floats(1e15, 1e30)
GROWTHS = st.floats(1.1, 1e4)


def exponent(before: float, after: float, growth: float) -> float:
    return log(after / before) / log(growth)


def test_at_gophers_compute_the_refit_is_chinchilla_and_the_rounded_constants_are_not() -> None:
    refit, rounded = REFIT.optimum(GOPHER_FLOPS), HOFFMANN.optimum(GOPHER_FLOPS)
    assert 60e9 < refit.params < 75e9 and 1.2e12 < refit.tokens < 1.6e12
    assert rounded.params == pytest.approx(32e9, rel=0.02)
    assert rounded.tokens == pytest.approx(3.0e12, rel=0.02)


def test_one_petaflop_day_is_what_kaplan_says() -> None:
    best = KAPLAN.optimum(PETAFLOP_DAY)
    assert (best.params, best.tokens) == (1.3e9, 2e10)
    assert best.loss == pytest.approx(3.1e8**0.05)
    assert (kaplan_batch(PETAFLOP_DAY), kaplan_least_steps(PETAFLOP_DAY)) == (2.0e6, 5.4e3)
    steps_at_critical_batch = best.tokens / kaplan_batch(PETAFLOP_DAY)
    assert steps_at_critical_batch == pytest.approx(2 * 5.4e3, rel=0.1), "which takes twice the least steps"


@given(flops=FLOPS, growth=GROWTHS)
def test_kaplans_exponents(flops: float, growth: float) -> None:
    before, after = KAPLAN.optimum(flops), KAPLAN.optimum(growth * flops)
    assert exponent(before.params, after.params, growth) == pytest.approx(0.73)
    assert exponent(before.tokens, after.tokens, growth) == pytest.approx(0.27)
    assert exponent(after.loss, before.loss, growth) == pytest.approx(0.050)
    assert exponent(kaplan_batch(flops), kaplan_batch(growth * flops), growth) == pytest.approx(0.24)
    assert exponent(kaplan_least_steps(flops), kaplan_least_steps(growth * flops), growth) == pytest.approx(0.03)


@given(count=st.floats(1e6, 1e12), growth=GROWTHS)
def test_kaplans_other_exponents(count: float, growth: float) -> None:
    more = growth * count
    assert exponent(kaplan_loss_of_params(more), kaplan_loss_of_params(count), growth) == pytest.approx(0.076)
    assert exponent(kaplan_loss_of_tokens(more), kaplan_loss_of_tokens(count), growth) == pytest.approx(0.095)
    assert exponent(kaplan_loss_of_compute(more), kaplan_loss_of_compute(count), growth) == pytest.approx(0.050)
    assert exponent(kaplan_tokens_needed(count), kaplan_tokens_needed(more), growth) == pytest.approx(0.74)


def test_kaplans_constants_are_where_the_loss_would_be_one_nat() -> None:
    assert kaplan_loss_of_params(8.8e13) == kaplan_loss_of_tokens(5.4e13) == 1.0
    assert kaplan_loss_of_compute(3.1e8 * PETAFLOP_DAY) == 1.0
    assert critical_batch(1.0) == 2e8
    assert kaplan_loss(6.4e13, 1e30) == pytest.approx(1.0)
    assert 4.5 < kaplan_tokens_needed(8e9) / kaplan_tokens_needed(1e9) < 5.0, "8 times the model, 5 times the data"


@given(flops=FLOPS, law=st.sampled_from([HOFFMANN, REFIT]), step=st.floats(0.01, 2.0))
def test_a_split_spends_the_budget_and_no_other_is_better(flops: float, law: SumLaw, step: float) -> None:
    best = law.optimum(flops)
    assert 6 * best.params * best.tokens == pytest.approx(flops)
    for factor in (2**step, 2**-step):
        assert law.loss(best.params * factor, best.tokens / factor) > best.loss


@given(flops=FLOPS, growth=GROWTHS, index=st.integers(0, 2))
def test_more_compute_is_a_larger_model_longer_trained_and_better(flops: float, growth: float, index: int) -> None:
    before, after = SCALING_LAWS[index].optimum(flops), SCALING_LAWS[index].optimum(flops * growth)
    assert after.params > before.params and after.tokens > before.tokens and after.loss < before.loss


@given(flops=FLOPS, growth=st.floats(1.1, 100), law=st.sampled_from([HOFFMANN, REFIT]))
def test_data_grows_with_the_model_along_the_optimum(flops: float, growth: float, law: SumLaw) -> None:
    before, after = law.optimum(flops), law.optimum(flops * growth)
    assert law.data_for_model(after.params / before.params) == pytest.approx(after.tokens / before.tokens)


def test_beyond_is_a_factor_outside_and_one_inside() -> None:
    assert REFIT.measured.beyond(1e9, 1e11) == (1.0, 1.0)
    assert REFIT.measured.beyond(1.6e11, 5e8) == pytest.approx((10.0, 10.0))


def test_published_runs_are_the_papers() -> None:
    runs = {run.name: run for run in published_runs()}
    printed = {"gpt3-125m": 125e6, "gpt3-350m": 356e6, "gpt3-760m": 760e6, "gpt3-1.3b": 1.32e9, "gpt3-2.7b": 2.65e9}
    printed |= {"gpt3-6.7b": 6.66e9, "gpt3-13b": 12.85e9, "gpt3-175b": 174.6e9, "gopher": 280e9, "chinchilla": 70e9}
    assert set(runs) == set(printed)
    for name, params in printed.items():
        assert runs[name].params_total == pytest.approx(params, rel=0.02)
    largest = runs["gpt3-175b"]
    assert (largest.width, largest.depth, largest.heads, largest.tokens) == (12288, 96, 96, 300e9)
    assert largest.flops == pytest.approx(3.14e23, rel=0.01), "table D.1 of Brown et al. 2020"
    assert largest.flops / PETAFLOP_DAY == pytest.approx(3640, rel=0.01)
    assert runs["chinchilla"].flops == pytest.approx(GOPHER_FLOPS, rel=0.03)
