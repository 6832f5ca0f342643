"""What telling MLflow costs: a made-up search through the sender, into a local store and into a real server.

    python -m tests.benchmarks.mlflow_sender --trials 1000

Prints a line a store: events a second, and the sender's CPU time a trial, live (in rounds of 100 events) and as one
catch-up.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

from hpsearch.folder import SearchFolder
from hpsearch.home import Home
from hpsearch.ledger import Ledger
from hpsearch.record import Sender
from tests.hpsearch.event_stream import stream
from tests.hpsearch.mlflow_server import MlflowServer

LIVE_EVENTS = 100  # a round of a search at about 11 trials/s


def measure(scratch: Path, num_trials: int, mlflow: str, is_live: bool) -> str:
    """Sends a search of its own name; returns the line."""
    name = f"{'live' if is_live else 'catch-up'}-{num_trials}"
    folder = SearchFolder(Home(scratch / "home", mlflow=mlflow), name)
    folder.path.mkdir(parents=True)
    events, ledger = stream(num_trials, name), Ledger(folder.ledger)
    first = LIVE_EVENTS if is_live else len(events)
    ledger.create(*events[:first])
    sender = Sender(folder)
    sender.send()  # the first call makes a store
    wall_s = cpu_s = 0.0
    for start in range(first, len(events) + LIVE_EVENTS, LIVE_EVENTS):
        began_s, began_cpu_s = time.monotonic(), time.process_time()
        while not sender.send():
            pass
        wall_s, cpu_s = wall_s + time.monotonic() - began_s, cpu_s + time.process_time() - began_cpu_s
        if events[start : start + LIVE_EVENTS]:
            ledger.append(*events[start : start + LIVE_EVENTS])
    began_s = time.monotonic()
    sender.send_copy()
    copy_s = time.monotonic() - began_s
    sender.close()
    return (
        f"{'server' if mlflow else 'local':7} {name:16} {len(events) / wall_s:7.0f} events/s "
        f"{num_trials / wall_s:6.1f} trials/s {1000 * cpu_s / num_trials:6.1f} ms CPU/trial, copy {copy_s:.2f} s"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=1000)
    num_trials = parser.parse_args().trials
    with tempfile.TemporaryDirectory() as scratch:
        for is_live in (True, False):
            print(measure(Path(scratch) / "local", num_trials, "", is_live), flush=True)
        with MlflowServer(Path(scratch) / "server") as server:
            for is_live in (True, False):
                print(measure(Path(scratch) / "remote", num_trials, server.uri, is_live), flush=True)


if __name__ == "__main__":
    main()
