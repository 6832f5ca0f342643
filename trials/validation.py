"""The held-out text that every trial of a search is measured on: fixed, the same for all."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from trials import model
from trials.architecture import Architecture

CHUNK_SEQUENCES = 64  # sequences of one forward pass; bounds the memory of the logits


@dataclass(frozen=True)
class HeldOut:
    """Validation and far-validation sequences, each `(S, T + 1)` token ids."""

    validation: Tensor
    far_validation: Tensor

    def loss(self, weights: Tensor, architecture: Architecture) -> float:
        """Validation loss of one trial's weights `(1, P)`, nats a token."""
        return _mean_loss(weights, self.validation, architecture)

    def far_loss(self, weights: Tensor, architecture: Architecture) -> float:
        """The same on text of another kind."""
        return _mean_loss(weights, self.far_validation, architecture)


def _mean_loss(weights: Tensor, sequences: Tensor, architecture: Architecture) -> float:
    with torch.inference_mode():
        chunks = torch.split(sequences, CHUNK_SEQUENCES)
        losses = [model.losses(weights, chunk.unsqueeze(0), architecture).item() for chunk in chunks]
    return math.fsum(loss * len(chunk) for loss, chunk in zip(losses, chunks, strict=True)) / len(sequences)
