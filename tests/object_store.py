"""An S3 store of our own on loopback, which can be stopped and started again with its files."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import fsspec
from moto.server import ThreadedMotoServer

BUCKET = "searches"
CREDENTIALS = {"AWS_ACCESS_KEY_ID": "tests", "AWS_SECRET_ACCESS_KEY": "tests", "AWS_DEFAULT_REGION": "us-east-1"}


class ObjectStore:
    """Its files outlive the server, as moto keeps them in this process."""

    def __init__(self) -> None:
        logging.getLogger("werkzeug").setLevel(logging.ERROR)  # a line a request
        self._port = 0
        self.start()

    def start(self) -> None:
        """Listens where it did before."""
        self._server = ThreadedMotoServer(ip_address="127.0.0.1", port=self._port, verbose=False)
        self._server.start()
        self._port = self._server.get_host_and_port()[1]

    def stop(self) -> None:
        """Refuses connections from now on."""
        self._server.stop()

    @property
    def environment(self) -> dict[str, str]:
        """By which any client finds it."""
        return {**CREDENTIALS, "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self._port}"}


@contextmanager
def object_store(environ: Any) -> Iterator[ObjectStore]:
    """A store with one bucket; `environ`, a mapping such as `os.environ`, leads there while the block runs."""
    store = ObjectStore()
    before = {name: environ.get(name) for name in store.environment}
    environ.update(store.environment)
    try:
        client = fsspec.get_filesystem_class("s3")
        client.clear_instance_cache()  # one of an earlier store would go on looking for it
        files = client(use_listings_cache=False)
        if files.exists(BUCKET):  # moto remembers what earlier stores of this process had
            files.rm(BUCKET, recursive=True)
        files.mkdir(BUCKET)
        yield store
    finally:
        for name, value in before.items():
            environ.pop(name, None)
            if value is not None:
                environ[name] = value
        store.stop()
