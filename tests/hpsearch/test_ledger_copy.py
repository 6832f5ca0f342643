"""The copy of a ledger as a file: what was written, or a prefix of it."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from hpsearch.ledger import Entry, Ledger
from hpsearch.ledger_copy import LedgerCopy, read_copy
from search_spaces.errors import UserError
from tests.hpsearch.event_stream import stream


def entries_of(num_trials: int) -> list[Entry]:
    return [Entry(seq, 1000.125 + seq, event) for seq, event in enumerate(stream(num_trials), 1)]


def copied(path: Path, entries: list[Entry], step: int) -> Path:
    """A copy that was brought up to date every few events."""
    copy = LedgerCopy(path)
    for start in range(0, len(entries), step):
        copy.take(entries[start : start + step])
        copy.write()
    return path


def test_what_is_written_is_read(tmp_path: Path) -> None:
    entries = entries_of(3)
    assert read_copy(copied(tmp_path / "copy", entries, 7)) == entries
    lines = gzip.decompress((tmp_path / "copy").read_bytes()).splitlines()
    assert [json.loads(line)["seq"] for line in lines] == list(range(1, len(entries) + 1))
    assert read_copy(copied(tmp_path / "copy", entries[:5], 5)) == entries[:5]  # a new one replaces an old one


def test_a_copy_cut_short_anywhere_is_an_earlier_copy(tmp_path: Path) -> None:
    entries = entries_of(3)
    whole = copied(tmp_path / "copy", entries, 4).read_bytes()
    lengths = set()
    for size in range(len(whole) // 4, len(whole), 97):
        (tmp_path / "cut").write_bytes(whole[:size])
        read = read_copy(tmp_path / "cut")
        assert read == entries[: len(read)]
        lengths.add(len(read))
    assert len(lengths) > 3


def test_a_ledger_made_from_a_copy_is_the_ledger(tmp_path: Path) -> None:
    entries = entries_of(2)
    ledger = Ledger(tmp_path / "ledger.sqlite")
    ledger.restore(read_copy(copied(tmp_path / "copy", entries, 100)))
    assert ledger.read() == entries
    ledger.close()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "holds no event"),
        ('{"seq": 1, "at_s": 0, "body": {"kind": "of the future"}}\n', "event 1 cannot be read"),
        ("[1]\n", "event 1 cannot be read"),
        ("no JSON\n", "event 1 cannot be read"),
    ],
)
def test_a_copy_of_something_else_is_refused(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "copy").write_bytes(gzip.compress(text.encode()))
    with pytest.raises(UserError, match=said):
        read_copy(tmp_path / "copy")


def test_a_copy_with_a_gap_is_refused(tmp_path: Path) -> None:
    lines = gzip.decompress(copied(tmp_path / "copy", entries_of(1), 100).read_bytes()).splitlines(keepends=True)
    (tmp_path / "copy").write_bytes(gzip.compress(b"".join(lines[:2] + lines[3:])))
    with pytest.raises(UserError, match="event 3 is missing"):
        read_copy(tmp_path / "copy")
