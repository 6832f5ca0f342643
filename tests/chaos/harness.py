"""A search as a user starts it, whose parts are killed at random moments.

with Survivor(folder, options, services) as survivor:
    survivor.survive([Kill(Part.DRIVER, events=5, delay_s=0.3), ...])

A moment is counted in events of the ledger plus a delay, so that kills fall everywhere: while Ray starts, within a
segment, between a checkpoint's file and its row in the ledger. The same seed draws the same moments.
"""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

import psutil

from hpsearch.exit_codes import DONE, STOPPED
from hpsearch.folder import SearchFolder
from hpsearch.ledger import Ledger
from search_spaces.errors import UserError

SEARCH_FILE = Path(__file__).with_name("search.yaml")
POLL_S = 0.05
PATIENCE_S = 900.0  # with one life of a driver; beside busy neighbours a search of 17 s has taken six minutes


class Part(StrEnum):
    """What is killed."""

    DRIVER = "driver"
    STACK_ACTOR = "stack actor"
    WORKER = "thin worker"
    RAYLET = "raylet"
    MLFLOW = "MLflow server"
    POSTGRES = "PostgreSQL"


# Of the driver's descendants, by the beginning of their command lines.
COMMANDS = {Part.STACK_ACTOR: "ray::StackActor", Part.WORKER: "ray::Trial", Part.RAYLET: "raylet"}


RESTARTED = (Part.DRIVER, Part.RAYLET)  # with all of the search: no search without its driver or its only node


@dataclass(frozen=True)
class Kill:
    """One SIGKILL, and its moment."""

    part: Part
    events: int  # that the ledger has to gain since the kill before
    delay_s: float  # after that

    def __str__(self) -> str:
        return f"{self.part} after {self.events} events and {self.delay_s:.2f} s"


def draw_kills(part: Part, seed: int, count: int = 1) -> list[Kill]:
    """So many kills of a part in a row, each after the first while the search still recovers.

    Trials whose actors run end without a raylet: a search that is to lose two of them loses the first one while Ray
    and its workers still start.
    """
    moments = random.Random(seed)
    is_early = part is Part.RAYLET and count > 1
    first = Kill(part, 1 if is_early else moments.randint(1, 25), moments.uniform(0.0, 1.5))
    recovery_s = 8.0 if part in RESTARTED else 1.5
    return [first, *(Kill(part, 0, moments.uniform(0.0, recovery_s)) for _ in range(count - 1))]


def hpsearch(*arguments: str) -> None:
    """A command that has to succeed."""
    subprocess.run([sys.executable, "-m", "hpsearch", *arguments], check=True, stdout=subprocess.DEVNULL)


@dataclass(frozen=True)
class Service:
    """Something beside the search that can be killed and started again on the same data."""

    kill: Callable[[], None]
    start: Callable[[], None]


@dataclass
class Trail:
    """Every checkpoint file that was ever there: a second one of a segment is a segment trained twice."""

    folder: Path
    seen: dict[tuple[str, str], set[tuple[str, int]]] = field(default_factory=dict)  # (trial, rung): (file, version)
    _ended: threading.Event = field(default_factory=threading.Event)

    def follow(self) -> None:
        while not self._ended.wait(POLL_S):
            self.look()

    def look(self) -> None:
        for file in self.folder.glob("*/*.safetensors"):
            with suppress(FileNotFoundError):  # freed meanwhile
                segment = file.parent.name, file.name.partition("-")[0]
                self.seen.setdefault(segment, set()).add((file.name, file.stat().st_mtime_ns))

    def stop(self) -> None:
        self._ended.set()


