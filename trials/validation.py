"""The held-out text that every trial of a search is measured on: fixed, the same for all."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from trials.program import Program

CPU_CHUNK_TOKENS = 1024  # of one forward pass: what is in the caches; four times as many take twice as long a token
CHUNK_TOKENS = 16_384  # elsewhere: bounds the memory of the logits
ATTENTION_SEQUENCES = 8  # that the largest attention logit is looked for in


@dataclass(frozen=True)
class HeldOut:
    """Validation and far-validation sequences, each `(S, T + 1)` token ids."""

    validation: Tensor
    far_validation: Tensor

    def loss(self, program: Program, weights: Tensor, numbers: Tensor) -> float:
        """Validation loss of one trial's weights `(1, P)`, nats a token."""
        return _mean_loss(program, weights, numbers, self.validation)

    def far_loss(self, program: Program, weights: Tensor, numbers: Tensor) -> float:
        """The same on text of another kind."""
        return _mean_loss(program, weights, numbers, self.far_validation)

    def max_attention_logit(self, program: Program, weights: Tensor, numbers: Tensor) -> float:
        """The largest attention logit of one trial's weights `(1, P)`."""
        return program.max_attention_logit(weights, self.validation[:ATTENTION_SEQUENCES], numbers)


def chunk_sequences(context_tokens: int, device: str) -> int:
    """Sequences of one forward pass over held-out text."""
    return max(1, (CPU_CHUNK_TOKENS if device == "cpu" else CHUNK_TOKENS) // context_tokens)


def _mean_loss(program: Program, weights: Tensor, numbers: Tensor, sequences: Tensor) -> float:
    chunks = torch.split(sequences, chunk_sequences(sequences.shape[1] - 1, sequences.device.type))
    losses = [program.loss(weights, chunk, numbers) for chunk in chunks]
    return math.fsum(loss * len(chunk) for loss, chunk in zip(losses, chunks, strict=True)) / len(sequences)
