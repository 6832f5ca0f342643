"""The ledger: what was appended is read back, whole transactions only, by one writer at a time."""

from __future__ import annotations

import math
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_args

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hpsearch import ledger as ledger_module
from hpsearch import ledger_store
from hpsearch.events import (
    Adopted,
    AnyEvent,
    Asked,
    Closed,
    ConfirmOpened,
    ConfirmPlan,
    Ended,
    Event,
    Extended,
    Freed,
    Judged,
    Measured,
    Opened,
    Predicted,
    Promoted,
    Resumed,
    Role,
    TrialState,
)
from hpsearch.ledger import Ledger
from hpsearch.plan import trial_config
from search_spaces.errors import UserError
from tests.hpsearch.simulation import SIZE, report, spec_of
from trials.trial import Assignment

CONFIG = trial_config(spec_of(), 0, {"learning_rate": 3e-4, "weight_decay": 0.1}, seed=5)


def measurement_of(loss: float, message: str) -> dict[str, Any]:
    """A measurement with a loss of any kind."""
    measurement = report(Assignment("t0000", CONFIG, 3328, (), "file"), 1.0)
    return {**measurement.to_dict(), "loss": loss, "far_loss": math.inf, "message": message}


ONE_OF_EACH: list[Event] = [
    Opened(spec={"name": "a", "n": 1.5}, corpus_id="c", tokenizer_id="t", versions={"torch": "2"}, incarnation="i"),
    Resumed(incarnation="j", versions={}),
    Asked(
        trial_id="t0000",
        number=0,
        proxy=-1,
        role=Role.PROOF,
        repeat_of="",
        values={"learning_rate": 3e-4},
        config=CONFIG.to_dict(),
        rungs=(128, 256),
        cost_flops=10**20,
        reasons={"params": 3312.0},
    ),
    Measured(trial_id="t0000", rung=1, measurement=measurement_of(0.1 + 0.2, "")),
    Adopted(trial_id="t0000", checkpoint="/a b/é.safetensors"),
    Judged(trial_id="t0000", rung=1, verdict=TrialState.DIVERGED, reasons={}),
    Freed(files={"t0000": ("a", "b")}, reasons={"kept_bytes": 12.0}),
    Promoted(trial_id="t0000", rung=2, cost_flops=5, reasons={"rank": 0.0}),
    Predicted(values={"a": 1.0}, low80={"a": 0.5}, high80={"a": float("inf")}, regret=0.01, observations=9),
    ConfirmOpened(
        plan=ConfirmPlan(
            target=spec_of().target,
            size=SIZE,
            trials=2,
            prediction=Predicted(
                values={"learning_rate": 0.1}, low80={"a": 0.5}, high80={"a": 1.0}, regret=0.01, observations=9
            ),
            loss=4.5,
            loss_low80=4.25,
            loss_high80=5.0,
            cost_flops=10**18,
        ),
        incarnation="k",
        versions={},
    ),
    Extended(spec={"name": "a", "n": 2.5}, reason="the optimum is at an end"),
    Ended(trial_id="t0000", state=TrialState.PRUNED),
    Closed(complete=True, device_seconds={"training_s": 1.0}),
]
HOLD = """
import sys, time
from pathlib import Path
from hpsearch.ledger import Ledger
with Ledger(Path(sys.argv[1])).writing():
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    made = Ledger(tmp_path / "ledger.sqlite")
    made.create()
    yield made
    made.close()


def events_in(ledger: Ledger) -> list[Event]:
    return [entry.event for entry in ledger.read()]


def execute(ledger: Ledger, statement: str) -> None:
    """What somebody does to the file behind our back."""
    connection = sqlite3.connect(str(ledger.address))
    with connection:
        connection.execute(statement)
    connection.close()


def test_no_kind_of_event_is_left_out_here() -> None:
    kinds = get_args(get_args(AnyEvent)[0])
    assert {type(event) for event in ONE_OF_EACH} == set(kinds)


@pytest.mark.parametrize("event", ONE_OF_EACH, ids=lambda event: event.kind)
def test_an_event_is_read_as_it_was_written(ledger: Ledger, event: Event) -> None:
    assert ledger.append(event) == 1
    assert events_in(ledger) == [event]


@given(loss=st.floats(allow_nan=False), message=st.text())
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_numbers_and_text_survive_to_the_last_bit(ledger: Ledger, loss: float, message: str) -> None:
    printable = message.encode("utf-8", "replace").decode()
    event = Measured(trial_id="t", rung=0, measurement=measurement_of(loss, printable))
    last_seq = ledger.append(event)
    assert ledger.read(last_seq - 1)[0].event == event


def test_sequence_numbers_have_no_gaps(ledger: Ledger) -> None:
    parts = ONE_OF_EACH[:3], ONE_OF_EACH[3:4], ONE_OF_EACH[4:]
    assert [ledger.append(*part) for part in parts] == [3, 4, 13]
    entries = ledger.read()
    assert [entry.seq for entry in entries] == list(range(1, 14))
    assert [entry.at_s for entry in entries] == sorted(entry.at_s for entry in entries)
    assert [entry.seq for entry in ledger.read(after_seq=9)] == [10, 11, 12, 13]
    assert ledger.read(after_seq=13) == []


def test_another_opening_reads_what_was_written(ledger: Ledger) -> None:
    ledger.append(*ONE_OF_EACH)
    reader = Ledger(ledger.address)
    assert events_in(reader) == ONE_OF_EACH
    reader.close()


def test_a_crash_within_a_transaction_leaves_none_of_it(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger.append(ONE_OF_EACH[0])

    def crash(event: Event) -> str:
        raise OSError("disk full")

    with monkeypatch.context() as broken, pytest.raises(OSError, match="disk full"):
        broken.setattr(Judged, "model_dump_json", crash)
        ledger.append(*ONE_OF_EACH[2:6])
    assert events_in(ledger) == ONE_OF_EACH[:1]
    assert ledger.append(ONE_OF_EACH[1]) == 2


def test_a_process_killed_within_a_transaction_leaves_none_of_it(ledger: Ledger) -> None:
    ledger.append(ONE_OF_EACH[0])
    program = (
        "import os, sys\nfrom pathlib import Path\nfrom hpsearch.events import Closed, Event, Resumed\n"
        "from hpsearch.ledger import Ledger\n"
        "Closed.model_dump_json = lambda event: os.kill(os.getpid(), 9)\n"
        "resumed, closed = Resumed(incarnation='j', versions={}), Closed(complete=True, device_seconds={})\n"
        "Ledger(Path(sys.argv[1])).append(resumed, closed)\n"
    )
    killed = subprocess.run([sys.executable, "-c", program, str(ledger.address)], check=False)
    assert killed.returncode == -9
    assert events_in(ledger) == ONE_OF_EACH[:1]


def test_a_ledger_is_made_with_its_first_events_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = Ledger(tmp_path / "ledger.sqlite")

    def crash(event: Event) -> str:
        raise OSError("disk full")

    with monkeypatch.context() as broken, pytest.raises(OSError, match="disk full"):
        broken.setattr(Opened, "model_dump_json", crash)
        made.create(ONE_OF_EACH[0])
    made.create(ONE_OF_EACH[0])
    assert events_in(made) == ONE_OF_EACH[:1]
    made.close()


def test_a_ledger_is_not_made_twice(ledger: Ledger) -> None:
    ledger.append(ONE_OF_EACH[0])
    with pytest.raises(UserError, match="a ledger cannot be made here .*; choose another name"):
        ledger.create()
    assert events_in(ledger) == ONE_OF_EACH[:1]


def test_one_writer_at_a_time(ledger: Ledger) -> None:
    with ledger.writing(), pytest.raises(UserError, match=r"running already \(process \d+\)"), ledger.writing():
        raise AssertionError("two writers")
    with ledger.writing():
        pass


def test_the_lock_holds_across_processes_and_dies_with_its_holder(ledger: Ledger) -> None:
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(ledger.address)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None and holder.stdout.readline() == "held\n"
    with (
        pytest.raises(UserError, match=rf"process {holder.pid}\); wait for it, or stop that process"),
        ledger.writing(),
    ):
        raise AssertionError("two writers")
    holder.kill()
    holder.communicate()
    with ledger.writing():
        ledger.append(ONE_OF_EACH[0])


def test_a_reader_needs_no_lock(ledger: Ledger) -> None:
    with ledger.writing():
        ledger.append(ONE_OF_EACH[0])
        reader = Ledger(ledger.address)
        assert events_in(reader) == ONE_OF_EACH[:1]
        reader.close()


def test_a_newer_version_is_refused(ledger: Ledger) -> None:
    execute(ledger, "UPDATE schema SET version = 4")
    with pytest.raises(UserError, match=r"newer hpsearch \(ledger version 4, this one reads 3\); upgrade hpsearch"):
        ledger.read()


def test_an_older_version_is_read_and_becomes_the_present_one_when_it_is_written_to(ledger: Ledger) -> None:
    ledger.append(ONE_OF_EACH[0])
    execute(ledger, "UPDATE schema SET version = 1")
    newer = Ledger(ledger.address)
    assert events_in(newer) == ONE_OF_EACH[:1]
    newer.append(ONE_OF_EACH[1])
    newer.close()
    connection = sqlite3.connect(str(ledger.address))
    assert connection.execute("SELECT version FROM schema").fetchall() == [(ledger_module.SCHEMA_VERSION,)]
    connection.close()


@pytest.mark.parametrize("content", [b"", b"this is no database, whatever its name says" * 50])
def test_a_file_that_is_no_ledger_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "ledger.sqlite"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"not a readable ledger .*; give the folder of a search"):
        Ledger(path).read()


@pytest.mark.parametrize("kept", [0.1, 0.4, 0.7, 0.9, 0.95, 0.99])
def test_a_truncated_file_is_refused_never_read_in_part(ledger: Ledger, kept: float) -> None:
    ledger.append(*ONE_OF_EACH * 10)
    ledger.close()  # all of it is in the one file now
    assert isinstance(ledger.address, Path)
    whole = ledger.address.read_bytes()
    ledger.address.write_bytes(whole[: int(kept * len(whole))])
    with pytest.raises(UserError, match="restore the file from a copy"):
        Ledger(ledger.address).read()


def test_a_ledger_in_no_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not a readable ledger"):
        Ledger(tmp_path / "absent" / "ledger.sqlite").read()


@pytest.mark.parametrize(
    "statement, said",
    [
        ("UPDATE events SET body = 'no json' WHERE seq = 2", "event 2 cannot be read"),
        ("UPDATE events SET body = '{}' WHERE seq = 2", "event 2 cannot be read"),
        ("""UPDATE events SET body = '{"kind": "invented"}' WHERE seq = 2""", "event 2 cannot be read"),
        ("UPDATE events SET body = replace(body, 'versions', 'extra') WHERE seq = 2", r"cannot be read \(2 faults\)"),
        ("DELETE FROM events WHERE seq = 2", "event 2 is missing"),
        ("UPDATE events SET body = replace(body, 'learning_rate', 'rate') WHERE seq = 3", "event 3 cannot be read"),
        ('UPDATE events SET body = replace(body, \'"eps"\', \'"x":0,"eps"\') WHERE seq = 3', "event 3 cannot be read"),
        (
            "UPDATE events SET body = replace(body, '\"heads\":2', '\"heads\":3') WHERE seq = 3",
            "event 3 cannot be read",
        ),
    ],
)
def test_a_corrupted_row_is_told(ledger: Ledger, statement: str, said: str) -> None:
    ledger.append(*ONE_OF_EACH[:3])
    execute(ledger, statement)
    with pytest.raises(UserError, match=rf"{said}.*; restore the file from a copy"):
        ledger.read()


@pytest.mark.parametrize("file_system", ["nfs4", "cifs", "lustre"])
def test_a_network_file_system_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file_system: str) -> None:
    monkeypatch.setattr(ledger_store, "_file_system", lambda folder: file_system)
    with pytest.raises(UserError, match=rf"network file system, got {file_system}; give --home on a local disk"):
        Ledger(tmp_path / "ledger.sqlite").create()
    assert not list(tmp_path.iterdir())


def test_the_file_system_is_that_of_the_nearest_mount(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import psutil

    mounts = [("/", "ext4"), (str(tmp_path.parent), "nfs"), (str(tmp_path), "xfs"), (f"{tmp_path}x", "cifs")]
    parts = [SimpleNamespace(mountpoint=point, fstype=kind) for point, kind in mounts]
    monkeypatch.setattr(psutil, "disk_partitions", lambda all: parts)
    assert ledger_store._file_system(tmp_path / "home") == "xfs"
