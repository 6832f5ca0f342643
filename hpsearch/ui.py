"""The MLflow UI on a home's store, on loopback, at the page of a search."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable

from hpsearch.folder import SearchFolder
from hpsearch.mlflow_address import is_server
from hpsearch.mlflow_store import connect

LOOPBACK = "127.0.0.1"


def serve(folder: SearchFolder, port: int, tell: Callable[[str], object]) -> int:
    """Runs the server until it is interrupted; returns its exit code. One that runs elsewhere is only named.

    Args:
        folder: the search to open at; with an empty name, the list of all.
        port: 0 for a free one.
        tell: is given the address.
    """
    if is_server(folder.mlflow_uri):
        tell(f"{folder.mlflow_uri.rstrip('/')}/{page(folder)}")
        return 0
    port = port or free_port()
    tell(f"http://{LOOPBACK}:{port}/{page(folder)}")
    command = [
        sys.executable,
        "-m",
        "mlflow",
        "server",
        "--host",
        LOOPBACK,
        "--port",
        str(port),
        "--workers",
        "1",
    ]
    command += [
        "--backend-store-uri",
        folder.mlflow_uri,
        "--artifacts-destination",
        str(folder.mlflow_artifacts),
    ]
    # Job execution is a service of MLflow that a search has no use for, and that takes 1.5 GB.
    environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    try:
        return subprocess.run(command, env=environment, check=False).returncode
    except KeyboardInterrupt:
        return 0


def page(folder: SearchFolder) -> str:
    """The UI's address of a search: its runs as a table, the parent with its trials below it."""
    experiment = connect(folder.mlflow_uri).get_experiment_by_name(folder.name) if folder.name else None
    return f"#/experiments/{experiment.experiment_id}/runs" if experiment else "#/experiments"


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        return int(probe.getsockname()[1])
