"""Processes that outlive the command that starts them, and are found again by a mark in their environment.

A pid can be another process's by now, and Ray's daemons have children of their own. So each part of a deployment is
started with the variable MARK = "DEPLOYMENT/ROLE", where DEPLOYMENT is random: its descendants inherit it, and nothing
else on the machine has it.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import psutil

MARK = "HPSEARCH_DEPLOYMENT"
LAUNCHER = """
import subprocess, sys
with open(sys.argv[1], "ab") as log:
    process = subprocess.Popen(
        sys.argv[2:], stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
    )
print(process.pid)
"""
PATIENCE_S = 20.0  # from the polite signal to SIGKILL; a Ray node drains for some seconds
GRACE_S = 3.0  # for the others, once the first has ended


def start(command: Sequence[str], mark: str, environment: Mapping[str, str], log: Path) -> int:
    """Starts a process of its own session, as nobody's child; its output is appended to `log`. Returns its pid.

    As a child of ours it would stay a zombie when it is killed: see `await_reaped`.
    """
    # SPT_NOENV: processes that set their title (Ray's do) leave their environment readable.
    marked = {**environment, MARK: mark, "SPT_NOENV": "1"}
    launch = [sys.executable, "-c", LAUNCHER, str(log), *command]
    return int(subprocess.run(launch, env=marked, cwd=log.parent, capture_output=True, text=True, check=True).stdout)


def find(mark: str) -> list[psutil.Process]:
    """The live processes whose mark is `mark` or begins with `mark/`, and their descendants; the oldest first."""
    found: dict[int, psutil.Process] = {}
    for process in psutil.process_iter():
        if _is_marked(process, mark):
            found[process.pid] = process
            found.update((child.pid, child) for child in _descendants(process))
    alive = [process for process in found.values() if process.pid != os.getpid() and is_alive(process)]
    return sorted(alive, key=lambda process: (process.create_time(), process.pid))


def is_alive(process: psutil.Process) -> bool:
    """Whether this very process runs; its pid given to another one, or a zombie, is not alive."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def end(mark: str, polite: signal.Signals | None = signal.SIGTERM) -> None:
    """Ends all processes of a mark: the first of them politely, if it is to be, then whatever is left.

    Raises:
        RuntimeError: some live on, after SIGKILL.
    """
    if polite is not None and (marked := find(mark)):
        _tell(marked[:1], lambda process: process.send_signal(polite))
        _wait(marked[:1], PATIENCE_S)
        _wait(marked, GRACE_S)
    while rest := find(mark):  # what was started meanwhile too
        _tell(rest, lambda process: process.kill())
        if _wait(rest, PATIENCE_S):
            raise RuntimeError(f"processes {[process.pid for process in rest]} do not end; end them by hand")


def await_reaped(pid: int) -> None:
    """Waits until a process that was killed is no zombie either: PostgreSQL takes one for a living rival.

    Init may take a second or two. A live process is not waited for: the pid is another one's by now.
    """
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline and _is_zombie(pid):
        time.sleep(0.1)


def _is_zombie(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _is_marked(process: psutil.Process, mark: str) -> bool:
    try:
        value = process.environ().get(MARK, "")
    except (psutil.Error, OSError):  # another user's, or gone
        return False
    return value == mark or value.startswith(mark + "/")


def _descendants(process: psutil.Process) -> list[psutil.Process]:
    try:
        return process.children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def _tell(processes: Sequence[psutil.Process], what: Callable[[psutil.Process], None]) -> None:
    for process in processes:
        try:
            what(process)
        except psutil.NoSuchProcess:
            continue


def _wait(processes: Sequence[psutil.Process], timeout_s: float) -> list[psutil.Process]:
    """Those that are still alive after `timeout_s`; children of this process are reaped."""
    _, alive = psutil.wait_procs(processes, timeout=timeout_s)
    return [process for process in alive if is_alive(process)]
