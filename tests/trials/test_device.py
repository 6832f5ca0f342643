"""A device answers everybody exactly once, whatever is asked twice, broken, released or dying."""

from __future__ import annotations

import gc
import itertools
import math
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import CancelledError, Future
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import trials.device
from tests.trials.conftest import ARCHITECTURE, CONFIG, ENGINE, VALIDATION_TOKENS, measurement, next_segment, segment
from trials import checkpoint
from trials.checkpoint import Trunk
from trials.device import RUN_STEPS, Device, DeviceTime
from trials.memory import predicted_bytes
from trials.program import Program, Shape, shape_of
from trials.stability import LossTrace
from trials.stack import Stack
from trials.storage import DiskFull, Unreachable
from trials.tokens import TokenSet
from trials.trial import Assignment, Measurement, Outcome

TIMEOUT_S = 30.0  # of what should take a tenth of a second
ENDLESS = 10**9  # steps

BATCHED = replace(ENGINE, batched=True)
WIDE = replace(CONFIG, architecture=replace(ARCHITECTURE, width=32))
LARGE_BATCH = replace(CONFIG, batch_sequences=8)


@pytest.fixture
def device(token_set: TokenSet) -> Device:
    return new_device(token_set, slots=2)


def new_device(token_set: TokenSet, slots: int, memory_bytes: float = math.inf) -> Device:
    return Device(token_set, slots, VALIDATION_TOKENS, ENGINE, memory_bytes)


def ask(device: Device, assignment: Assignment) -> Future[Measurement]:
    """Asks in a thread of its own, which no failure of a test waits for."""
    future: Future[Measurement] = Future()

    def wait() -> None:
        try:
            future.set_result(device.advance(assignment))
        except Exception as error:
            future.set_exception(error)

    threading.Thread(target=wait, daemon=True).start()
    return future


def answer(future: Future[Measurement]) -> Measurement:
    return future.result(TIMEOUT_S)


def wait_until_asked(device: Device, num_segments: int) -> None:
    """Returns when so many segments are known; only for a device's own thread, which is who hears of them."""
    with device._changed:
        assert device._changed.wait_for(lambda: len(device._jobs) >= num_segments, TIMEOUT_S)


def before(monkeypatch: pytest.MonkeyPatch, method: str, call: Callable[[Stack], None]) -> None:
    """Has every stack made from now on call this first, in its device's thread."""
    watched: type[Stack] = vars(trials.device)["Stack"]  # hooks add up

    def called(self: Stack, *args: Any) -> object:
        call(self)
        return getattr(watched, method)(self, *args)

    monkeypatch.setattr(trials.device, "Stack", type("Watched", (watched,), {method: called}))


