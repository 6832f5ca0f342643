"""Two nodes, one of which dies or is cut off in silence: its trials go on at the other one from their last rung."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pytest
import yaml

from hpsearch.exit_codes import DONE
from hpsearch.folder import SearchFolder
from hpsearch.home import Home
from tests.chaos import witnesses
from tests.chaos.harness import Trail
from tests.chaos.namespaces import PORT, SOON, Node, two_nodes
from tests.conftest import REPOSITORY

pytestmark = [
    pytest.mark.chaos,
    pytest.mark.skipif(os.geteuid() != 0, reason="only root may make network namespaces"),
]
TINY = REPOSITORY / "search_spaces" / "tiny.yaml"
# Models large enough for trials of seconds: a node has to die under one.
LONGER = {
    "name": "nodes",
    "ladder": [{"width": 32, "depth": 1, "heads": 2, "trials": 5}, {"width": 64, "depth": 1, "heads": 2, "trials": 4}],
    "proof": {"width": 96, "depth": 1, "heads": 2, "tokens_per_parameter": 2.0, "trials": 3},
    "target": {"width": 128, "depth": 2, "heads": 2, "tokens": 5.0e5},
    "budget_flops": 4.0e12,
}
PATIENCE_S = 500.0
LATE_S = 40.0  # for a writer that goes on to reach its rung
LOOK_S = 0.3
BUSY_PERCENT = 15.0  # of a core: an actor without a trial takes 1
CUT_S = 70.0  # at least: longer than Ray takes to notice, as it is delivered
AS_DELIVERED = {"RAY_gcs_rpc_server_reconnect_timeout_s": "900"}  # but that the cut-off node lives on, and trains


class Search:
    """One search on two nodes; its trials take seconds, long enough for a node to die under them."""

    def __init__(self, folder: Path, cache: Path, head: Node, other: Node) -> None:
        self.head, self.other = head, other
        self.folder = SearchFolder(Home(folder / "home"), "nodes")
        file = folder / "search.yaml"
        file.write_text(yaml.safe_dump({**yaml.safe_load(TINY.read_text()), **LONGER}))
        self.trail = Trail(Path(self.folder.checkpoints))
        command = [sys.executable, "-m", "tests.chaos.on_cluster", f"{head.address}:{PORT}", head.address]
        self.driver = head.start([*command, str(file), str(self.folder.home.path), str(cache)])

    def trial_under_way(self) -> psutil.Process:
        """The other node's stack actor, once it trains."""
        until_s = time.monotonic() + PATIENCE_S
        while time.monotonic() < until_s and self.driver.poll() is None:
            for process in self.other.processes():
                with suppress(psutil.NoSuchProcess):
                    there = process.name().startswith("ray::StackActor") and len(self.trail.seen) >= 3
                    if there and process.cpu_percent(LOOK_S) > BUSY_PERCENT:
                        return process
            time.sleep(0.05)
        raise AssertionError("the other node never trains")

    def complete(self) -> None:
        """Waits for the end, and asks every witness."""
        assert self.driver.wait(PATIENCE_S) == DONE
        self.holds()

    def holds(self) -> None:
        self.trail.look()
        entries = witnesses.entries_of(self.folder)
        witnesses.decisions_are_recomputed(entries)
        witnesses.nothing_is_lost(entries)
        witnesses.nothing_is_measured_twice(entries)
        witnesses.segments_start_at_their_rung(entries)
        witnesses.segments_are_saved_once(self.trail.seen, entries)
        witnesses.recorded_once(self.folder, entries)
        closed = witnesses.state_of(entries).closed
        assert closed is not None and closed.device_seconds["devices"] == 1.0, "the other node's actor answered"


@contextmanager
def searching(folder: Path, cache: Path, environment: Mapping[str, str]) -> Iterator[Search]:
    with two_nodes(environment) as (head, other):
        search = Search(folder, cache, head, other)
        follower = threading.Thread(target=search.trail.follow, daemon=True)
        follower.start()
        try:
            yield search
        finally:
            search.trail.stop()
            follower.join()


def test_a_node_dies(tmp_path: Path, cache: Path) -> None:
    with searching(tmp_path, cache, SOON) as search:
        search.trial_under_way()
        search.other.kill()
        search.complete()


def test_a_node_is_cut_off_and_writes_late(tmp_path: Path, cache: Path) -> None:
    """Its stack actor is held until its trials have gone on elsewhere; what it then writes must not count."""
    with searching(tmp_path, cache, AS_DELIVERED) as search:
        actor = search.trial_under_way()
        actor.send_signal(signal.SIGSTOP)
        search.other.cut()
        cut_s = time.monotonic()
        search.complete()
        assert time.monotonic() - cut_s > CUT_S
        actor.send_signal(signal.SIGCONT)
        until_s = time.monotonic() + LATE_S
        while "another device was first" not in search.other.ray_logs():
            assert time.monotonic() < until_s, "the cut-off writer never came to its rung"
            time.sleep(0.5)
        search.holds()
        search.other.heal()
        time.sleep(5)
        search.holds()
