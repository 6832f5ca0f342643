"""The model of a search file: parts, shapes, and where a parametrization has its base."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpsearch.model_spec import Model, Scaling, Shape
from tests.hpsearch.simulation import spec_of
from trials.architecture import Architecture, gpt, llama
from trials.parametrization import Parametrization, Rule


def built(width: int, heads: int, **model: Any) -> Architecture:
    return Model.model_validate(model).architecture(Shape(width=width, depth=2, heads=heads), 32, 100)


@given(heads=st.integers(1, 9), head_size=st.integers(1, 9))
def test_where_nothing_is_said_it_is_the_plain_gpt_or_llama(heads: int, head_size: int) -> None:
    assert built(heads * head_size, heads) == gpt(heads * head_size, 2, heads, 32, 100)
    assert built(2 * heads * head_size, heads, kind="llama") == llama(2 * heads * head_size, 2, heads, 32, 100)


@given(width=st.integers(1, 99), heads=st.integers(1, 9), head_size=st.integers(1, 9))
def test_a_head_size_frees_the_heads_from_the_width(width: int, heads: int, head_size: int) -> None:
    shape = built(width, heads, head_size=head_size)
    assert (shape.heads, shape.kv_heads, shape.head_size) == (heads, heads, head_size)


@pytest.mark.parametrize(
    ("width", "model", "feed_forward"),
    [
        (48, {}, 192),
        (48, {"feed_forward_ratio": 2.5}, 120),
        (48, {"feed_forward_ratio": 0.01}, 1),
        (48, {"kind": "llama"}, 128),
        (64, {"kind": "llama"}, 176),  # 170.7, rounded up to a multiple of 8
        (64, {"kind": "llama", "feed_forward_ratio": 8 / 3}, 176),
        (96, {"kind": "llama", "feed_forward_ratio": 2.6667}, 256),
        (64, {"kind": "llama", "feed_forward_ratio": 3.5}, 224),
    ],
)
def test_the_feed_forward_is_as_wide_as_its_ratio_says(width: int, model: dict[str, Any], feed_forward: int) -> None:
    assert built(width, 2, **model).feed_forward_width == feed_forward


def test_parts_reach_the_architecture() -> None:
    assert built(48, 6, kind="llama", heads_per_kv=3).kv_heads == 2
    assert [built(48, 6, band_tokens=5).attended_tokens(block) for block in range(2)] == [32, 5]
    assert not built(48, 6, qk_norm=True).qk_norm, "sizes are counted without its gains"


def test_the_base_is_the_smallest_proxy_unless_it_is_given() -> None:
    smallest = gpt(16, 1, 2, 32, 1024)
    assert spec_of(parametrization="mup").parametrization.parametrization(smallest) == Parametrization(
        Rule.MUP, 16, 1, 8
    )
    given_base = Scaling.model_validate({"rule": "completep", "base_width": 64, "base_depth": 4, "base_head_size": 32})
    assert given_base.parametrization(smallest) == Parametrization(Rule.COMPLETEP, 64, 4, 32)
