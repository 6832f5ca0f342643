"""The aspect plateau: of a made-up family, of published shape trials; and shapes that can be built."""

from __future__ import annotations

from dataclasses import replace
from math import log2
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hpsearch.transfer.shapes import (
    CONTEXT_TOKENS,
    COUNT_TOLERANCE,
    PUBLISHED_PLATEAU,
    VOCABULARY,
    embedding_per_width,
    fit_shapes,
    gpt_shape,
    heads_of,
    propose_shape,
    read_shapes,
    shape_of,
)
from search_spaces.errors import UserError
from tests.benchmarks.shapes import TABLES, rank_larger
from trials.architecture import gpt

CENTER, CURVATURE = 5.0, 0.002


def family(embedding: int = 0, noise: float = 0.0) -> pd.DataFrame:
    """Shapes around width / depth 32 at two budgets, in which nothing drifts."""
    rng, rows = np.random.default_rng(0), []
    for width, depth in [
        (256, 64),
        (256, 16),
        (256, 4),
        (512, 32),
        (512, 16),
        (512, 8),
        (768, 48),
        (768, 12),
        (768, 6),
    ]:
        blocks = 12 * width**2 * depth
        for tokens in (1e9, 4e9):
            off = log2(width / depth) - CENTER
            log_loss = 1.5 - 0.06 * log2(blocks / 1e7) - 0.05 * log2(tokens / 1e9) + CURVATURE * off**2
            loss = np.exp(log_loss + noise * rng.standard_normal())
            rows.append((width, depth, blocks + embedding * width, tokens, loss))
    return pd.DataFrame(rows, columns=["width", "depth", "params", "tokens", "loss"])


def test_a_made_up_plateau_is_found() -> None:
    plateau = fit_shapes(family(), "made up").plateau
    assert plateau.center == pytest.approx(CENTER, abs=0.15)
    assert plateau.curvature == pytest.approx(CURVATURE, rel=0.1)
    assert plateau.drift == pytest.approx(0, abs=0.1)
    low, high = plateau.ends(0.002, 1e7)
    assert high / low == pytest.approx(2 ** (2 * (0.002 / plateau.curvature) ** 0.5))
    assert plateau.cost(high, 1e7) == pytest.approx(0.002) == plateau.cost(low, 1e7)


def test_an_embedding_in_the_count_is_seen_and_taken_off() -> None:
    assert embedding_per_width(family()) == 0
    assert embedding_per_width(family(embedding=50257)) == pytest.approx(50257, rel=0.01)
    with_it, without = fit_shapes(family(embedding=50257), "a").plateau, fit_shapes(family(), "b").plateau
    assert with_it.center == pytest.approx(without.center, abs=0.01)


@settings(max_examples=20)
@given(loss_factor=st.floats(0.1, 10), token_factor=st.floats(0.1, 10))
def test_units_of_loss_and_tokens_do_not_matter(loss_factor: float, token_factor: float) -> None:
    runs = family(noise=0.001)
    scaled = runs.assign(loss=runs["loss"] * loss_factor, tokens=runs["tokens"] * token_factor)
    before, after = fit_shapes(runs, "").plateau, fit_shapes(scaled, "").plateau
    assert (before.center, before.curvature) == pytest.approx((after.center, after.curvature), rel=1e-3)


@pytest.mark.parametrize("name", TABLES)
def test_small_models_rank_larger_ones(name: str) -> None:
    ranking = rank_larger(TABLES[name])
    assert (ranking.num_small, ranking.num_large) in ((12, 4), (10, 4))
    assert ranking.rank_correlation > 0.9
    assert ranking.regret < 0.001
    assert ranking.error < 0.75 * ranking.error_by_size, "the plateau says what the size does not"
    assert ranking.fit.embedding_per_width == pytest.approx(2 * 50304, rel=0.01), "which the table's params count"
    best = ranking.fit.plateau.best(1e8)
    assert PUBLISHED_PLATEAU.cost(best, 1e8) < 0.0005


@given(params=st.floats(1e7, 1e13), counts_embedding=st.booleans())
def test_a_proposed_shape_can_be_built_and_has_about_n(params: float, counts_embedding: bool) -> None:
    shape = propose_shape(params, PUBLISHED_PLATEAU, counts_embedding)
    assert shape.width % 64 == 0 and shape.width % shape.heads == 0
    assert shape.width // shape.heads in (64, 128)
    if params > 1e9:
        count = shape.params_total if counts_embedding else shape.params
        assert count == pytest.approx(params, rel=COUNT_TOLERANCE)
        assert shape.cost < 0.0005
        assert shape.width % 128 == 0


def test_beyond_the_sizes_tried_the_best_aspect_stays() -> None:
    plateau = replace(fit_shapes(family(), "made up").plateau, drift=-0.4)
    assert plateau.best(1e12) == plateau.best(plateau.sizes[1]) < plateau.best(plateau.sizes[0]) == plateau.best(1e3)
    assert plateau.sizes == (12 * 256**2 * 4, 12 * 768**2 * 48)


@given(params=st.floats(1e4, 1e7), counts_embedding=st.booleans())
def test_a_tiny_model_has_some_shape(params: float, counts_embedding: bool) -> None:
    shape = propose_shape(params, PUBLISHED_PLATEAU, counts_embedding)
    assert shape.width >= 64 and shape.depth >= 1


@pytest.mark.parametrize(("width", "depth"), [(64, 1), (768, 12), (2048, 24), (5120, 40)])
def test_counts_are_those_of_the_model(width: int, depth: int) -> None:
    model = gpt(width, depth, heads_of(width), CONTEXT_TOKENS, VOCABULARY)
    assert gpt_shape(width, depth, PUBLISHED_PLATEAU) == shape_of(model, PUBLISHED_PLATEAU)


def test_gpt3s_small_model_is_on_the_plateau() -> None:
    shape = propose_shape(125e6, PUBLISHED_PLATEAU, counts_embedding=True)
    assert 640 <= shape.width <= 896
    assert PUBLISHED_PLATEAU.cost(12288 / 96, 1.75e11) < 0.0025 > PUBLISHED_PLATEAU.cost(8192 / 80, 7e10)


@pytest.mark.parametrize(
    ("runs", "said"),
    [
        (family().drop(columns="depth"), "needs the columns width, depth, .*got no depth"),
        (family().assign(loss=-1.0), "every value must be finite and above 0"),
        (family().head(4), "needs 6 finished runs"),
        (family().assign(width=256, depth=4), "3 different width / depth, got 18 and 1"),
    ],
)
def test_a_table_that_cannot_be_used_is_refused(runs: pd.DataFrame, said: str, tmp_path: Path) -> None:
    runs.to_csv(tmp_path / "shapes.csv", index=False)
    with pytest.raises(UserError, match=said):
        read_shapes(tmp_path / "shapes.csv")
