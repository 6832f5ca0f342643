"""Before a search is sent: is the cluster fit for it, from the client and from each of its nodes?"""

from __future__ import annotations

import platform
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from hpsearch.cluster_jobs import Jobs, Node
from hpsearch.cluster_package import encoded
from hpsearch.finding import Finding
from hpsearch.spec import Spec
from search_spaces.errors import UserError

PROBE_S = 60.0  # a job starts in 1 to 3 s; a node that pulls an image first takes longer
MIN_MEMORY_BYTES = 2 * 2**30  # of a node that trains: torch, a small stack, the thin workers


@dataclass(frozen=True)
class Preflight:
    """What was found, and what there is of a search of this name."""

    findings: list[Finding]
    search_state: str = "absent"  # absent, running, complete, or resumable
    is_same_search: bool = False

    def check(self, cluster: str) -> None:
        """Raises UserError where something is amiss."""
        faults = [f"{finding.name}: {finding.text}" for finding in self.findings if not finding.ok]
        if faults:
            raise UserError("\n".join(f"cluster {cluster}: {fault}" for fault in faults))


def preflight(jobs: Jobs, spec: Spec, folder: Path | None) -> Preflight:
    """Looks at everything that a search needs of a cluster.

    Args:
        jobs: of the cluster.
        spec: the search.
        folder: what its job is given.

    Raises:
        UserError: the cluster cannot run anything of ours.
    """
    outside = [_token(jobs), _ray(jobs), _resources(jobs.nodes, spec.device.kind)]
    if not all(finding.ok for finding in outside):
        return Preflight(outside)
    answer = jobs.ask(["on-cluster", "probe", encoded(spec)], folder, PROBE_S)
    inside = [_versions(answer), _ledger(answer), *_of_nodes(answer), _corpus(answer)]
    return Preflight(outside + inside, answer["search_state"], answer["is_same_search"])


def _token(jobs: Jobs) -> Finding:
    said = f"accepted, from {jobs.cluster.token_from}" if jobs.cluster.token else "none asked for"
    return Finding("token", True, said)


def _ray(jobs: Jobs) -> Finding:
    here = metadata.version("ray")
    if jobs.ray_version != here:
        remedy = f"install ray=={jobs.ray_version} here, or start the cluster with {here}"
        return Finding("ray", False, f"must be the same here and there, got {here} here, {jobs.ray_version}; {remedy}")
    return Finding("ray", True, f"{here} at {jobs.cluster.address}")


def _resources(nodes: tuple[Node, ...], kind: str) -> Finding:
    training = [node for node in nodes if node.cpus or node.gpus]
    if not training:
        return Finding("resources", False, "no live node has a CPU or GPU to train on; start worker nodes")
    if kind == "cuda" and not any(node.gpus for node in training):
        return Finding("resources", False, "device.kind is cuda and no live node has a GPU; start one, or say auto")
    short = [node for node in training if node.memory_bytes < MIN_MEMORY_BYTES]
    told = ", ".join(
        f"{node.name}: {node.cpus} CPU, {node.gpus} GPU, {node.memory_bytes / 2**30:.0f} GiB" for node in training
    )
    if short:
        return Finding("resources", False, f"{told}; a node that trains needs {MIN_MEMORY_BYTES / 2**30:.0f} GiB")
    return Finding("resources", True, told)


def _versions(answer: dict[str, Any]) -> Finding:
    here = {
        "python": platform.python_version(),
        **{n: metadata.version(n) for n in answer["versions"] if n != "python"},
    }
    elsewhere = {"the driver's node": answer["versions"], **{n["name"]: n["versions"] for n in answer["nodes"]}}
    differ = [
        f"{name} {mine} here, {versions.get(name)} at {place}"
        for place, versions in elsewhere.items()
        for name, mine in here.items()
        if _release(name, mine) != _release(name, versions.get(name, ""))
    ]
    if differ:
        return Finding("versions", False, f"must be equal: {'; '.join(differ[:4])}; install the same on both")
    return Finding("versions", True, ", ".join(f"{name} {version}" for name, version in here.items()))


def _release(name: str, version: str) -> str:
    """What must be equal: of Python the minor version, and of a local build (2.13.0+cpu) what it was built from."""
    return ".".join(version.split(".")[:2]) if name == "python" else version.partition("+")[0]


def _ledger(answer: dict[str, Any]) -> Finding:
    fault = answer["ledger_fault"]
    return Finding("ledger", not fault, fault or "written to from the driver's node")


def _of_nodes(answer: dict[str, Any]) -> Iterator[Finding]:
    """What a node could not write; the same fault of many nodes is told once."""
    for name, key in (("mlflow", "mlflow_fault"), ("storage", "storage_fault")):
        faults: dict[str, list[str]] = {}
        for node in answer["nodes"]:
            if node[key]:
                faults.setdefault(node[key], []).append(node["name"])
        if name == "storage" and answer[key]:
            faults[answer[key]] = ["the driver"]
        said = "; ".join(f"{fault} (at {', '.join(dict.fromkeys(places))})" for fault, places in faults.items())
        yield Finding(name, not faults, said or f"written to from {len(answer['nodes'])} nodes")


def _corpus(answer: dict[str, Any]) -> Finding:
    faults = [f"{node['name']}: {node['corpus_fault']}" for node in answer["nodes"] if node["corpus_fault"]]
    ids = sorted({node["corpus_id"] for node in answer["nodes"] if node["corpus_id"]})
    if faults:
        return Finding("text", False, "; ".join(dict.fromkeys(faults)))
    if len(ids) != 1:
        return Finding(
            "text", False, f"must be the same on every node, got {', '.join(ids)}; install the same packages"
        )
    return Finding("text", True, f"corpus {ids[0]} on every node")
