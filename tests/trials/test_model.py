"""The stacked model is minGPT, or Llama, and a trial in it is alone with its own weights and tokens."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.trials.conftest import ARCHITECTURE
from tests.trials.reference import Reference
from trials import model
from trials.architecture import Architecture, gpt, llama
from trials.model import Forward, Knobs, Precision, max_attention_logit
from trials.parametrization import Multipliers, Parametrization, Rule, standard

SIZES = st.tuples(*[st.integers(1, high) for high in (4, 8, 3, 12, 40)])
SEEDS = st.integers(0, 2**32)


@st.composite
def shapes(draw: st.DrawFn) -> Architecture:
    heads, half, depth, context_tokens, vocabulary = draw(SIZES)
    width = draw(st.integers(1, 40))
    if draw(st.booleans()):
        shape = gpt(heads * half, depth, heads, context_tokens, vocabulary)
        band_tokens, post_norm = draw(st.integers(1, 14)), draw(st.booleans())
        return replace(shape, band_tokens=band_tokens, post_norm=post_norm, width=width, feed_forward_width=3 * half)
    kv_heads = draw(st.sampled_from([n for n in range(1, heads + 1) if heads % n == 0]))
    shape = llama(2 * heads * half, depth, heads, context_tokens, vocabulary, kv_heads=kv_heads)
    return replace(shape, width=width, qk_norm=draw(st.booleans()))


def forward_of(shape: Architecture) -> Forward:
    multipliers = standard(shape).multipliers(shape)
    return Forward(shape, shape.layout, multipliers, Precision.FLOAT32, softcap=False, z_loss=False)


def knobs(rows: int) -> Knobs:
    ones = torch.ones(rows, 1)
    return Knobs(ones, ones, ones, ones)


def random_weights(shape: Architecture, rows: int, seed: int) -> Tensor:
    """Weights of no special kind: biases and gains too are drawn."""
    generator = torch.Generator().manual_seed(seed)
    return 0.3 * torch.randn(rows, shape.params_total, generator=generator, dtype=torch.float64)


def random_tokens(shape: Architecture, rows: int, sequences: int, length: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(shape.vocabulary, (rows, sequences, length + 1), generator=generator)


def even(tokens: Tensor) -> Tensor:
    return torch.full(tokens.shape[:2], 1 / tokens.shape[1])


def losses_and_gradients(weights: Tensor, tokens: Tensor, shape: Architecture) -> tuple[Tensor, Tensor]:
    weights = weights.float().detach().requires_grad_()
    losses = model.losses(weights, tokens, even(tokens), knobs(len(tokens)), forward_of(shape)).objective
    (gradients,) = torch.autograd.grad(losses.sum(), weights)
    return losses.detach(), gradients


@settings(max_examples=60)
@given(shapes(), st.integers(1, 3), SEEDS)
def test_losses_and_gradients_are_those_of_the_plain_model(shape: Architecture, rows: int, seed: int) -> None:
    weights, tokens = random_weights(shape, rows, seed), random_tokens(shape, rows, 2, shape.context_tokens, seed)
    losses, gradients = losses_and_gradients(weights, tokens, shape)
    for row in range(rows):
        plain = Reference(shape)
        plain.load_row(weights[row].float())
        loss = plain(tokens[row])
        loss.backward()
        torch.testing.assert_close(losses[row], loss.detach(), rtol=2e-5, atol=2e-6)
        torch.testing.assert_close(gradients[row], plain.gradient_row(), rtol=2e-3, atol=2e-5)


@given(shapes())
def test_parameters_are_as_many_as_in_the_plain_model(shape: Architecture) -> None:
    assert sum(parameter.numel() for parameter, _ in Reference(shape).in_layout_order()) == shape.params_total


@settings(max_examples=25)
@given(shapes(), st.integers(2, 5), st.data(), SEEDS)
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
@given(shapes(), st.integers(2, 4), SEEDS)
def test_stack_of_one_gives_what_a_row_among_others_gives(shape: Architecture, rows: int, seed: int) -> None:
    weights, tokens = random_weights(shape, rows, seed), random_tokens(shape, rows, 2, shape.context_tokens, seed)
    losses, gradients = losses_and_gradients(weights, tokens, shape)
    for row in range(rows):
        alone, gradient = losses_and_gradients(weights[row : row + 1], tokens[row : row + 1], shape)
        torch.testing.assert_close(alone[0], losses[row], rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(gradient[0], gradients[row], rtol=1e-3, atol=1e-5)


@given(shapes(), SEEDS)
@settings(max_examples=20)
def test_sequences_of_no_share_do_not_count(shape: Architecture, seed: int) -> None:
    """A batch that is not full gives the loss of the sequences that are in it."""
    weights, tokens = random_weights(shape, 1, seed).float(), random_tokens(shape, 1, 4, shape.context_tokens, seed)
    share = torch.tensor([[0.5, 0.5, 0.0, 0.0]])
    padded = model.losses(weights, tokens, share, knobs(1), forward_of(shape)).cross_entropy
    alone = model.losses(weights, tokens[:, :2], even(tokens[:, :2]), knobs(1), forward_of(shape)).cross_entropy
    torch.testing.assert_close(padded, alone, rtol=1e-5, atol=1e-6)


@settings(max_examples=20)
@given(shapes(), SEEDS, st.floats(0.5, 5.0), st.floats(0.0, 1.0))
def test_knobs_do_what_they_say(shape: Architecture, seed: int, cap: float, weight: float) -> None:
    """Each trial has its own multipliers, cap and z-loss; row 0 has none of them."""
    weights = random_weights(shape, 1, seed).float().repeat(2, 1)
    tokens = random_tokens(shape, 1, 2, shape.context_tokens, seed).repeat(2, 1, 1)
    own = Knobs(*(torch.tensor([[1.0], [value]]) for value in (1.0, 0.7, cap, weight)))
    own = replace(own, logit_softcap=torch.tensor([[1e6], [cap]]), z_loss=torch.tensor([[0.0], [weight]]))
    forward = replace(forward_of(shape), softcap=True, z_loss=True)
    both = model.losses(weights, tokens, even(tokens), own, forward)
    plain = Reference(shape)
    plain.load_row(weights[0])
    for row, (multiplier, bound, share) in enumerate([(1.0, 1e6, 0.0), (0.7, cap, weight)]):
        logits = bound * torch.tanh(plain.logits(tokens[row, :, :-1]) * multiplier / bound)
        cross_entropy = torch.nn.functional.cross_entropy(logits.flatten(0, 1), tokens[row, :, 1:].flatten())
        objective = cross_entropy + share * logits.logsumexp(-1).square().mean()
        torch.testing.assert_close(both.cross_entropy[row], cross_entropy.detach(), rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(both.objective[row], objective.detach(), rtol=1e-4, atol=1e-4)


@settings(max_examples=20)
@given(shapes(), SEEDS)
def test_multipliers_of_a_parametrization_are_applied(shape: Architecture, seed: int) -> None:
    """Residual: scaling what branches add is scaling their output matrices; logits: scaling the unembedding's input."""
    weights, tokens = random_weights(shape, 1, seed).float(), random_tokens(shape, 1, 2, shape.context_tokens, seed)
    halved, place = weights.clone(), 0
    for weight in shape.layout:
        if weight.role.value == "residual" or weight.name.endswith(("attention_out.bias", "mlp_out.bias")):
            halved[:, place : place + weight.size] *= 0.5
        place += weight.size
    plain = forward_of(shape)
    scaled = replace(plain, multipliers=Multipliers(0.25, 0.5, plain.multipliers.attention))
    expected = model.logits(halved, tokens[:, :, :-1], knobs(1), plain, lambda *_: None) * 0.25
    given_ = model.logits(weights, tokens[:, :, :-1], knobs(1), scaled, lambda *_: None)
    torch.testing.assert_close(given_, expected, rtol=1e-4, atol=1e-5)


