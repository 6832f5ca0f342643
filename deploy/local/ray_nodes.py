"""A Ray head without CPUs, which serves the Jobs API, and two worker nodes, all in token mode."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from deploy.local.part import Part
from deploy.local.state import LOOPBACK, State, machine_environment
from deploy.probe import NotReady, live_nodes, probe_jobs

WORKERS = ("worker-1", "worker-2")
OBJECT_STORE_BYTES = 256 * 2**20  # measurements are small; text is read from a memory map


def head(state: State) -> Part:
    """Knows the nodes (its memory of them ends with it), serves jobs; searches train on the workers."""
    options = {
        "--port": state.ports["gcs"],
        "--dashboard-host": LOOPBACK,
        "--dashboard-port": state.ports["jobs"],
        "--ray-client-server-port": state.ports["ray-client"],
        "--temp-dir": state.ray_temp,
        "--num-cpus": 0,
    }
    return _node(state, "head", ["--head", "--include-dashboard=true"], options)


def worker(state: State, role: str) -> Part:
    """A node that trains."""
    options = {
        "--address": f"{LOOPBACK}:{state.ports['gcs']}",
        "--node-manager-port": state.ports[role],
        "--num-cpus": state.cpus_per_node,
    }
    return _node(state, role, [], options)


def _node(state: State, role: str, words: list[str], options: dict[str, Any]) -> Part:
    common = {
        "--node-ip-address": LOOPBACK,
        "--object-store-memory": OBJECT_STORE_BYTES,
        # Zero: ports that are free, so that nodes and deployments can share the machine.
        "--dashboard-agent-listen-port": 0,
        "--min-worker-port": 0,
        "--max-worker-port": 0,
    }
    command = [sys.executable, str(Path(__file__).with_name("ray_on_loopback.py")), "start", *words]
    command += ["--block", "--disable-usage-stats"]
    command += [f"{name}={value}" for name, value in {**options, **common}.items()]
    return Part(role, command, _environment(state), lambda started: _ready(state, role, started), 120)


def _environment(state: State) -> dict[str, str]:
    return {
        **machine_environment(),
        **state.cluster_environment(),
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # loopback: see ray_on_loopback.py
        "RAY_TMPDIR": str(state.ray_temp),  # where else `ray.init()` of a stranger would find this cluster
        "AUTOSCALER_METRIC_PORT": str(state.ports["autoscaler-metrics"]),
        "DASHBOARD_METRIC_PORT": str(state.ports["dashboard-metrics"]),
    }


def _ready(state: State, role: str, started: float) -> None:
    """The Jobs API answers to the token only, and this node is among the live ones."""
    token = state.secret("ray-token")
    probe_jobs(state.jobs_url, token)
    if not any(_is_node(node["raylet"], state, role, started) for node in live_nodes(state.jobs_url, token)):
        raise NotReady("its node has not joined")


def _is_node(raylet: dict[str, Any], state: State, role: str, started: float) -> bool:
    """Whether this is the node of a role as it was last started, not one that was killed and is not yet missed."""
    mine = raylet.get("isHeadNode") if role == "head" else raylet.get("nodeManagerPort") == state.ports[role]
    return bool(mine) and float(raylet["startTimeMs"]) >= started * 1000
