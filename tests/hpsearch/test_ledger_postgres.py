"""The ledger in PostgreSQL: as in SQLite, and besides a server that dies, a writer that is cut off, passwords."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
import sqlalchemy

from hpsearch import ledger as ledger_module
from hpsearch.check import check_ledger
from hpsearch.conductor import Conductor
from hpsearch.events import Opened, Resumed
from hpsearch.folder import SearchFolder, find_search, searches
from hpsearch.halted import SearchHalted
from hpsearch.home import Home
from hpsearch.ledger import Ledger
from hpsearch.ledger_store import PostgresAddress, postgres_engine
from hpsearch.state import fold
from search_spaces.errors import UserError
from tests.hpsearch.simulation import World, drive, spec_of
from tests.hpsearch.test_ledger import ONE_OF_EACH, events_in
from tests.postgres_server import PostgresServer, postgres_server

HOLD = """
import sys
from hpsearch.ledger import Ledger
from hpsearch.ledger_store import PostgresAddress
with Ledger(PostgresAddress(sys.argv[1], "one")).writing():
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PostgresServer]:
    with postgres_server(tmp_path_factory.mktemp("postgres")) as running:
        yield running


@pytest.fixture(autouse=True)
def password(server: PostgresServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGPASSWORD", server.password)


@pytest.fixture
def ledger(server: PostgresServer) -> Iterator[Ledger]:
    made = Ledger(PostgresAddress(server.url, "one"))
    made.create()
    yield made
    made.delete()
    made.close()


def resumed(name: str) -> Resumed:
    return Resumed(incarnation=name, versions={})


def test_events_are_read_as_they_were_written(ledger: Ledger) -> None:
    assert ledger.append(*ONE_OF_EACH[:5]) == 5
    with ledger.writing():
        assert ledger.append(*ONE_OF_EACH[5:], after_seq=5) == len(ONE_OF_EACH)
    reader = Ledger(ledger.address)
    assert events_in(reader) == ONE_OF_EACH
    assert [entry.seq for entry in reader.read(after_seq=9)] == list(range(10, len(ONE_OF_EACH) + 1))
    reader.close()


def test_searches_of_one_database_do_not_meet(server: PostgresServer, ledger: Ledger, tmp_path: Path) -> None:
    home = Home(tmp_path, ledger=server.url)
    other = Ledger(SearchFolder(home, "two").ledger)
    assert not other.exists()
    other.create(ONE_OF_EACH[0])
    assert [folder.name for folder in searches(home)] == ["one", "two"]
    assert len(other.read()) == 1 and ledger.read() == []
    assert find_search(home, "two").name == "two"
    with pytest.raises(UserError, match="three: no such search in postgresql://.*; known: one, two"):
        find_search(home, "three")
    with pytest.raises(UserError, match="a ledger cannot be made here"):
        other.create(ONE_OF_EACH[0])
    other.delete()
    assert not other.exists()
    other.close()


def test_a_whole_search_in_postgres(server: PostgresServer, tmp_path: Path) -> None:
    folder = SearchFolder(Home(tmp_path, ledger=server.url), "simulated")
    ledger, spec = Ledger(folder.ledger), spec_of()
    opened = Opened(spec=spec.model_dump(mode="json"), corpus_id="c", tokenizer_id="t", versions={}, incarnation="a")
    ledger.create(opened)
    with ledger.writing():
        state = fold(((entry.seq, entry.event) for entry in ledger.read()), "postgres")
        conductor = Conductor(ledger, state, folder)
        assert drive(conductor, World())
        conductor.close(complete=True, device_seconds={})
    entries = ledger.read()
    assert check_ledger(entries).differences == () and len(entries) == conductor.state.seq
    ledger.delete()
    ledger.close()


def test_one_writer_at_a_time(ledger: Ledger) -> None:
    with ledger.writing(), pytest.raises(UserError, match=rf"running already \(process {os.getpid()} of .*\)"):
        other = Ledger(ledger.address)
        with other.writing():
            raise AssertionError("two writers")
    assert ledger.holder == ""
    with ledger.writing():
        assert str(os.getpid()) in ledger.holder


def test_the_lock_dies_with_its_holder(server: PostgresServer, ledger: Ledger) -> None:
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, server.url], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None and holder.stdout.readline() == "held\n"
    with pytest.raises(UserError, match=rf"process {holder.pid} of"), ledger.writing():
        raise AssertionError("two writers")
    holder.kill()
    holder.communicate()
    deadline = time.monotonic() + 30
    while ledger.holder and time.monotonic() < deadline:
        time.sleep(0.05)
    with ledger.writing():
        ledger.append(resumed("after"))


