"""Joining a cluster that is not there is told at once."""

from __future__ import annotations

import socket
from unittest import mock

import pytest
import ray

from hpsearch.halted import SearchHalted
from hpsearch.ray_session import _join, _start
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


def test_a_ray_that_does_not_start_leaves_the_search_resumable() -> None:
    """Its raylet killed at the start: `tests.chaos.test_kills` does that to a real one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ray, "init", mock.Mock(side_effect=Exception("The current node timed out during startup.")))
        with pytest.raises(SearchHalted, match="Ray does not start .*timed out.*/tmp/ray.*`hpsearch resume`"):
            _start()
