"""Ends a driver whose own Ray node has died: Ray Tune would wait for it for ever."""

from __future__ import annotations

import logging
import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import ray

from hpsearch.exit_codes import STOPPED

log = logging.getLogger(__name__)

LOOK_EVERY_S = 2.0
GRACE_S = 15.0  # for the ordinary way out, which is blocked where it waits for the dead node
NODE_DIED = "Ray's node on this machine has died; nothing is lost, go on with `hpsearch resume`"


@contextmanager
def watching_node(halt: Callable[[str], None]) -> Iterator[None]:
    """While the block runs: `halt` is told of the node's death, and the process ends if the block does not.

    All that matters is in the ledger, so an end at once costs no more than a kill does.
    """
    ended = threading.Event()
    node_id = ray.get_runtime_context().get_node_id()
    thread = threading.Thread(target=_watch, args=(node_id, halt, ended), name="node-watch", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _watch(node_id: str, halt: Callable[[str], None], ended: threading.Event) -> None:
    while not ended.wait(LOOK_EVERY_S):
        if _is_dead(node_id):
            log.error(NODE_DIED)
            halt(NODE_DIED)
            if not ended.wait(GRACE_S):
                print(f"halted: {NODE_DIED}", file=sys.stderr, flush=True)
                os._exit(STOPPED)
            return


def _is_dead(node_id: str) -> bool:
    """As Ray's head sees it; a head that does not answer is waited for by Ray, which then ends the process."""
    try:
        nodes = ray.nodes()  # type: ignore[no-untyped-call]  # of Ray
    except Exception:  # the boundary to a service that may fail in any way
        log.exception("Ray's head does not say whether this node lives")
        return False
    return any(node["NodeID"] == node_id and not node["Alive"] for node in nodes)
