"""Where a search lives."""

from __future__ import annotations

from pathlib import Path

import pytest

from hpsearch.folder import SearchFolder, find_search, searches, write_whole
from search_spaces.errors import UserError


def make(home: Path, name: str) -> SearchFolder:
    folder = SearchFolder(home, name)
    folder.path.mkdir(parents=True)
    folder.ledger.touch()
    return folder


def test_a_search_is_found_by_name_and_by_path(tmp_path: Path) -> None:
    folder = make(tmp_path, "one")
    assert find_search(tmp_path, "one") == folder
    assert find_search(Path("elsewhere"), str(folder.path)) == folder
    assert [found.name for found in searches(tmp_path)] == ["one"]


def test_an_unknown_search_names_the_known(tmp_path: Path) -> None:
    make(tmp_path, "one")
    with pytest.raises(UserError, match="two: no such search .*known: one"):
        find_search(tmp_path, "two")


def test_a_checkpoint_names_its_writer(tmp_path: Path) -> None:
    folder = SearchFolder(tmp_path, "one")
    assert folder.checkpoint("t0001", 512, "a") != folder.checkpoint("t0001", 512, "b")


def test_a_file_is_written_whole(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_whole(path, "one")
    write_whole(path, "two")
    assert path.read_text() == "two" and list(tmp_path.iterdir()) == [path]