@settings(max_examples=20)
@given(shapes(), SEEDS)
def test_max_attention_logit_is_the_largest_that_is_seen(shape: Architecture, seed: int) -> None:
    """Against plain loops over tokens, through the observer's queries and keys."""
    weights, tokens = random_weights(shape, 1, seed).float(), random_tokens(shape, 1, 1, shape.context_tokens, seed)
    seen: dict[str, Tensor] = {}
    forward = forward_of(shape)
    model.logits(weights, tokens[:, :, :-1], knobs(1), forward, lambda name, x: seen.update({name: x}))
    largest = max(
        (seen[f"{block}.query"][0, head, t] @ seen[f"{block}.key"][0, head, s]).item()
        for block in range(shape.depth)
        for head in range(shape.heads)
        for t in range(shape.context_tokens)
        for s in range(max(0, t + 1 - shape.attended_tokens(block)), t + 1)
    )
    assert max_attention_logit(weights, tokens[:, :, :-1], knobs(1), forward) == pytest.approx(
        largest, rel=1e-4, abs=1e-5
    )


def test_bfloat16_products_change_the_loss_a_little_and_the_gradient_not_much() -> None:
    shape = gpt(64, 2, 4, 32, 256)
    weights = model.initial_weights(shape, standard(shape), 0.02, 1).unsqueeze(0).requires_grad_()
    tokens = random_tokens(shape, 1, 8, 32, 1)
    forward = forward_of(shape)
    found = []
    for precision in Precision:
        losses = model.losses(weights, tokens, even(tokens), knobs(1), replace(forward, precision=precision))
        (gradient,) = torch.autograd.grad(losses.objective.sum(), weights)
        assert gradient.dtype is torch.float32
        found.append((losses.objective.item(), gradient))
    (loss, gradient), (low_loss, low_gradient) = found
    assert low_loss == pytest.approx(loss, rel=1e-3)
    assert torch.nn.functional.cosine_similarity(gradient, low_gradient).item() > 0.999


