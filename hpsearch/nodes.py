"""The nodes of a cluster: the devices that they have, and whether they see the same files."""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from hpsearch.halted import SearchHalted
from search_spaces.errors import one_line

if TYPE_CHECKING:
    from trials.corpus import CorpusSource


@dataclass(frozen=True)
class Place:
    """Where a stack actor runs, and what it takes there."""

    node_id: str
    cpus: int  # torch's thread count follows them
    gpus: int


def places(kind: str = "auto") -> tuple[Place, ...]:
    """The devices of the cluster: its GPUs, each with a share of its node's CPUs; where there are none, all CPUs.

    Args:
        kind: cpu or cuda for one kind alone.

    Raises:
        SearchHalted: there is none of this kind.
    """
    nodes = [node for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]  # of Ray
    every = [place for node in nodes for place in _places_of(node["NodeID"], node["Resources"], kind)]
    found = tuple(place for place in every if place.gpus) or tuple(every)
    if kind == "cuda" and not any(place.gpus for place in found):
        raise SearchHalted("device.kind: must be a device that is there, got cuda where Ray finds no GPU; say auto")
    return found


def text_on_nodes(source: CorpusSource) -> CorpusSource:
    """Where other nodes find a text: a job's own folder is copied to each of them, and their actors run inside it."""
    package = Path(ray.get_runtime_context().runtime_env.get("working_dir", "")).stem
    parts = source.path.parts
    return replace(source, path=Path(*parts[parts.index(package) + 1 :])) if package in parts else source


def check_shared_storage(location: str, where: Sequence[Place]) -> None:
    """A trial may go on at another node than the one that wrote its checkpoint.

    Args:
        location: folder or URL of the checkpoints.
        where: the devices.

    Raises:
        SearchHalted: the driver does not find what a node has written.
    """
    if "://" in location:
        return
    here = ray.get_runtime_context().get_node_id()
    probe = Path(location) / f"probe-{secrets.token_hex(8)}"
    for node_id in {place.node_id for place in where} - {here}:
        strategy = NodeAffinitySchedulingStrategy(node_id, soft=False)
        try:
            ray.get(_write_probe.options(num_cpus=0, scheduling_strategy=strategy).remote(str(probe)))
            found = probe.is_file()
        except (OSError, RayError) as error:
            raise SearchHalted(
                one_line(f"{location}: storage: cannot be written by a node of the cluster ({error})")
                + "; give --storage a folder that all nodes mount, or a URL such as s3://BUCKET/PREFIX"
            ) from error
        if not found:
            raise SearchHalted(
                f"{location}: storage: must be the same folder on every node, and the driver does not see what another "
                "node writes; give --storage a folder that all nodes mount, or a URL such as s3://BUCKET/PREFIX"
            )
        probe.unlink()


@ray.remote
def _write_probe(path: str) -> None:
    os.makedirs(os.path.dirname(path), exist_ok=True)
    Path(path).write_text("", encoding="utf-8")


def _places_of(node_id: str, resources: Mapping[str, float], kind: str) -> list[Place]:
    cpus, gpus = int(resources.get("CPU", 0)), int(resources.get("GPU", 0))
    if gpus and kind != "cpu":
        return [Place(node_id, max(1, cpus // gpus), 1)] * gpus
    return [Place(node_id, cpus, 0)] if cpus else []
