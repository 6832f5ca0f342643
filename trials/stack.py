"""A stack: same-shaped trials trained as one batched model, each with its own everything.

The filled slots are the first rows of the stack's tensors, so a step computes filled slots only and a freed
slot costs nothing. One trial alone is the ordinary case of the same code.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from trials import checkpoint, model
from trials.architecture import Architecture
from trials.checkpoint import CheckpointError, Trunk
from trials.data import training_batch
from trials.optimizer import Rates, adamw_
from trials.schedule import learning_rate_factor
from trials.trial import Assignment, Measurement, Outcome
from trials.validation import HeldOut

DIVERGED_LOSS_RATIO = 1.25  # a training loss this far above its start does not come back
DIVERGED_STEPS = 16  # averaged over, as one small batch of odd text is no divergence


@dataclass
class Slot:
    """One trial in a stack: where it is on its way to the rung, and what it has seen."""

    assignment: Assignment
    tokens: int
    start_tokens: int
    start_loss: float  # training loss of the trial's first step; NaN before it
    admitted_s: float
    threads: int
    trunk: Trunk | None = None  # the rung's checkpoint, once the branch has left it
    raw_loss: float = math.nan
    losses: list[float] = field(default_factory=list)
    norms: list[float] = field(default_factory=list)
    neighbours: int = 1

    @property
    def branch_tokens(self) -> int:
        return self.assignment.config.branch_tokens(self.assignment.rung_tokens)

    @property
    def learning_rate(self) -> float:
        """The rate of the next step, taken at the step's middle."""
        config = self.assignment.config
        middle = self.tokens + config.step_tokens / 2
        return config.learning_rate * learning_rate_factor(
            middle, config.warmup_tokens, self.branch_tokens, self.assignment.rung_tokens
        )

    @property
    def done(self) -> bool:
        """Whether the trial has something to report."""
        return self.tokens >= self.assignment.rung_tokens or bool(self.diverged)

    @property
    def diverged(self) -> str:
        """Why the trial has diverged, or nothing."""
        recent = self.losses[-DIVERGED_STEPS:]
        mean = sum(recent) / len(recent) if recent else 0.0
        full = len(recent) == DIVERGED_STEPS
        if math.isfinite(mean) and not (full and mean > DIVERGED_LOSS_RATIO * self.start_loss):
            return ""
        return f"training loss {mean:.4g} at {self.tokens} tokens, {self.start_loss:.4g} at the start"


