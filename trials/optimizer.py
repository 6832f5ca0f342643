"""AdamW for a stack: every trial with its own rate, betas, eps, weight decay, clip and step count."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Rates:
    """The numbers of one step, one per trial: each field is `(K, 1)`."""

    learning_rate: Tensor
    weight_decay: Tensor  # coupled to the rate, as in Loshchilov and Hutter 2019 and torch.optim.AdamW
    beta1: Tensor
    beta2: Tensor
    eps: Tensor
    gradient_clip: Tensor  # largest gradient norm; infinity for none
    step: Tensor  # steps taken, this one included


def adamw_(weights: Tensor, gradients: Tensor, mean: Tensor, square: Tensor, rates: Rates, decayed: Tensor) -> Tensor:
    """One AdamW step in place on the rows of `weights`, `mean` and `square`, all `(K, P)`.

    Args:
        gradients: `(K, P)`; clipped to each trial's own norm here.
        decayed: `(P,)`, 1 where weight decay acts.

    Returns:
        `(K,)` gradient norms before the clip.

    Source: Loshchilov and Hutter 2019 (arXiv 1711.05101), algorithm 2, in torch.optim.AdamW's order.
    """
    norms: Tensor = torch.linalg.vector_norm(gradients, dim=1, keepdim=True)
    gradients = gradients * (rates.gradient_clip / (norms + 1e-6)).clamp(max=1.0)
    mean.lerp_(gradients, 1 - rates.beta1)
    square.mul_(rates.beta2).addcmul_(gradients, gradients * (1 - rates.beta2))
    mean_correction = 1 - rates.beta1**rates.step
    square_correction = 1 - rates.beta2**rates.step
    denominator = (square / square_correction).sqrt_().add_(rates.eps)
    weights.mul_(1 - rates.learning_rate * rates.weight_decay * decayed)
    weights.sub_(mean / denominator * (rates.learning_rate / mean_correction))
    return norms.squeeze(1)
