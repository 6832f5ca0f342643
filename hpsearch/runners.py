"""Stack actors, each of which owns a device, and their client, the Runner that thin workers hold."""

from __future__ import annotations

import logging
import math
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ray
from ray.exceptions import ActorUnschedulableError, GetTimeoutError, RayActorError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from hpsearch.halted import SearchHalted
from hpsearch.model_spec import DeviceSection
from hpsearch.nodes import Place
from search_spaces.errors import UserError, one_line
from trials.trial import Assignment, Measurement

if TYPE_CHECKING:
    from trials.corpus import CorpusSource
    from trials.device import Device
    from trials.tokens import TokenSet

log = logging.getLogger(__name__)

EXIT_AFTER_S = 2.0  # an actor whose device has ended answers those who wait before it goes
GATE_TIMEOUT_S = 20.0  # a worker that takes longer to start is not waited for
MOVE_AFTER_S = 60.0  # a device that cannot be reached, or has never answered, for so long is left for the next one
HOME_AFTER_S = 300.0  # a worker that has left its device looks for it again so often: a node may have been replaced
FAREWELL_S = 10.0  # a device that does not say within this where its time went has taken the answer with it
SPARE_CALLS = 8  # calls that must not wait behind blocked `advance` calls: hello, release, device_seconds
MAX_DEATHS = 5  # of devices, under one segment: more are no accident
UNREACHABLE = (RayActorError, ActorUnschedulableError, GetTimeoutError, ValueError)  # ValueError: no actor of this name


@dataclass(frozen=True)
class DeviceSetup:
    """What a stack actor is built from."""

    token_set: TokenSet  # as the driver's node has it
    source: CorpusSource  # what a node that lacks it builds it from
    slots: int
    validation_tokens: int
    device: DeviceSection
    cache: Path  # of tokens and of compiled code, on each node
    patience_s: float  # with a store that cannot be reached


class StartGate:
    """Holds the first measurements back until all workers that begin with them are there.

    Ray Tune hands a finished trial's worker to the next one and drops the worker that was still starting for it, so
    without a gate short trials collapse onto one worker. The device trains meanwhile.
    """

    def __init__(self) -> None:
        self._workers: dict[str, int] = {}
        self._arrived = threading.Condition()

    @property
    def num_arrived(self) -> int:
        """Workers that have come so far."""
        return len(self._workers)

    def arrive(self, worker: str) -> int:
        """The worker's number in order of arrival."""
        with self._arrived:
            self._arrived.notify_all()
            return self._workers.setdefault(worker, len(self._workers))

    def wait(self, num_workers: int) -> None:
        """Returns when so many workers are there."""
        with self._arrived:
            self._arrived.wait_for(lambda: len(self._workers) >= num_workers, GATE_TIMEOUT_S)


class StackActor:
    """Owns a device. Its calls block in threads; the threads of `trials.device` train."""

    def __init__(self, setup: DeviceSetup) -> None:
        self._fault = ""  # why there is no device; an actor that raised here would tell nobody
        self._shortfalls = list[str]()
        self._gate = StartGate()
        try:
            self._device = self._make_device(setup, token_set_here(setup))
        except UserError as error:
            self._fault = str(error)

    def _make_device(self, setup: DeviceSetup, token_set: TokenSet) -> Device:
        # Imported here: the driver and the thin workers name this class without paying for torch.
        from trials.device import Device
        from trials.engine import choose_engine, keep_compiled, shortfalls
        from trials.free_memory import free_bytes

        keep_compiled(setup.cache)
        context: Any = ray.get_runtime_context()  # whose methods are untyped
        threads = int(context.get_assigned_resources().get("CPU", 1))
        engine = choose_engine(setup.device.precision, setup.device.compile, setup.slots, threads, setup.device.kind)
        self._shortfalls = list(shortfalls(setup.device.precision, setup.device.compile, engine))
        memory_bytes = setup.device.memory_bytes or free_bytes(engine)
        sizes = setup.slots, setup.validation_tokens
        return Device(token_set, *sizes, engine, memory_bytes, setup.patience_s)

    @ray.method
    def fault(self) -> str:
        """Why nothing can be trained here; empty where all is well."""
        return self._fault

    @ray.method
    def shortfalls(self) -> list[str]:
        """See `trials.engine.shortfalls`."""
        return self._shortfalls

    @ray.method
    def hello(self, worker: str) -> int:
        """See `StartGate.arrive`."""
        return self._gate.arrive(worker)

    @ray.method
    def wait_for_workers(self, num_workers: int) -> None:
        """See `StartGate.wait`."""
        self._gate.wait(num_workers)

    @ray.method
    def advance(self, assignment: dict[str, Any]) -> dict[str, Any]:
        """See `trials.device.Device.advance`.

        Raises:
            SearchHalted: there is no device here, which is no trial's fault.
        """
        if self._fault:
            raise SearchHalted(one_line(self._fault) + "; then go on with resume")
        try:
            return self._device.advance(Assignment.from_dict(assignment)).to_dict()
        except RuntimeError:
            # The device has ended: those who waited are told so, and whoever comes later meets a new actor.
            threading.Timer(EXIT_AFTER_S, os._exit, [1]).start()
            raise

    @ray.method
    def release(self, trial_id: str) -> None:
        """See `trials.device.Device.release`."""
        self._device.release(trial_id)

    @ray.method
    def device_seconds(self) -> dict[str, float]:
        """Where the device's time went; nothing where there is none."""
        return {} if self._fault else asdict(self._device.time)


