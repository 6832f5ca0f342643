"""The plan of a large run: every law's row, time and money, and a search's own law beside them."""

from __future__ import annotations

import json
from functools import cache

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpsearch.presets import PRESETS
from hpsearch.surface import Surface, fit_surface
from hpsearch.transfer.big_run import Ask, BigRunPlan, Means, own_law, plan_big_run
from hpsearch.transfer.run_cost import DEFAULT_MFU, PEAK_FLOPS, Cluster
from hpsearch.transfer.scaling_laws import HOFFMANN, KAPLAN_WARMUP_STEPS, REFIT, SumLaw
from hpsearch.transfer.shapes import PUBLISHED_PLATEAU
from hpsearch.view_plan import short, to_dict
from search_spaces.parameter import Parameter, Scale

CLUSTER = Cluster(1024, "h100", PEAK_FLOPS["h100"], DEFAULT_MFU, price=2.0)
MEANS = Means(CLUSTER, PUBLISHED_PLATEAU, noise=0.0012, surface=None)
RATE = Parameter("learning_rate", 2.0**-14, 2.0**-4, Scale.LOG)
TRUTH = SumLaw("truth", "", REFIT.measured, least=1.5, size=30.0, data=40.0, alpha=0.35, beta=0.35)


@cache
def surface() -> Surface:
    """Of a search whose floor obeys a known law."""
    rows: list[tuple[float, ...]] = []
    for params in (2e5, 8e5, 3.2e6, 1.28e7):
        for tokens in (5 * params, 20 * params, 80 * params):
            for offset in (-1.5, -0.5, 0.5, 1.5):
                loss = TRUTH.loss(params, tokens) * np.exp(0.004 * offset**2)
                rate = 2.0 ** (-8.0 - 0.3 * np.log2(params / 1e6) + offset)
                rows.append((len(rows), params, tokens, loss, 0, rate))
    table = pd.DataFrame(rows, columns=["trial", "params", "tokens", "loss", "seed", "learning_rate"])
    return fit_surface(table, (RATE,), seed=0, hold_out=False)


@cache
def gopher() -> BigRunPlan:
    return plan_big_run(Ask("gopher's budget", 5.76e23), MEANS)


@cache
def small_gpt3() -> BigRunPlan:
    preset = PRESETS["gpt3-1.3b"]
    params, tokens = preset.architecture.params, preset.tokens
    ask = Ask("gpt3-1.3b", 6.0 * params * tokens, (params, tokens), preset.architecture, preset.batch_tokens)
    return plan_big_run(ask, Means(CLUSTER, PUBLISHED_PLATEAU, 0.0012, surface()))


def test_the_laws_stand_side_by_side() -> None:
    kaplan, hoffmann, refit = gopher().rows
    assert [row.law for row in gopher().rows] == ["kaplan", "hoffmann", "refit"]
    assert hoffmann.params == pytest.approx(32e9, rel=0.02) and hoffmann.tokens == pytest.approx(3e12, rel=0.02)
    assert 60e9 < refit.params < 75e9 and 1.2e12 < refit.tokens < 1.6e12
    assert kaplan.params > 10 * refit.params and kaplan.tokens < refit.tokens
    assert refit.beyond == pytest.approx((4.5, 2.7), rel=0.05)
    assert kaplan.warmup.tokens == KAPLAN_WARMUP_STEPS * kaplan.batch.tokens
    for row in gopher().rows:
        assert row.steps * row.batch.tokens == pytest.approx(row.tokens, rel=1e-3)
        assert row.batch.tokens % 2048 == 0
        assert row.warmup.tokens < row.tokens
        count = row.shape.params_total if row.counts_embedding else row.shape.params
        assert count == pytest.approx(row.params, rel=0.02)


def test_a_budget_alone_is_tuned_for_at_the_refit() -> None:
    plan = gopher()
    assert plan.target.tokens == plan.rows[-1].tokens
    assert plan.target.params_total == pytest.approx(plan.rows[-1].params, rel=0.02)
    assert plan.target.losses["refit"] == pytest.approx(plan.rows[-1].loss, rel=1e-3)
    assert plan.warnings == ()
    assert {run.name for run in plan.published} >= {"gpt3-175b", "gopher", "chinchilla"}


