"""A stack: same-shaped trials trained as one batched model, each with its own everything.

The filled slots are the first rows of the stack's tensors, so a freed slot costs nothing on a CPU, where rows
are computed one by one. One trial alone is the ordinary case of the same code.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import torch
from torch import Tensor

from trials import checkpoint, model
from trials.checkpoint import CheckpointError, Trunk
from trials.data import expected_unique_tokens, training_batch
from trials.program import Captured, Program, Shape, State
from trials.rates import NUMBERS, Numbers, idle_numbers, step_numbers
from trials.stability import START_RATIO, WINDOW_STEPS, LossTrace
from trials.storage import PATIENCE_S, patiently
from trials.trial import Assignment, Measurement, Outcome, TrialConfig
from trials.validation import HeldOut


@dataclass
class Slot:
    """One trial in a stack: where it is on its way to the rung, and what it has seen."""

    assignment: Assignment
    tokens: int
    steps: int
    trace: LossTrace
    start_tokens: int
    start_spikes: int
    admitted_s: float
    note: str = ""  # what had to be worked around at admission
    divergence: str = ""  # why the trial has diverged
    trunk: Trunk | None = None  # the rung's checkpoint, once the branch has left it
    raw_loss: float = math.nan
    update_ratio: float = math.nan
    losses: list[float] = field(default_factory=list)
    norms: list[float] = field(default_factory=list)
    neighbours: int = 1

    @property
    def config(self) -> TrialConfig:
        return self.assignment.config

    @property
    def branch_tokens(self) -> int:
        return self.config.branch_tokens(self.assignment.rung_tokens)

    @property
    def step_tokens(self) -> int:
        """Tokens of the next step. No trunk's step crosses a branch point, where its rate would be a rung's."""
        return self.config.batch_sequences_at(self.tokens) * self.config.architecture.context_tokens

    @property
    def trunk_tokens(self) -> int:
        """Tokens of the trunk so far."""
        return self.tokens if self.trunk is None else self.trunk.tokens

    @property
    def numbers(self) -> Numbers:
        """What the next step needs, `(NUMBERS,)`."""
        return step_numbers(self.config, self.tokens, self.assignment.rung_tokens, self.steps + 1)

    @property
    def reached(self) -> bool:
        """Whether the trial is at its rung."""
        return self.tokens >= self.assignment.rung_tokens

    def learn_of(self, tokens: int, loss: float, norm: float) -> None:
        """What a step has come to, and whether the trial has diverged with it.

        Judged step by step, in order, so that it does not matter when anybody looks.

        Args:
            tokens: of the trial, this step included.
            loss: cross entropy before the step.
            norm: of the gradient.
        """
        self.trace = self.trace.add(loss)
        self.losses.append(loss)
        self.norms.append(norm)
        # A window that began in the warmup may have its hump in it.
        warmed_up = tokens - WINDOW_STEPS * self.config.step_tokens >= self.config.warmup_tokens
        if not self.divergence and (why := self.trace.divergence(warmed_up)):
            self.divergence = f"{why}, at {tokens} tokens"


@dataclass(frozen=True)
class _Computed:
    """A step of a group whose results are still on the device."""

    slots: list[Slot]
    tokens: list[int]  # of each trial, with it
    losses: Tensor  # `(G,)` each; an idle row has some too
    norms: Tensor


@dataclass(frozen=True)
class Parked:
    """A trial taken out of a stack in mid-segment, to go on elsewhere as if nothing had been."""

    slot: Slot
    rows: dict[str, np.ndarray]


class Stack:
    """Up to `slots` trials of one shape, trained together."""

    def __init__(
        self,
        shape: Shape,
        slots: int,
        program: Program,
        train_tokens: np.ndarray,
        held_out: HeldOut,
        patience_s: float = PATIENCE_S,
    ) -> None:
        self.shape = shape
        self.slots: list[Slot] = []
        self.capacity = slots
        self._program = program
        self._train_tokens = train_tokens
        self._held_out = held_out
        self._patience_s = patience_s  # with a store that cannot be reached
        self._group = program.engine.group(slots)
        self._device = torch.device(program.engine.device)
        # Where idle rows are computed they are zeros; elsewhere nobody reads them, and untouched they take no memory.
        rows = torch.zeros if program.engine.batched else torch.empty
        size = shape.architecture.params_total
        self._state = State(*(rows(slots, size, device=self._device) for _ in checkpoint.TENSORS))
        self._captured: Captured | None = None
        self._pending: list[list[_Computed]]  # of each group
        self._pending = [[] for _ in range(0, slots, self._group)]

    @property
    def is_full(self) -> bool:
        return len(self.slots) >= self.capacity

    @property
    def rows(self) -> int:
        """Rows that a step computes: those that are filled, or all of them where they are computed together."""
        return self.capacity if self._program.engine.batched else len(self.slots)

    def admit(self, assignment: Assignment) -> None:
        """Puts a trial into the first free slot, from its newest usable checkpoint or its initial weights.

        Raises:
            StorageError: a checkpoint cannot be read now, which is no reason to train it again.
        """
        trunk, note = _start(assignment, self._patience_s)
        start = trunk.tokens, trunk.trace.spikes
        slot = Slot(assignment, trunk.tokens, trunk.steps, trunk.trace, *start, time.monotonic(), note)
        self.unpark(Parked(slot, dict(trunk.tensors)))

    def unpark(self, parked: Parked) -> None:
        """Puts a parked trial into the first free slot."""
        assert not self.is_full
        for name, tensor in self._state.tensors().items():
            tensor[len(self.slots)] = torch.from_numpy(parked.rows[name])
        self.slots.append(parked.slot)

    def park(self) -> list[Parked]:
        """Empties the stack; its trials can go on elsewhere."""
        self.settle()
        parked = [Parked(slot, self._copy(row)) for row, slot in enumerate(self.slots)]
        self.slots = []
        return parked

    @property
    def groups(self) -> range:
        """The first row of every group that has a trial. Different groups may be run and measured side by side."""
        return range(0, len(self.slots), self._group)

    def run(self, start: int, steps: int) -> None:
        """So many optimizer steps of a group, fewer where one of its trials reaches its rung.

        Several at once, as the state of one trial then stays in the cache of a CPU.
        """
        slots = self._slots(start)
        for _ in range(steps):
            if any(slot.reached for slot in slots):
                break
            self._step(start, slots)

    def step(self) -> None:
        """One optimizer step of every trial."""
        for start in self.groups:
            self._step(start, self._slots(start))

    def _slots(self, start: int) -> list[Slot]:
        return self.slots[start : start + self._group]

    def _step(self, start: int, slots: list[Slot]) -> None:
        """One step of a group; a trial at its branch point leaves its trunk behind first."""
        for row, slot in enumerate(slots, start):
            if slot.trunk is None and slot.tokens + slot.step_tokens > slot.branch_tokens:
                self._leave_trunk(row, slot)
        losses, norms = self._compute(start, slots)
        tokens = [slot.tokens + slot.step_tokens for slot in slots]
        self._pending[start // self._group].append(_Computed(slots, tokens, losses, norms))
        for row, slot in enumerate(slots, start):
            self._advance(row, slot)

    def _advance(self, row: int, slot: Slot) -> None:
        """Counts a step as soon as it is computed, so that one that fails further down does not repeat it."""
        slot.tokens += slot.step_tokens
        slot.steps += 1
        slot.neighbours = max(slot.neighbours, len(self.slots))
        if slot.trunk is not None and math.isnan(slot.update_ratio):
            slot.update_ratio = self._update_ratio(row, slot.trunk)

    def settle(self) -> None:
        """Reads what the steps have left on the device."""
        for start in self.groups:
            self._settle(start)

    def _settle(self, row: int) -> None:
        """Of one group; the only place that waits for the device."""
        pending = self._pending[row // self._group]
        for step in pending:
            found = zip(step.slots, step.tokens, step.losses.tolist(), step.norms.tolist(), strict=False)
            for slot, tokens, loss, norm in found:
                slot.learn_of(tokens, loss, norm)
        pending.clear()

    def measured(self, start: int) -> list[tuple[Assignment, Measurement]]:
        """Measures and saves the trials of a group that are at their rung or have diverged on the way."""
        self._settle(start)
        rows = enumerate(self._slots(start), start)
        return [(slot.assignment, self._measure(row)) for row, slot in rows if slot.reached or slot.divergence]

    def measure(self) -> list[tuple[Assignment, Measurement]]:
        """Measures, saves and evicts the trials of all groups that have something to report."""
        measured = [found for start in self.groups for found in self.measured(start)]
        for assignment, _ in measured:
            self.evict(assignment)
        return measured

    def evict(self, assignment: Assignment) -> None:
        """Frees the slot of a segment; the last filled row moves into it, so filled rows stay together."""
        self.settle()
        # By identity: a trial that was released and asked for again has two slots for a moment.
        row = next(row for row, slot in enumerate(self.slots) if slot.assignment is assignment)
        last = self.slots.pop()
        for tensor in self._state.tensors().values():
            if row < len(self.slots):
                tensor[row] = tensor[len(self.slots)]
            tensor[len(self.slots)] = 0.0  # an idle row of a group is computed too: no NaN is left in it
        if row < len(self.slots):
            self.slots[row] = last

    def _compute(self, start: int, slots: list[Slot]) -> tuple[Tensor, Tensor]:
        """One step of a group of rows: losses and gradient norms.

        A group is padded with idle rows, so that it has one size and its bits do not depend on how full it is.
        """
        tokens, share, numbers = self._inputs(slots)
        state = self._state.rows(start, start + self._group)
        if self._program.engine.captures:
            self._captured = self._captured or Captured(self._program, state, tokens, share, numbers)
            return self._captured(tokens, share, numbers)
        return self._program.step(state, tokens, share, numbers)

    def _inputs(self, slots: list[Slot]) -> tuple[Tensor, Tensor, Tensor]:
        """Tokens `(G, B, T + 1)`, shares `(G, B)` and numbers `(G, NUMBERS)` of a group's next step."""
        B, T = self.shape.batch_sequences, self.shape.architecture.context_tokens
        tokens = np.zeros((self._group, B, T + 1), dtype=np.int64)
        share = np.zeros((self._group, B), dtype=np.float32)
        numbers = np.tile(idle_numbers(), (self._group, 1))
        for row, slot in enumerate(slots):
            sequences = slot.config.batch_sequences_at(slot.tokens)
            first = slot.tokens // T
            tokens[row, :sequences] = training_batch(self._train_tokens, slot.config.seed, first, sequences, T)
            share[row, :sequences] = 1 / sequences
            numbers[row] = slot.numbers
        return self._moved(tokens), self._moved(share), self._moved(numbers.astype(np.float32))

    def _moved(self, array: np.ndarray) -> Tensor:
        tensor = torch.from_numpy(array)
        return tensor if self._device.type == "cpu" else tensor.pin_memory().to(self._device, non_blocking=True)

    def _leave_trunk(self, row: int, slot: Slot) -> None:
        self._settle(row)
        slot.raw_loss = self._held_out.loss(self._program, self._weights(row), self._knobs(slot), self._group)
        slot.trunk = Trunk(slot.tokens, slot.steps, slot.trace, self._copy(row))

    def _update_ratio(self, row: int, before: Trunk) -> float:
        """Norm of the branch's first update over that of the weights it was made to."""
        weights = torch.from_numpy(before.tensors["weights"])
        change = self._state.weights[row].cpu() - weights
        return float(change.norm() / weights.norm())

    def _measure(self, row: int) -> Measurement:
        slot = self.slots[row]
        measure = partial(self._measurement, slot)
        if slot.divergence:
            return measure(Outcome.DIVERGED, slot.divergence)
        weights, knobs = self._weights(row), self._knobs(slot)
        loss = self._held_out.loss(self._program, weights, knobs, self._group)
        # Written so that NaN, which compares false, counts as diverged.
        if not loss <= START_RATIO * slot.trace.start:
            return measure(Outcome.DIVERGED, f"validation loss {loss:.4g}, {slot.trace.start:.4g} at the start")
        assert slot.trunk is not None, "a trial reaches its rung through its branch"
        far_loss = self._held_out.far_loss(self._program, weights, knobs, self._group)
        attention = self._held_out.max_attention_logit(self._program, weights, knobs)
        measurement = measure(Outcome.MEASURED, slot.note, loss, far_loss, attention)
        save = partial(checkpoint.save_first, slot.assignment.save_to, slot.trunk, measurement, slot.config.digest)
        return patiently(save, self._patience_s)

    def _measurement(
        self,
        slot: Slot,
        outcome: Outcome,
        message: str,
        loss: float = 0.0,
        far_loss: float = 0.0,
        attention: float = 0.0,
    ) -> Measurement:
        measured, config, engine = outcome is Outcome.MEASURED, slot.config, self._program.engine
        leaves_trunk = slot.trunk_tokens
        branch_steps = max(1, (slot.tokens - leaves_trunk) // config.step_tokens)
        context_tokens = self.shape.architecture.context_tokens
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
            update_ratio=slot.update_ratio if measured else 0.0,
            max_attention_logit=attention,
            spikes=slot.trace.spikes - slot.start_spikes,
            unique_tokens=expected_unique_tokens(len(self._train_tokens), slot.tokens, context_tokens),
            flops=config.segment_flops(slot.start_tokens, leaves_trunk),
            anneal_flops=config.segment_flops(leaves_trunk, slot.tokens),
            checkpoint=slot.assignment.save_to if measured else "",
            slots=slot.neighbours,
            group=self._group,
            precision=str(engine.precision),
            compiled=engine.compiled,
            device=engine.device,
            threads=engine.threads,
            seconds=time.monotonic() - slot.admitted_s,
        )

    def _weights(self, row: int) -> Tensor:
        return self._state.weights[row : row + 1]

    def _knobs(self, slot: Slot) -> Tensor:
        """`(1, NUMBERS)`, for a forward pass."""
        numbers = torch.from_numpy(slot.numbers.astype(np.float32)).view(1, NUMBERS)
        return numbers.to(self._device)

    def _copy(self, row: int) -> dict[str, np.ndarray]:
        return {name: tensor[row].cpu().numpy().copy() for name, tensor in self._state.tensors().items()}


def _start(assignment: Assignment, patience_s: float) -> tuple[Trunk, str]:
    """Where a segment starts from, and a note where that is not the newest checkpoint."""
    config, notes = assignment.config, list[str]()
    for file in assignment.resume_from:
        try:
            load = partial(checkpoint.load, file, config.architecture.params_total, config.digest)
            trunk = patiently(load, patience_s)
            if trunk.tokens <= config.branch_tokens(assignment.rung_tokens):
                return trunk, "; ".join(notes)
            notes.append(f"{file}: at {trunk.tokens} tokens, past the rung's branch point")
        except CheckpointError as error:
            notes.append(str(error))
    weights = model.initial_weights(config.architecture, config.parametrization, config.init_std, config.seed).numpy()
    zeros = np.zeros_like(weights)
    return Trunk(0, 0, LossTrace(), {"weights": weights, "mean": zeros, "square": zeros}), "; ".join(notes)
