"""One device and the stacks on it: takes assignments, trains their stacks in lanes, answers with measurements."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, replace
from functools import partial

import torch

from trials.checkpoint import CheckpointError, read_measurement
from trials.data import validation_batches
from trials.engine import Engine
from trials.lanes import Lanes
from trials.memory import fits, is_out_of_memory, predicted_bytes
from trials.program import Program, Shape, shape_of
from trials.stack import Parked, Stack
from trials.storage import PATIENCE_S, StorageError, patiently, size
from trials.tokens import TokenSet, load_split
from trials.trial import Assignment, Measurement, Outcome
from trials.validation import HeldOut

log = logging.getLogger(__name__)

THREAD_ENDED = "the device's training thread has ended; the worker's log holds its traceback"
RUN_STEPS = 8  # of a group, before its lane takes the next one
TURN_STEPS = 16  # of every group, before trials are let in and out
SPARSE = 4  # rows for each trial: a stack that computes so many together is too large
SPARSE_TURNS = 64  # that it is given to fill up again: trials that reach a rung together are away for a moment


@dataclass(frozen=True)
class DeviceTime:
    """Where the time of the lanes between the first and the last step went."""

    training_s: float = 0.0  # of all lanes: steps of trunks and branches, and the validations at branch points
    measuring_s: float = 0.0  # of all lanes: validation at rungs and their checkpoints
    admitting_s: float = 0.0  # of all lanes: initial weights and checkpoints read, while no lane trains
    span_s: float = 0.0  # of all lanes: first step to last

    @property
    def occupancy(self) -> float:
        """Share of the span in steps, branches and validation, idle rows of a step included where it has such."""
        return (self.training_s + self.measuring_s) / self.span_s if self.span_s > 0 else 0.0


@dataclass(frozen=True)
class _Job:
    assignment: Assignment
    answer: Future[Measurement]


@dataclass(frozen=True)
class _Turn:
    """What is left of a group's turn."""

    stack: Stack
    start: int  # its first row
    steps: int