def test_an_asked_model_has_a_row_of_its_own() -> None:
    plan = small_gpt3()
    asked = plan.rows[0]
    assert (asked.law, asked.batch.tokens, asked.batch.source, asked.steps) == (
        "asked",
        1_000_000,
        "published",
        300_000,
    )
    assert (asked.shape.width, asked.shape.depth, asked.shape.heads) == (2048, 24, 16)
    assert asked.shape.params == plan.target.params == PRESETS["gpt3-1.3b"].architecture.params
    assert min(plan.target.losses.values()) > 1.5


def test_a_model_smaller_than_its_embedding_is_said_to_have_no_shape() -> None:
    plan = plan_big_run(Ask("tiny", 6e12, (1e6, 1e6)), MEANS)
    assert "shape: refit: no usable one has about N" in plan.warnings[-1]
    assert plan.tuning.budgets == () and plan.target.params == 1e6


def test_a_model_eight_times_larger_wants_more_data() -> None:
    growth = gopher().growth
    assert growth.data["kaplan"] == pytest.approx(8**0.74)
    assert growth.data == pytest.approx({"kaplan": 4.66, "hoffmann": 12.5, "refit": 7.2}, rel=0.01)
    assert growth.tokens_needed_grown / growth.tokens_needed == pytest.approx(8**0.74)
    assert HOFFMANN.data_for_model(1.0) == 1.0


@given(
    flops=st.floats(1e15, 1e28),
    devices=st.integers(1, 100_000),
    peak=st.floats(1e12, 1e16),
    mfu=st.floats(0.01, 1.0),
    price=st.floats(0, 100),
)
def test_time_and_money(flops: float, devices: int, peak: float, mfu: float, price: float) -> None:
    cluster = Cluster(devices, "device", peak, mfu, price)
    seconds = cluster.days(flops) * 86400
    assert seconds * devices * peak * mfu == pytest.approx(flops)
    assert cluster.money(flops) == pytest.approx(cluster.device_hours(flops) * price)
    assert Cluster(devices, "device", peak, mfu, None).money(flops) is None


def test_a_search_has_a_law_of_its_own() -> None:
    law = own_law(surface())
    assert law is not None
    assert law.measured.params == (2e5, 1.28e7)
    for params, tokens in ((1e6, 2e7), (5e6, 2e8)):
        assert law.loss(params, tokens) == pytest.approx(TRUTH.loss(params, tokens), rel=0.01)
    truth = TRUTH.optimum(1e15)
    assert law.optimum(1e15).params == pytest.approx(truth.params, rel=0.5)


def test_what_the_search_says_stands_in_every_row() -> None:
    rows = small_gpt3().rows
    assert [row.law for row in rows] == ["asked", "kaplan", "hoffmann", "refit", "your trials"]
    for row in rows:
        assert row.search is not None
        assert set(row.search.values) == {"learning_rate"}
        assert "reach" in row.search.refused
    rates = {row.shape.params: row.search.values["learning_rate"] for row in rows if row.search}
    assert rates[max(rates)] == min(rates.values())


def test_the_plan_is_json() -> None:
    told = json.loads(json.dumps(to_dict(small_gpt3()), allow_nan=False))
    assert told["rows"][0]["steps"] == 300_000
    assert told["rows"][2]["measured"]["counts_embedding"] is True
    first = told["tuning"]["budgets"][0]
    assert first["expected"]["num_runs"] == sum(first["expected"]["runs"])
    assert len(first["expected"]["width80_octaves"]) == 2


@pytest.mark.parametrize(
    ("value", "text"),
    [(7.23e10, "72.3B"), (1.33e12, "1.33T"), (850, "850"), (999_950, "1M"), (1e18, "1e+18"), (0.5, "0.5")],
)
def test_numbers_are_short(value: float, text: str) -> None:
    assert short(value) == text
