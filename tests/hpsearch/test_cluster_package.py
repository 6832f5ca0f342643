"""A search on its way to a cluster arrives as it was sent, its text beside it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from hpsearch import cluster_package
from hpsearch.cluster_package import decoded, encoded, job_folder, text_path
from hpsearch.spec import Spec
from search_spaces.errors import UserError


def reading(spec: Spec, source: Path) -> Spec:
    return spec.model_copy(update={"text": spec.text.model_copy(update={"source": str(source)})})


def test_a_search_arrives_as_it_was_sent(tiny_spec: Spec) -> None:
    word = encoded(tiny_spec)
    assert decoded(word) == tiny_spec
    assert re.fullmatch(r"[A-Za-z0-9_=-]+", word), "no shell sees more in it than a word"
    with job_folder(tiny_spec) as folder:
        assert folder is None, "the default text is on every node"


@pytest.mark.parametrize("is_folder", [False, True])
def test_the_users_text_travels_along(
    tiny_spec: Spec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_folder: bool
) -> None:
    text = tmp_path / "my text"
    if is_folder:
        text.mkdir()
    (text / "a.txt" if is_folder else text).write_text("hello")
    spec = reading(tiny_spec, text)
    assert str(tmp_path) not in encoded(spec)
    with job_folder(spec) as folder:
        assert folder is not None
        monkeypatch.chdir(folder)
        there = Path(decoded(encoded(spec)).text.source)
        assert there == folder / text_path(spec)
        assert (there / "a.txt" if is_folder else there).read_text() == "hello"
    assert not folder.exists()


def test_a_text_too_large_to_send_is_refused(tiny_spec: Spec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster_package, "MAX_UPLOAD_BYTES", 2**20)
    (tmp_path / "large.txt").write_bytes(bytes(2**20 + 1))
    with (
        pytest.raises(UserError, match="must be at most 1 MiB to be sent"),
        job_folder(reading(tiny_spec, tmp_path / "large.txt")),
    ):
        pass


@pytest.mark.parametrize("word", ["", "x", "////", "eJw="])
def test_a_damaged_search_is_told(word: str) -> None:
    with pytest.raises(UserError, match="^search: "):
        decoded(word)
