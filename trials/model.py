"""The proxy transformer, written once for K models at a time: every weight has a trial axis.

Shape letters, used in every comment and docstring of this package:

    K  trials of a stack          B  sequences of a batch      T  tokens of a sequence      N  B T
    d  width                      V  vocabulary                P  all parameters of one model
    H  query heads                G  key and value heads       h  head size

A model is data: the weights of K trials are one tensor `(K, P)`, and `losses` is a pure function of it. Row k
is trial k, so a checkpoint is a row, the optimizer is one elementwise pass, and K = 1 is an ordinary model.
Two kinds share every line but their parts: norm, positions, feed-forward, and whether embeddings are tied.

Sources: gpt, Radford et al. 2019 (GPT-2) as in karpathy/minGPT; llama, Touvron et al. 2023 (arXiv 2302.13971).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum

import torch
import torch.nn.functional as F
from torch import Tensor

from trials import passes
from trials.architecture import NORM_EPS, ROTARY_BASE, Architecture, Kind, Weight
from trials.parametrization import Multipliers, Parametrization

Observer = Callable[[str, Tensor], None]  # is shown named activations on their way


class Precision(StrEnum):
    """What matrices are multiplied in; weights, sums, norms, softmax and the optimizer stay in float32."""

    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"

    @property
    def dtype(self) -> torch.dtype:
        return torch.bfloat16 if self is Precision.BFLOAT16 else torch.float32


@dataclass(frozen=True)
class Forward:
    """What the trials of a stack share about their forward pass."""

    architecture: Architecture
    layout: tuple[Weight, ...]
    multipliers: Multipliers
    precision: Precision
    softcap: bool  # whether logits are capped at all
    z_loss: bool  # whether the softmax's normaliser is held near one at all


@dataclass(frozen=True)
class Knobs:
    """What each trial has of its own in its forward pass, each `(K, 1)`."""

    embedding_multiplier: Tensor  # of tokens and positions together
    output_multiplier: Tensor
    logit_softcap: Tensor  # logits stay within +- this
    z_loss: Tensor  # weight of the squared log normaliser in the objective


@dataclass(frozen=True)
class Losses:
    """Of each trial, `(K,)`, nats a token."""

    cross_entropy: Tensor
    objective: Tensor  # what is minimised: the cross entropy and the z-loss


def initial_weights(architecture: Architecture, parametrization: Parametrization, init_std: float, seed: int) -> Tensor:
    """One row `(P,)`: trials of one shape, seed and parametrization start from the same draws times `init_std`."""
    generator = torch.Generator().manual_seed(seed)

    def start(weight: Weight) -> Tensor:
        if len(weight.shape) == 1:
            return torch.full((weight.size,), float(weight.ones))
        std = init_std * parametrization.scales(weight.role, architecture).init_std
        return torch.randn(weight.size, generator=generator) * std

    return torch.cat([start(weight) for weight in architecture.layout])


def losses(weights: Tensor, tokens: Tensor, share: Tensor, knobs: Knobs, forward: Forward) -> Losses:
    """Loss of each trial on its own sequences.

    Args:
        weights: `(K, P)`, a row per trial.
        tokens: `(K, B, T + 1)` token ids (int64); position t predicts position t + 1.
        share: `(K, B)` of each sequence in its trial's mean; 0 where a batch is not full.
        knobs: numbers of each trial's own.
        forward: what the trials share.

    Returns:
        Losses in which row k depends on row k alone.
    """
    K, B, T = tokens.shape[0], tokens.shape[1], tokens.shape[2] - 1
    scores = logits(weights, tokens[:, :, :-1], knobs, forward, _ignore).view(K * B * T, -1)
    targets = tokens[:, :, 1:].reshape(K * B * T)
    if scores.is_cuda:
        cross_entropy, normalisers = passes.cross_entropy(scores, targets)
    else:
        scores = scores.float()
        cross_entropy = F.cross_entropy(scores, targets, reduction="none")
        normalisers = scores.logsumexp(1) if forward.z_loss else cross_entropy
    mean = (cross_entropy.view(K, B, T).mean(2) * share).sum(1)
    if not forward.z_loss:
        return Losses(mean, mean)
    squares = normalisers.square().view(K, B, T)
    return Losses(mean, mean + knobs.z_loss.squeeze(1) * (squares.mean(2) * share).sum(1))


def logits(weights: Tensor, tokens: Tensor, knobs: Knobs, forward: Forward, observe: Observer) -> Tensor:
    """`(K, B, T)` ids -> `(K, N, V)` logits, in the precision of the products."""
    shape, (K, B, T) = forward.architecture, tokens.shape
    w = _named(weights, forward.layout)
    x = _embed(w["embedding"], tokens)
    if shape.kind is Kind.GPT:
        x = x + w["positions"].unsqueeze(1)[:, :, :T]
    x = (x * knobs.embedding_multiplier.view(K, 1, 1, 1)).reshape(K, B * T, shape.width)
    observe("embedding", x)
    run = _Pass(w, forward, observe, K, B, T)
    for block in range(shape.depth):
        x = _block(x, block, run)
    if not shape.post_norm:
        x = _norm(x, w, "final_norm", shape)
    unembedding = w["embedding" if shape.kind is Kind.GPT else "unembedding"]
    x = x * (knobs.output_multiplier * forward.multipliers.logits).unsqueeze(2)
    scores = _product(x, unembedding.transpose(1, 2), forward.precision)
    observe("logits", scores)
    if not forward.softcap:
        return scores
    cap = knobs.logit_softcap.unsqueeze(2)
    return torch.tanh(scores / cap) * cap  # Gemma Team 2024 (arXiv 2408.00118)


@dataclass(frozen=True)
class _Pass:
    """One forward pass: what every block is given."""

    w: Mapping[str, Tensor]  # by name, each `(K, *shape)`
    forward: Forward
    observe: Observer
    K: int
    B: int
    T: int


def _block(x: Tensor, block: int, run: _Pass) -> Tensor:
    """One block, `(K, N, d)` -> `(K, N, d)`: attention, then feed-forward, each added to the residual stream."""
    shape, residual = run.forward.architecture, run.forward.multipliers.residual
    for branch, norm in ((_attention, "attention_norm"), (_feed_forward, "mlp_norm")):
        source = x if shape.post_norm else _norm(x, run.w, f"{block}.{norm}", shape)
        added = branch(source, block, run)
        x = x + (added if residual == 1.0 else added * residual)
        if shape.post_norm:
            x = _norm(x, run.w, f"{block}.{norm}", shape)
        run.observe(f"{block}.{norm.removesuffix('_norm')}", added)
    return x


def _attention(x: Tensor, block: int, run: _Pass) -> Tensor:
    """Causal attention with grouped queries, dense or in a band: `(K, N, d)` -> `(K, N, d)`."""
    w, forward, K, B, T = run.w, run.forward, run.K, run.B, run.T
    shape = forward.architecture
    H, G, h = shape.heads, shape.kv_heads, shape.head_size
    joined = _linear(x, w, f"{block}.qkv", forward)
    if x.is_cuda:  # where there are kernels for it; on a CPU bfloat16 attention is slower
        joined = joined.to(forward.precision.dtype)
    parts = torch.split(joined, [H * h, G * h, G * h], dim=2)
    query, key, value = (part.view(K * B, T, -1, h).transpose(1, 2) for part in parts)  # (K B, heads, T, h)
    if shape.qk_norm or shape.kind is Kind.LLAMA:
        query, key = query.float(), key.float()
    if shape.qk_norm:
        query, key = (
            F.rms_norm(part, (h,), eps=NORM_EPS) * w[f"{block}.{name}_norm.gain"].repeat_interleave(B, 0)[:, None, None]
            for part, name in ((query, "query"), (key, "key"))
        )
    if shape.kind is Kind.LLAMA:
        query, key = _rotate(query), _rotate(key)
    query, key = query.to(value.dtype), key.to(value.dtype)
    if H != G:
        key, value = key.repeat_interleave(H // G, 1), value.repeat_interleave(H // G, 1)
    scale = forward.multipliers.attention
    run.observe(f"{block}.query", query * scale)
    run.observe(f"{block}.key", key)
    reach = shape.attended_tokens(block)
    band = None if reach >= T else torch.ones(T, T, dtype=torch.bool, device=x.device).tril().triu(1 - reach)
    attended = F.scaled_dot_product_attention(query, key, value, band, is_causal=band is None, scale=scale)
    return _linear(attended.transpose(1, 2).reshape(K, B * T, H * h), w, f"{block}.attention_out", forward)


def _feed_forward(x: Tensor, block: int, run: _Pass) -> Tensor:
    """tanh GELU (Hendrycks and Gimpel 2016) or SwiGLU (Shazeer 2020): `(K, N, d)` -> `(K, N, d)`."""
    hidden = _linear(x, run.w, f"{block}.mlp_in", run.forward)
    if run.forward.architecture.kind is Kind.GPT:
        hidden = F.gelu(hidden, approximate="tanh")
    else:
        gate, value = hidden.chunk(2, dim=2)
        hidden = F.silu(gate) * value
    return _linear(hidden, run.w, f"{block}.mlp_out", run.forward)


def _embed(embedding: Tensor, tokens: Tensor) -> Tensor:
    """`(K, V, d)`, `(K, B, T)` -> `(K, B, T, d)`.

    One flattened table with ids moved by k V: the backward of `table[k][ids]` depends on its neighbours on
    CPU, this one does not.
    """
    K, V, d = embedding.shape
    offsets = torch.arange(K, device=tokens.device).view(-1, 1, 1) * V
    return F.embedding(tokens + offsets, embedding.reshape(K * V, d))


def _norm(x: Tensor, w: Mapping[str, Tensor], name: str, shape: Architecture) -> Tensor:
    """Layer norm or RMS norm of `(K, N, d)` with a gain (and shift) `(K, d)` of each trial's own."""
    gain = w[f"{name}.gain"].unsqueeze(1)
    if shape.kind is Kind.LLAMA:
        return F.rms_norm(x, x.shape[-1:], eps=NORM_EPS) * gain
    return torch.addcmul(w[f"{name}.shift"].unsqueeze(1), F.layer_norm(x, x.shape[-1:], eps=NORM_EPS), gain)