RemoteStackActor = ray.remote(StackActor)
StartActors = Callable[[str, DeviceSetup, Sequence[Place], int], "StackActors"]  # as `start_stack_actors`


def token_set_here(setup: DeviceSetup) -> TokenSet:
    """The tokens as this node has them, built where they are not there; the actors of a node build them once.

    Raises:
        UserError: they cannot be built here, or another text came out.
    """
    from trials.tokens import prepare

    wanted = setup.token_set
    if (wanted.directory / "meta.json").is_file():  # complete, as it was renamed into place; its name is its content
        return wanted
    found = prepare(setup.source, wanted.vocabulary, setup.cache, log.info)
    if (found.corpus_id, found.tokenizer_id) != (wanted.corpus_id, wanted.tokenizer_id):
        raise UserError(
            f"text: must be the same on every node, got corpus {found.corpus_id} with tokenizer {found.tokenizer_id} "
            f"here and {wanted.corpus_id} with {wanted.tokenizer_id} at the driver; install the same packages, or "
            "mount the same text, on both"
        )
    return found


class StackClient:
    """The Runner of a thin worker: passes segments to the stack actor that it was given, or to the next that lives."""

    def __init__(self, names: Sequence[str], number: int, gate: str, num_first: int) -> None:
        self._names = names
        self._gate = gate  # name of the actor where the workers meet; empty once they have
        self._num_first = num_first  # workers that begin together
        self._home = self._number = number
        self._moved_s = time.monotonic()
        self._lost_s = math.inf  # since when the actor cannot be reached
        self._met = set[str]()  # actors that have answered, since they were last lost
        self._deaths = 0  # of actors that had answered, under this segment

    def advance(self, assignment: Assignment) -> Measurement:
        if self._number != self._home and time.monotonic() - self._moved_s > HOME_AFTER_S:
            self._number, self._lost_s = self._home, -math.inf  # one failure, and it moves on again
        measurement = Measurement.from_dict(self._ask(assignment.to_dict()))
        self._deaths = 0
        self._wait_for_workers()
        return measurement

    def _wait_for_workers(self) -> None:
        """Before its first answer; see `StartGate`."""
        if self._gate:
            with suppress(*UNREACHABLE):  # nothing is lost but a start together
                ray.get(ray.get_actor(self._gate).wait_for_workers.remote(self._num_first))
            self._gate = ""

    def _ask(self, assignment: dict[str, Any]) -> dict[str, Any]:
        """Raises RayActorError while the actor restarts; one that does not come back is left for the next.

        Raises:
            SearchHalted: it dies again and again.
        """
        name, asked_s = self._names[self._number % len(self._names)], time.monotonic()
        try:
            actor = ray.get_actor(name) if name in self._met else _answering(name)
            self._met.add(name)
            answer: dict[str, Any] = ray.get(actor.advance.remote(assignment))
        except RayTaskError:  # an answer, though it may be a ValueError as well
            self._lost_s = math.inf
            raise
        except UNREACHABLE as error:
            self._count_death(name)
            now_s = time.monotonic()
            self._lost_s = min(self._lost_s, asked_s if isinstance(error, GetTimeoutError) else now_s)
            if now_s - self._lost_s > MOVE_AFTER_S:
                self._number += 1
                self._lost_s, self._moved_s = math.inf, now_s
            raise error if isinstance(error, RayActorError) else RayActorError() from error
        self._lost_s = math.inf
        return answer

    def _count_death(self, name: str) -> None:
        """A device that the kernel kills for its memory starts again with as much as before, for ever."""
        self._deaths += name in self._met
        self._met.discard(name)
        if self._deaths >= MAX_DEATHS:
            raise SearchHalted(
                f"{name}: the device died {self._deaths} times under one trial's segment, perhaps for its memory (the "
                "machine's log tells); lower slots or device.memory_bytes, then go on with resume"
            )


