"""The shape of a model, and what follows from the shape alone: its weights, parameter counts and FLOPs.

No torch here: the service counts targets that could never be built on the machine it runs on.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from functools import cache, cached_property

NORM_EPS = 1e-5
ROTARY_BASE = 10_000.0
LLAMA_FEED_FORWARD_MULTIPLE = 8  # of proxies; published Llamas round their 8/3 d up to multiples of 256 and more


class Kind(StrEnum):
    """A family of decoder-only transformers."""

    GPT = "gpt"  # learned positions, layer norm, tanh GELU, biases, tied embeddings: GPT-2, GPT-3, minGPT
    LLAMA = "llama"  # rotary positions, RMS norm, SwiGLU, no biases, untied embeddings


class Role(StrEnum):
    """What a weight does: a parametrization scales it, and a search gives it its rate, by its role."""

    EMBEDDING = "embedding"  # tied, it is the unembedding too
    POSITION = "position"
    UNEMBEDDING = "unembedding"
    HIDDEN = "hidden"  # a matrix of a block
    RESIDUAL = "residual"  # a matrix of a block that writes into the residual stream
    BLOCK_VECTOR = "block_vector"  # gains, shifts and biases of a block
    FINAL_VECTOR = "final_vector"  # gain and shift of the last norm

    @property
    def is_embedding(self) -> bool:
        """Whether it is left out of N."""
        return self in (Role.EMBEDDING, Role.POSITION, Role.UNEMBEDDING)

    @property
    def is_block_matrix(self) -> bool:
        return self in (Role.HIDDEN, Role.RESIDUAL)

    @property
    def decayed(self) -> bool:
        """Whether weight decay acts on it: on matrices it does, on gains, biases and positions not."""
        return self.is_block_matrix or self in (Role.EMBEDDING, Role.UNEMBEDDING)


@dataclass(frozen=True)
class Weight:
    """One weight of a model, as it lies in a row of the `(K, P)` tensor."""

    name: str
    shape: tuple[int, ...]
    role: Role
    ones: bool = False  # a gain starts at one; other vectors at zero, matrices at random
    columns: tuple[int, ...] = ()  # of several matrices that are stored side by side

    @property
    def size(self) -> int:
        return math.prod(self.shape)


@dataclass(frozen=True)
class Architecture:
    """A decoder-only transformer; build one with `gpt` or `llama`."""

    kind: Kind
    width: int  # d_model
    depth: int  # number of blocks
    heads: int  # of queries
    kv_heads: int  # of keys and values; fewer than heads: grouped queries
    head_size: int
    feed_forward_width: int
    context_tokens: int  # longest sequence; of a GPT the number of learned positions
    vocabulary: int
    band_tokens: int  # every second block attends to so many tokens back; the context: all are dense
    qk_norm: bool  # queries and keys are normalised, each head, with a learned gain
    post_norm: bool  # GPT-1: the norm follows the residual sum, and there is no last one

    def __post_init__(self) -> None:
        counts = (self.width, self.depth, self.heads, self.kv_heads, self.head_size, self.feed_forward_width)
        assert min(*counts, self.context_tokens, self.vocabulary, self.band_tokens) >= 1
        assert self.heads % self.kv_heads == 0, f"{self.kv_heads} kv_heads do not divide {self.heads} heads"
        assert self.kind is Kind.GPT or (self.head_size % 2 == 0 and not self.post_norm), "rotary positions turn pairs"

    @property
    def layout(self) -> tuple[Weight, ...]:
        """The weights in the order in which they lie in a row."""
        return _layout(self)

    @property
    def roles(self) -> tuple[Role, ...]:
        """The roles that its weights have."""
        return tuple(dict.fromkeys(weight.role for weight in self.layout))

    @cached_property  # as a search counts every segment of every trial
    def params(self) -> int:
        """Non-embedding parameters N: blocks and final norm, with biases and gains.

        Source: Kaplan et al. 2020 (arXiv 2001.08361), section 2.1, whose 12 L d^2 leaves out the small terms.
        """
        return sum(weight.size for weight in self.layout if not weight.role.is_embedding)

    @cached_property
    def params_total(self) -> int:
        """All parameters P: N, embeddings (a tied one counted once) and learned positions."""
        return sum(weight.size for weight in self.layout)

    def attended_tokens(self, block: int) -> int:
        """How far back the attention of a block reaches."""
        return min(self.band_tokens, self.context_tokens) if block % 2 else self.context_tokens

    @property
    def forward_flops_per_token(self) -> int:
        """FLOPs of one forward pass per token, a multiply-add counted as two.

        2 N for the blocks, 2 V d for the unembedding (not small in a proxy), and for attention 4 H h times the
        tokens that a token sees on average: T / 2 in a dense block, w - w^2 / 2 T in one with a band of w.

        Source: Kaplan et al. 2020, table 1, with the unembedding added and the causal half taken.
        """
        seen_tokens = sum(
            reach - reach * reach / (2 * self.context_tokens) for reach in map(self.attended_tokens, range(self.depth))
        )
        attention = round(4 * self.heads * self.head_size * seen_tokens)
        return 2 * self.params + 2 * self.vocabulary * self.width + attention

    @cached_property
    def training_flops_per_token(self) -> int:
        """FLOPs of one training token: the backward pass costs twice the forward pass (Kaplan et al. 2020)."""
        return 3 * self.forward_flops_per_token


def gpt(
    width: int,
    depth: int,
    heads: int,
    context_tokens: int,
    vocabulary: int,
    band_tokens: int = 0,
    post_norm: bool = False,
) -> Architecture:
    """minGPT's design: feed-forward 4 d, heads of d / heads; without a band every block is dense.

    Source: Radford et al. 2019 (GPT-2) as in karpathy/minGPT; bands in every second block, Brown et al. 2020
    (GPT-3) after Child et al. 2019 (arXiv 1904.10509); post-norm, Radford et al. 2018 (GPT-1).
    """
    assert width % heads == 0, f"{heads} heads do not divide width {width}"
    return Architecture(
        kind=Kind.GPT,
        width=width,
        depth=depth,
        heads=heads,
        kv_heads=heads,
        head_size=width // heads,
        feed_forward_width=4 * width,
        context_tokens=context_tokens,
        vocabulary=vocabulary,
        band_tokens=band_tokens or context_tokens,
        qk_norm=False,
        post_norm=post_norm,
    )


def llama(
    width: int, depth: int, heads: int, context_tokens: int, vocabulary: int, kv_heads: int = 0, feed_forward: int = 0
) -> Architecture:
    """Llama's design: feed-forward 8/3 d, rounded up; every head has keys of its own unless `kv_heads` are given.

    Source: Touvron et al. 2023 (arXiv 2302.13971); grouped queries, Ainslie et al. 2023 (arXiv 2305.13245).
    """
    assert width % heads == 0, f"{heads} heads do not divide width {width}"
    multiple = LLAMA_FEED_FORWARD_MULTIPLE
    return Architecture(
        kind=Kind.LLAMA,
        width=width,
        depth=depth,
        heads=heads,
        kv_heads=kv_heads or heads,
        head_size=width // heads,
        feed_forward_width=feed_forward or -(-8 * width // (3 * multiple)) * multiple,
        context_tokens=context_tokens,
        vocabulary=vocabulary,
        band_tokens=context_tokens,
        qk_norm=False,
        post_norm=False,
    )


@cache
def _layout(shape: Architecture) -> tuple[Weight, ...]:
    is_gpt, d = shape.kind is Kind.GPT, shape.width
    weights = [Weight("embedding", (shape.vocabulary, d), Role.EMBEDDING)]
    if is_gpt:
        weights.append(Weight("positions", (shape.context_tokens, d), Role.POSITION))
    for block in range(shape.depth):
        weights += _block(shape, block)
    if not shape.post_norm:
        weights += _norm("final_norm", d, Role.FINAL_VECTOR, is_gpt)
    if not is_gpt:
        weights.append(Weight("unembedding", (shape.vocabulary, d), Role.UNEMBEDDING))
    return tuple(weights)


def _block(shape: Architecture, block: int) -> Iterator[Weight]:
    is_gpt, d, f = shape.kind is Kind.GPT, shape.width, shape.feed_forward_width
    queries, keys = shape.heads * shape.head_size, shape.kv_heads * shape.head_size
    up_columns = (f,) if is_gpt else (f, f)  # SwiGLU: gate and value side by side
    yield from _norm(f"{block}.attention_norm", d, Role.BLOCK_VECTOR, is_gpt)
    yield from _linear(f"{block}.qkv", d, (queries, keys, keys), Role.HIDDEN, is_gpt)
    if shape.qk_norm:
        yield Weight(f"{block}.query_norm.gain", (shape.head_size,), Role.BLOCK_VECTOR, ones=True)
        yield Weight(f"{block}.key_norm.gain", (shape.head_size,), Role.BLOCK_VECTOR, ones=True)
    yield from _linear(f"{block}.attention_out", queries, (d,), Role.RESIDUAL, is_gpt)
    yield from _norm(f"{block}.mlp_norm", d, Role.BLOCK_VECTOR, is_gpt)
    yield from _linear(f"{block}.mlp_in", d, up_columns, Role.HIDDEN, is_gpt)
    yield from _linear(f"{block}.mlp_out", f, (d,), Role.RESIDUAL, is_gpt)


def _norm(name: str, d: int, role: Role, shift: bool) -> Iterator[Weight]:
    yield Weight(f"{name}.gain", (d,), role, ones=True)
    if shift:
        yield Weight(f"{name}.shift", (d,), role)


def _linear(name: str, d_in: int, columns: tuple[int, ...], role: Role, bias: bool) -> Iterator[Weight]:
    yield Weight(name, (d_in, sum(columns)), role, columns=columns)
    if bias:
        yield Weight(f"{name}.bias", (sum(columns),), Role.BLOCK_VECTOR)
