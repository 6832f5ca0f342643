"""Up and down: start what does not run, wait until clients can use it; end exactly what was started."""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from deploy.local import mlflow_server, postgres, processes, ray_nodes
from deploy.local.part import Part
from deploy.local.state import State, create, load
from deploy.probe import NotReady
from search_spaces.errors import UserError

ROLES = ("postgres", "mlflow", "head", *ray_nodes.WORKERS)
STAGES = (
    ("postgres",),
    ("mlflow", "head"),
    *((worker,) for worker in ray_nodes.WORKERS),
)  # a stage needs those before it
POLITE = {"postgres": signal.SIGINT}  # its fast shutdown; SIGTERM would wait until every client has gone
POLL_S = 0.3
TAIL_LINES = 15

Tell = Callable[[str], object]


def up(folder: Path, cpus_per_node: int, ports: dict[str, int], tell: Tell) -> State:
    """Brings a deployment up, or what of it is missing.

    Args:
        folder: of its state; made if it is not there.
        cpus_per_node: of a Ray worker; counts when the folder is made.
        ports: by name, those that are not to be chosen; counts when the folder is made.
        tell: is given a line a part.

    Raises:
        UserError: a part did not come up; what this call started has been ended.
    """
    folder = folder.absolute()
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    with _held(folder):
        state = load(folder) or create(folder, cpus_per_node, ports)
        started: list[str] = []
        try:
            for stage in STAGES:
                _bring_up(state, stage, started, tell)
        except BaseException:
            for role in reversed(started):
                end_part(state, role)
            raise
    return state


def down(folder: Path, tell: Tell) -> None:
    """Ends every process of a deployment; data, logs and secrets stay. Does nothing where nothing runs."""
    folder = folder.absolute()
    if not folder.is_dir():
        return
    with _held(folder):
        state = load(folder)
        if state is None:
            return
        for role in reversed(ROLES):
            if processes.find(f"{state.name}/{role}"):
                end_part(state, role)
                tell(f"{role:<10} ended")
        shutil.rmtree(state.ray_temp, ignore_errors=True)


def main_process(state: State, role: str) -> psutil.Process | None:
    """The process that a part was started as, or None."""
    marked = processes.find(f"{state.name}/{role}")
    told = _told_pid(state, role)
    return next((process for process in marked if process.pid == told), None)


def end_part(state: State, role: str, polite: bool = True) -> None:
    """Ends a part with all its processes; before the head its workers, which can join no other head.

    Args:
        polite: false for what a killed part has left: a Ray node whose head is gone would wait for it in vain.
    """
    if role == "head":
        for worker in ray_nodes.WORKERS:
            end_part(state, worker, polite)
    processes.end(f"{state.name}/{role}", POLITE.get(role, signal.SIGTERM) if polite else None)
    processes.await_reaped(_told_pid(state, role))
    if role == "head":
        shutil.rmtree(state.ray_temp, ignore_errors=True)


def _bring_up(state: State, stage: tuple[str, ...], started: list[str], tell: Tell) -> None:
    parts = [_part(state, role) for role in stage]
    for part in parts:
        if main_process(state, part.role) is None:
            end_part(state, part.role, polite=False)  # what a killed one has left
            state.ray_temp.mkdir(mode=0o700, exist_ok=True)
            started.append(part.role)
            pid = processes.start(part.command, f"{state.name}/{part.role}", part.environment, state.log(part.role))
            _pid_file(state, part.role).write_text(str(pid))
    for part in parts:
        _await(state, part)
        is_new = part.role in started
        tell(f"{part.role:<10} {_address(state, part.role):<50} {'up' if is_new else 'is up already'}")


def _await(state: State, part: Part) -> None:
    deadline = time.monotonic() + part.patience_s
    while True:
        process = main_process(state, part.role)
        if process is None:
            raise UserError(_failure(state, part.role, "ended instead of coming up"))
        try:
            return part.ready(process.create_time() - 1)  # the kernel counts in hundredths since the boot
        except NotReady as error:
            if time.monotonic() > deadline:
                why = f"did not come up within {part.patience_s:.0f} s: {error}"
                raise UserError(_failure(state, part.role, why)) from error
        time.sleep(POLL_S)


def _part(state: State, role: str) -> Part:
    if role == "postgres":
        return postgres.part(state)
    if role == "mlflow":
        return mlflow_server.part(state)
    return ray_nodes.head(state) if role == "head" else ray_nodes.worker(state, role)


def _address(state: State, role: str) -> str:
    if role == "postgres":
        return state.ledger_url
    if role == "mlflow":
        return state.mlflow_url
    return state.jobs_url if role == "head" else f"{state.cpus_per_node} CPU"


def _failure(state: State, role: str, why: str) -> str:
    log = state.log(role)
    tail = log.read_text(errors="replace").splitlines()[-TAIL_LINES:] if log.exists() else []
    return "\n".join([f"{role} {why}", f"{log} ends with:", *(f"  {line}" for line in tail)])


def _pid_file(state: State, role: str) -> Path:
    return state.folder / f"{role}.pid"


def _told_pid(state: State, role: str) -> int:
    """What a part was last started as; 0 if it never was. Whether it still is that, only its mark tells."""
    file = _pid_file(state, role)
    return int(file.read_text()) if file.exists() else 0


@contextmanager
def _held(folder: Path) -> Iterator[None]:
    """One `up` or `down` at a time on a folder; another one waits."""
    descriptor = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
