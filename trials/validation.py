"""The held-out text that every trial of a search is measured on: fixed, the same for all."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from trials.program import Program

ATTENTION_SEQUENCES = 8  # that the largest attention logit is looked for in
MEASURED_ROWS = 16  # of a step, that one trial's validation takes the place of; more fill a GPU no better


@dataclass(frozen=True)
class HeldOut:
    """Validation and far-validation sequences, each `(S, T + 1)` token ids."""

    validation: Tensor
    far_validation: Tensor

    def loss(self, program: Program, weights: Tensor, numbers: Tensor, rows: int) -> float:
        """Validation loss of one trial's weights `(1, P)`, nats a token, in batches of a step of so many rows."""
        return program.loss(weights, self.validation, numbers, min(rows, MEASURED_ROWS))

    def far_loss(self, program: Program, weights: Tensor, numbers: Tensor, rows: int) -> float:
        """The same on text of another kind."""
        return program.loss(weights, self.far_validation, numbers, min(rows, MEASURED_ROWS))

    def max_attention_logit(self, program: Program, weights: Tensor, numbers: Tensor) -> float:
        """The largest attention logit of one trial's weights `(1, P)`."""
        return program.max_attention_logit(weights, self.validation[:ATTENTION_SEQUENCES], numbers)
