"""A copy of a ledger as one file: JSON lines, compressed, one an event.

It grows by whole compressed members, so keeping it up to date costs what is new. A copy that was cut short is an
earlier copy: what can be read of it is a prefix of the ledger.
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path

from pydantic import ValidationError

from hpsearch.events import EVENT
from hpsearch.ledger import Entry
from search_spaces.errors import UserError

MAX_WAITING = 1000  # events held in memory


class LedgerCopy:
    """Writes the copy of a ledger, from its first event on."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.seq = 0  # of the last event taken
        self._lines: list[str] = []
        self._is_begun = False

    def take(self, entries: Iterable[Entry]) -> None:
        """Adds the next events."""
        for entry in entries:
            assert entry.seq == self.seq + 1, f"event {entry.seq} after {self.seq}"
            self.seq = entry.seq
            self._lines.append(_line(entry))
            if len(self._lines) >= MAX_WAITING:
                self.write()

    def write(self) -> None:
        """Brings the file up to the last event taken."""
        if self._lines:
            with open(self.path, "ab" if self._is_begun else "wb") as file:
                self._is_begun = True
                file.write(gzip.compress("".join(self._lines).encode(), mtime=0))
            self._lines.clear()


def read_copy(path: Path) -> list[Entry]:
    """The events of a copy, in order.

    Raises:
        UserError: it holds none that can be read, or those of a newer version.
    """
    entries: list[Entry] = []
    for line in _lines(path):
        try:
            row = json.loads(line)
            entry = Entry(int(row["seq"]), float(row["at_s"]), EVENT.validate_python(row["body"]))
        except (ValidationError, ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"{path.name}: event {len(entries) + 1} cannot be read; the search may have been written by a newer "
                "hpsearch: upgrade hpsearch"
            ) from error
        if entry.seq != len(entries) + 1:
            raise UserError(
                f"{path.name}: event {len(entries) + 1} is missing; send the search again by `hpsearch sync`"
            )
        entries.append(entry)
    if not entries:
        raise UserError(f"{path.name}: holds no event; send the search again by `hpsearch sync`")
    return entries


def _line(entry: Entry) -> str:
    return f'{{"seq":{entry.seq},"at_s":{entry.at_s!r},"body":{entry.event.model_dump_json()}}}\n'


def _lines(path: Path) -> Iterator[bytes]:
    """Whole lines, up to where the file was cut."""
    with gzip.open(path) as file:
        try:
            for line in file:
                if line.endswith(b"\n"):
                    yield line
        except (EOFError, zlib.error, gzip.BadGzipFile):
            return