def _linear(x: Tensor, w: Mapping[str, Tensor], name: str, forward: Forward) -> Tensor:
    """`(K, N, d_in)` times each trial's `(d_in, d_out)`, plus its bias where it has one; float32."""
    bias = w.get(f"{name}.bias")
    if bias is not None and forward.precision is Precision.FLOAT32:
        return torch.baddbmm(bias.unsqueeze(1), x, w[name])
    product = _product(x, w[name], forward.precision).float()
    if bias is None:
        return product
    return passes.add_bias(product, bias) if x.is_cuda else product + bias.unsqueeze(1)


def _product(x: Tensor, matrices: Tensor, precision: Precision) -> Tensor:
    """One batched product for K trials, summed in float32 and returned in `precision`."""
    return torch.bmm(x.to(precision.dtype), matrices.to(precision.dtype))


def _rotate(x: Tensor) -> Tensor:
    """Rotary positions on `(K B, heads, T, h)`, pairing dimension i with i + h / 2.

    Source: Su et al. 2021 (arXiv 2104.09864), in the pairing of Llama's published weights in transformers.
    """
    T, h = x.shape[-2:]
    frequencies = ROTARY_BASE ** (-torch.arange(0, h, 2, device=x.device, dtype=torch.float32) / h)
    angles = torch.arange(T, device=x.device, dtype=torch.float32).unsqueeze(1) * frequencies
    cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
    first, second = x.chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)


