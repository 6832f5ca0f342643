"""What a coordinate check looks at: the size of activations, and of their change, in a model's first training steps.

Sources: Yang et al. 2022 (Tensor Programs V, arXiv 2203.03466), appendix D.1, and `coord_check` of microsoft/mup;
over depths, Dey et al. 2025 (CompleteP, arXiv 2505.01618).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
import torch
from torch import Tensor

from trials import model, rates
from trials.engine import Engine
from trials.model import Forward, Precision
from trials.program import Program, State, forward_of, shape_of
from trials.trial import TrialConfig

ENGINE = Engine("cpu", Precision.FLOAT32, compiled=False)
LAST_STEP = 10**6  # a rung so far ahead that the rate does not fall yet


class Coordinate(StrEnum):
    """A place of the forward pass; of what every block has, the mean over the blocks."""

    EMBEDDING = "embedding"
    ATTENTION_LOGITS = "attention logits"  # scaled products of a query with the keys that it may see
    ATTENTION = "attention"  # what the branch adds to the stream, before the residual multiplier
    FEED_FORWARD = "feed-forward"  # likewise
    STREAM = "residual stream"  # after the last block, before its norm
    LOGITS = "logits"

    @property
    def shrinks_at_start(self) -> bool:
        """Whether it is a mean of products of independent numbers until training makes them agree."""
        return self in (Coordinate.ATTENTION_LOGITS, Coordinate.LOGITS)

    @property
    def learned_by_blocks(self) -> bool:
        """Whether its change keeps its size only through what the blocks learn: queries that agree with keys."""
        return self is Coordinate.ATTENTION_LOGITS


@dataclass(frozen=True)
class Size:
    """Of one coordinate after so many steps: means of absolute values."""

    coordinate: Coordinate
    step: int
    seed: int
    activation: float
    change: float  # of what has become of the activation since initialisation


Activations = Mapping[Coordinate, list[Tensor]]  # each `(K, ...)`, one of every block or one alone


def training_sizes(config: TrialConfig, steps: int, seeds: int) -> list[Size]:
    """Trains on one batch over and over, and looks at the activations of that batch before each step and at the end.

    Args:
        config: of the trial; its seed is replaced by 0, 1, ...
        steps: of training.
        seeds: initial weights and batches.
    """
    forward, program = forward_of(shape_of(config), ENGINE.precision), Program(shape_of(config), ENGINE)
    shape, scaling = config.architecture, config.parametrization
    weights = torch.stack([model.initial_weights(shape, scaling, config.init_std, seed) for seed in range(seeds)])
    state = State(weights, torch.zeros_like(weights), torch.zeros_like(weights))
    tokens = torch.stack([narrowing_tokens(config, seed) for seed in range(seeds)])
    share = torch.full(tokens.shape[:2], 1 / config.batch_sequences)
    start = activations(state.weights, tokens, step_rows(config, 0, seeds), forward)
    found = [*_sizes(start, start, 0)]
    for step in range(steps):
        numbers = step_rows(config, step, seeds)
        program.step(state, tokens, share, numbers)
        found += _sizes(activations(state.weights, tokens, numbers, forward), start, step + 1)
    return found


def activations(weights: Tensor, tokens: Tensor, numbers: Tensor, forward: Forward) -> Activations:
    """The coordinates of a forward pass.

    Args:
        weights: `(K, P)`.
        tokens: `(K, B, T + 1)` ids.
        numbers: `(K, NUMBERS)`.
        forward: how it is run.
    """
    assert not forward.architecture.post_norm, "with a norm after the sum, the stream is no sum of branches"
    seen: dict[str, list[Tensor]] = {}
    with torch.inference_mode():
        knobs = rates.unpack(numbers)[1]
        model.logits(weights, tokens[:, :, :-1], knobs, forward, lambda name, x: _collect(seen, name, x))
        branches = torch.stack(seen["attention"] + seen["mlp"]).sum(0)
        return {
            Coordinate.EMBEDDING: seen["embedding"],
            Coordinate.ATTENTION_LOGITS: list(_attention_logits(seen["query"], seen["key"], forward, len(weights))),
            Coordinate.ATTENTION: seen["attention"],
            Coordinate.FEED_FORWARD: seen["mlp"],
            Coordinate.STREAM: [seen["embedding"][0] + forward.multipliers.residual * branches],
            Coordinate.LOGITS: seen["logits"],
        }


def narrowing_tokens(config: TrialConfig, seed: int) -> Tensor:
    """`(B, T + 1)` ids of a batch in which each token narrows the next down to three."""
    vocabulary, generator = config.architecture.vocabulary, torch.Generator().manual_seed(seed)
    sizes = (config.batch_sequences, config.architecture.context_tokens + 1)
    tokens = torch.randint(vocabulary, sizes, generator=generator)
    noise = torch.randint(3, sizes, generator=generator)
    for place in range(1, sizes[1]):
        tokens[:, place] = (3 * tokens[:, place - 1] + 7 + noise[:, place]) % vocabulary
    return tokens


def step_rows(config: TrialConfig, step: int, seeds: int) -> Tensor:
    """`(K, NUMBERS)` of a step at the peak rate; `step` counts from 0."""
    row = rates.step_numbers(config, step * config.step_tokens, LAST_STEP * config.step_tokens, step + 1)
    return torch.from_numpy(np.tile(row.astype(np.float32), (seeds, 1)))


def _collect(seen: dict[str, list[Tensor]], name: str, activation: Tensor) -> None:
    """Files an activation under its name without the number of the block."""
    seen.setdefault(name.rpartition(".")[2], []).append(activation)


def _attention_logits(queries: list[Tensor], keys: list[Tensor], forward: Forward, rows: int) -> Iterator[Tensor]:
    """Of each block `(K, M)`: all that its attention may see."""
    for block, (query, key) in enumerate(zip(queries, keys, strict=True)):
        products = query @ key.transpose(-1, -2)
        reach = forward.architecture.attended_tokens(block)
        visible = torch.ones(products.shape[-2:], dtype=torch.bool).tril().triu(1 - reach)
        yield products[..., visible].reshape(rows, -1)


def _sizes(now: Activations, start: Activations, step: int) -> Iterator[Size]:
    for coordinate, parts in now.items():
        sizes = _mean_size(parts)
        changes = _mean_size([part - before for part, before in zip(parts, start[coordinate], strict=True)])
        for seed, (size, change) in enumerate(zip(sizes.tolist(), changes.tolist(), strict=True)):
            yield Size(coordinate, step, seed, size, change)


def _mean_size(parts: list[Tensor]) -> Tensor:
    """`(K,)`: mean absolute value, over blocks too."""
    return torch.stack([part.flatten(1).abs().mean(1) for part in parts]).mean(0)