@pytest.mark.parametrize("shape", [ARCHITECTURE, gpt(64, 3, 4, 32, 1024), llama(64, 3, 4, 32, 1024, kv_heads=2)])
@pytest.mark.parametrize("rule", Rule)
def test_first_loss_is_that_of_an_even_guess(shape: Architecture, rule: Rule) -> None:
    row = model.initial_weights(shape, Parametrization(rule, 16, 2, 8), 0.02, 1)
    loss = model.losses(row.unsqueeze(0), *_batch(shape), knobs(1), forward_of(shape)).objective.item()
    assert loss == pytest.approx(math.log(shape.vocabulary), rel=0.01)


def _batch(shape: Architecture) -> tuple[Tensor, Tensor]:
    tokens = random_tokens(shape, 1, 16, shape.context_tokens, 1)
    return tokens, even(tokens)


@pytest.mark.parametrize("make", [gpt, llama])
def test_initial_weights_are_those_of_gpt2(make: type) -> None:
    shape = make(width=64, depth=8, heads=4, context_tokens=32, vocabulary=256)
    parts = torch.split(model.initial_weights(shape, standard(shape), 0.02, 5), [w.size for w in shape.layout])
    for weight, part in zip(shape.layout, parts, strict=True):
        if len(weight.shape) == 1:
            assert part.eq(float(weight.name.endswith("gain"))).all(), weight.name
        else:
            std = 0.02 / math.sqrt(2 * 8) if weight.name.endswith(("attention_out", "mlp_out")) else 0.02
            assert part.std().item() == pytest.approx(std, rel=0.05), weight.name
            assert abs(part.mean().item()) < 4 * std / math.sqrt(part.numel()), weight.name


@given(shapes(), SEEDS)
def test_initial_weights_follow_from_shape_and_seed(shape: Architecture, seed: int) -> None:
    """Whatever was drawn before them, so trials with one seed are paired; the std only scales them."""
    first = model.initial_weights(shape, standard(shape), 0.02, seed)
    torch.randn(7)
    assert torch.equal(model.initial_weights(shape, standard(shape), 0.02, seed), first)
    assert not torch.equal(model.initial_weights(shape, standard(shape), 0.02, seed + 1), first)


@pytest.mark.parametrize(
    "shape", [gpt(12288, 96, 96, 2048, 50257, band_tokens=128), llama(8192, 80, 64, 4096, 32000, 8, 28672)]
)
def test_largest_models_are_built_on_the_meta_device(shape: Architecture) -> None:
    with torch.device("meta"):
        weights = torch.empty(1, shape.params_total)
        logits = model.logits(
            weights, torch.zeros(1, 1, 8, dtype=torch.int64), knobs(1), forward_of(shape), lambda *_: None
        )
    assert logits.shape == (1, 8, shape.vocabulary)
