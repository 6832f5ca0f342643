"""A search from MLflow alone: what is there, what is said where it is not."""

from __future__ import annotations

from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient

from hpsearch.folder import SearchFolder
from hpsearch.home import Home
from hpsearch.ledger import Ledger
from hpsearch.ledger_copy import LedgerCopy
from hpsearch.mlflow_store import SEARCH_TAG
from hpsearch.record import Sender
from hpsearch.recorded_search import attach, fetch, recorded_searches
from hpsearch.sync_command import sync
from hpsearch.trials_table import read_state
from search_spaces.errors import UserError
from tests.hpsearch.event_stream import stream
from tests.hpsearch.test_record import append, runs_of, search_of


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    home = Home(tmp_path_factory.mktemp("home"))
    for name in ("one", "running", "no-copy"):
        search_of(home, name, stream(2, f"id-{name}")[: None if name == "one" else 8])
    sync(SearchFolder(home, "one"))
    sync(SearchFolder(home, "running"))
    sender = Sender(SearchFolder(home, "no-copy"))
    sender.send()
    sender.close()
    return home


def uri_of(home: Home) -> str:
    return SearchFolder(home, "").mlflow_uri


def test_a_running_search_says_how_fresh_it_is(home: Home, tmp_path: Path) -> None:
    freshness = fetch(uri_of(home), "running", tmp_path)
    written = Ledger(SearchFolder(home, "running").ledger).read()
    assert (freshness.seq, freshness.at_s, freshness.state) == (8, written[-1].at_s, "RUNNING")
    assert str(freshness).startswith("running: as of event 8, 20") and "RUNNING" in str(freshness)
    copy = Ledger(SearchFolder(Home(tmp_path), "running").ledger)
    assert copy.read() == written
    copy.close()


def test_the_files_come_with_the_event_that_they_were_made_from(home: Home, tmp_path: Path) -> None:
    folder = SearchFolder(home, "one")
    folder.recommendation.write_text("{}")
    append(folder)
    state = read_state(folder.ledger)
    client = MlflowClient(folder.mlflow_uri)
    run = next(run for run in runs_of(folder) if SEARCH_TAG in run.data.tags)
    client.set_tag(run.info.run_id, "hpsearch.files_seq", "0")
    attach(folder, state)
    names = {artifact.path for artifact in client.list_artifacts(run.info.run_id)}
    assert names == {"ledger.jsonl.gz", "search.yaml", "recommendation.json"}
    assert client.get_run(run.info.run_id).data.tags["hpsearch.files_seq"] == str(state.seq)


def test_all_searches_are_listed_but_those_that_are_known(home: Home) -> None:
    found = recorded_searches(uri_of(home), {"id-running"})
    assert [(search["name"], search["state"], search["as_of"]) for search in found] == [
        ("one@id-one", "finished", 20),
        ("no-copy@id-no-copy", "running", 8),
    ]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("none", "neither --home nor MLflow at .* has such a search; `hpsearch list`"),
        ("it's", "neither --home nor MLflow at .* has such a search; `hpsearch list`"),
        ("no-copy", "has no copy of its ledger yet"),
        ("one@other", "one@id-one; give one"),
    ],
)
def test_what_is_not_there_is_said(home: Home, tmp_path: Path, name: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        fetch(uri_of(home), name, tmp_path)


def test_of_two_searches_of_a_name_one_has_to_be_named(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    for search_id in ("first", "second"):
        sync(search_of(Home(tmp_path / search_id, mlflow=uri), "twin", stream(1, search_id)))
    with pytest.raises(UserError, match="2 searches of this name: twin@first, twin@second; give one"):
        fetch(uri, "twin", tmp_path / "a")
    assert fetch(uri, "twin@second", tmp_path / "b").search_id == "second"
    assert read_state(SearchFolder(Home(tmp_path / "b"), "twin").ledger).opened.incarnation == "second"


def test_a_copy_that_the_server_lost_half_of_is_an_older_one(home: Home, tmp_path: Path) -> None:
    folder = SearchFolder(home, "running")
    copy = LedgerCopy(tmp_path / "ledger.jsonl.gz")
    for entry in Ledger(folder.ledger).read():
        copy.take([entry])
        copy.write()
    copy.path.write_bytes(copy.path.read_bytes()[:-100])
    run = next(run for run in runs_of(folder) if SEARCH_TAG in run.data.tags)
    MlflowClient(folder.mlflow_uri).log_artifact(run.info.run_id, str(copy.path))
    assert 0 < fetch(uri_of(home), "running", tmp_path / "into").seq < 8
