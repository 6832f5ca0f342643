"""The stack actor, which owns a device, and its client, the Runner that thin workers hold."""

from __future__ import annotations

import os
import threading
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from trials.trial import Assignment, Measurement

if TYPE_CHECKING:
    from trials.tokens import TokenSet

EXIT_AFTER_S = 2.0  # an actor whose device has ended answers those who wait before it goes
GATE_TIMEOUT_S = 20.0  # a worker that takes longer to start is not waited for
SPARE_CALLS = 8  # calls that must not wait behind blocked `advance` calls: hello, release, device_seconds


class StackActor:
    """Owns a node's device. Its calls block in threads; one thread of `trials.device` trains."""

    def __init__(self, token_set: TokenSet, slots: int, validation_tokens: int) -> None:
        # Imported here: the driver and the thin workers name this class without paying for torch.
        from trials.device import Device

        context: Any = ray.get_runtime_context()  # whose methods are untyped
        threads = int(context.get_assigned_resources().get("CPU", 1))
        self._device = Device(token_set, slots, threads, validation_tokens)
        self._workers: set[str] = set()
        self._arrived = threading.Condition()

    @ray.method
    def hello(self, worker: str, num_workers: int) -> None:
        """The start gate: returns when all workers are there.

        Ray Tune hands a finished trial's worker to the next one and drops the worker that was still starting
        for it, so without a gate short trials collapse onto one worker.
        """
        with self._arrived:
            self._workers.add(worker)
            self._arrived.notify_all()
            self._arrived.wait_for(lambda: len(self._workers) >= num_workers, GATE_TIMEOUT_S)

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
        """Where the device's time went, and its occupancy."""
        time = self._device.time
        return {**asdict(time), "occupancy": time.occupancy}


RemoteStackActor = ray.remote(StackActor)


class StackClient:
    """The Runner of a thin worker: passes segments to the stack actor of its node."""

    def __init__(self, actor: Any) -> None:
        self._actor = actor

    def advance(self, assignment: Assignment) -> Measurement:
        return Measurement.from_dict(ray.get(self._actor.advance.remote(assignment.to_dict())))

    def release(self, trial_id: str) -> None:
        ray.get(self._actor.release.remote(trial_id))


def start_stack_actor(runner: str, token_set: TokenSet, slots: int, validation_tokens: int, num_workers: int) -> Any:
    """Starts this node's actor of the runner named `runner`, with all CPUs: torch's thread count follows them."""
    node_id = ray.get_runtime_context().get_node_id()
    resources: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]  # of Ray
    return RemoteStackActor.options(
        name=_actor_name(runner, node_id),
        num_cpus=int(resources["CPU"]),
        max_concurrency=num_workers + SPARE_CALLS,
        max_restarts=-1,
        scheduling_strategy=NodeAffinitySchedulingStrategy(node_id, soft=False),
    ).remote(token_set, slots, validation_tokens)


def connect(runner: str, num_workers: int) -> StackClient:
    """The runner of this worker's node, once all workers have arrived."""
    actor = ray.get_actor(_actor_name(runner, ray.get_runtime_context().get_node_id()))
    ray.get(actor.hello.remote(ray.get_runtime_context().get_actor_id(), num_workers))
    return StackClient(actor)


def _actor_name(runner: str, node_id: str) -> str:
    return f"stack-{runner}-{node_id}"
