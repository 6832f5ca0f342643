"""The process that tells MLflow of a search while it runs, with patience for a server that is away.

    python -m hpsearch.recorder

A process of its own, as the client of MLflow takes some 10 to 20 ms of CPU a trial, which would hold the search's
decisions up. It reads its orders from stdin: what to record, later that the search has ended. It answers with what it
could not send. Without its driver it is gone at once: the driver of a resume has a recorder of its own.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from mlflow.exceptions import MlflowException

from hpsearch.folder import SearchFolder
from hpsearch.home import Home
from hpsearch.mlflow_store import reason_of
from hpsearch.record import Sender
from hpsearch.recording import attach_quietly
from hpsearch.search_log import logging_to
from hpsearch.unsent import Unsent

log = logging.getLogger("hpsearch.recorder")

SEND_EVERY_S = 1.0
MAX_PAUSE_S = 30.0  # between two attempts at a server that is away
COPY_EVERY_S = 30.0
COPY_SHARE = 0.02  # of the time, at most, for copies of the ledger
FAREWELL_S = 60.0  # at the end of a search, while MLflow takes what is sent
MAX_FAREWELL_FAILURES = (
    2  # in a row, those before the end counted: a server that is known to be away is asked once more
)


class Recorder:
    """A sender with patience: it waits longer after each failure, and logs the first and the return, not each."""

    def __init__(self, folder: SearchFolder) -> None:
        self._folder = folder
        self._sender = Sender(folder)
        self._failures = 0
        self._away_since_s = 0.0
        self._copy_at_s = 0.0  # when the next copy of the ledger is due
        self.reason = ""  # of the last failure, none after a success

    @property
    def pause_s(self) -> float:
        return min(SEND_EVERY_S * 2.0**self._failures, MAX_PAUSE_S)

    def follow(self, ended: threading.Event) -> None:
        """Sends what comes until the search has ended."""
        while not ended.wait(self.pause_s):
            while not self._try(self._send_round) and not self.reason and not ended.is_set():
                pass

    def say_farewell(self) -> Unsent | None:
        """Sends the rest, as long as MLflow takes it and the patience lasts; returns what it did not take."""
        until_s = time.monotonic() + FAREWELL_S
        self._copy_at_s = 0.0
        while not self._try(self._send_round):
            if self._failures >= MAX_FAREWELL_FAILURES or time.monotonic() > until_s:
                return self._unsent(self.reason or f"it took more than {FAREWELL_S:.0f} s")
        return None

    def attach_outcome(self) -> Unsent | None:
        """Puts what came out of a complete search beside its run; returns what MLflow did not take."""
        closed = self._sender.state.closed
        is_complete = closed is not None and closed.complete and self._folder.recommendation.is_file()
        return attach_quietly(self._folder, self._sender.state) if is_complete else None

    def close(self) -> None:
        self._sender.close()

    def _send_round(self) -> bool:
        is_done = self._sender.send()
        if is_done and time.monotonic() >= self._copy_at_s:
            began_s = time.monotonic()
            self._sender.send_copy()
            took_s = time.monotonic() - began_s
            self._copy_at_s = began_s + max(COPY_EVERY_S, took_s / COPY_SHARE)
        return is_done

    def _try(self, send: Callable[[], bool]) -> bool:
        try:
            is_done = send()
        except Exception as error:  # the boundary to a service that may fail in any way
            self._failed(error)
            return False
        if self._failures:
            away_s = time.monotonic() - self._away_since_s
            log.warning("MLflow at %s is back after %.0f s", self._folder.mlflow_uri, away_s)
        self._failures, self.reason = 0, ""
        return is_done

    def _failed(self, error: Exception) -> None:
        self.reason = reason_of(error)
        if not self._failures:
            self._away_since_s = time.monotonic()
            unknown = not isinstance(error, MlflowException)  # then the place matters too
            said = "MLflow at %s could not be told (%s); the search goes on, and it is tried again"
            log.warning(said, self._folder.mlflow_uri, self.reason, exc_info=error if unknown else None)
        self._failures += 1

    def _unsent(self, reason: str) -> Unsent:
        first_seq = max(self._sender.cursor, 0) + 1
        return Unsent(self._folder.name, self._folder.mlflow_uri, reason, first_seq, self._sender.last_seq())


def main() -> None:
    """Records until the driver says that the search has ended, then answers with what was not sent."""
    answers, sys.stdout = sys.stdout, sys.stderr  # what a library prints is no answer
    order = json.loads(sys.stdin.readline())
    folder = SearchFolder(Home(**order["home"] | {"path": Path(order["home"]["path"])}), order["name"])
    ended = threading.Event()
    threading.Thread(target=_obey, args=(ended,), name="orders", daemon=True).start()
    with logging_to(folder.log):
        recorder = Recorder(folder)
        recorder.follow(ended)
        unsent = recorder.say_farewell() or recorder.attach_outcome()
        recorder.close()
        if unsent is not None:
            log.warning("%s", unsent)
    print(json.dumps(asdict(unsent) if unsent else None), file=answers, flush=True)
    os._exit(0)  # nothing is left to do, and the thread that waits for orders holds stdin


def _obey(ended: threading.Event) -> None:
    sys.stdin.readline()
    ended.set()
    sys.stdin.readline()
    os._exit(1)


if __name__ == "__main__":
    main()
