"""A real MLflow server on loopback, which can be killed and started again on the same store and port."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from urllib.error import URLError
from urllib.request import urlopen

from hpsearch.ui import LOOPBACK, free_port

START_S = 120.0


class MlflowServer:
    """A server with its own store and artifacts, in its own process group."""

    def __init__(self, folder: Path, port: int = 0) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._port = port or free_port()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def uri(self) -> str:
        return f"http://{LOOPBACK}:{self._port}"

    @property
    def store(self) -> str:
        """Its database, for a look that needs no server."""
        return f"sqlite:///{self._folder / 'mlflow.db'}"

    def start(self) -> None:
        command = [sys.executable, "-m", "mlflow", "server", "--host", LOOPBACK, "--port", str(self._port)]
        command += ["--workers", "1", "--backend-store-uri", self.store]
        command += ["--artifacts-destination", str(self._folder / "artifacts")]
        environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
        with open(self._folder / "server.log", "ab") as log:
            self._process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
        self._await()

    def kill(self) -> None:
        """SIGKILL to the server and its worker: what it had begun is lost or committed, nobody knows."""
        self._signal(signal.SIGKILL)
        assert self._process is not None
        self._process.wait()
        self._process = None

    def freeze(self) -> None:
        """The server keeps its connections and answers nothing."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self._signal(signal.SIGCONT)

    def __enter__(self) -> MlflowServer:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._process is not None:
            self.kill()

    def _signal(self, number: int) -> None:
        assert self._process is not None, "the server does not run"
        os.killpg(self._process.pid, number)

    def _await(self) -> None:
        until_s = time.monotonic() + START_S
        while True:
            try:
                with urlopen(f"{self.uri}/health", timeout=5):
                    return
            except (URLError, ConnectionError, TimeoutError):
                assert self._process is not None and self._process.poll() is None, "the server did not start"
                assert time.monotonic() < until_s, "the server does not answer"
                time.sleep(0.2)
