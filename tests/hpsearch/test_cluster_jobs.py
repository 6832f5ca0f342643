"""First contact with a cluster, against real servers that are no cluster: told at once, and no token goes astray.

Clusters themselves are in tests/test_cluster.py.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from hpsearch import cluster_jobs
from hpsearch.cluster_config import Cluster
from hpsearch.cluster_jobs import Jobs, _Printed
from search_spaces.errors import UserError

LOOPBACK = "127.0.0.1"


@contextmanager
def server(status: int, location: str = "") -> Iterator[tuple[str, list[str]]]:
    """An HTTP server that answers everything in one way; its address, and the Authorization headers that it saw."""
    seen: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            seen.append(self.headers.get("Authorization", ""))
            self.send_response(status)
            if location:
                self.send_header("Location", location)
            self.end_headers()

        def log_message(self, *given: object) -> None:
            pass

    with ThreadingHTTPServer((LOOPBACK, 0), Handler) as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield f"http://{LOOPBACK}:{running.server_port}", seen
        finally:
            running.shutdown()
            thread.join()


def cluster(address: str) -> Cluster:
    return Cluster("lab", address, "5ecret", "lab.token")


@pytest.mark.parametrize(
    ("status", "said"),
    [
        (200, "does not answer as Ray does .*; start it, or correct the address"),
        (401, "wants a token, and there is none; give it by lab.token"),
        (403, "refuses the token of lab.token; put the token of this cluster there"),
        (404, "answers 404, which Ray's dashboard does not; correct the address"),
    ],
)
def test_what_is_no_cluster_of_this_token_is_told(status: int, said: str) -> None:
    with server(status) as (address, _), pytest.raises(UserError, match=said) as told:
        Jobs(cluster(address))
    assert "5ecret" not in str(told.value)


def test_the_token_does_not_follow_a_redirect() -> None:
    with server(200) as (elsewhere, seen), server(302, elsewhere) as (address, _):
        with pytest.raises(UserError, match="answers 302"):
            Jobs(cluster(address))
        assert seen == []


def test_nobody_there_is_told() -> None:
    with socket.create_server((LOOPBACK, 0)) as gone:
        port = gone.getsockname()[1]
    with pytest.raises(UserError, match=f"lab: http://{LOOPBACK}:{port} does not answer .*refused"):
        Jobs(cluster(f"http://{LOOPBACK}:{port}"))


def test_silence_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster_jobs, "CONNECT_S", 0.2)
    with socket.create_server((LOOPBACK, 0)) as silent:  # connections are accepted, and never answered
        began_s = time.monotonic()
        with pytest.raises(UserError, match="does not answer .*timed out"):
            Jobs(cluster(f"http://{LOOPBACK}:{silent.getsockname()[1]}"))
        assert time.monotonic() - began_s < 10


def test_a_log_that_is_read_again_after_a_broken_connection_repeats_nothing() -> None:
    written: list[str] = []
    printed = _Printed(written.append)
    printed.take("one ", 0)
    printed.take("two ", 4)
    printed.take("one two three ", 0)  # connected again: from the start
    printed.take("four", 14)
    printed.take("one two three four", 0)
    assert written == ["one ", "two ", "three ", "four"]
