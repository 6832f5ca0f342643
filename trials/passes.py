"""Two operations with derivatives written out, for a GPU: there a step's time is in how often activations are read.

Left to themselves, compilers read all logits four times for a softmax and its derivative, in reductions too long for a
row to stay in registers, and compute the derivative of an activation twice, once more for the sum that is its bias'.
Measured in docs/performance.md.

Shapes: M rows, V vocabulary; K, N and d as in `trials.model`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

ROW_NUMBERS = 1024  # that a compiled reduction keeps in registers
ONES_ROWS = 8  # one would be a sum of its own to a compiler, which computes again what it sums


def cross_entropy(scores: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """`(M, V)` logits, `(M,)` ids -> cross entropies and log normalisers, each `(M,)`, float32."""
    losses: tuple[Tensor, Tensor] = _CrossEntropy.apply(scores, targets)  # type: ignore[no-untyped-call]  # of torch
    return losses


def add_bias(product: Tensor, bias: Tensor) -> Tensor:
    """`(K, N, d)` and `(K, d)`, float32; the derivative of the bias is a product in bfloat16, summed in float32."""
    total: Tensor = _AddBias.apply(product, bias)  # type: ignore[no-untyped-call]  # of torch
    return total


def log_normaliser(scores: Tensor) -> Tensor:
    """`(M, V)` -> `(M,)`: log of the summed exponentials, in parts short enough to be read once."""
    part = next(size for size in range(min(ROW_NUMBERS, scores.shape[1]), 0, -1) if scores.shape[1] % size == 0)
    parts = scores.view(len(scores), -1, part).float()
    largest = parts.amax(2, keepdim=True)
    return torch.logsumexp(largest.squeeze(2) + (parts - largest).exp().sum(2).log(), 1)


class _CrossEntropy(Function):
    @staticmethod
    def forward(ctx: Any, scores: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        normalisers = log_normaliser(scores)
        ctx.save_for_backward(scores, targets, normalisers)
        chosen = scores.gather(1, targets.unsqueeze(1)).squeeze(1)
        return normalisers - chosen.float(), normalisers.clone()

    @staticmethod
    def backward(ctx: Any, of_loss: Tensor, of_normaliser: Tensor) -> tuple[Tensor, None]:
        scores, targets, normalisers = ctx.saved_tensors
        softmax = (scores.float() - normalisers.unsqueeze(1)).exp()
        is_chosen = torch.arange(scores.shape[1], device=scores.device) == targets.unsqueeze(1)
        gradient = softmax * (of_loss + of_normaliser).unsqueeze(1) - torch.where(is_chosen, of_loss.unsqueeze(1), 0.0)
        return gradient.to(scores.dtype), None


class _AddBias(Function):
    @staticmethod
    def forward(ctx: Any, product: Tensor, bias: Tensor) -> Tensor:
        return product + bias.unsqueeze(1)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        coarse = gradient.to(torch.bfloat16)  # as the products need it too
        ones = coarse.new_ones(len(coarse), ONES_ROWS, coarse.shape[1])
        return gradient, torch.bmm(ones, coarse)[:, 0].float()
