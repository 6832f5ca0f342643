"""A Ray cluster of two nodes, each in a network namespace of its own, joined by a cable that can be cut.

Root only. The file system is shared, but for Ray's own folder: two machines over one storage.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from hpsearch.ray_session import EMBEDDED_ENVIRONMENT, TUNE_ENVIRONMENT

SUBNET = "10.213.77"
PORT = 6399
START_TIMEOUT_S = 120.0
# A node whose health checks fail is dead after initial delay + threshold x (period + timeout): 66 s as Ray is
# delivered, some 12 s so.
SOON = {
    "RAY_health_check_initial_delay_ms": "2000",
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "2000",
    "RAY_health_check_failure_threshold": "3",
}


class Node:
    """A namespace with a raylet and what runs beside it."""

    def __init__(self, number: int, environment: Mapping[str, str]) -> None:
        self.address = f"{SUBNET}.{number}"
        self._name = f"hpsearch-{os.getpid()}-{number}"
        self._cable = f"hps{os.getpid() % 100000}-{number}"
        self._environment = {**os.environ, **TUNE_ENVIRONMENT, **EMBEDDED_ENVIRONMENT, **environment}
        self._processes: list[psutil.Popen] = []

    def connect(self, bridge: str) -> None:
        """A loopback, and a cable into the bridge."""
        _ip("netns", "add", self._name)
        _ip("link", "add", self._cable, "type", "veth", "peer", "name", "eth0", "netns", self._name)
        _ip("link", "set", self._cable, "master", bridge, "up")
        for words in (["addr", "add", f"{self.address}/24", "dev", "eth0"], ["link", "set", "eth0", "up"]):
            _ip("-n", self._name, *words)
        _ip("-n", self._name, "link", "set", "lo", "up")

    def cut(self) -> None:
        """The cable is pulled: nothing arrives any more, and nobody is told."""
        _ip("link", "set", self._cable, "down")

    def heal(self) -> None:
        _ip("link", "set", self._cable, "up")

    def start_ray(self, head: str) -> None:
        """One CPU; the head where no head's address is given."""
        role = ["--address", f"{head}:{PORT}"] if head else ["--head", "--port", str(PORT)]
        options = ["--node-ip-address", self.address, "--num-cpus", "1", "--disable-usage-stats", "--block"]
        options += ["--include-dashboard", "false"] if not head else []
        self.start([sys.executable, "-m", "ray.scripts.scripts", "start", *role, *options])

    def start(self, command: list[str], stderr: int | None = None) -> psutil.Popen:
        """A program in the namespace, which sees a folder of Ray's that is its node's own."""
        own = Path(f"/tmp/ray-{self._name}")
        own.mkdir(exist_ok=True)
        os.makedirs("/tmp/ray", exist_ok=True)
        mounted = ["sh", "-c", 'mount --bind "$0" /tmp/ray && exec "$@"', str(own), *command]
        process = psutil.Popen(
            ["ip", "netns", "exec", self._name, *mounted],
            env=self._environment,
            stdout=subprocess.DEVNULL,
            stderr=stderr,
        )
        self._processes.append(process)
        return process

    def processes(self) -> list[psutil.Process]:
        """All that runs there."""
        inside = subprocess.run(["ip", "netns", "pids", self._name], capture_output=True, text=True, check=False)
        found = []
        for pid in inside.stdout.split():
            with suppress(psutil.NoSuchProcess):
                found.append(psutil.Process(int(pid)))
        return found

    def ray_logs(self) -> str:
        """What Ray's workers on the node have said of errors."""
        logs = Path(f"/tmp/ray-{self._name}").glob("session_*/logs/worker-*.err")
        return "".join(log.read_text(errors="replace") for log in logs)

    def kill(self) -> None:
        """SIGKILL to all that runs there, as a power cut."""
        for process in self.processes():
            with suppress(psutil.NoSuchProcess):
                process.kill()
        for process in self._processes:
            process.wait()
        self._processes.clear()

    def remove(self) -> None:
        self.kill()
        subprocess.run(["ip", "netns", "del", self._name], check=False)
        subprocess.run(["ip", "link", "del", self._cable], check=False, stderr=subprocess.DEVNULL)
        subprocess.run(["rm", "-rf", f"/tmp/ray-{self._name}"], check=True)


@contextmanager
def two_nodes(environment: Mapping[str, str]) -> Iterator[tuple[Node, Node]]:
    """The node with the head, and another one; `environment` is Ray's on both."""
    bridge = f"hps{os.getpid() % 100000}"
    _ip("link", "add", bridge, "type", "bridge")
    _ip("link", "set", bridge, "up")
    head, other = Node(1, environment), Node(2, environment)
    try:
        for node in (head, other):
            node.connect(bridge)
        head.start_ray("")
        _await(head, f"import socket; socket.create_connection(('{head.address}', {PORT}), 2).close()")
        other.start_ray(head.address)
        look = f"import ray; ray.init('{head.address}:{PORT}', _node_ip_address='{head.address}', log_to_driver=False)"
        _await(head, f"{look}; assert len([node for node in ray.nodes() if node['Alive']]) == 2")
        yield head, other
    finally:
        for node in (other, head):
            node.remove()
        _ip("link", "del", bridge)


def _await(node: Node, probe: str) -> None:
    """Until this Python succeeds there."""
    until_s = time.monotonic() + START_TIMEOUT_S
    while node.start([sys.executable, "-c", probe], stderr=subprocess.DEVNULL).wait():
        assert time.monotonic() < until_s, f"Ray does not start: {probe}"
        time.sleep(0.5)


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True)