class Stack:
    """Up to `slots` trials of one shape and batch, trained together."""

    def __init__(self, architecture: Architecture, slots: int, train_tokens: np.ndarray, held_out: HeldOut) -> None:
        self.architecture = architecture
        self.slots: list[Slot] = []
        self._train_tokens = train_tokens
        self._held_out = held_out
        self._decayed = model.decay_mask(architecture)
        self._tensors = {name: torch.zeros(slots, architecture.params_total) for name in checkpoint.TENSORS}

    def admit(self, assignment: Assignment) -> None:
        """Puts a trial into the first free slot, from its checkpoint or its initial weights.

        Raises:
            CheckpointError: the checkpoint named in the assignment cannot be used.
        """
        trunk, start_loss = _start(assignment)
        for name, tensor in self._tensors.items():
            tensor[len(self.slots)] = torch.from_numpy(trunk.tensors[name])
        self.slots.append(
            Slot(assignment, trunk.tokens, trunk.tokens, start_loss, time.monotonic(), torch.get_num_threads())
        )

    def step(self) -> None:
        """One optimizer step of every trial; a trial at its branch point leaves its trunk behind first."""
        for row, slot in enumerate(self.slots):
            if slot.trunk is None and slot.tokens >= slot.branch_tokens:
                slot.raw_loss = self._held_out.loss(self._row("weights", row), self.architecture)
                slot.trunk = Trunk(slot.tokens, {name: _copy(tensor[row]) for name, tensor in self._tensors.items()})
        filled = len(self.slots)
        weights = self._tensors["weights"][:filled].requires_grad_()
        losses = model.losses(weights, self._batch(), self.architecture)
        (gradients,) = torch.autograd.grad(losses.sum(), weights)
        with torch.no_grad():
            mean, square = self._tensors["mean"][:filled], self._tensors["square"][:filled]
            norms = adamw_(weights.detach(), gradients, mean, square, self._rates(), self._decayed)
        for slot, loss, norm in zip(self.slots, losses.tolist(), norms.tolist(), strict=True):
            slot.start_loss = loss if math.isnan(slot.start_loss) else slot.start_loss
            slot.losses.append(loss)
            slot.norms.append(norm)
            slot.tokens += slot.assignment.config.step_tokens
            slot.neighbours = max(slot.neighbours, filled)

    @property
    def measurable(self) -> bool:
        """Whether a trial has reached its rung, or diverged on the way."""
        return any(slot.done for slot in self.slots)

    def measure(self) -> list[tuple[Assignment, Measurement]]:
        """Measures, saves and evicts the trials that are done."""
        measured = [(slot.assignment, self._measure(row)) for row, slot in enumerate(self.slots) if slot.done]
        for assignment, _ in measured:
            self.evict(assignment)
        return measured

    def evict(self, assignment: Assignment) -> None:
        """Frees the slot of a segment; the last filled row moves into it, so filled rows stay together."""
        # By identity: a trial that was released and asked for again has two slots for a moment.
        row = next(row for row, slot in enumerate(self.slots) if slot.assignment is assignment)
        last = self.slots.pop()
        if row < len(self.slots):
            self.slots[row] = last
            for tensor in self._tensors.values():
                tensor[row] = tensor[len(self.slots)]

    def _measure(self, row: int) -> Measurement:
        slot = self.slots[row]
        weights = self._row("weights", row)
        if slot.diverged:
            return self._measurement(slot, Outcome.DIVERGED, slot.diverged)
        loss = self._held_out.loss(weights, self.architecture)
        # Written so that NaN, which compares false, counts as diverged.
        if not loss <= DIVERGED_LOSS_RATIO * slot.start_loss:
            message = f"validation loss {loss:.4g}, {slot.start_loss:.4g} at the start"
            return self._measurement(slot, Outcome.DIVERGED, message)
        assert slot.trunk is not None, "a trial reaches its rung through its branch"
        far_loss = self._held_out.far_loss(weights, self.architecture)
        measurement = self._measurement(slot, Outcome.MEASURED, "", loss, far_loss)
        checkpoint.save(Path(slot.assignment.save_to), slot.trunk, measurement, slot.start_loss)
        return measurement

    def _measurement(
        self, slot: Slot, outcome: Outcome, message: str, loss: float = 0.0, far_loss: float = 0.0
    ) -> Measurement:
        measured = outcome is Outcome.MEASURED
        config = slot.assignment.config
        branch_steps = max(1, (slot.tokens - slot.branch_tokens) // config.step_tokens)
        leaves_trunk = min(slot.tokens, slot.branch_tokens)
        return Measurement(
            trial_id=slot.assignment.trial_id,
            tokens=slot.assignment.rung_tokens,
            outcome=outcome,
            message=message,
            loss=loss,
            raw_loss=slot.raw_loss if measured else 0.0,
            far_loss=far_loss,
            train_loss=float(np.mean(slot.losses[-branch_steps:])) if measured else 0.0,
            gradient_norm=float(np.mean(slot.norms)) if measured else 0.0,
            flops=config.segment_flops(slot.start_tokens, leaves_trunk),
            anneal_flops=config.segment_flops(leaves_trunk, slot.tokens),
            checkpoint=slot.assignment.save_to if measured else "",
            slots=slot.neighbours,
            threads=slot.threads,
            seconds=time.monotonic() - slot.admitted_s,
        )

    def _row(self, name: str, row: int) -> Tensor:
        return self._tensors[name][row : row + 1].detach()

    def _batch(self) -> Tensor:
        """`(K, B, T + 1)`: each trial's own next sequences."""
        batches = [
            training_batch(
                self._train_tokens,
                slot.assignment.config.seed,
                slot.tokens // slot.assignment.config.step_tokens,
                slot.assignment.config.batch_sequences,
                self.architecture.context_tokens,
            )
            for slot in self.slots
        ]
        return torch.from_numpy(np.stack(batches))

    def _rates(self) -> Rates:
        configs = [slot.assignment.config for slot in self.slots]
        return Rates(
            learning_rate=_column([slot.learning_rate for slot in self.slots]),
            weight_decay=_column([config.weight_decay for config in configs]),
            beta1=_column([config.beta1 for config in configs]),
            beta2=_column([config.beta2 for config in configs]),
            eps=_column([config.eps for config in configs]),
            gradient_clip=_column([config.gradient_clip for config in configs]),
            step=_column([slot.tokens // slot.assignment.config.step_tokens + 1 for slot in self.slots]),
        )


def _column(values: list[float]) -> Tensor:
    """One number a trial -> `(K, 1)`."""
    return torch.tensor(values, dtype=torch.float32).unsqueeze(1)


def _start(assignment: Assignment) -> tuple[Trunk, float]:
    """Where a segment starts from, and the loss at the trial's start: NaN before its first step."""
    config, file = assignment.config, assignment.resume_from
    if not file:
        weights = model.initial_weights(config.architecture, config.seed).numpy()
        zeros = np.zeros_like(weights)
        return Trunk(0, {"weights": weights, "mean": zeros, "square": zeros}), math.nan
    trunk, start_loss = checkpoint.load(Path(file), config.architecture.params_total)
    branch_tokens = config.branch_tokens(assignment.rung_tokens)
    if trunk.tokens > branch_tokens:
        raise CheckpointError(f"{file}: at {trunk.tokens} tokens, past the rung's branch point {branch_tokens}")
    return trunk, start_loss


def _copy(row: Tensor) -> np.ndarray:
    return row.detach().numpy().copy()
