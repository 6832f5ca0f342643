"""A search whose checkpoints are in an object store, one whose store goes away, one whose disk is full."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from hpsearch.check import check_ledger
from hpsearch.events import Freed, Measured
from hpsearch.exit_codes import DONE, STOPPED, USER_ERROR
from hpsearch.folder import SearchFolder
from hpsearch.home import Home
from hpsearch.ledger import read_ledger
from hpsearch.trials_table import read_state
from tests.driver import TINY, num_events
from tests.object_store import BUCKET, ObjectStore, object_store
from tests.trials.test_storage import small_disk
from trials.storage import files_under

pytestmark = pytest.mark.slow

DEADLINE_S = 240.0


@pytest.fixture
def store() -> Iterator[ObjectStore]:
    with object_store(os.environ) as found:
        yield found


def folder_of(tmp_path: Path, storage: str) -> SearchFolder:
    return SearchFolder(Home(tmp_path / "home", storage=storage), "tiny")


def start(folder: SearchFolder, command: str, search: str) -> subprocess.Popen[str]:
    options = ["--home", str(folder.home.path), "--storage", folder.home.storage, "--quiet"]
    cache = os.environ.get("HPSEARCH_CACHE", str(folder.home.path.parent / "cache"))
    arguments = [sys.executable, "-m", "hpsearch", command, search, *options, "--cache", cache]
    return subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, cwd="/")


def ended(process: subprocess.Popen[str]) -> tuple[int, str]:
    """Exit code and errors of a command."""
    said = process.communicate(timeout=DEADLINE_S)[1]
    return process.returncode, said


def search_file(tmp_path: Path, checkpoints: str) -> str:
    """The tiny search with a section of its own."""
    file = tmp_path / "tiny.yaml"
    file.write_text(f"{TINY.read_text(encoding='utf-8')}\ncheckpoints: {checkpoints}\n", encoding="utf-8")
    return str(file)


def wait_for_events(process: subprocess.Popen[str], folder: SearchFolder, events: int) -> None:
    deadline_s = time.monotonic() + DEADLINE_S
    while num_events(folder) < events:
        assert process.poll() is None and time.monotonic() < deadline_s, process.communicate()
        time.sleep(0.02)


def assert_complete(folder: SearchFolder) -> None:
    """Every rung measured once, each segment begun where the rung before left its trunk; no file too many or few."""
    entries = read_ledger(folder.ledger)
    measured = Counter((e.event.trial_id, e.event.rung) for e in entries if isinstance(e.event, Measured))
    assert set(measured.values()) == {1}
    assert check_ledger(entries).differences == ()
    state = read_state(folder.ledger)
    assert state.closed is not None and state.closed.complete
    for trial in state.trials.values():
        spent = [measurement.flops + measurement.anneal_flops for measurement in trial.measurements]
        if all(measurement.checkpoint for measurement in trial.measurements):
            assert spent == [trial.flops_of(rung) for rung in range(len(spent))], "trained again from further back"
    kept = {file for trial in state.trials.values() for file in trial.checkpoints}
    assert kept and set(files_under(folder.checkpoints)) == kept


def test_killed_and_resumed_with_its_checkpoints_in_an_object_store(tmp_path: Path, store: ObjectStore) -> None:
    folder = folder_of(tmp_path, f"s3://{BUCKET}/team")
    first = start(folder, "run", search_file(tmp_path, "{budget_bytes: 1.0}"))
    wait_for_events(first, folder, 14)
    os.kill(first.pid, signal.SIGKILL)
    ended(first)
    assert ended(start(folder, "resume", "tiny")) == (DONE, "")
    assert any(isinstance(entry.event, Freed) for entry in read_ledger(folder.ledger))
    assert_complete(folder)
    assert not (folder.path / "checkpoints").exists()


def test_a_store_that_goes_away_stops_the_search_and_it_goes_on(tmp_path: Path, store: ObjectStore) -> None:
    folder = folder_of(tmp_path, f"s3://{BUCKET}/team")
    first = start(folder, "run", search_file(tmp_path, "{patience_s: 2}"))
    wait_for_events(first, folder, 10)
    store.stop()
    try:
        code, said = ended(first)
        assert (
            code == STOPPED and f"halted: s3://{BUCKET}/team/tiny/checkpoints/t" in said and "could not connect" in said
        )
        assert "bring the store back" in said and "Traceback" not in said
        state = read_state(folder.ledger)
        assert state.closed is not None and not state.closed.complete
        code, said = ended(start(folder, "resume", "tiny"))
        assert code == USER_ERROR and "could not connect" in said
    finally:
        store.start()
    assert ended(start(folder, "resume", "tiny")) == (DONE, "")
    assert_complete(folder)


def test_a_store_that_is_back_in_time_was_never_away(tmp_path: Path, store: ObjectStore) -> None:
    folder = folder_of(tmp_path, f"s3://{BUCKET}/team")
    process = start(folder, "run", search_file(tmp_path, "{patience_s: 120}"))
    wait_for_events(process, folder, 10)
    store.stop()
    time.sleep(8.0)
    store.start()
    assert ended(process) == (DONE, "")
    assert_complete(folder)


def test_a_full_disk_stops_the_search_and_it_goes_on(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 900_000) as disk:
        folder = folder_of(tmp_path, str(disk))
        first = start(folder, "run", search_file(tmp_path, "{patience_s: 0}"))
        code, said = ended(first)
        assert code == STOPPED and f"halted: {disk}/tiny/checkpoints/t" in said and "no space left on device" in said
        assert "free space there" in said and "Traceback" not in said
        assert not [file for file in files_under(folder.checkpoints) if not file.endswith(".safetensors")]
        subprocess.run(["mount", "-o", "remount,size=100m", str(disk)], check=True)
        assert ended(start(folder, "resume", "tiny")) == (DONE, "")
        assert_complete(folder)
