"""A real confirm: predicted, killed, resumed, measured, folded in; then a second one at another size."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from hpsearch.check import check_ledger
from hpsearch.events import Asked, ConfirmOpened, Measured, Role
from hpsearch.folder import SearchFolder
from hpsearch.home import Home
from hpsearch.ledger import read_ledger
from hpsearch.plan import confirm_proxy
from hpsearch.trials_table import read_state, trials_table
from tests.driver import TINY, assert_recorded_once, kill_after, num_events, start

pytestmark = pytest.mark.slow

SIZE = "width=40,depth=1,heads=2,tokens=1e5"


def test_a_search_is_confirmed_though_killed_and_again(tmp_path: Path) -> None:
    folder = SearchFolder(Home(tmp_path / "home"), "tiny")
    options = ["--home", str(folder.home.path), "--cache", str(tmp_path / "cache")]
    assert start("run", str(TINY), *options).wait(timeout=600) == 0
    before = read_state(folder.ledger)
    kill_after(start("confirm", "tiny", "--flops", "5e10", *options), folder, num_events(folder) + 3)
    assert start("confirm", "tiny", *options).wait(timeout=60) == 2, "it must be resumed first"
    assert start("resume", "tiny", *options).wait(timeout=600) == 0
    second = json.loads(printed("confirm", "tiny", "--size", SIZE, "--trials", "1", "--json", *options))
    assert second["confirm"]["size"]["width"] == 40 and len(second["confirm"]["trials"]) == 1
    assert_told(folder, num_before=len(before.trials))


def assert_told(folder: SearchFolder, num_before: int) -> None:
    """Four more trials, each measured once, everywhere."""
    entries, state = read_ledger(folder.ledger), read_state(folder.ledger)
    measured = Counter((e.event.trial_id, e.event.rung) for e in entries if isinstance(e.event, Measured))
    assert set(measured.values()) == {1}
    asked = [e.seq for e in entries if isinstance(e.event, Asked) and e.event.role is Role.CONFIRM]
    assert min(asked) > min(e.seq for e in entries if isinstance(e.event, ConfirmOpened))
    assert [len(state.of(confirm_proxy(number), Role.CONFIRM)) for number in (0, 1)] == [3, 1]
    assert len(state.trials) == num_before + 4 and state.closed is not None and state.closed.complete
    assert check_ledger(entries).differences == ()
    assert (trials_table(state)["role"] == "confirm").sum() == 4
    assert_recorded_once(folder, sorted(state.trials))


def printed(*arguments: str) -> str:
    command = [sys.executable, "-m", "hpsearch", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stderr
    return done.stdout
