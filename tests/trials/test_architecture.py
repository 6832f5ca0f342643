"""Counts are those that were published, layouts those written down here, FLOPs those of a count by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from trials import model
from trials.architecture import Architecture, Role, gpt, llama
from trials.model import Forward, Knobs, Precision
from trials.parametrization import standard

SIZES = [st.integers(1, high) for high in (5, 24, 60)]  # depth, context, vocabulary


@st.composite
def gpts(draw: st.DrawFn) -> Architecture:
    heads = draw(st.integers(1, 4))
    width, (depth, context, vocabulary) = heads * draw(st.integers(1, 8)), (draw(size) for size in SIZES)
    return gpt(width, depth, heads, context, vocabulary, draw(st.integers(0, 30)), post_norm=draw(st.booleans()))


@st.composite
def llamas(draw: st.DrawFn) -> Architecture:
    kv_heads, half_head = draw(st.integers(1, 3)), draw(st.integers(1, 4))
    heads = kv_heads * draw(st.integers(1, 3))
    depth, context, vocabulary = (draw(size) for size in SIZES)
    shape = llama(2 * half_head * heads, depth, heads, context, vocabulary, kv_heads, draw(st.integers(0, 40)))
    return replace(shape, qk_norm=draw(st.booleans()), band_tokens=draw(st.integers(1, 30)))


SHAPES = gpts() | llamas()
BLOCK_MATRICES = ("qkv", "attention_out", "mlp_in", "mlp_out")


@pytest.mark.parametrize(
    ("shape", "total"),
    [
        (gpt(768, 12, 12, 512, 40478, post_norm=True), 116_534_784),
        (gpt(768, 12, 12, 1024, 50257), 124_439_808),
        (gpt(1024, 24, 16, 1024, 50257), 354_823_168),
        (gpt(1280, 36, 20, 1024, 50257), 774_030_080),
        (gpt(1600, 48, 25, 1024, 50257), 1_557_611_200),
        (llama(2048, 22, 32, 2048, 32000, kv_heads=4, feed_forward=5632), 1_100_048_384),
        (llama(4096, 32, 32, 4096, 32000, feed_forward=11008), 6_738_415_616),
        (llama(4096, 32, 32, 8192, 128256, kv_heads=8, feed_forward=14336), 8_030_261_248),
    ],
    ids=["gpt1", "gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl", "tinyllama", "llama2-7b", "llama3-8b"],
)
def test_parameters_are_those_that_were_published(shape: Architecture, total: int) -> None:
    assert shape.params_total == total


@given(SHAPES)
def test_layout_of_any_shape(shape: Architecture) -> None:
    """Names are unique; sizes add up, without embeddings to N; matrices side by side fill their weight."""
    names = [weight.name for weight in shape.layout]
    assert len(set(names)) == len(names)
    assert sum(weight.size for weight in shape.layout) == shape.params_total
    outside = sum(w.size for w in shape.layout if w.name in ("embedding", "positions", "unembedding"))
    assert shape.params == shape.params_total - outside
    for weight in shape.layout:
        assert weight.columns == () or sum(weight.columns) == weight.shape[1]
        assert bool(weight.columns) == weight.role.is_block_matrix == weight.name.endswith(BLOCK_MATRICES)
        assert weight.role.decayed == (len(weight.shape) == 2 and weight.name != "positions")
        assert weight.ones == weight.name.endswith("gain")


@given(gpts())
def test_parameters_of_a_gpt_by_formula(shape: Architecture) -> None:
    d = shape.width
    assert shape.params == shape.depth * (12 * d * d + 13 * d) + (0 if shape.post_norm else 2 * d)
    assert shape.params_total == shape.params + (shape.vocabulary + shape.context_tokens) * d


@given(llamas())
def test_parameters_of_a_llama_by_formula(shape: Architecture) -> None:
    d, f, h = shape.width, shape.feed_forward_width, shape.head_size
    attention = d * h * (shape.heads + 2 * shape.kv_heads) + shape.heads * h * d
    gains = 2 * d + (2 * h if shape.qk_norm else 0)
    assert shape.params == shape.depth * (attention + 3 * d * f + gains) + d
    assert shape.params_total == shape.params + 2 * shape.vocabulary * d


def test_layout_of_a_gpt() -> None:
    shapes = {weight.name: (weight.shape, weight.role) for weight in gpt(4, 1, 2, 3, 7).layout}
    assert shapes == {
        "embedding": ((7, 4), Role.EMBEDDING),
        "positions": ((3, 4), Role.POSITION),
        "0.attention_norm.gain": ((4,), Role.BLOCK_VECTOR),
        "0.attention_norm.shift": ((4,), Role.BLOCK_VECTOR),
        "0.qkv": ((4, 12), Role.HIDDEN),
        "0.qkv.bias": ((12,), Role.BLOCK_VECTOR),
        "0.attention_out": ((4, 4), Role.RESIDUAL),
        "0.attention_out.bias": ((4,), Role.BLOCK_VECTOR),
        "0.mlp_norm.gain": ((4,), Role.BLOCK_VECTOR),
        "0.mlp_norm.shift": ((4,), Role.BLOCK_VECTOR),
        "0.mlp_in": ((4, 16), Role.HIDDEN),
        "0.mlp_in.bias": ((16,), Role.BLOCK_VECTOR),
        "0.mlp_out": ((16, 4), Role.RESIDUAL),
        "0.mlp_out.bias": ((4,), Role.BLOCK_VECTOR),
        "final_norm.gain": ((4,), Role.FINAL_VECTOR),
        "final_norm.shift": ((4,), Role.FINAL_VECTOR),
    }


def test_layout_of_a_llama_with_grouped_queries_and_qk_norm() -> None:
    shape = replace(llama(8, 1, 4, 3, 7, kv_heads=2, feed_forward=5), qk_norm=True)
    assert {weight.name: (weight.shape, weight.columns, weight.role) for weight in shape.layout} == {
        "embedding": ((7, 8), (), Role.EMBEDDING),
        "0.attention_norm.gain": ((8,), (), Role.BLOCK_VECTOR),
        "0.qkv": ((8, 16), (8, 4, 4), Role.HIDDEN),
        "0.query_norm.gain": ((2,), (), Role.BLOCK_VECTOR),
        "0.key_norm.gain": ((2,), (), Role.BLOCK_VECTOR),
        "0.attention_out": ((8, 8), (8,), Role.RESIDUAL),
        "0.mlp_norm.gain": ((8,), (), Role.BLOCK_VECTOR),
        "0.mlp_in": ((8, 10), (5, 5), Role.HIDDEN),
        "0.mlp_out": ((5, 8), (8,), Role.RESIDUAL),
        "final_norm.gain": ((8,), (), Role.FINAL_VECTOR),
        "unembedding": ((7, 8), (), Role.UNEMBEDDING),
    }


@given(st.integers(1, 10_000))
def test_feed_forward_of_a_llama_is_eight_thirds_rounded_up(half_width: int) -> None:
    feed_forward = llama(2 * half_width, 1, 1, 8, 8).feed_forward_width
    assert feed_forward % 8 == 0
    assert 0 <= feed_forward - 8 * 2 * half_width / 3 < 8


def test_every_second_block_has_the_band() -> None:
    assert [gpt(8, 4, 2, 16, 8, band_tokens=5).attended_tokens(block) for block in range(4)] == [16, 5, 16, 5]
    assert [gpt(8, 2, 2, 16, 8, band_tokens=99).attended_tokens(block) for block in range(2)] == [16, 16]
    assert gpt(8, 2, 2, 16, 8) == gpt(8, 2, 2, 16, 8, band_tokens=16)


def test_flops_by_hand() -> None:
    """Width 2, one block, 4 positions, 8 tokens: N = 48 + 26 + 4."""
    tiny = gpt(width=2, depth=1, heads=1, context_tokens=4, vocabulary=8)
    assert tiny.params == 78
    assert tiny.forward_flops_per_token == 2 * 78 + 2 * 8 * 2 + 2 * 4 * 2
    assert tiny.training_flops_per_token == 612


def test_flops_of_gpt2_are_near_six_a_parameter() -> None:
    """6 N D misses what the unembedding does not: in GPT-2 the embedding is counted, positions hardly matter."""
    gpt2 = gpt(768, 12, 12, context_tokens=1024, vocabulary=50257)
    assert gpt2.training_flops_per_token == pytest.approx(6 * gpt2.params_total, rel=0.08)


@given(SHAPES)
def test_flops_of_attention_are_those_of_the_pairs_that_see_each_other(shape: Architecture) -> None:
    """Counted in a mask; the half of the diagonal that 4 H h T / 2 leaves out is counted beside it."""
    T = shape.context_tokens
    query, key = np.indices((T, T))
    reaches = [shape.attended_tokens(block) for block in range(shape.depth)]
    pairs = sum(int(((key <= query) & (query - key < reach)).sum()) for reach in reaches)
    flops = 4 * shape.heads * shape.head_size * (pairs - sum(reaches) / 2) / T
    products = 2 * shape.params + 2 * shape.vocabulary * shape.width
    assert shape.forward_flops_per_token - products == pytest.approx(flops, abs=0.51)


@settings(max_examples=12)
@given(SHAPES, st.integers(1, 3))
def test_flops_of_the_products_are_those_that_torch_counts(shape: Architecture, batch: int) -> None:
    """torch counts matrix products alone, and of attention the whole square, as the plain kernel computes it."""
    T = shape.context_tokens
    forward = Forward(shape, shape.layout, standard(shape).multipliers(shape), Precision.FLOAT32, False, False)
    tokens, knobs = torch.zeros(1, batch, T + 1, dtype=torch.int64), Knobs(*torch.ones(4, 1, 1))
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model.losses(torch.zeros(1, shape.params_total), tokens, torch.ones(1, batch), knobs, forward)
    vectors = sum(weight.size for weight in shape.layout if len(weight.shape) == 1)
    attention = 4 * shape.depth * shape.heads * shape.head_size * T
    per_token = 2 * (shape.params - vectors) + 2 * shape.vocabulary * shape.width + attention
    assert counter.get_total_flops() == per_token * batch * T


def test_a_shape_that_cannot_be_is_a_programming_error() -> None:
    with pytest.raises(AssertionError, match="3 heads do not divide width 16"):
        gpt(16, 2, 3, 8, 8)
    with pytest.raises(AssertionError, match="3 kv_heads do not divide 4 heads"):
        llama(16, 2, 4, 8, 8, kv_heads=3)
    with pytest.raises(AssertionError, match="rotary positions turn pairs"):
        llama(12, 2, 4, 8, 8)
    with pytest.raises(AssertionError, match="rotary positions turn pairs"):
        replace(llama(16, 2, 4, 8, 8), post_norm=True)
    with pytest.raises(AssertionError):
        gpt(16, 0, 2, 8, 8)
