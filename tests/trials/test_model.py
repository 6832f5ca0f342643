"""The stacked model is minGPT, and a trial in it is alone with its own weights and tokens."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.trials.conftest import ARCHITECTURE
from tests.trials.reference import ReferenceGPT
from trials import model
from trials.architecture import Architecture

SHAPES = st.builds(
    lambda heads, head_width, *rest: Architecture(heads * head_width, rest[0], heads, rest[1], rest[2]),
    *[st.integers(1, high) for high in (4, 8, 3, 12, 40)],
)
SEEDS = st.integers(0, 2**32)


def random_weights(shape: Architecture, rows: int, seed: int) -> Tensor:
    """Weights of no special kind: biases and gains too are drawn."""
    generator = torch.Generator().manual_seed(seed)
    return 0.3 * torch.randn(rows, shape.params_total, generator=generator, dtype=torch.float64)


def random_tokens(shape: Architecture, rows: int, sequences: int, length: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(shape.vocabulary, (rows, sequences, length + 1), generator=generator)


def losses_and_gradients(weights: Tensor, tokens: Tensor, shape: Architecture) -> tuple[Tensor, Tensor]:
    weights = weights.detach().requires_grad_()
    losses = model.losses(weights, tokens, shape)
    (gradients,) = torch.autograd.grad(losses.sum(), weights)
    return losses.detach(), gradients


@settings(max_examples=25)
@given(SHAPES, st.integers(1, 3), st.integers(1, 3), st.data(), SEEDS)
def test_losses_and_gradients_are_those_of_plain_mingpt(
    shape: Architecture, rows: int, sequences: int, data: st.DataObject, seed: int
) -> None:
    length = data.draw(st.integers(1, shape.context_tokens))
    weights, tokens = random_weights(shape, rows, seed), random_tokens(shape, rows, sequences, length, seed)
    losses, gradients = losses_and_gradients(weights, tokens, shape)
    for row in range(rows):
        reference = ReferenceGPT(shape).double()
        reference.load_row(weights[row])
        loss = reference(tokens[row])
        loss.backward()
        assert losses[row].item() == pytest.approx(loss.item(), rel=1e-12)
        torch.testing.assert_close(gradients[row], reference.gradient_row(), rtol=1e-8, atol=1e-10)


@given(SHAPES)
def test_parameters_are_as_many_as_in_plain_mingpt(shape: Architecture) -> None:
    assert sum(parameter.numel() for parameter in ReferenceGPT(shape).parameters()) == shape.params_total


@settings(max_examples=25)
@given(SHAPES, st.integers(2, 5), st.data(), SEEDS)
def test_row_depends_on_itself_alone_bitwise(shape: Architecture, rows: int, data: st.DataObject, seed: int) -> None:
    watched = data.draw(st.integers(0, rows - 1))
    others = [row for row in range(rows) if row != watched]
    weights = random_weights(shape, rows, seed).float()
    tokens = random_tokens(shape, rows, 3, shape.context_tokens, seed)
    losses, gradients = losses_and_gradients(weights, tokens, shape)
    weights[others] *= data.draw(st.sampled_from([0.0, -1.0, 1e30, math.inf, math.nan]))
    tokens[others] = random_tokens(shape, rows - 1, 3, shape.context_tokens, seed + 1)
    losses_again, gradients_again = losses_and_gradients(weights, tokens, shape)
    assert torch.equal(losses_again[watched], losses[watched])
    assert torch.equal(gradients_again[watched], gradients[watched])


@settings(max_examples=25)
@given(SHAPES, st.integers(2, 4), SEEDS)
def test_stack_of_one_gives_what_a_row_among_others_gives(shape: Architecture, rows: int, seed: int) -> None:
    weights = random_weights(shape, rows, seed)
    tokens = random_tokens(shape, rows, 2, shape.context_tokens, seed)
    losses, gradients = losses_and_gradients(weights, tokens, shape)
    for row in range(rows):
        alone, gradient = losses_and_gradients(weights[row : row + 1], tokens[row : row + 1], shape)
        torch.testing.assert_close(alone[0], losses[row], rtol=1e-12, atol=0)
        torch.testing.assert_close(gradient[0], gradients[row], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("shape", [ARCHITECTURE, Architecture(64, 3, 4, 32, 1024)])
def test_first_loss_is_that_of_an_even_guess(shape: Architecture) -> None:
    weights = model.initial_weights(shape, 1).unsqueeze(0)
    loss = model.losses(weights, random_tokens(shape, 1, 16, shape.context_tokens, 1), shape).item()
    assert loss == pytest.approx(math.log(shape.vocabulary), rel=0.01)


def test_initial_weights_are_those_of_gpt2() -> None:
    shape = Architecture(width=64, depth=8, heads=4, context_tokens=32, vocabulary=256)
    parts = torch.split(model.initial_weights(shape, 5), [weight.size for weight in model.layout(shape)])
    for weight, part in zip(model.layout(shape), parts, strict=True):
        kind = weight.name.split(".", 1)[-1]
        if kind.endswith((".bias", ".shift")) or kind == "shift":
            assert part.eq(0).all(), weight.name
        elif kind.endswith("gain"):
            assert part.eq(1).all(), weight.name
        else:
            std = 0.02 / math.sqrt(2 * 8) if kind in ("attention_out", "mlp_out") else 0.02
            assert part.std().item() == pytest.approx(std, rel=0.05), weight.name
            assert abs(part.mean().item()) < 4 * std / math.sqrt(part.numel()), weight.name


def test_weight_decay_acts_on_matrices_alone() -> None:
    masks = torch.split(model.decay_mask(ARCHITECTURE), [weight.size for weight in model.layout(ARCHITECTURE)])
    decayed = [w.name for w, mask in zip(model.layout(ARCHITECTURE), masks, strict=True) if mask.eq(1).all()]
    assert decayed == ["embedding"] + [
        f"{block}.{matrix}" for block in (0, 1) for matrix in ("qkv", "attention_out", "mlp_in", "mlp_out")
    ]
    assert model.decay_mask(ARCHITECTURE).sum() == 61 * 16 + 2 * 12 * 16 * 16


@given(SHAPES, SEEDS)
def test_initial_weights_follow_from_shape_and_seed(shape: Architecture, seed: int) -> None:
    """Whatever was drawn before them, so trials with one seed are paired."""
    first = model.initial_weights(shape, seed)
    torch.randn(7)
    assert torch.equal(model.initial_weights(shape, seed), first)
    assert not torch.equal(model.initial_weights(shape, seed + 1), first)
