"""How a search stands, and how it is stopped: as its ledger tells it, wherever its driver is."""

from __future__ import annotations

import os
import re
import signal
import socket
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from hpsearch.folder import SearchFolder
from hpsearch.ledger import Ledger
from hpsearch.state import fold
from hpsearch.view import search_summary
from search_spaces.errors import UserError

STOP_S = 60.0  # a driver that takes longer to stop is told of
POLL_S = 0.2


def search_status(folder: SearchFolder) -> dict[str, Any]:
    """A search as programs read it: its summary, what runs, since when, and who drives it."""
    ledger = Ledger(folder.ledger)
    entries, driver = ledger.read(), ledger.holder
    ledger.close()
    state = fold(((entry.seq, entry.event) for entry in entries), str(folder.ledger))
    running = [
        {"trial": trial.trial_id, "params": state.params[trial.asked.proxy], "tokens": trial.asked.rungs[trial.rung]}
        for trial in state.running.values()
    ]
    return {
        **search_summary(state, folder),
        "driver": driver,
        "running": running if driver else [],
        "began_s": entries[0].at_s,
        "last_event_s": entries[-1].at_s,
        "drivers_so_far": len(state.incarnations),
    }


def status_lines(status: dict[str, Any]) -> list[str]:
    """A search as a person reads it."""
    share = status["spent_flops"] / status["budget_flops"]
    began, last = (_when(status[key]) for key in ("began_s", "last_event_s"))
    lines = [
        f"{status['name']}: {status['state']}; {status['counts'] or 'no trials yet'}",
        f"  {share:.0%} of {status['budget_flops']:.3g} FLOPs spent; began {began}, last event {last}",
        f"  driver: {status['driver'] or 'none'}" + (f", job {status['job']}" if status.get("job") else ""),
    ]
    return lines + [
        f"  running: {t['trial']}, N = {t['params']:,}, to {t['tokens']:,} tokens" for t in status["running"]
    ]


def stop_search(folder: SearchFolder) -> dict[str, Any]:
    """Asks the driver to stop, and waits until it has; returns how the search stands then.

    Raises:
        UserError: no driver of this machine runs it, or it does not stop.
    """
    ledger = Ledger(folder.ledger)
    holder = ledger.holder
    if not holder:
        raise UserError(f"{folder.name}: no driver runs it; go on with `hpsearch resume {folder.name}`")
    os.kill(_process_here(folder.name, holder), signal.SIGTERM)
    wait_until(lambda: not ledger.holder, f"{folder.name}: the driver ({holder}) did not stop")
    ledger.close()
    return search_status(folder)


def wait_until(is_true: Callable[[], bool], complaint: str) -> None:
    """Looks again and again, for a minute at most."""
    deadline_s = time.monotonic() + STOP_S
    while not is_true():
        if time.monotonic() > deadline_s:
            raise UserError(f"{complaint} within {STOP_S:.0f} s; look at its log")
        time.sleep(POLL_S)


def follow_log(folder: SearchFolder, write: Callable[[str], object], is_followed: bool) -> None:
    """Passes on the log of a search; with `is_followed` what is added to it, until no driver runs.

    Raises:
        UserError: there is none on this machine.
    """
    ledger = Ledger(folder.ledger)
    try:
        with open(folder.log, encoding="utf-8", errors="replace") as log:
            write(log.read())
            while is_followed and ledger.holder:
                time.sleep(POLL_S)
                write(log.read())
    except FileNotFoundError as error:
        raise UserError(
            f"{folder.log}: no log here; the driver ran elsewhere, give --cluster, or --home as it had it"
        ) from error
    finally:
        ledger.close()


def _process_here(name: str, holder: str) -> int:
    """The id of a driver of this machine; a file's lock tells the id alone, a database's the machine too."""
    told = re.fullmatch(r"(?:process )?(\d+)(?: of (.+))?", holder)
    if told is None or (told[2] and told[2] != socket.gethostname()):
        raise UserError(f"{name}: its driver is elsewhere ({holder}); stop it there, or with --cluster")
    return int(told[1])


def _when(at_s: float) -> str:
    return datetime.fromtimestamp(at_s, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