@dataclass(frozen=True)
class StackActors:
    """The stack actors of a search, and the names by which workers find them."""

    names: tuple[str, ...]
    actors: tuple[Any, ...]
    places: tuple[Place, ...]

    def device_seconds(self) -> dict[str, float]:
        """Where the time of all devices went, and their occupancy: the share of it in steps and validation.

        Of those that answer: what a dead one did is not known.
        """
        asked = [actor.device_seconds.remote() for actor in self.actors]
        ray.wait(asked, num_returns=len(asked), timeout=FAREWELL_S)
        times = list[Mapping[str, float]]()
        for answer in asked:
            with suppress(GetTimeoutError, *UNREACHABLE):
                times.append(ray.get(answer, timeout=0))
        times = [time for time in times if time]
        if not times:
            return {}
        total = {key: sum(time[key] for time in times) for key in times[0]}
        busy = total["training_s"] + total["measuring_s"]
        return {**total, "occupancy": busy / total["span_s"] if total["span_s"] else 0.0, "devices": float(len(times))}

    def release(self, trial_id: str) -> None:
        """Tells every device to forget the trial; does not wait, as one that is dead has forgotten it."""
        for actor in self.actors:
            actor.release.remote(trial_id)

    def check_ready(self) -> None:
        """Waits for the devices of other nodes, whose text may have to be built; the driver's node has its own.

        Raises:
            SearchHalted: one of them cannot train.
        """
        for place, actor in zip(self.places, self.actors, strict=True):
            if place.node_id == ray.get_runtime_context().get_node_id():
                continue
            try:
                fault: str = ray.get(actor.fault.remote())
            except RayActorError as error:
                fault = str(error)
            if fault:
                raise SearchHalted(one_line(f"node {place.node_id[:8]}: {fault}") + "; then go on with resume")

    def kill(self) -> None:
        for actor in self.actors:
            ray.kill(actor)


class Shortfalls:
    """What the devices say that slows them, each remark once. Asked without waiting: a device takes seconds to load."""

    def __init__(self, actors: Sequence[Any]) -> None:
        self._asked = [actor.shortfalls.remote() for actor in actors]
        self._heard = set[str]()

    @property
    def all_heard(self) -> bool:
        """Whether no device is left to be heard."""
        return not self._asked

    def new(self) -> list[str]:
        """What nobody has said before."""
        if self.all_heard:
            return []
        answered, self._asked = ray.wait(self._asked, num_returns=len(self._asked), timeout=0)
        remarks = list[str]()
        for answer in answered:
            with suppress(*UNREACHABLE):
                remarks += ray.get(answer)
        found = [remark for remark in dict.fromkeys(remarks) if remark not in self._heard]
        self._heard.update(found)
        return found


def start_stack_actors(
    runner: str, setup: DeviceSetup, where: Sequence[Place], num_workers: int, actor: Any = RemoteStackActor
) -> StackActors:
    """Starts one actor a place, of the runner named `runner`; each may be called by every worker."""
    names: tuple[str, ...] = tuple(f"stack-{runner}-{number}" for number in range(len(where)))
    actors = [
        actor.options(
            name=name,
            num_cpus=place.cpus,
            num_gpus=place.gpus,
            max_concurrency=num_workers + SPARE_CALLS,
            max_restarts=-1,
            # Soft: where its node has died, it starts on one that replaces it. There is room for one a node.
            scheduling_strategy=NodeAffinitySchedulingStrategy(place.node_id, soft=True),
        ).remote(setup)
        for name, place in zip(names, where, strict=True)
    ]
    return StackActors(names, tuple(actors), tuple(where))


def connect(names: Sequence[str], num_first: int) -> StackClient:
    """The runner of this worker; workers are dealt to the devices in turn.

    The first device that lives is the gate of the `num_first` workers that begin the search. Where none does, the
    client waits for one as it always would.
    """
    worker = ray.get_runtime_context().get_actor_id()
    for name in names:
        with suppress(*UNREACHABLE):
            return StackClient(names, ray.get(_answering(name).hello.remote(worker)), name, num_first)
    return StackClient(names, 0, "", num_first)


def _answering(name: str) -> Any:
    """An actor, when it has answered.

    The first call that a process makes to an actor whose node has died blocks for as long as no other node takes the
    actor (measured, Ray 2.60); later calls fail within 2 s.

    Raises:
        GetTimeoutError: it does not answer.
        ValueError, RayActorError: it is not there.
    """
    actor = ray.get_actor(name)
    ray.get(actor.__ray_ready__.remote(), timeout=MOVE_AFTER_S)
    return actor