def _named(weights: Tensor, layout: tuple[Weight, ...]) -> dict[str, Tensor]:
    """A row's weights by name, each `(K, *shape)`."""
    parts = torch.split(weights, [weight.size for weight in layout], dim=1)
    return {weight.name: part.view(-1, *weight.shape) for weight, part in zip(layout, parts, strict=True)}


def _ignore(name: str, activation: Tensor) -> None:
    """The observer of a run that nobody looks into."""


def max_attention_logit(weights: Tensor, tokens: Tensor, knobs: Knobs, forward: Forward) -> float:
    """Largest scaled product of a query with a key that it may see, over blocks, heads and sequences.

    Large values come before divergence (Wortsman et al. 2023, arXiv 2309.14322).

    Args:
        weights: `(1, P)`.
        tokens: `(1, B, T)` ids.
        knobs: of the trial.
        forward: how it is run.
    """
    largest, queries = -math.inf, dict[str, Tensor]()

    def observe(name: str, activation: Tensor) -> None:
        nonlocal largest
        block, _, part = name.partition(".")
        if part == "query":
            queries[block] = activation
        elif part == "key":
            products = queries.pop(block).float() @ activation.float().transpose(-1, -2)
            reach = forward.architecture.attended_tokens(int(block))
            seen = torch.ones(products.shape[-2:], dtype=torch.bool, device=products.device).tril().triu(1 - reach)
            largest = max(largest, products.masked_fill(~seen, -math.inf).max().item())

    with torch.inference_mode():
        logits(weights, tokens, knobs, forward, observe)
    return largest
