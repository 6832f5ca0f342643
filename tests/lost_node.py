"""A Ray cluster of two nodes, one of which dies: a worker that starts after that, dealt to the dead one's device.

    python -m tests.lost_node

Prints the name of the device that has trained its segment.
"""

from __future__ import annotations

import os
import time
from contextlib import suppress
from typing import Any

import ray
from ray.cluster_utils import Cluster
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from hpsearch import runners
from hpsearch.plan import trial_config
from hpsearch.ray_session import EMBEDDED_ENVIRONMENT
from tests.hpsearch.simulation import spec_of
from trials.trial import Assignment, Measurement, Outcome

NAMES = ("lost", "lives")
MOVE_AFTER_S = 3.0  # not a minute


class Device:
    """Answers at once, with its name."""

    def __init__(self, name: str) -> None:
        self._name = name

    def advance(self, assignment: dict[str, Any]) -> dict[str, Any]:
        return Measurement.fault(Assignment.from_dict(assignment), Outcome.FAIL, self._name).to_dict()


def train() -> str:
    """What a thin worker does, without Ray Tune."""
    runners.MOVE_AFTER_S = MOVE_AFTER_S
    client = runners.StackClient(NAMES, 0, "", 1)
    config = trial_config(spec_of(), 0, {"learning_rate": 3e-4, "weight_decay": 0.1}, seed=5)
    while True:
        try:
            return client.advance(Assignment("t0000", config, 3328, (), "file")).message
        except ray.exceptions.RayActorError:
            time.sleep(0.5)


def main() -> None:
    os.environ.update(EMBEDDED_ENVIRONMENT)
    cluster: Any = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    second = cluster.add_node(num_cpus=1)
    cluster.wait_for_nodes()
    ray.init(address=cluster.address, namespace="hpsearch", log_to_driver=False)
    head = ray.get_runtime_context().get_node_id()
    devices: list[Any] = []
    for name, node in zip(NAMES, (second.node_id, head), strict=True):
        place = NodeAffinitySchedulingStrategy(node, soft=True)
        options = {"name": name, "scheduling_strategy": place, "num_cpus": 1, "max_restarts": -1, "max_concurrency": 4}
        devices.append(ray.remote(Device).options(**options).remote(name))
    ray.get([device.__ray_ready__.remote() for device in devices])
    cluster.remove_node(second, allow_graceful=False)
    nodes: Any = ray.nodes  # untyped
    while any(node["NodeID"] == second.node_id and node["Alive"] for node in nodes()):
        time.sleep(0.2)
    with suppress(ray.exceptions.RayActorError):  # said when Ray knows that the device waits for a node
        while True:
            ray.get(devices[0].__ray_ready__.remote())
    print(ray.get(ray.remote(train).options(num_cpus=0).remote()))
    ray.shutdown()
    cluster.shutdown()


if __name__ == "__main__":
    main()
