"""Where a search lives."""

from __future__ import annotations

from pathlib import Path

import pytest

from hpsearch.folder import SearchFolder, find_search, searches, write_whole
from hpsearch.home import Home
from search_spaces.errors import UserError


def make(home: Path, name: str) -> SearchFolder:
    folder = SearchFolder(Home(home), name)
    folder.path.mkdir(parents=True)
    (folder.path / "ledger.sqlite").touch()
    return folder


def test_a_search_is_found_by_name_and_by_path(tmp_path: Path) -> None:
    folder = make(tmp_path, "one")
    assert find_search(Home(tmp_path), "one") == folder
    assert find_search(Home(Path("elsewhere")), str(folder.path)) == folder
    assert [found.name for found in searches(Home(tmp_path))] == ["one"]


def test_an_unknown_search_names_the_known(tmp_path: Path) -> None:
    make(tmp_path, "one")
    with pytest.raises(UserError, match="two: no such search .*known: one"):
        find_search(Home(tmp_path), "two")


@pytest.mark.parametrize("name", ["", "..", "../one", "x" * 5000, "nul\0byte", "\x1b[31mred", "$(rm -rf ~)"])
def test_a_name_that_is_none_is_told_in_one_line(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match="no such search in .*; known: .*Give one of these, or --home") as caught:
        find_search(Home(tmp_path / "home"), name)
    assert len(str(caught.value)) < 600 and str(caught.value).isprintable()


def test_a_home_that_is_not_there_has_no_searches(tmp_path: Path) -> None:
    assert searches(Home(tmp_path / "absent")) == []


def test_all_of_a_search_lies_in_its_folder(tmp_path: Path) -> None:
    folder = SearchFolder(Home(tmp_path), "one")
    inside = [folder.ledger, folder.log, folder.checkpoint("t0001", 512, "a"), *folder.outcome_files.values()]
    assert all(Path(str(path)).is_relative_to(folder.path) for path in inside)
    assert len(set(inside)) == len(inside)


def test_a_checkpoint_names_its_writer(tmp_path: Path) -> None:
    folder = SearchFolder(Home(tmp_path), "one")
    assert folder.checkpoint("t0001", 512, "a") != folder.checkpoint("t0001", 512, "b")


def test_a_file_is_written_whole(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_whole(path, "one")
    write_whole(path, "two")
    assert path.read_text() == "two" and list(tmp_path.iterdir()) == [path]


def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    write_whole(path, "old")

    def fail(source: Path, target: Path) -> None:
        raise OSError("disk full")

    with monkeypatch.context() as broken, pytest.raises(OSError, match="disk full"):
        broken.setattr("hpsearch.folder.os.replace", fail)
        write_whole(path, "new")
    assert path.read_text() == "old"


def test_a_file_in_a_folder_that_is_not_there_is_the_users_mistake(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be written .*give a file in a folder that exists"):
        write_whole(tmp_path / "missing" / "recipe.yaml", "text")
