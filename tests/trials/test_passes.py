"""Derivatives written out are those of torch."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from trials import passes


@given(
    rows=st.integers(1, 5), vocabulary=st.sampled_from([1, 7, 61, 1000, 1024, 1031, 3072, 4099]), seed=st.integers(0, 9)
)
def test_cross_entropy_is_that_of_torch(rows: int, vocabulary: int, seed: int) -> None:
    """Losses, normalisers and the derivative of any sum of both, for logits as large as in a trial that diverges."""
    generator = torch.Generator().manual_seed(seed)
    scores = (30 * torch.randn(rows, vocabulary, generator=generator)).requires_grad_()
    targets = torch.randint(vocabulary, (rows,), generator=generator)
    weights, others = torch.randn(2, rows, generator=generator)
    losses, normalisers = passes.cross_entropy(scores, targets)
    expected = F.cross_entropy(scores, targets, reduction="none")
    torch.testing.assert_close(losses, expected, rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(normalisers, scores.logsumexp(1), rtol=1e-5, atol=1e-4)
    (found,) = torch.autograd.grad((weights * losses + others * normalisers).sum(), scores)
    (gradient,) = torch.autograd.grad((weights * expected + others * scores.logsumexp(1)).sum(), scores)
    torch.testing.assert_close(found, gradient, rtol=1e-4, atol=1e-5)


def test_cross_entropy_of_coarse_logits_keeps_their_precision() -> None:
    scores = torch.randn(3, 64).to(torch.bfloat16).requires_grad_()
    losses, _ = passes.cross_entropy(scores, torch.tensor([0, 1, 63]))
    assert losses.dtype == torch.float32
    losses.sum().backward()  # type: ignore[no-untyped-call]  # of torch
    assert scores.grad is not None and scores.grad.dtype == torch.bfloat16


def test_a_row_that_has_diverged_leaves_the_others_alone() -> None:
    scores = torch.randn(3, 64)
    scores[1] = float("nan")
    losses, _ = passes.cross_entropy(scores, torch.tensor([0, 1, 63]))
    assert torch.isfinite(losses[[0, 2]]).all() and torch.isnan(losses[1])


@pytest.mark.parametrize("trials", [1, 3])
def test_bias_has_the_summed_derivative_of_its_trial(trials: int) -> None:
    product, bias = torch.randn(trials, 50, 8, requires_grad=True), torch.randn(trials, 8, requires_grad=True)
    total = passes.add_bias(product, bias)
    torch.testing.assert_close(total, product + bias.unsqueeze(1))
    gradient = torch.randn(trials, 50, 8)
    of_product, of_bias = torch.autograd.grad(total, (product, bias), gradient)
    torch.testing.assert_close(of_product, gradient)
    torch.testing.assert_close(of_bias, gradient.sum(1), rtol=0.01, atol=0.05)
