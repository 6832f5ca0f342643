"""A whole deployment for tests: Ray head and two workers, MLflow, PostgreSQL, on loopback.

with local_deployment(tmp_path) as deployment:
    subprocess.run([..., "--cluster", "local"], env=deployment.client_environment)
    deployment.kill("worker-1")
    deployment.restart("worker-1")
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from deploy.local import processes
from deploy.local.deployment import ROLES, down, end_part, main_process, up
from deploy.local.state import State

__all__ = ["ROLES", "LocalDeployment", "local_deployment"]


@dataclass(frozen=True)
class LocalDeployment:
    """What is up; `state` has `jobs_url`, `mlflow_url`, `ledger_url`, `secret(name)`, `log(role)`."""

    state: State

    @property
    def client_environment(self) -> dict[str, str]:
        """This process's environment and what `. STATE/env` adds."""
        return {**os.environ, **self.state.client_environment()}

    @property
    def cluster_environment(self) -> dict[str, str]:
        """This process's environment and what the searches on the cluster are told: ledger, MLflow, storage."""
        return {**os.environ, **self.state.cluster_environment()}

    def pid(self, role: str) -> int:
        """Of the process that a part was started as; raises LookupError when it does not run."""
        process = main_process(self.state, role)
        if process is None:
            raise LookupError(f"{role} does not run")
        return process.pid

    def processes(self, role: str, name: str = "") -> list[psutil.Process]:
        """All processes of a part, the oldest first; with `name` those whose name begins so: "raylet", "gcs_server"."""
        return [process for process in processes.find(f"{self.state.name}/{role}") if process.name().startswith(name)]

    def kill(self, role: str, name: str = "") -> None:
        """SIGKILLs a part with all its processes, as a power cut would; with `name` only those that are called so."""
        killed = self.processes(role, name)
        for process in killed:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(killed, timeout=processes.PATIENCE_S)

    def restart(self, role: str) -> None:
        """Ends what is left of a part, starts it on the same port and data, and waits until it serves clients.

        A head knows none of the nodes of the one before it: with the head the workers are started again.
        """
        end_part(self.state, role, polite=False)
        up(self.state.folder, self.state.cpus_per_node, {}, _silent)


@contextmanager
def local_deployment(folder: Path, cpus_per_node: int = 1) -> Iterator[LocalDeployment]:
    """A deployment in a folder of its own; afterwards no process of it is left."""
    state_folder = folder / "deployment"
    try:
        yield LocalDeployment(up(state_folder, cpus_per_node, {}, _silent))
    finally:
        down(state_folder, _silent)


def _silent(line: str) -> None:
    del line
