"""Counts are those that were published, and FLOPs those of a count by hand."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from trials import model
from trials.architecture import Architecture

SHAPES = st.builds(
    lambda heads, head_width, *rest: Architecture(heads * head_width, rest[0], heads, rest[1], rest[2]),
    *[st.integers(1, high) for high in (4, 8, 5, 32, 99)],
)


@pytest.mark.parametrize(
    ("width", "depth", "heads", "total"),
    [
        (768, 12, 12, 124_439_808),
        (1024, 24, 16, 354_823_168),
        (1280, 36, 20, 774_030_080),
        (1600, 48, 25, 1_557_611_200),
    ],
)
def test_parameters_of_the_gpt2_family(width: int, depth: int, heads: int, total: int) -> None:
    gpt2 = Architecture(width, depth, heads, context_tokens=1024, vocabulary=50257)
    assert gpt2.params_total == total
    assert gpt2.params == total - (50257 + 1024) * width


@given(SHAPES)
def test_parameters_are_the_sum_of_the_layout(shape: Architecture) -> None:
    weights = model.layout(shape)
    outside = sum(weight.size for weight in weights if weight.name in ("embedding", "positions"))
    assert sum(weight.size for weight in weights) == shape.params_total
    assert shape.params_total - outside == shape.params


def test_flops_by_hand() -> None:
    """Width 2, one block, 4 positions, 8 tokens: N = 48 + 26 + 4."""
    tiny = Architecture(width=2, depth=1, heads=1, context_tokens=4, vocabulary=8)
    assert tiny.params == 78
    assert tiny.forward_flops_per_token == 2 * 78 + 2 * 8 * 2 + 2 * 4 * 2
    assert tiny.training_flops_per_token == 612


def test_flops_of_gpt2_are_near_six_a_parameter() -> None:
    """6 N D misses what the unembedding does not: in GPT-2 the embedding is counted, positions hardly matter."""
    gpt2 = Architecture(768, 12, 12, context_tokens=1024, vocabulary=50257)
    assert gpt2.training_flops_per_token == pytest.approx(6 * gpt2.params_total, rel=0.08)


@given(SHAPES, st.integers(1, 3))
def test_flops_of_the_products_are_those_that_torch_counts(shape: Architecture, batch: int) -> None:
    """torch counts matrix products, and attention on CPU not at all; ours adds biases, gains and attention."""
    tokens = torch.zeros(1, batch, shape.context_tokens + 1, dtype=torch.int64)
    weights = torch.zeros(1, shape.params_total)
    with FlopCounterMode(display=False) as counter:
        model.losses(weights, tokens, shape)
    small_terms = 2 * (13 * shape.depth * shape.width + 2 * shape.width)
    attention = 2 * shape.depth * shape.context_tokens * shape.width
    per_token = shape.forward_flops_per_token - small_terms - attention
    assert counter.get_total_flops() == per_token * batch * shape.context_tokens


def test_a_shape_that_cannot_be_is_a_programming_error() -> None:
    with pytest.raises(AssertionError, match="3 heads do not divide width 16"):
        Architecture(16, 2, 3, 8, 8)
    with pytest.raises(AssertionError):
        Architecture(16, 0, 2, 8, 8)
