"""The proxy GPT, written once for K models at a time: minGPT's design with a trial axis on every weight.

Shape letters, used in every comment and docstring of this package:

    K  trials of a stack          B  sequences of a batch      T  tokens of a sequence
    d  width                      V  vocabulary                P  all parameters of one model

A model is data: the weights of K trials are one tensor `(K, P)`, and `losses` is a pure function of it. Row k
is trial k, so a checkpoint is a row, the optimizer is one elementwise pass, and K = 1 is an ordinary GPT.

Source: Radford et al. 2019 (GPT-2) as in karpathy/minGPT: pre-LN, tanh GELU, learned positions, tied
embeddings, residual projections initialised at 0.02 / sqrt(2 L).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from trials.architecture import Architecture

INIT_STD = 0.02  # GPT-2's, for every matrix but the residual projections


@dataclass(frozen=True)
class Weight:
    """One weight of the model: where it starts from, and whether weight decay acts on it."""

    name: str
    shape: tuple[int, ...]
    init_std: float  # 0 for a constant start
    init_constant: float
    decayed: bool  # matrices are, gains, biases and positions are not

    @property
    def size(self) -> int:
        return math.prod(self.shape)


def layout(architecture: Architecture) -> tuple[Weight, ...]:
    """The weights of a model in the order in which they lie in a row of the `(K, P)` tensor."""
    d, residual_std = architecture.width, INIT_STD / math.sqrt(2 * architecture.depth)
    weights = [
        _matrix("embedding", (architecture.vocabulary, d), INIT_STD),
        Weight("positions", (architecture.context_tokens, d), INIT_STD, 0.0, decayed=False),
    ]
    for block in range(architecture.depth):
        weights += _norm(f"{block}.attention_norm", d)
        weights += _linear(f"{block}.qkv", d, 3 * d, INIT_STD)
        weights += _linear(f"{block}.attention_out", d, d, residual_std)
        weights += _norm(f"{block}.mlp_norm", d)
        weights += _linear(f"{block}.mlp_in", d, 4 * d, INIT_STD)
        weights += _linear(f"{block}.mlp_out", 4 * d, d, residual_std)
    weights += _norm("final_norm", d)
    assert sum(weight.size for weight in weights) == architecture.params_total
    return tuple(weights)


def initial_weights(architecture: Architecture, seed: int) -> Tensor:
    """One row `(P,)`, a function of the shape and the seed alone, so trials of one seed start equal."""
    generator = torch.Generator().manual_seed(seed)
    return torch.cat([_start(weight, generator) for weight in layout(architecture)])


def decay_mask(architecture: Architecture) -> Tensor:
    """`(P,)`: 1 where weight decay acts, 0 elsewhere."""
    return torch.cat([torch.full((weight.size,), float(weight.decayed)) for weight in layout(architecture)])


def losses(weights: Tensor, tokens: Tensor, architecture: Architecture) -> Tensor:
    """Mean cross entropy of each trial on its own sequences.

    Args:
        weights: `(K, P)`, a row per trial.
        tokens: `(K, B, T + 1)` token ids (int64); position t predicts position t + 1.

    Returns:
        `(K,)` losses in nats a token. Row k depends on row k alone.
    """
    K, B = tokens.shape[:2]
    targets = tokens[:, :, 1:].reshape(-1)
    logits = _logits(weights, tokens[:, :, :-1], architecture)
    return F.cross_entropy(logits.view(-1, architecture.vocabulary), targets, reduction="none").view(K, -1).mean(1)


def _logits(weights: Tensor, tokens: Tensor, architecture: Architecture) -> Tensor:
    """`(K, B, T)` ids -> `(K, B*T, V)` logits."""
    K, B, T = tokens.shape
    d, heads = architecture.width, architecture.heads
    parts = torch.split(weights, [weight.size for weight in layout(architecture)], dim=1)
    embedding, positions, *rest = parts
    x = _embed(embedding, tokens, architecture.vocabulary, d) + positions.view(K, 1, -1, d)[:, :, :T]
    x = x.reshape(K, B * T, d)
    for block in range(architecture.depth):
        gain1, shift1, qkv, qkv_bias, out, out_bias, gain2, shift2, up, up_bias, down, down_bias = rest[
            12 * block : 12 * block + 12
        ]
        heads_first = _affine(_normalise(x, gain1, shift1), qkv, qkv_bias)
        attended = _attend(heads_first.view(K * B, T, 3, heads, d // heads)).reshape(K, B * T, d)
        x = x + _affine(attended, out, out_bias)
        hidden = F.gelu(_affine(_normalise(x, gain2, shift2), up, up_bias), approximate="tanh")
        x = x + _affine(hidden, down, down_bias)
    x = _normalise(x, rest[-2], rest[-1])
    return torch.bmm(x, embedding.reshape(K, -1, d).transpose(1, 2))


def _embed(embedding: Tensor, tokens: Tensor, vocabulary: int, width: int) -> Tensor:
    """`(K, V*d)`, `(K, B, T)` -> `(K, B, T, d)`.

    One flattened table with ids moved by k V: the backward of `table[k][ids]` depends on its neighbours on
    CPU, this one does not.
    """
    offsets = torch.arange(tokens.shape[0], device=tokens.device).view(-1, 1, 1) * vocabulary
    return F.embedding(tokens + offsets, embedding.reshape(-1, width))


def _normalise(x: Tensor, gain: Tensor, shift: Tensor) -> Tensor:
    """Layer norm of `(K, B*T, d)` with a gain and a shift `(K, d)` of each trial's own."""
    return torch.addcmul(shift.unsqueeze(1), F.layer_norm(x, x.shape[-1:]), gain.unsqueeze(1))


def _affine(x: Tensor, matrix: Tensor, bias: Tensor) -> Tensor:
    """`(K, B*T, d_in)` times each trial's `(d_in, d_out)`, plus its bias: one batched product for K trials."""
    return torch.baddbmm(bias.unsqueeze(1), x, matrix.reshape(x.shape[0], x.shape[2], -1))


def _attend(qkv: Tensor) -> Tensor:
    """Causal attention: `(K*B, T, 3, heads, d/heads)` -> `(K*B, T, heads, d/heads)`."""
    query, key, value = qkv.permute(2, 0, 3, 1, 4)
    return F.scaled_dot_product_attention(query, key, value, is_causal=True).transpose(1, 2)


def _linear(name: str, d_in: int, d_out: int, std: float) -> Sequence[Weight]:
    return _matrix(name, (d_in, d_out), std), _constant(f"{name}.bias", d_out, 0.0)


def _norm(name: str, d: int) -> Sequence[Weight]:
    return _constant(f"{name}.gain", d, 1.0), _constant(f"{name}.shift", d, 0.0)


def _matrix(name: str, shape: tuple[int, ...], std: float) -> Weight:
    return Weight(name, shape, std, 0.0, decayed=True)


def _constant(name: str, size: int, value: float) -> Weight:
    return Weight(name, (size,), 0.0, value, decayed=False)


def _start(weight: Weight, generator: torch.Generator) -> Tensor:
    if weight.init_std == 0.0:
        return torch.full((weight.size,), weight.init_constant)
    return torch.randn(weight.size, generator=generator) * weight.init_std