@pytest.fixture
def admitted(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Set when a trial has been put into a slot and is about to be trained."""
    event = threading.Event()
    before(monkeypatch, "run", lambda _: event.set())
    return event


@pytest.fixture
def admissions(monkeypatch: pytest.MonkeyPatch) -> list[Stack]:
    """The stack of each admission so far."""
    stacks: list[Stack] = []
    before(monkeypatch, "admit", stacks.append)
    return stacks


def test_segment_asked_twice_is_trained_once(device: Device, admissions: list[Stack], tmp_path: Path) -> None:
    assignment = segment(tmp_path, "a", 20)
    first, second = ask(device, assignment), ask(device, replace(assignment))
    assert answer(first) is answer(second)
    assert answer(ask(device, assignment)) is answer(first)
    assert len(admissions) == 1


def test_trial_goes_from_rung_to_rung(device: Device, tmp_path: Path) -> None:
    first = segment(tmp_path, "a", 20)
    second = next_segment(first, 40)
    measured = [device.advance(first), device.advance(second)]
    assert [m.outcome for m in measured] == [Outcome.MEASURED] * 2
    assert [m.tokens for m in measured] == [first.rung_tokens, second.rung_tokens]
    assert measured[1].loss < measured[0].loss


def test_file_that_is_there_answers_without_training(device: Device, admissions: list[Stack], tmp_path: Path) -> None:
    """Nobody looks inside: not at the tensors, nor at whether its trunk could be gone on from."""
    assignment = replace(segment(tmp_path, "a", 20), resume_from=(str(tmp_path / "absent"),))
    saved = measurement(assignment, loss=1.25)
    checkpoint.save(assignment.save_to, Trunk(0, 0, LossTrace(), {}), saved, assignment.config.digest)
    assert device.advance(assignment) == saved
    assert admissions == []
    assert device.time.training_s == 0.0


def test_new_device_takes_up_what_an_old_one_left(token_set: TokenSet, tmp_path: Path) -> None:
    first = segment(tmp_path, "a", 20)
    measured = new_device(token_set, slots=2).advance(first)
    device = new_device(token_set, slots=1)
    assert device.advance(first) == measured
    assert device.advance(next_segment(first, 40)).outcome is Outcome.MEASURED


@pytest.mark.parametrize("broken", ["resume_from", "save_to"])
def test_broken_checkpoint_is_worked_around(device: Device, tmp_path: Path, broken: str) -> None:
    """One to go on from is passed over with a note; one that should hold the answer is written anew."""
    file = tmp_path / "broken.safetensors"
    file.write_bytes(b"not a checkpoint")
    whole = segment(tmp_path, "whole", 20)
    segments = {
        "resume_from": replace(segment(tmp_path, "bad", 20), resume_from=(str(file),)),
        "save_to": replace(segment(tmp_path, "bad", 20), save_to=str(file)),
    }
    measured = answer(ask(device, segments[broken]))
    assert measured.loss == answer(ask(device, whole)).loss
    assert ("broken.safetensors" in measured.message) is (broken == "resume_from")
    assert checkpoint.read_measurement(measured.checkpoint, "bad", measured.tokens) == measured


def test_divergence_answers_its_own_caller(device: Device, tmp_path: Path) -> None:
    bad = ask(device, segment(tmp_path, "bad", 60, replace(CONFIG, learning_rate=1e30)))
    good = ask(device, segment(tmp_path, "good", 20))
    assert answer(bad).outcome is Outcome.DIVERGED
    assert answer(good).outcome is Outcome.MEASURED


def test_more_trials_than_slots_are_all_trained(device: Device, tmp_path: Path) -> None:
    futures = [ask(device, segment(tmp_path, str(k), 20, replace(CONFIG, seed=k))) for k in range(7)]
    measured = [answer(future) for future in futures]
    assert [m.trial_id for m in measured] == [str(k) for k in range(7)]
    assert {m.slots for m in measured} <= {1, 2}


@pytest.mark.parametrize("config", [WIDE, LARGE_BATCH, CONFIG])
def test_shapes_have_their_turns(token_set: TokenSet, tmp_path: Path, config: object) -> None:
    """A short trial of another shape, or of the same, ends while a long one is trained."""
    assert isinstance(config, type(CONFIG))
    device = new_device(token_set, slots=2)
    endless = ask(device, segment(tmp_path, "endless", ENDLESS))
    assert answer(ask(device, segment(tmp_path, "short", 40, config))).outcome is Outcome.MEASURED
    assert not endless.done()
    device.release("endless")


def test_turns_are_taken_evenly(token_set: TokenSet, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    device = new_device(token_set, slots=2)
    widths: list[int] = []
    before(monkeypatch, "admit", lambda _: wait_until_asked(device, 2))
    before(monkeypatch, "run", lambda stack: widths.append(stack.shape.architecture.width))
    for future in [ask(device, segment(tmp_path, str(c.architecture.width), 48, c)) for c in (CONFIG, WIDE)]:
        answer(future)
    first, second = sorted({16, 32}, key=lambda width: width != widths[0])  # whichever came first
    assert widths == 48 // RUN_STEPS * [first, second]


def test_release_frees_the_slot_and_forgets(
    token_set: TokenSet, admitted: threading.Event, admissions: list[Stack], tmp_path: Path
) -> None:
    device = new_device(token_set, slots=1)
    endless = ask(device, segment(tmp_path, "endless", ENDLESS))
    assert admitted.wait(TIMEOUT_S)
    waiting = ask(device, segment(tmp_path, "waiting", 20))
    device.release("endless")
    assert answer(waiting).outcome is Outcome.MEASURED
    with pytest.raises(CancelledError):
        answer(endless)
    Path(answer(waiting).checkpoint).unlink()
    device.release("waiting")
    device.release("waiting")
    again = device.advance(segment(tmp_path, "waiting", 20))
    assert again.loss == answer(waiting).loss
    assert len(admissions) == 3


def test_release_of_a_queued_trial_takes_it_out(
    token_set: TokenSet, monkeypatch: pytest.MonkeyPatch, admissions: list[Stack], tmp_path: Path
) -> None:
    device = new_device(token_set, slots=1)
    queued, admitted = threading.Event(), list[str]()

    def note(stack: Stack) -> None:
        if not queued.is_set():
            admitted.append(stack.slots[0].assignment.trial_id)
            wait_until_asked(device, 2)
            queued.set()

    before(monkeypatch, "run", note)
    futures = {name: ask(device, segment(tmp_path, name, ENDLESS)) for name in ("a", "b")}
    assert queued.wait(TIMEOUT_S)
    waiting, in_slot = sorted(futures, key=lambda name: name == admitted[0])
    device.release(waiting)
    with pytest.raises(CancelledError):
        answer(futures[waiting])
    device.release(in_slot)
    assert device.advance(segment(tmp_path, "last", 20)).outcome is Outcome.MEASURED
    assert len(admissions) == 2


def test_release_of_a_stranger_does_nothing(device: Device, tmp_path: Path) -> None:
    device.release("stranger")
    assert device.advance(segment(tmp_path, "a", 20)).outcome is Outcome.MEASURED


@pytest.mark.parametrize("place", ["admit", "run", "measured"])
def test_trial_released_and_asked_again_at_once(
    device: Device, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, place: str
) -> None:
    """While it is admitted, trained or measured: the old question hears of the release, the new one is answered."""
    assignment = segment(tmp_path, "a", 40)
    again: list[Future[Measurement]] = []
    asked_again = threading.Event()

    def ask_again(stack: Stack) -> None:
        if not again and (place != "measured" or any(slot.reached for slot in stack.slots)):
            device.release("a")
            again.append(ask(device, assignment))
            wait_until_asked(device, 1)
            asked_again.set()

    before(monkeypatch, place, ask_again)
    first = ask(device, assignment)
    with pytest.raises(CancelledError):
        answer(first)
    assert asked_again.wait(TIMEOUT_S)
    measured = answer(again[0])
    assert measured.flops + measured.anneal_flops == CONFIG.segment_flops(0, assignment.rung_tokens)
    assert device.advance(segment(tmp_path, "b", 20)).outcome is Outcome.MEASURED


@pytest.mark.parametrize("place", ["admit", "run", "measured"])
def test_nobody_hangs_when_the_training_thread_dies(
    token_set: TokenSet, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, place: str
) -> None:
    ended = threading.Event()
    monkeypatch.setattr(threading, "excepthook", lambda _: ended.set())  # it would print the traceback
    device = new_device(token_set, slots=1)

    def die(_: Stack) -> None:
        wait_until_asked(device, 2)  # one trial is in hand, another waits
        raise OSError("no space left on device")

    before(monkeypatch, place, die)
    for future in [ask(device, segment(tmp_path, trial_id, 20)) for trial_id in ("a", "b")]:
        with pytest.raises(RuntimeError, match="training thread has ended"):
            answer(future)
    with pytest.raises(RuntimeError, match="training thread has ended"):
        answer(ask(device, segment(tmp_path, "late", 20)))
    device.release("a")
    assert ended.wait(TIMEOUT_S)


@pytest.mark.parametrize("place", ["save_first", "load", "size"])
def test_a_fault_of_the_storage_is_everybodys_answer(
    token_set: TokenSet, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, place: str
) -> None:
    """Not one trial's failure: the device ends, and who comes later is told the same."""
    device = new_device(token_set, slots=1)
    home = trials.device if place == "size" else checkpoint

    def fail(location: str, *_: object) -> None:
        wait_until_asked(device, 2)
        raise DiskFull(location, "no space left on device", "make some")

    monkeypatch.setattr(home, place, fail)
    first = replace(segment(tmp_path, "a", 20), resume_from=(str(tmp_path / "older"),))
    for future in [ask(device, first), ask(device, segment(tmp_path, "b", 20))]:
        with pytest.raises(DiskFull, match="no space left on device; make some"):
            answer(future)
    with pytest.raises(DiskFull):
        answer(ask(device, segment(tmp_path, "late", 20)))


def test_what_was_saved_before_the_disk_was_full_is_answered(
    token_set: TokenSet, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Both trials end in the same turn; the file of one is written, that of the other is not."""
    device = new_device(token_set, slots=2)
    save = checkpoint.save_first

    def fail(location: str, *rest: Any) -> Measurement:
        if Path(location).name.startswith("full"):
            raise DiskFull(location, "no space left on device", "make some")
        return save(location, *rest)

    monkeypatch.setattr(checkpoint, "save_first", fail)
    good, full = [ask(device, segment(tmp_path, name, 20)) for name in ("good", "full")]
    with pytest.raises(DiskFull):
        answer(full)
    try:
        assert answer(good).outcome is Outcome.MEASURED
    except DiskFull:  # it was a turn behind
        assert not (tmp_path / "good-20.safetensors").exists()


def test_a_store_that_is_away_for_a_while_costs_nothing_but_time(
    token_set: TokenSet, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    device = new_device(token_set, slots=1)
    save, attempts = checkpoint.save_first, itertools.count()

    def away(location: str, *rest: Any) -> Measurement:
        if next(attempts) == 0:
            raise Unreachable(location, "no answer", "bring it back")
        return save(location, *rest)

    monkeypatch.setattr(checkpoint, "save_first", away)
    assert device.advance(segment(tmp_path, "a", 20)).outcome is Outcome.MEASURED
    assert next(attempts) == 2


def test_times_add_up(device: Device, tmp_path: Path) -> None:
    assert device.time == DeviceTime()
    assert device.time.occupancy == 0.0
    for future in [ask(device, segment(tmp_path, str(k), 20)) for k in range(3)]:
        answer(future)
    device.advance(segment(tmp_path, "last", 20))  # the turn before it is counted by then
    time = device.time
    assert min(time.training_s, time.measuring_s, time.admitting_s) > 0
    assert time.training_s + time.measuring_s <= time.span_s * (1 + 1e-9)
    assert 0 < time.occupancy <= 1 + 1e-9


def test_occupancy_is_the_share_of_the_span_that_was_used(
    token_set: TokenSet, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """With a clock that moves by one second a look, every run of some steps takes one, and looking for reports one."""
    looks = itertools.count(1.0)
    monkeypatch.setattr(trials.device, "time", SimpleNamespace(monotonic=lambda: next(looks)))
    device = new_device(token_set, slots=1)
    device.advance(segment(tmp_path, "a", 40))
    device.advance(segment(tmp_path, "b", 1))  # the turn before it is counted by then
    time = device.time
    runs = 40 / RUN_STEPS + 1
    assert time.training_s == time.measuring_s == runs
    assert time.span_s in (24.0, 31.0)  # 3 looks a run, 4 a turn and its admissions; the last may not be counted yet
    assert time.occupancy == 2 * runs / time.span_s


@pytest.mark.parametrize("fails_at", [1, 7, 23, 60])
def test_out_of_memory_halves_the_slots_and_loses_nothing(
    token_set: TokenSet, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, fails_at: int
) -> None:
    """Wherever it strikes, in a trunk or a branch: the same losses to the bit, and every step trained once."""
    trials_ = [segment(tmp_path, str(k), 40, replace(CONFIG, seed=k)) for k in range(4)]
    undisturbed = new_device(token_set, slots=4)
    expected = [answer(ask(undisturbed, replace(t, save_to=t.save_to + "-undisturbed"))) for t in trials_]
    device, steps = new_device(token_set, slots=4), itertools.count(1)
    compute = Program.step

    def step(program: Program, *args: Any) -> Any:
        if next(steps) == fails_at:
            raise MemoryError
        return compute(program, *args)

    before(monkeypatch, "admit", lambda _: wait_until_asked(device, 4))
    monkeypatch.setattr(Program, "step", step)
    measured = [answer(future) for future in [ask(device, trial) for trial in trials_]]
    assert [m.loss for m in measured] == [m.loss for m in expected]
    assert [m.train_loss for m in measured] == [m.train_loss for m in expected]
    assert device.slots == 2
    # The step that failed had trained some of its rows; those alone are trained again.
    assert next(steps) - 1 <= 4 * 40 + 4


def test_what_a_refused_step_held_is_free_when_its_trials_are_let_in_again(
    token_set: TokenSet, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """An error keeps the frames it came through, and with them all that was too much, stacks included."""
    held: list[weakref.ref[object]] = []
    alive: list[int] = []
    device = new_device(token_set, slots=4)

    def step(stack: Stack) -> None:
        if not held:
            tensors = torch.zeros(1000)
            held.extend([weakref.ref(tensors), weakref.ref(stack)])
            raise MemoryError

    before(monkeypatch, "admit", lambda _: wait_until_asked(device, 4))
    before(monkeypatch, "unpark", lambda _: alive.append(sum(reference() is not None for reference in held)))
    before(monkeypatch, "run", step)
    gc.disable()
    try:
        trials_ = [segment(tmp_path, str(k), 20, replace(CONFIG, seed=k)) for k in range(4)]
        measured = [answer(future) for future in [ask(device, trial) for trial in trials_]]
    finally:
        gc.enable()
    assert [m.outcome for m in measured] == [Outcome.MEASURED] * 4
    assert held and alive and not any(alive[-4:]), alive


def test_out_of_memory_with_one_trial_is_its_own_failure(
    device: Device, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """There is nothing left to halve: the trial is told FAIL, with what it needs, and the device goes on."""

    def step(stack: Stack) -> None:
        if stack.shape == shape_of(WIDE):
            raise MemoryError

    before(monkeypatch, "run", step)
    measured = answer(ask(device, segment(tmp_path, "wide", 20, WIDE)))
    assert measured.outcome is Outcome.FAIL
    assert "out of memory" in measured.message
    assert answer(ask(device, segment(tmp_path, "good", 20))).outcome is Outcome.MEASURED


@pytest.mark.parametrize("batched", [False, True])
def test_a_stack_for_which_there_is_no_memory_is_made_with_fewer_slots(
    token_set: TokenSet, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, batched: bool
) -> None:
    """As where another process has taken the memory that was free when the device was."""
    device = Device(token_set, 8, VALIDATION_TOKENS, BATCHED if batched else ENGINE, math.inf)
    refuse_stacks(monkeypatch, lambda shape, slots: slots > 2)
    before(monkeypatch, "run", lambda _: wait_until_asked(device, 4))
    trials_ = [segment(tmp_path, str(k), 20, replace(CONFIG, seed=k)) for k in range(4)]
    measured = [answer(future) for future in [ask(device, trial) for trial in trials_]]
    assert [m.outcome for m in measured] == [Outcome.MEASURED] * 4
    assert device.slots <= 2


def test_one_model_that_is_too_large_leaves_the_others_their_slots(
    token_set: TokenSet, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    device = new_device(token_set, slots=4)
    refuse_stacks(monkeypatch, lambda shape, slots: shape == shape_of(WIDE))
    measured = answer(ask(device, segment(tmp_path, "wide", 20, WIDE)))
    assert measured.outcome is Outcome.FAIL and "out of memory" in measured.message
    assert answer(ask(device, segment(tmp_path, "good", 20))).outcome is Outcome.MEASURED
    assert device.slots == 4


def refuse_stacks(monkeypatch: pytest.MonkeyPatch, is_too_large: Callable[[Shape, int], bool]) -> None:
    """No memory for the tensors of such a stack."""
    make = Stack.__init__

    def refuse(stack: Stack, shape: Shape, slots: int, *rest: Any) -> None:
        if is_too_large(shape, slots):
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 byte")
        make(stack, shape, slots, *rest)

    monkeypatch.setattr(Stack, "__init__", refuse)


@pytest.fixture
def capacities(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Slots of the stack of each step so far."""
    found: list[int] = []
    before(monkeypatch, "run", lambda stack: found.append(stack.capacity))
    return found


def batched_device(token_set: TokenSet, slots: int, memory_bytes: float = math.inf) -> Device:
    """One that computes all rows of a stack together, as a GPU does."""
    return Device(token_set, slots, VALIDATION_TOKENS, BATCHED, memory_bytes)


def test_rows_computed_together_are_as_many_as_the_trials_need(
    token_set: TokenSet, tmp_path: Path, capacities: list[int]
) -> None:
    """A stack grows with those that wait for it, in powers of two; nobody starts again."""
    lone = [segment(tmp_path / "lone", str(k), 200, replace(CONFIG, seed=k)) for k in range(5)]
    expected = [new_device(token_set, 1).advance(trial).loss for trial in lone]
    device = batched_device(token_set, slots=16)
    first = ask(device, segment(tmp_path, "0", 200, replace(CONFIG, seed=0)))
    while not capacities:
        assert not first.done()
    others = [ask(device, segment(tmp_path, str(k), 200, replace(CONFIG, seed=k))) for k in range(1, 5)]
    measured = [answer(future) for future in (first, *others)]
    assert [m.loss for m in measured] == pytest.approx(expected, rel=1e-4)
    assert capacities[0] == 1 and max(capacities) == 8
    assert {m.group for m in measured} <= {1, 2, 4, 8}


def test_rows_that_stay_idle_are_given_up(
    token_set: TokenSet, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capacities: list[int]
) -> None:
    monkeypatch.setattr(trials.device, "SPARSE_TURNS", 2)
    device = batched_device(token_set, slots=4)
    before(monkeypatch, "admit", lambda _: wait_until_asked(device, 4))
    steps = [400, 16, 16, 16]
    asked = [ask(device, segment(tmp_path, str(k), count)) for k, count in enumerate(steps)]
    assert [answer(future).outcome for future in asked] == [Outcome.MEASURED] * 4
    assert max(capacities) == 4 and capacities[-1] == 1


def test_rows_computed_together_fit_the_memory(token_set: TokenSet, tmp_path: Path, capacities: list[int]) -> None:
    room = predicted_bytes({shape_of(CONFIG): 2}, BATCHED, VALIDATION_TOKENS)
    device = batched_device(token_set, slots=8, memory_bytes=room)
    asked = [ask(device, segment(tmp_path, str(k), 40)) for k in range(8)]
    assert [answer(future).outcome for future in asked] == [Outcome.MEASURED] * 8
    assert max(capacities) == 2


def test_trials_are_let_in_as_memory_allows(
    token_set: TokenSet, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Room for two of the four slots; one too large for all the memory is let in alone, to show what it can."""
    room = predicted_bytes({shape_of(CONFIG): 2}, ENGINE, VALIDATION_TOKENS)
    filled: list[int] = []
    device = new_device(token_set, slots=4, memory_bytes=room)
    before(monkeypatch, "run", lambda stack: filled.append(len(stack.slots)))
    for future in [ask(device, segment(tmp_path, str(k), 20, replace(CONFIG, seed=k))) for k in range(4)]:
        assert answer(future).outcome is Outcome.MEASURED
    assert max(filled) == 2
    small = new_device(token_set, slots=4, memory_bytes=1.0)
    filled.clear()
    for future in [ask(small, segment(tmp_path, f"s{k}", 20, replace(CONFIG, seed=k))) for k in range(2)]:
        assert answer(future).outcome is Outcome.MEASURED
    assert max(filled) == 1
