"""A search and its recorder: started with the search, asked at its end what MLflow was not told.

Nothing here stops a search or holds its end for long.
"""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict

from hpsearch.folder import SearchFolder
from hpsearch.ledger import read_ledger
from hpsearch.state import SearchState
from hpsearch.unsent import Unsent
from search_spaces.errors import one_line

log = logging.getLogger(__name__)

NICENESS = 5  # training goes first
PATIENCE_S = 120.0  # for the farewell of a recorder, which has limits of its own


@contextmanager
def in_background(folder: SearchFolder, told: Callable[[Unsent | None], object]) -> Iterator[None]:
    """Records while the block runs, and what came out of it; then `told` is given what MLflow was not told."""
    recorder = _start(folder)
    try:
        yield
    finally:
        if recorder.poll() is not None:
            log.warning("the recorder ended before its time, by %d; another one catches up", recorder.returncode)
            _farewell(recorder, folder)
            recorder = _start(folder)
        told(_farewell(recorder, folder))


def attach_quietly(folder: SearchFolder, state: SearchState) -> Unsent | None:
    """Puts what came out of a search beside its run; an MLflow that is away does not fail a search that is complete."""
    from hpsearch.recorded_search import attach  # with MLflow, which no search waits for while it runs

    try:
        attach(folder, state)
        return None
    except Exception as error:  # the boundary to a service that may fail in any way
        return Unsent(folder.name, folder.mlflow_uri, one_line(str(error)), state.seq + 1, state.seq)


def _start(folder: SearchFolder) -> subprocess.Popen[str]:
    # From its first line on, as MLflow takes seconds to load beside workers that start.
    command = ["nice", "-n", str(NICENESS), sys.executable, "-m", "hpsearch.recorder"]
    with open(folder.log, "ab") as log_file:
        recorder = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log_file,
            text=True,
            start_new_session=True,  # Ctrl-C is for the search, whose end is still to be recorded then
        )
    home = asdict(folder.home)
    _tell(recorder, json.dumps({"home": home | {"path": str(folder.home.path)}, "name": folder.name}))
    return recorder


def _tell(recorder: subprocess.Popen[str], line: str) -> None:
    assert recorder.stdin is not None
    with suppress(BrokenPipeError):  # it is dead, which its answer will show
        recorder.stdin.write(line + "\n")
        recorder.stdin.flush()


def _farewell(recorder: subprocess.Popen[str], folder: SearchFolder) -> Unsent | None:
    """Says that the search has ended; returns what the recorder could not send, or what is known of its death."""
    assert recorder.stdin is not None and recorder.stdout is not None
    _tell(recorder, "the search has ended")
    patience = threading.Timer(PATIENCE_S, recorder.kill)
    patience.start()
    try:
        answer = recorder.stdout.readline()
    finally:
        patience.cancel()
        patience.join()  # no thread of ours may outlive Ray
    with suppress(BrokenPipeError):
        recorder.stdin.close()
    recorder.stdout.close()
    code = recorder.wait()
    if not answer:
        return Unsent(
            folder.name, folder.mlflow_uri, f"its recorder ended by {code}", 1, len(read_ledger(folder.ledger))
        )
    unsent = json.loads(answer)
    return Unsent(**unsent) if unsent else None
