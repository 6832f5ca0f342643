"""Stack actors, each of which owns a device, and their client, the Runner that thin workers hold."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ray
from ray.exceptions import RayActorError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from hpsearch.model_spec import DeviceSection
from trials.trial import Assignment, Measurement

if TYPE_CHECKING:
    from trials.tokens import TokenSet

EXIT_AFTER_S = 2.0  # an actor whose device has ended answers those who wait before it goes
GATE_TIMEOUT_S = 20.0  # a worker that takes longer to start is not waited for
MOVE_AFTER_S = 60.0  # a device that cannot be reached for so long is left for the next one
SPARE_CALLS = 8  # calls that must not wait behind blocked `advance` calls: hello, release, device_seconds


@dataclass(frozen=True)
class Place:
    """Where a stack actor runs, and what it takes there."""

    node_id: str
    cpus: int  # torch's thread count follows them
    gpus: int


@dataclass(frozen=True)
class DeviceSetup:
    """What a stack actor is built from."""

    token_set: TokenSet
    slots: int
    validation_tokens: int
    device: DeviceSection
    compile_cache: Path


class StartGate:
    """Lets the workers of a search begin together.

    Ray Tune hands a finished trial's worker to the next one and drops the worker that was still starting for it, so
    without a gate short trials collapse onto one worker.
    """

    def __init__(self) -> None:
        self._workers: dict[str, int] = {}
        self._arrived = threading.Condition()

    @property
    def num_arrived(self) -> int:
        """Workers that have come so far."""
        return len(self._workers)

    def pass_through(self, worker: str, num_workers: int) -> int:
        """Returns when all workers are there, with the worker's number in order of arrival."""
        with self._arrived:
            number = self._workers.setdefault(worker, len(self._workers))
            self._arrived.notify_all()
            self._arrived.wait_for(lambda: len(self._workers) >= num_workers, GATE_TIMEOUT_S)
        return number


class StackActor:
    """Owns a device. Its calls block in threads; the threads of `trials.device` train."""

    def __init__(self, setup: DeviceSetup) -> None:
        # Read when torch's compiler is first loaded. What is compiled once is found again by every later search.
        os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(setup.compile_cache))
        # Imported here: the driver and the thin workers name this class without paying for torch.
        from trials.device import Device
        from trials.engine import choose_engine, free_bytes

        context: Any = ray.get_runtime_context()  # whose methods are untyped
        threads = int(context.get_assigned_resources().get("CPU", 1))
        engine = choose_engine(setup.device.precision, setup.device.compile, setup.slots, threads)
        memory_bytes = setup.device.memory_bytes or free_bytes(engine)
        self._device = Device(setup.token_set, setup.slots, setup.validation_tokens, engine, memory_bytes)
        self._gate = StartGate()

    @ray.method
    def hello(self, worker: str, num_workers: int) -> int:
        """See `StartGate`."""
        return self._gate.pass_through(worker, num_workers)

    @ray.method
    def advance(self, assignment: dict[str, Any]) -> dict[str, Any]:
        """See `trials.device.Device.advance`."""
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
        """Where the device's time went."""
        return asdict(self._device.time)


RemoteStackActor = ray.remote(StackActor)
StartActors = Callable[[str, DeviceSetup, Sequence["Place"], int], "StackActors"]  # as `start_stack_actors`


class StackClient:
    """The Runner of a thin worker: passes segments to the stack actor that it was given."""

    def __init__(self, names: Sequence[str], number: int) -> None:
        self._names = names
        self._number = number
        self._reached_s = time.monotonic()

    def advance(self, assignment: Assignment) -> Measurement:
        return Measurement.from_dict(self._call("advance", assignment.to_dict()))

    def release(self, trial_id: str) -> None:
        self._call("release", trial_id)

    def _call(self, method: str, argument: Any) -> Any:
        """Raises RayActorError while the actor restarts; one that does not come back is left for the next."""
        try:
            actor = ray.get_actor(self._names[self._number % len(self._names)])
            answer = ray.get(getattr(actor, method).remote(argument))
        except (RayActorError, ValueError) as error:  # ValueError: no actor of this name
            if time.monotonic() - self._reached_s > MOVE_AFTER_S:
                self._number += 1
                self._reached_s = time.monotonic()
            raise error if isinstance(error, RayActorError) else RayActorError() from error
        self._reached_s = time.monotonic()
        return answer


@dataclass(frozen=True)
class StackActors:
    """The stack actors of a search, and the names by which workers find them."""

    names: tuple[str, ...]
    actors: tuple[Any, ...]

    def device_seconds(self) -> dict[str, float]:
        """Where the time of all devices went, and their occupancy: the share of it in steps and validation."""
        times: list[Mapping[str, float]] = ray.get([actor.device_seconds.remote() for actor in self.actors])
        total = {key: sum(time[key] for time in times) for key in times[0]}
        busy = total["training_s"] + total["measuring_s"]
        return {**total, "occupancy": busy / total["span_s"] if total["span_s"] else 0.0, "devices": float(len(times))}

    def release(self, trial_id: str) -> None:
        """Makes every device forget the trial; one that cannot be reached has forgotten it."""
        for actor in self.actors:
            with suppress(RayActorError):
                ray.get(actor.release.remote(trial_id))

    def kill(self) -> None:
        for actor in self.actors:
            ray.kill(actor)


def places() -> tuple[Place, ...]:
    """The devices of the cluster: its GPUs, each with a share of its node's CPUs; where there are none, all CPUs."""
    nodes = [node for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]  # of Ray
    every = [place for node in nodes for place in _places_of(node["NodeID"], node["Resources"])]
    return tuple(place for place in every if place.gpus) or tuple(every)


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
            scheduling_strategy=NodeAffinitySchedulingStrategy(place.node_id, soft=False),
        ).remote(setup)
        for name, place in zip(names, where, strict=True)
    ]
    return StackActors(names, tuple(actors))


def connect(names: Sequence[str], num_workers: int) -> StackClient:
    """The runner of this worker, once all workers have arrived; they are dealt to the devices in turn."""
    gate: Any = ray.get_actor(names[0])
    number: int = ray.get(gate.hello.remote(ray.get_runtime_context().get_actor_id(), num_workers))
    return StackClient(names, number)


def _places_of(node_id: str, resources: Mapping[str, float]) -> list[Place]:
    cpus, gpus = int(resources.get("CPU", 0)), int(resources.get("GPU", 0))
    if gpus:
        return [Place(node_id, max(1, cpus // gpus), 1)] * gpus
    return [Place(node_id, cpus, 0)] if cpus else []
