"""The recorder of a search and a real MLflow server that is killed, frozen, or never there."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from hpsearch import recording
from hpsearch.cli import cli
from hpsearch.folder import SearchFolder
from hpsearch.home import Home
from hpsearch.mlflow_store import CURSOR_TAG, FILES_TAG, LEDGER_TAG, SEARCH_TAG
from hpsearch.recorded_search import fetch
from hpsearch.recording import in_background
from hpsearch.sync_command import sync
from hpsearch.trials_table import read_state
from hpsearch.ui import LOOPBACK, free_port
from hpsearch.unsent import Unsent
from search_spaces.errors import UserError
from tests.hpsearch.event_stream import stream
from tests.hpsearch.mlflow_server import MlflowServer
from tests.hpsearch.test_record import append, assert_recorded, runs_of, search_of


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MlflowServer]:
    with MlflowServer(tmp_path_factory.mktemp("server")) as server:
        yield server


def at_store(folder: SearchFolder, server: MlflowServer) -> SearchFolder:
    """The search as the server's database has it, whether the server answers or not."""
    return SearchFolder(Home(folder.home.path, mlflow=server.store), folder.name)


def cursor_of(folder: SearchFolder) -> int:
    """How far MLflow has got; 0 before it has begun."""
    try:
        return max(int(run.data.tags[CURSOR_TAG]) for run in runs_of(folder) if SEARCH_TAG in run.data.tags)
    except (AssertionError, ValueError):
        return 0


def await_that(is_so: Callable[[], bool]) -> None:
    until_s = time.monotonic() + 60
    while not is_so():
        assert time.monotonic() < until_s, "it does not come"
        time.sleep(0.1)


@pytest.mark.slow
def test_a_search_is_recorded_while_it_runs_whatever_happens_to_the_server(
    server: MlflowServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "4")
    events, told = stream(30, "a"), list[Unsent | None]()
    folder = search_of(Home(tmp_path, mlflow=server.uri), "outage", events[:20])
    seen = at_store(folder, server)
    with in_background(folder, told.append):
        await_that(lambda: cursor_of(seen) >= 20)
        for number, start in enumerate(range(20, 260, 60)):
            append(folder, *events[start : start + 60])
            time.sleep(0.6 + 0.3 * number)  # in mid-sending, at several places
            if number % 2:
                server.kill()
                time.sleep(1)
                server.start()
            else:
                server.freeze()
                time.sleep(6)  # what was under way is given up, and takes effect all the same once the server goes on
                server.thaw()
        append(folder, *events[260:])
    assert told == [None]
    assert_recorded(seen)
    log = folder.log.read_text()
    assert "timed out" in log and "is back after" in log and "Traceback" not in log


@pytest.mark.slow
def test_a_server_that_never_comes_is_said_and_sync_sends_it_later(tmp_path: Path) -> None:
    port, told = free_port(), list[Unsent | None]()
    uri = f"http://{LOOPBACK}:{port}"
    folder = search_of(Home(tmp_path, mlflow=uri), "away", stream(3, "a"))
    began_s = time.monotonic()
    with in_background(folder, told.append):
        time.sleep(5)
    assert time.monotonic() - began_s < 30
    (unsent,) = told
    assert unsent is not None and (unsent.first_seq, unsent.last_seq) == (1, 29)
    assert "events 1 to 29 were not sent; `hpsearch sync away` sends them" in str(unsent)
    log = folder.log.read_text()
    assert log.count("could not be told (") == 1 and "Traceback" not in log  # one line an outage
    assert str(unsent) in log

    arguments = ["sync", "away", "--home", str(tmp_path), "--mlflow", uri]
    refused = CliRunner().invoke(cli, arguments)
    assert isinstance(refused.exception, UserError) and "0 events are sent" in str(refused.exception)
    with MlflowServer(tmp_path / "server", port) as server:
        assert CliRunner().invoke(cli, arguments).exit_code == 0
        assert_recorded(at_store(folder, server))


@pytest.mark.slow
def test_a_killed_driver_takes_its_recorder_with_it(tmp_path: Path) -> None:
    folder = search_of(Home(tmp_path), "orphan", stream(1, "a")[:-1])
    recorder = recording._start(folder)
    assert recorder.stdin is not None and recorder.stdout is not None
    recorder.stdin.close()
    assert recorder.wait(timeout=60) == 1
    recorder.stdout.close()


def test_a_killed_recorder_is_replaced_at_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recorders: list[subprocess.Popen[str]] = []
    start = recording._start

    def noted(folder: SearchFolder) -> subprocess.Popen[str]:
        recorders.append(start(folder))
        return recorders[-1]

    monkeypatch.setattr(recording, "_start", noted)
    folder, told = search_of(Home(tmp_path), "killed", stream(2, "a")), list[Unsent | None]()
    with in_background(folder, told.append):
        os.kill(recorders[0].pid, signal.SIGKILL)
        recorders[0].wait()
    assert told == [None] and len(recorders) == 2
    assert_recorded(folder)
    run = next(run for run in runs_of(folder) if SEARCH_TAG in run.data.tags)
    assert run.data.tags[LEDGER_TAG] == "20"


@pytest.mark.slow
def test_answers_come_from_a_machine_that_has_only_the_address(server: MlflowServer, tmp_path: Path) -> None:
    folder = search_of(Home(tmp_path / "cluster", mlflow=server.uri), "far", stream(40, "a"))
    folder.recommendation.write_text("{}")
    sync(folder)
    run = next(run for run in runs_of(folder) if SEARCH_TAG in run.data.tags)
    assert run.data.tags[LEDGER_TAG] == run.data.tags[FILES_TAG] == "362"
    freshness = fetch(server.uri, "far", tmp_path / "copy")
    assert (freshness.seq, freshness.state) == (362, "FINISHED")
    copy = SearchFolder(Home(tmp_path / "copy"), "far")
    assert read_state(copy.ledger).trials.keys() == read_state(folder.ledger).trials.keys()

    laptop = ["--home", str(tmp_path / "laptop"), "--mlflow", server.uri]
    listed = CliRunner().invoke(cli, ["list", *laptop])
    assert "far@a" in listed.output and "as of event 362" in listed.output
    shown = CliRunner().invoke(cli, ["ui", "far", *laptop[:1], str(folder.home.path), *laptop[2:]])
    assert shown.output.startswith(f"{server.uri}/#/experiments/") and shown.exit_code == 0
    exported = CliRunner().invoke(cli, ["export", "far", "--accept-reach", *laptop], catch_exceptions=False)
    assert exported.exit_code == 0 and "far: as of event 362" in exported.stderr
    assert "learning_rate" in exported.stdout
    replayed = CliRunner().invoke(cli, ["replay", "far", "--scheduler", "asha", "--json", *laptop])
    assert "no such search" not in replayed.stderr and "as of event 362" in replayed.stderr
    assert not (tmp_path / "laptop" / "far").exists()
