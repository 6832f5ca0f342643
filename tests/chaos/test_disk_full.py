"""No room for the ledger: the search halts, says so, and goes on when there is room again."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from hpsearch.exit_codes import DONE, STOPPED
from hpsearch.folder import SearchFolder
from hpsearch.home import Home
from hpsearch.ledger import Ledger
from search_spaces.errors import UserError
from tests.chaos import witnesses
from tests.chaos.harness import SEARCH_FILE

pytestmark = [
    pytest.mark.chaos,
    pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount a small file system"),
]
POLL_S = 0.05
EVENTS = 8  # before the disk is full


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 4 MiB."""
    path = tmp_path / "small"
    path.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", path], check=True)
    yield path
    subprocess.run(["umount", "--lazy", path], check=True)


def fill(disk: Path) -> Path:
    """Takes all room that is left."""
    filler = disk / "filler"
    with suppress(OSError), open(filler, "wb", buffering=0) as file:
        while True:
            file.write(b"x" * 512)
    return filler


def test_a_full_disk_halts_the_search(small_disk: Path, tmp_path: Path, cache: Path) -> None:
    folder = SearchFolder(Home(small_disk, mlflow=f"sqlite:///{tmp_path / 'mlflow.db'}", storage=str(tmp_path)), "full")
    options = ["--home", str(small_disk), "--mlflow", folder.home.mlflow, "--storage", folder.home.storage]
    options += ["--cache", str(cache), "--quiet"]
    hpsearch = [sys.executable, "-m", "hpsearch"]
    search = subprocess.Popen(
        [*hpsearch, "run", str(SEARCH_FILE), "--name", "full", *options], stderr=subprocess.PIPE, text=True
    )
    while search.poll() is None and num_events(folder) < EVENTS:
        time.sleep(POLL_S)
    filler = fill(small_disk)
    said = search.communicate(timeout=300)[1]
    assert search.returncode == STOPPED, said
    (line,) = [line for line in said.splitlines() if line.startswith("halted: ")]
    assert "the ledger cannot be written (database or disk is full)" in line
    assert line.endswith("mend that, then go on with `hpsearch resume`")
    filler.unlink()
    again = subprocess.run([*hpsearch, "resume", "full", *options], check=False)
    assert again.returncode == DONE
    entries = witnesses.entries_of(folder)
    witnesses.decisions_are_recomputed(entries)
    witnesses.nothing_is_lost(entries)
    witnesses.nothing_is_measured_twice(entries)
    witnesses.segments_start_at_their_rung(entries)
    witnesses.recorded_once(folder, entries)


def num_events(folder: SearchFolder) -> int:
    ledger = Ledger(folder.ledger)
    try:
        return len(ledger.read()) if ledger.exists() else 0
    except UserError:
        return 0
    finally:
        ledger.close()
