"""A PostgreSQL of a test's own, on loopback, that can be killed and started again on the same data."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg

from deploy.local.postgres import NOBODY, as_user, find_binaries
from hpsearch.ui import free_port

START_TIMEOUT_S = 60.0


class PostgresServer:
    """One server; `url` is that of its database, without the password, which is in `password`."""

    def __init__(self, folder: Path) -> None:
        self._data = folder / "data"
        self._port = free_port()
        self._process: subprocess.Popen[bytes] | None = None
        self.password = "correct horse"
        self.url = f"postgresql://postgres@127.0.0.1:{self._port}/postgres"
        self._data.mkdir(parents=True)
        word = folder / "password"
        word.write_text(self.password)
        if os.geteuid() == 0:
            os.chown(self._data, NOBODY, NOBODY)
        command = [
            str(find_binaries() / "initdb"),
            "-D",
            str(self._data),
            "--username=postgres",
            "--auth=scram-sha-256",
        ]
        subprocess.run(as_user([*command, f"--pwfile={word}", "--no-sync"]), check=True, capture_output=True)

    def start(self) -> None:
        """Returns when clients are served."""
        settings = {"listen_addresses": "127.0.0.1", "unix_socket_directories": "", "shared_buffers": "16MB"}
        command = [str(find_binaries() / "postgres"), "-D", str(self._data), "-p", str(self._port)]
        command += [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        self._process = None
        deadline = time.monotonic() + START_TIMEOUT_S
        while True:
            if self._process is None or self._process.poll() is not None:  # what a killed one has left still ends
                with open(self._data.parent / "log", "ab") as log:
                    self._process = subprocess.Popen(as_user(command), stderr=log, stdout=log)
            try:
                psycopg.connect(self.url, password=self.password, connect_timeout=2).close()
                return
            except psycopg.OperationalError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.1)

    def kill(self) -> None:
        """SIGKILL, as a power cut: connections break, nothing is flushed."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def stop(self) -> None:
        """Ends it, with whatever is connected."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGINT)  # "fast shutdown"
            self._process.wait(timeout=60)


@contextmanager
def postgres_server(folder: Path) -> Iterator[PostgresServer]:
    """A server that runs while the block does."""
    server = PostgresServer(folder)
    server.start()
    try:
        yield server
    finally:
        server.stop()
