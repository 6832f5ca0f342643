"""The Ray that a driver trains on: one of its own on this machine, or a running cluster that it joins."""

from __future__ import annotations

import logging
import os
import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import ray

from hpsearch.halted import SearchHalted
from hpsearch.view import View
from search_spaces.errors import UserError, one_line

NAMESPACE = "hpsearch"
CONNECT_S = 5.0
# Of the driver, wherever it trains.
TUNE_ENVIRONMENT = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # our own handler leaves the search resumable
    "TUNE_GLOBAL_CHECKPOINT_S": "1e9",  # never: a snapshot of all trials that nobody reads, kept in memory too
    "RAY_AIR_NEW_OUTPUT": "0",  # our own view shows the search
}
# Of a Ray of our own, where the user's environment does not say otherwise: Ray reads its authentication when it is
# loaded, so a shell that holds a cluster's token has it for a Ray of our own too. The nodes of a cluster are started in
# an environment of theirs: deploy/ray.env.
EMBEDDED_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AUTH_MODE": "disabled",  # it listens on loopback only
    # Ray's default of 15 starves one of a stack's threads as soon as anything else runs, and the others wait for it.
    "RAY_worker_niceness": "0",
    # Some 50 us of spinning at a barrier, then sleep: alone as fast as OpenMP's endless spinning, beside another
    # busy process several times faster.
    "GOMP_SPINCOUNT": "20000",
}


@contextmanager
def connected_ray(address: str, view: View) -> Iterator[None]:
    """A Ray to train on, unless one is connected already.

    Args:
        address: of the cluster to join, HOST:PORT or auto; empty for a Ray of our own, on loopback.
        view: who shows the progress.

    Raises:
        UserError: the cluster cannot be joined.
        SearchHalted: no Ray starts on this machine.
    """
    os.environ.update(TUNE_ENVIRONMENT)
    if ray.is_initialized():
        yield
        return
    if address:
        view.note(f"ray: joining the cluster at {address}")
        _join(address)
    else:
        view.note("ray: starting")
        _start()
    try:
        yield
    finally:
        ray.shutdown()


def _start() -> None:
    for name, value in EMBEDDED_ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    try:
        ray.init(
            address="local",
            namespace=NAMESPACE,
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
            object_store_memory=256 * 2**20,  # measurements are small; text is read from a shared memmap
        )
    except Exception as error:  # a bare Exception is what Ray raises where one of its processes dies at the start
        raise SearchHalted(
            one_line(f"Ray does not start on this machine ({error})")
            + "; see /tmp/ray/session_latest/logs, free memory and room in /tmp, then go on with `hpsearch resume`"
        ) from error


def _join(address: str) -> None:
    """The environment says how the cluster authenticates; whatever runtime environment a job has is kept."""
    _check_answers(address)
    try:
        ray.init(address=address, namespace=NAMESPACE, log_to_driver=False, logging_level=logging.ERROR)
    except (OSError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
        raise UserError(
            one_line(f"--ray {address}: the cluster cannot be joined ({error})")
            + "; correct --ray or RAY_ADDRESS, RAY_AUTH_MODE and the token; without --ray a search runs on this machine"
        ) from error


def _check_answers(address: str) -> None:
    """Ray itself tries for a minute."""
    if address == "auto":
        return
    match = re.fullmatch(r"([\w.-]+|\[[0-9a-fA-F:]+\]):(\d{1,5})", address)
    if match is None:
        raise UserError(
            one_line(f"--ray: must be auto or HOST:PORT, got {address}")
            + "; a search is sent to a cluster's http:// address by `hpsearch submit`"
        )
    try:
        socket.create_connection((match[1].strip("[]"), int(match[2])), CONNECT_S).close()
    except (OSError, OverflowError) as error:
        raise UserError(
            one_line(f"--ray {address}: does not answer ({error})") + "; correct --ray or RAY_ADDRESS"
        ) from error