class Survivor:
    """One search over its lives. `told` says what was done to it, and when."""

    def __init__(self, folder: SearchFolder, options: Sequence[str], services: Mapping[Part, Service]) -> None:
        self.folder = folder
        self.trail = Trail(Path(folder.checkpoints))
        self.told: list[str] = []
        self._options = options  # of `run` and `resume`, beside the search
        self._services = services
        self._started_s = time.monotonic()
        self._until_s = self._started_s + PATIENCE_S
        self._driver: psutil.Popen | None = None
        self._family: set[psutil.Process] = set()
        self._follower = threading.Thread(target=self.trail.follow, daemon=True)

    def __enter__(self) -> Survivor:
        self._follower.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.trail.stop()
        self._follower.join()
        for process in self._family:  # where a test has failed; else they have ended
            with suppress(psutil.NoSuchProcess):
                process.kill()

    def survive(self, kills: Sequence[Kill], slots: int = 0) -> None:
        """Runs the search to its end, through all the kills."""
        run = ["run", str(SEARCH_FILE), "--name", self.folder.name, *(["--slots", str(slots)] if slots else [])]
        resume = ["resume", self.folder.name]
        waiting, ended = list(kills), False
        while not ended:
            self._start(run if self.num_events() == 0 else resume)
            while waiting and self._await_moment(waiting[0]) and self._kill(waiting[0]):
                waiting.pop(0)
            ended = self._end()
        assert not waiting, f"the search was complete before its kills: {waiting}"

    def num_events(self) -> int:
        """Events of the ledger; 0 while it is being made."""
        ledger = Ledger(self.folder.ledger)
        try:
            return ledger.read()[-1].seq if ledger.exists() else 0
        except UserError:
            return 0
        finally:
            ledger.close()

    def _start(self, arguments: Sequence[str]) -> None:
        command = [sys.executable, "-m", "hpsearch", *arguments, *self._options, "--quiet"]
        self._tell(" ".join(arguments[:2]))
        self._until_s = time.monotonic() + PATIENCE_S
        self._driver = psutil.Popen(command, start_new_session=True, stdout=subprocess.DEVNULL)
        self._family = {self._driver}

    def _await_moment(self, kill: Kill) -> bool:
        """Whether the search is still there when the moment has come."""
        ledger = Ledger(self.folder.ledger)
        seen = start = self.num_events()
        while seen < start + kill.events and self._goes_on():
            with suppress(UserError):  # not yet made, or the database is away
                seen += len(ledger.read(after_seq=seen)) if ledger.exists() else 0
        ledger.close()
        time.sleep(kill.delay_s)
        return self._goes_on()

    def _goes_on(self) -> bool:
        """Whether the driver lives, asked not too often."""
        assert self._driver is not None and time.monotonic() < self._until_s, f"nothing happens: {self.told}"
        time.sleep(POLL_S)
        return self._driver.poll() is None

    def _kill(self, kill: Kill) -> bool:
        """Whether it was there to be killed."""
        assert self._driver is not None
        self._family |= set(self._descendants())
        if kill.part in self._services:
            self._services[kill.part].kill()
            self._tell(f"killed: {kill}")
            self._services[kill.part].start()
            return True
        victim = self._victim(kill.part)
        if victim is None:
            return False
        victim.kill()
        self._tell(f"killed: {kill}")
        if kill.part in RESTARTED:
            self._driver.wait(PATIENCE_S)
        return True

    def _victim(self, part: Part) -> psutil.Process | None:
        """The process to kill, once it has started, or started again; None where the search has ended before."""
        while self._goes_on():
            if part is Part.DRIVER:
                return self._driver
            for process in self._descendants():
                with suppress(psutil.NoSuchProcess):
                    if _command(process).startswith(COMMANDS[part]):
                        return process
        return None

    def _end(self) -> bool:
        """Waits for the driver to end; whether the search is complete."""
        assert self._driver is not None
        code = self._driver.wait(PATIENCE_S)
        self._tell(f"ended by {code}")
        assert code in (DONE, STOPPED, -signal.SIGKILL), f"neither done nor resumable: {self.told}"
        return code == DONE

    def _descendants(self) -> list[psutil.Process]:
        assert self._driver is not None
        with suppress(psutil.NoSuchProcess):
            return list(self._driver.children(recursive=True))
        return []

    def _tell(self, what: str) -> None:
        self.told.append(f"{time.monotonic() - self._started_s:6.1f} s  {what}")


def _command(process: psutil.Process) -> str:
    """What a process calls itself, without its folder; Ray's workers say there what they run."""
    words = process.cmdline()
    return words[0] if words and words[0].startswith("ray::") else Path(words[0]).name if words else ""
