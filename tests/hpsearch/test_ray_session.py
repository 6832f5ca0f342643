"""Joining a cluster that is not there is told at once."""

from __future__ import annotations

import socket

import pytest

from hpsearch.ray_session import _join
from search_spaces.errors import UserError


def test_nobody_there_is_told() -> None:
    with socket.create_server(("127.0.0.1", 0)) as gone:
        port = gone.getsockname()[1]
    with pytest.raises(UserError, match=f"--ray 127.0.0.1:{port}: does not answer .*; correct --ray or RAY_ADDRESS"):
        _join(f"127.0.0.1:{port}")


@pytest.mark.parametrize("address", ["http://127.0.0.1:8265", "ray://head:10001", "head", "head:", "a b:1", "x:1; rm"])
def test_what_is_no_address_of_a_cluster_is_told(address: str) -> None:
    with pytest.raises(UserError, match="--ray: must be auto or HOST:PORT, got .*`hpsearch submit`"):
        _join(address)
