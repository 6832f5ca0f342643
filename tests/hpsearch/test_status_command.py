"""How a search stands on this machine, and how its driver is stopped."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from click.testing import CliRunner

from hpsearch import status_command
from hpsearch.cli import cli
from hpsearch.folder import SearchFolder
from hpsearch.home import Home
from hpsearch.status_command import follow_log, search_status, status_lines, stop_search
from search_spaces.errors import UserError
from tests.hpsearch.simulation import begin, spec_of

# A driver as far as the lock goes: it holds the ledger until SIGTERM.
DRIVER = """
import signal, sys, threading
from pathlib import Path
from hpsearch.ledger import Ledger
ended = threading.Event()
signal.signal(signal.SIGTERM, lambda *_: ended.set())
with Ledger(Path(sys.argv[1])).writing():
    print("holds", flush=True)
    while not ended.wait(0.05):
        pass
"""


@contextmanager
def driver(folder: SearchFolder) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", DRIVER, str(folder.ledger)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None and process.stdout.readline() == "holds\n"
            yield process
        finally:
            process.kill()


@pytest.fixture
def folder(tmp_path: Path) -> SearchFolder:
    begin(tmp_path / "simulated", spec_of())
    return SearchFolder(Home(tmp_path), "simulated")


def test_a_search_without_a_driver_is_interrupted(folder: SearchFolder) -> None:
    status = search_status(folder)
    assert (status["state"], status["driver"], status["running"]) == ("interrupted", "", [])
    assert status["began_s"] <= status["last_event_s"]
    assert "driver: none" in "\n".join(status_lines(status))
    with pytest.raises(UserError, match="no driver runs it; go on with `hpsearch resume simulated`"):
        stop_search(folder)


def test_a_driver_is_told_and_stopped(folder: SearchFolder) -> None:
    with driver(folder) as process:
        assert search_status(folder)["driver"] == str(process.pid)
        ended = stop_search(folder)
        assert process.wait(10) == 0, "by SIGTERM, and by itself"
    assert ended["driver"] == ""


def test_a_driver_that_does_not_stop_is_told(folder: SearchFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(status_command, "STOP_S", 0.1)
    with driver(folder), monkeypatch.context() as deaf:
        deaf.setattr("os.kill", lambda pid, number: None)
        with pytest.raises(UserError, match="did not stop within 0 s; look at its log"):
            stop_search(folder)


def test_a_driver_elsewhere_is_not_touched(folder: SearchFolder) -> None:
    with pytest.raises(UserError, match="its driver is elsewhere .*--cluster"):
        status_command._process_here("simulated", "process 1 of another-machine")


def test_a_log_is_printed_and_an_absent_one_told(folder: SearchFolder) -> None:
    written: list[str] = []
    with pytest.raises(UserError, match="no log here; .*give --cluster"):
        follow_log(folder, written.append, is_followed=False)
    folder.log.write_text("one\ntwo\n")
    follow_log(folder, written.append, is_followed=True)  # ends, as no driver runs
    assert "".join(written) == "one\ntwo\n"


def test_the_commands_answer(folder: SearchFolder) -> None:
    runner, home = CliRunner(), ["--home", str(folder.home.path)]
    one = runner.invoke(cli, ["status", "simulated", *home])
    assert one.exit_code == 0 and one.output.startswith("simulated: interrupted")
    every = runner.invoke(cli, ["status", "--all", "--json", *home])
    assert every.exit_code == 0 and '"name": "simulated"' in every.output
    neither = runner.invoke(cli, ["status", *home])
    assert isinstance(neither.exception, UserError)
