"""What a person and a program are told at a search's end of what MLflow was not told."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hpsearch.events import Closed
from hpsearch.exit_codes import STOPPED
from hpsearch.folder import SearchFolder
from hpsearch.home import Home
from hpsearch.search import Finish
from hpsearch.session import _shown
from hpsearch.state import SearchState
from hpsearch.trials_table import read_state
from hpsearch.unsent import Unsent
from hpsearch.view import View
from search_spaces.errors import UserError
from tests.hpsearch.event_stream import stream
from tests.hpsearch.test_record import search_of

UNSENT = Unsent("away", "http://host:1", "no route", 5, 9)


@pytest.fixture
def folder(tmp_path: Path) -> SearchFolder:
    return search_of(Home(tmp_path), "away", [*stream(1)[:1], Closed(complete=False, device_seconds={})])


def test_a_person_is_told_what_was_not_sent(folder: SearchFolder, capsys: pytest.CaptureFixture[str]) -> None:
    def search(view: View, finish: Finish) -> SearchState:
        view.recorded(UNSENT)
        return read_state(folder.ledger)

    assert _shown(folder, search, "live") == STOPPED
    assert "events 5 to 9 were not sent; `hpsearch sync away` sends them" in capsys.readouterr().out
    assert _shown(folder, search, "json") == STOPPED
    told = json.loads(capsys.readouterr().out)["mlflow"]["unsent"]
    assert (told["first_seq"], told["last_seq"], told["reason"]) == (5, 9, "no route")


def test_nothing_is_told_where_all_was_sent(folder: SearchFolder, capsys: pytest.CaptureFixture[str]) -> None:
    def search(view: View, finish: Finish) -> SearchState:
        view.recorded(None)
        return read_state(folder.ledger)

    _shown(folder, search, "live")
    assert "sync" not in capsys.readouterr().out
    _shown(folder, search, "json")
    assert json.loads(capsys.readouterr().out)["mlflow"]["unsent"] is None


def test_a_wrong_address_ends_a_search_before_it_begins(tmp_path: Path) -> None:
    def search(view: View, finish: Finish) -> SearchState:
        raise AssertionError("it began")

    with pytest.raises(UserError, match="--mlflow"):
        _shown(SearchFolder(Home(tmp_path, mlflow="host:5000"), "any"), search, "json")