class Device:
    """Owns the device: its lanes train, one thread deals out the work, any number wait for their measurements."""

    def __init__(
        self,
        token_set: TokenSet,
        slots: int,
        validation_tokens: int,
        engine: Engine,
        memory_bytes: float,
        patience_s: float = PATIENCE_S,
    ) -> None:
        self.slots = slots  # trials in stacks at most; halved where the device runs out of memory
        self._token_set = token_set
        self._validation_tokens = validation_tokens
        self._engine = engine
        self._lanes = Lanes(engine.lanes, engine.threads)
        self._memory_bytes = memory_bytes
        self._patience_s = patience_s  # with a store that cannot be reached
        self._train_tokens = load_split(token_set, "train")
        self._held_out: dict[int, HeldOut] = {}  # by context length
        self._programs: dict[Shape, Program] = {}  # kept, as they may be compiled
        self._stacks: dict[Shape, Stack] = {}
        self._sparse_turns: Counter[Shape] = Counter()  # in a row, in which a stack was too large
        self._door: deque[_Job] = deque()  # asked, not yet in a slot
        self._parked: deque[Parked] = deque()  # out of memory in mid-segment; they come before the door
        self._jobs: dict[str, _Job] = {}  # by the file they save to, answered ones too
        self._changed = threading.Condition()
        self._end: Exception | None = None  # what everybody is answered once the training thread has ended
        self._time = DeviceTime()
        self._first_step_s = math.inf
        threading.Thread(target=self._run, name="device", daemon=True).start()

    def advance(self, assignment: Assignment) -> Measurement:
        """Trains the segment and measures it; blocks. Idempotent: asked twice, it is trained once.

        Raises:
            CancelledError: the trial was released meanwhile.
            StorageError: checkpoints cannot be written or read; the device has ended.
            RuntimeError: the device has ended.
        """
        with self._changed:
            if self._end is not None:
                raise self._end
            job = self._jobs.get(assignment.save_to)
            if job is None:
                job = _Job(replace(assignment), Future())  # a copy, so that each time of asking is told apart
                self._jobs[assignment.save_to] = job
                self._door.append(job)
                self._changed.notify()
        return job.answer.result()

    def release(self, trial_id: str) -> None:
        """Forgets a trial: out of the queue, and out of its slot before the next turn. Idempotent."""
        with self._changed:
            for job in [job for job in self._jobs.values() if job.assignment.trial_id == trial_id]:
                del self._jobs[job.assignment.save_to]
                job.answer.cancel()  # who still waits for it hears of the release
            self._door = deque(job for job in self._door if not job.answer.cancelled())

    @property
    def time(self) -> DeviceTime:
        """Where the time has gone so far."""
        return self._time

    def _run(self) -> None:
        torch.set_num_threads(self._engine.threads)
        end: Exception = RuntimeError(THREAD_ENDED)
        try:
            while True:
                with self._changed:
                    self._changed.wait_for(lambda: self._door or self._num_filled or self._parked)
                self._evict_released()
                self._admit_waiting()
                self._turn()
        except StorageError as fault:  # no trial's fault, and none could be measured any more
            log.error("%s", fault)
            end = fault
        finally:
            self._close(end)

    def _close(self, end: Exception) -> None:
        """Nobody waits for a thread that has died: every open question is answered with its end."""
        with self._changed:
            self._end = end
            for job in self._jobs.values():
                if not job.answer.done():
                    job.answer.set_exception(end)

    @property
    def _num_filled(self) -> int:
        return sum(len(stack.slots) for stack in self._stacks.values())

    def _evict_released(self) -> None:
        for stack in self._stacks.values():
            for assignment in [slot.assignment for slot in stack.slots]:
                if not self._is_asked(assignment):
                    stack.evict(assignment)
        self._parked = deque(parked for parked in self._parked if self._is_asked(parked.slot.assignment))

    def _is_asked(self, assignment: Assignment) -> bool:
        """Whether it was not released; asked for again since, the segment has another assignment."""
        job = self._jobs.get(assignment.save_to)
        return job is not None and job.assignment is assignment

    def _answer(self, assignment: Assignment, answer: Measurement) -> None:
        """Answers whoever waits for the segment, unless the trial was released meanwhile."""
        with self._changed:
            if self._is_asked(assignment):
                self._jobs[assignment.save_to].answer.set_result(answer)

    def _admit_waiting(self) -> None:
        """Fills the slots that there are and that fit the memory: parked trials first, then in order of asking."""
        started_s = time.monotonic()
        self._repack()
        while self._parked and self._has_room(self._parked[0].slot.assignment):
            parked = self._parked[0]
            if self._within_memory(parked.slot.assignment, partial(self._unpark, parked)):
                self._parked.popleft()
        while not self._parked:
            with self._changed:
                if not self._door or not self._has_room(self._door[0].assignment):
                    break
                job = self._door[0]
            if self._within_memory(job.assignment, partial(self._admit, job.assignment)):
                with self._changed:
                    if self._door and self._door[0] is job:  # else it was released meanwhile
                        self._door.popleft()
        self._spend(admitting_s=(time.monotonic() - started_s) * self._engine.lanes)

    def _within_memory(self, assignment: Assignment, admit: Callable[[], None]) -> bool:
        """Admits; where there is no memory for it, not now: once a slot is free; if all of them are, to half as many.

        One for which a single slot is too much is told so, and the others have their slots back.
        """
        slots = self.slots
        while (refusal := _refusal(admit)) is not None:
            if self._num_filled:
                self.slots = self._num_filled
                return False
            self._drop_stacks()
            if self.slots == 1:
                self.slots = slots
                self._fail(assignment, refusal)
                break
            self.slots //= 2
            log.warning("out of memory (%s): %d slots from now on", refusal, self.slots)
        return True

    def _has_room(self, assignment: Assignment) -> bool:
        """A trial that finds the device empty is always let in: it must show whether it can be trained."""
        if not self._num_filled:
            return True
        if self._num_filled >= self.slots:
            return False
        shape = shape_of(assignment.config)
        stack = self._stacks.get(shape)
        if self._engine.batched and stack is not None:
            return not stack.is_full  # its rows are there already
        return self._fit(shape, 1 if stack is None else stack.rows + 1)

    def _fit(self, shape: Shape, rows: int) -> bool:
        """Whether a stack of so many rows fits beside the others that have trials."""
        others = {other: stack.rows for other, stack in self._stacks.items() if stack.slots}
        return fits({**others, shape: rows}, self._engine, self._validation_tokens, self._memory_bytes)

    def _capacity(self, shape: Shape) -> int:
        """Slots of a stack. One that computes all of them together has as few as hold the trials there are for it.

        In powers of two, as each number is compiled for; no more than fit.
        """
        if not self._engine.batched:
            return self.slots
        trials = self._num_trials(shape)
        elsewhere = self._num_filled - self._num_filled_of(shape)
        capacity = min(_power_of_two(max(1, min(trials, self.slots - elsewhere))), self.slots)
        while capacity > 1 and not self._fit(shape, capacity):
            capacity //= 2
        return max(capacity, self._num_filled_of(shape))

    def _num_filled_of(self, shape: Shape) -> int:
        return len(self._stacks[shape].slots) if shape in self._stacks else 0

    def _num_trials(self, shape: Shape) -> int:
        """In its stack, or waiting for it."""
        with self._changed:
            waiting = [job.assignment for job in self._door] + [parked.slot.assignment for parked in self._parked]
        return self._num_filled_of(shape) + sum(shape_of(assignment.config) == shape for assignment in waiting)

    def _repack(self) -> None:
        """Takes apart stacks of rows computed together that trials wait for, or that have been too large for long.

        Their trials are parked, so that they are let in again first, into stacks of the right size.
        """
        if not self._engine.batched:
            return
        for shape, stack in list(self._stacks.items()):
            capacity = self._capacity(shape)
            too_small = capacity > stack.capacity
            if too_small or (self._sparse_turns[shape] >= SPARSE_TURNS and capacity < stack.capacity):
                self._parked.extend(stack.park())
                del self._stacks[shape], self._sparse_turns[shape]

    def _admit(self, assignment: Assignment) -> None:
        """Puts the trial into its stack, unless its measurement is in its file already."""
        saved = self._saved(assignment)
        if saved is not None:
            self._answer(assignment, saved)
        else:
            self._stack(assignment).admit(assignment)

    def _saved(self, assignment: Assignment) -> Measurement | None:
        """What the segment's file says, where it is there and whole."""
        location = assignment.save_to
        if patiently(partial(size, location), self._patience_s) is None:
            return None
        try:
            read = partial(read_measurement, location, assignment.trial_id, assignment.rung_tokens)
            return patiently(read, self._patience_s)
        except CheckpointError as error:
            log.warning("%s; the segment is trained again", error)
            return None

    def _unpark(self, parked: Parked) -> None:
        self._stack(parked.slot.assignment).unpark(parked)

    def _stack(self, assignment: Assignment) -> Stack:
        """The stack of this trial's shape; for a new one, the memory of those that stand empty is given back."""
        shape = shape_of(assignment.config)
        if shape not in self._stacks:
            self._stacks = {shape: stack for shape, stack in self._stacks.items() if stack.slots}
            held_out = self._held_out_sequences(shape.architecture.context_tokens)
            if shape not in self._programs:
                self._programs[shape] = Program(shape, self._engine)
            program, patience_s = self._programs[shape], self._patience_s
            capacity = self._capacity(shape)
            self._stacks[shape] = Stack(shape, capacity, program, self._train_tokens, held_out, patience_s)
        return self._stacks[shape]

    def _held_out_sequences(self, context_tokens: int) -> HeldOut:
        if context_tokens not in self._held_out:
            validation, far_validation = (
                torch.from_numpy(
                    validation_batches(load_split(self._token_set, split), self._validation_tokens, context_tokens)
                ).to(self._engine.device)
                for split in ("validation", "far_validation")
            )
            self._held_out[context_tokens] = HeldOut(validation, far_validation)
        return self._held_out[context_tokens]

    def _turn(self) -> None:
        """Some steps of every group, and the measurements of trials that have something to report."""
        self._first_step_s = min(self._first_step_s, time.monotonic())
        filled, measured = self._num_filled, list[tuple[Stack, Assignment, Measurement]]()
        refusal = self._work_off(measured)
        self._hand_out(measured)
        if isinstance(refusal, StorageError):
            raise refusal  # those that were saved before it have been answered
        if refusal is not None:
            self._halve(filled, refusal)
        for shape, stack in self._stacks.items():
            sparse = 0 < len(stack.slots) * SPARSE <= stack.rows
            self._sparse_turns[shape] = self._sparse_turns[shape] + 1 if sparse else 0
        self._time = replace(self._time, span_s=(time.monotonic() - self._first_step_s) * self._engine.lanes)

    def _hand_out(self, measured: list[tuple[Stack, Assignment, Measurement]]) -> None:
        """Frees the slots of those that are measured, and answers them. Empties the list, which holds stacks."""
        while measured:
            stack, assignment, measurement = measured.pop(0)
            stack.evict(assignment)
            self._answer(assignment, measurement)

    def _work_off(self, measured: list[tuple[Stack, Assignment, Measurement]]) -> Exception | None:
        """A turn of every group; what it was refused, if it was.

        Without the frames that it came through, as those hold on to the very memory that was too little.
        """
        turns = [_Turn(stack, start, TURN_STEPS) for stack in self._stacks.values() for start in stack.groups]
        try:
            return _refusal(partial(self._lanes.work_off, turns, partial(self._run_group, measured)))
        except StorageError as fault:
            return fault.with_traceback(None)

    def _run_group(self, measured: list[tuple[Stack, Assignment, Measurement]], turn: _Turn) -> _Turn | None:
        """What a lane does: a few steps of one group. Returns what is left of its turn, unless a trial reports."""
        started_s = time.monotonic()
        turn.stack.run(turn.start, RUN_STEPS)
        trained_s = time.monotonic()
        found = turn.stack.measured(turn.start)
        self._spend(training_s=trained_s - started_s, measuring_s=time.monotonic() - trained_s)
        measured += [(turn.stack, assignment, measurement) for assignment, measurement in found]
        left = turn.steps - RUN_STEPS
        return replace(turn, steps=left) if left > 0 and not found else None

    def _spend(self, **seconds: float) -> None:
        with self._changed:
            self._time = replace(self._time, **{name: getattr(self._time, name) + s for name, s in seconds.items()})

    def _halve(self, filled: int, error: BaseException) -> None:
        """Half the slots from now on; the trials that are in stacks go on from where they are as room allows."""
        if filled == 1:
            (stack,) = [stack for stack in self._stacks.values() if stack.slots]
            assignment = stack.slots[0].assignment
            stack.evict(assignment)
            self._fail(assignment, error)
            return
        self.slots = max(1, filled // 2)
        log.warning("out of memory (%s): %d slots from now on", error, self.slots)
        self._parked.extend(parked for stack in self._stacks.values() for parked in stack.park())
        self._drop_stacks()

    def _drop_stacks(self) -> None:
        self._stacks = {}
        if self._engine.device != "cpu":
            torch.cuda.empty_cache()

    def _fail(self, assignment: Assignment, error: BaseException) -> None:
        """A trial that finds no memory although it is alone."""
        need = predicted_bytes({shape_of(assignment.config): 1}, self._engine, self._validation_tokens)
        message = f"out of memory ({error}) with this trial alone, which is predicted to need {need / 1e9:.2f} GB"
        self._answer(assignment, Measurement.fault(assignment, Outcome.FAIL, message))


def _refusal(action: Callable[[], None]) -> Exception | None:
    """What was refused for want of memory, if it was; without frames, which would hold on to what they have."""
    try:
        action()
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        return error.with_traceback(None)
    return None


def _power_of_two(number: int) -> int:
    """The smallest that is no less."""
    return 1 << (number - 1).bit_length()