def test_a_writer_outlives_the_server(server: PostgresServer, ledger: Ledger) -> None:
    with ledger.writing():
        ledger.append(resumed("a"), after_seq=0)
        server.kill()
        again = threading.Timer(1.0, server.start)
        again.start()
        assert ledger.append(resumed("b"), resumed("c"), after_seq=1) == 3
        again.join()
        assert ledger.holder, "the lock was taken again"
        assert ledger.append(resumed("d"), after_seq=3) == 4
    assert [entry.event.incarnation for entry in ledger.read()] == ["a", "b", "c", "d"]


def test_a_commit_whose_answer_was_lost_is_not_written_twice(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    lost = psycopg.OperationalError("server closed the connection unexpectedly")
    write, calls = Ledger._write_by, []

    def unheard(self: Ledger, connection: object, rows: object, is_retry: bool) -> None:
        write(self, connection, rows, is_retry)  # type: ignore[arg-type]
        calls.append(rows)
        if len(calls) == 1:
            raise sqlalchemy.exc.OperationalError("COMMIT", None, lost)

    monkeypatch.setattr(Ledger, "_write_by", unheard)
    with ledger.writing():
        assert ledger.append(resumed("a"), resumed("b"), after_seq=0) == 2
    assert len(calls) == 2 and len(ledger.read()) == 2


def test_a_writer_that_was_cut_off_and_replaced_is_fenced_off(ledger: Ledger) -> None:
    """Its session is gone, another driver has taken the lock and written."""
    with ledger.writing():
        ledger.append(resumed("a"), after_seq=0)
        assert ledger._writer is not None
        ledger._disconnect()  # as a partition does, once the server has given the session up
        successor = Ledger(ledger.address)
        with successor.writing():
            successor.append(resumed("successor"), after_seq=1)
        successor.close()
        with pytest.raises(SearchHalted, match="another driver has written to the ledger"):
            ledger.append(resumed("late"), after_seq=1)
    assert [entry.event.incarnation for entry in ledger.read()] == ["a", "successor"]


def test_a_writer_whose_lock_another_process_has_is_fenced_off(server: PostgresServer, ledger: Ledger) -> None:
    with ledger.writing():
        ledger._disconnect()
        holder = subprocess.Popen(
            [sys.executable, "-c", HOLD, server.url], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert holder.stdout is not None and holder.stdout.readline() == "held\n"
        with pytest.raises(SearchHalted, match=rf"process {holder.pid} .*was cut off, and leaves the search to it"):
            ledger.append(resumed("late"), after_seq=0)
        holder.send_signal(signal.SIGKILL)
        holder.communicate()
    assert ledger.read() == []


def test_a_server_that_stays_away_halts_the_search(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, server: PostgresServer
) -> None:
    monkeypatch.setattr(ledger_module, "RETRY_FOR_S", 0.5)
    with postgres_server(tmp_path / "own") as own:
        ledger = Ledger(PostgresAddress(own.url, "one"))
        ledger.create()
        with ledger.writing():
            own.kill()
            with pytest.raises(
                SearchHalted, match="cannot be written .*; mend that, then go on with `hpsearch resume`"
            ):
                ledger.append(resumed("a"), after_seq=0)
        with pytest.raises(UserError, match="does not answer|not a readable ledger"):
            ledger.read()
        with pytest.raises(UserError, match="does not answer"):
            searches(Home(tmp_path, ledger=own.url))
        ledger.close()


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("postgresql://me:secret@127.0.0.1/x", "must not hold a password, .*PGPASSWORD"),
        ("postgresql://me@127.0.0.1/x?password=secret", "must not hold a password, .*PGPASSWORD"),
        ("mysql://me@127.0.0.1/x", "must be PostgreSQL's, got mysql; write postgresql://"),
        ("nonsense", "must be the address of a database; write postgresql://"),
    ],
)
def test_an_address_that_will_not_do_is_told_without_its_password(url: str, said: str) -> None:
    with pytest.raises(UserError, match=said) as caught:
        postgres_engine(url)
    assert "secret" not in str(caught.value)


def test_a_wrong_password_is_told_at_once(server: PostgresServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGPASSWORD", "wrong")
    with pytest.raises(UserError, match="does not answer .*password authentication failed.*PGPASSFILE"):
        Ledger(PostgresAddress(server.url, "one")).exists()


def test_a_name_that_postgres_would_cut_is_refused(server: PostgresServer) -> None:
    with pytest.raises(UserError, match="must have at most 54 letters .*choose a shorter --name"):
        Ledger(PostgresAddress(server.url, "x" * 60)).create()


def test_a_newer_version_is_refused(ledger: Ledger, server: PostgresServer) -> None:
    with psycopg.connect(server.url, password=server.password) as session:
        session.execute("UPDATE hpsearch_one.schema SET version = 99")
    with pytest.raises(UserError, match=r"newer hpsearch \(ledger version 99.*upgrade hpsearch"):
        ledger.read()
