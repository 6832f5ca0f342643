"""The ledger: the append-only record of a search, in SQL. What happened is here and nowhere else.

One writer, the search driver, held by a lock; any number of readers. A transaction is one decision with
everything it decides, so no kill leaves half of one.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sql
import tenacity
from pydantic import ValidationError

from hpsearch.events import EVENT, Event
from hpsearch.halted import SearchHalted
from hpsearch.ledger_store import LedgerAddress, RunsAlready, store_at
from search_spaces.errors import UserError, one_line

SCHEMA_VERSION = 3  # 2: confirms; 3: extensions, freed checkpoints
RETRY_FOR_S = 600.0  # a database that is away for longer halts the search
MAX_WAIT_S = 5.0  # between two attempts

_METADATA = sql.MetaData()
_EVENTS = sql.Table(
    "events",
    _METADATA,
    sql.Column("seq", sql.Integer, primary_key=True, autoincrement=False),
    sql.Column("at_s", sql.Float, nullable=False),  # wall clock, for people; no decision reads it
    sql.Column("body", sql.Text, nullable=False),
)
_SCHEMA = sql.Table("schema", _METADATA, sql.Column("version", sql.Integer, nullable=False))


@dataclass(frozen=True)
class Entry:
    """An event with its place in the ledger."""

    seq: int  # 1, 2, 3, ... without gaps
    at_s: float  # seconds since the epoch
    event: Any  # one of hpsearch.events


class Ledger:
    """An open ledger. `append` needs the lock of `writing`; reading needs nothing."""

    def __init__(self, address: LedgerAddress) -> None:
        self.address = address
        self._store = store_at(address)
        self._is_writing = False
        self._writer: sql.Connection | None = None  # holds the lock while this process writes; none where it broke
        self._is_upgraded = False

    def __reduce__(self) -> tuple[type, tuple[()]]:
        # Ray Tune pickles what is reachable from scheduler and searcher, for a file that is never read.
        return object, ()

    def exists(self) -> bool:
        """Whether there is anything, readable or not."""
        return self._store.exists()

    def create(self, *events: Event) -> None:
        """Makes the tables of a new ledger with its first events, all or nothing.

        Raises:
            UserError: the folder is on a network file system, where SQLite's log is not safe, or a ledger is there.
        """
        self._create(_rows(events, after_seq=0))

    def restore(self, entries: Sequence[Entry]) -> None:
        """As `create`, with the entries of another ledger: their numbers and times are kept."""
        self._create(
            [{"seq": entry.seq, "at_s": entry.at_s, "body": entry.event.model_dump_json()} for entry in entries]
        )

    def _create(self, rows: Sequence[dict[str, Any]]) -> None:
        self._store.check_place()
        try:
            with self._store.engine.begin() as connection:
                self._store.prepare(connection)
                _METADATA.create_all(connection, checkfirst=False)
                connection.execute(_SCHEMA.insert().values(version=SCHEMA_VERSION))
                _insert(connection, rows)
        except sql.exc.DatabaseError as error:
            said = one_line(f"{self.address}: a ledger cannot be made here ({error.orig})")
            raise UserError(f"{said}; choose another name") from error

    def append(self, *events: Event, after_seq: int | None = None) -> int:
        """Writes events in one transaction; returns the sequence number of the last.

        Waits for a database that is away, up to `RETRY_FOR_S`.

        Args:
            events: in their order.
            after_seq: the last sequence number that the writer knows of; by default whatever is there.

        Raises:
            SearchHalted: the ledger cannot be written, or another driver has written to it: a writer that was cut
                off and replaced is fenced off here.
        """
        rows = _rows(events, self._last_seq() if after_seq is None else after_seq)
        retrying = tenacity.Retrying(
            retry=tenacity.retry_if_exception(lambda error: self._store.is_lost(error)),  # type: ignore[arg-type]
            wait=tenacity.wait_exponential(multiplier=0.1, max=MAX_WAIT_S),
            stop=tenacity.stop_after_delay(RETRY_FOR_S),
            reraise=True,
        )
        try:
            for attempt in retrying:
                with attempt:
                    self._write(rows, is_retry=attempt.retry_state.attempt_number > 1)
        except sql.exc.IntegrityError as error:
            raise SearchHalted(
                f"{self.address}: another driver has written to the ledger; this one leaves the search to it"
            ) from error
        except sql.exc.DatabaseError as error:
            raise SearchHalted(
                one_line(f"{self.address}: the ledger cannot be written ({error.orig})")
                + "; mend that, then go on with `hpsearch resume`"
            ) from error
        return int(rows[-1]["seq"]) if rows else int(after_seq or 0)

    def read(self, after_seq: int = 0) -> list[Entry]:
        """All entries after a sequence number, in order.

        Raises:
            UserError: not a ledger, one of a newer version, or one that holds what no version wrote.
        """
        try:
            with self._store.engine.connect() as connection:
                self._check_version(connection)
                rows: Sequence[Any] = connection.execute(
                    sql.select(_EVENTS).where(_EVENTS.c.seq > after_seq).order_by(_EVENTS.c.seq)
                ).all()
        except sql.exc.DatabaseError as error:
            said = one_line(f"{self.address}: not a readable ledger ({error.orig})")
            raise UserError(f"{said}; {self._store.remedy}") from error
        for seq, row in enumerate(rows, after_seq + 1):
            if row.seq != seq:
                raise UserError(f"{self.address}: event {seq} is missing; restore the file from a copy")
        return [self._entry(row) for row in rows]

    def delete(self) -> None:
        """Removes the ledger whole. Nothing of the search is left but what others keep of it."""
        self._store.delete()

    def close(self) -> None:
        """Releases the database connections."""
        self._store.engine.dispose()

    @property
    def holder(self) -> str:
        """The driver that writes now, for people; empty for none."""
        return self._store.holder()

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Holds the lock of the one writer; it is free again when the process dies.

        Raises:
            UserError: another driver holds it.
        """
        with self._store.lock():
            try:
                self._connect()
            except sql.exc.OperationalError as error:
                said = one_line(f"{self.address}: the database does not answer ({error.orig})")
                raise UserError(f"{said}; {self._store.remedy}") from error
            self._is_writing = True
            try:
                yield
            finally:
                self._is_writing = False
                self._disconnect()

    def _write(self, rows: Sequence[dict[str, Any]], is_retry: bool) -> None:
        if not self._is_writing:
            with self._store.engine.connect() as connection:
                self._write_by(connection, rows, is_retry)
            return
        try:
            if self._writer is None:
                self._connect()
            assert self._writer is not None
            self._write_by(self._writer, rows, is_retry)
        except RunsAlready as error:
            raise SearchHalted(f"{error}; this driver was cut off, and leaves the search to it") from error
        except Exception as error:
            if self._store.is_lost(error):
                self._disconnect()
            raise

    def _write_by(self, connection: sql.Connection, rows: Sequence[dict[str, Any]], is_retry: bool) -> None:
        with connection.begin():
            if is_retry and _is_written(connection, rows):
                return  # by the attempt whose answer was lost
            if not self._is_upgraded:
                # An older ledger may now hold what only this version reads.
                older = _SCHEMA.c.version < SCHEMA_VERSION
                connection.execute(_SCHEMA.update().where(older).values(version=SCHEMA_VERSION))
            _insert(connection, rows)
        self._is_upgraded = True

    def _last_seq(self) -> int:
        with self._store.engine.connect() as connection:
            return int(connection.execute(sql.select(sql.func.coalesce(sql.func.max(_EVENTS.c.seq), 0))).scalar_one())

    def _connect(self) -> None:
        self._writer = self._store.engine.connect()
        try:
            self._store.lock_session(self._writer)
        except BaseException:
            self._disconnect()
            raise

    def _disconnect(self) -> None:
        if self._writer is not None:
            self._writer.invalidate()  # closed, not put back: a session in a pool would keep its lock
            self._writer.close()
            self._writer = None

    def _check_version(self, connection: sql.Connection) -> None:
        version = connection.execute(sql.select(_SCHEMA.c.version)).scalar_one()
        if version > SCHEMA_VERSION:
            raise UserError(
                f"{self.address}: written by a newer hpsearch (ledger version {version}, this one reads "
                f"{SCHEMA_VERSION}); upgrade hpsearch"
            )

    def _entry(self, row: Any) -> Entry:
        try:
            return Entry(row.seq, row.at_s, EVENT.validate_json(row.body))
        except ValidationError as error:
            raise UserError(
                f"{self.address}: event {row.seq} cannot be read ({error.error_count()} faults); "
                "restore the file from a copy"
            ) from error


def read_ledger(address: LedgerAddress) -> list[Entry]:
    """All entries of a ledger, which is closed again.

    Raises:
        UserError: as `Ledger.read`.
    """
    ledger = Ledger(address)
    try:
        return ledger.read()
    finally:
        ledger.close()


def _rows(events: Sequence[Event], after_seq: int) -> list[dict[str, Any]]:
    """What is written for events behind a sequence number."""
    return [
        {"seq": seq, "at_s": time.time(), "body": event.model_dump_json()}
        for seq, event in enumerate(events, after_seq + 1)
    ]


def _insert(connection: sql.Connection, rows: Sequence[dict[str, Any]]) -> None:
    if rows:
        connection.execute(_EVENTS.insert(), rows)


def _is_written(connection: sql.Connection, rows: Sequence[dict[str, Any]]) -> bool:
    """Whether these very rows are there already."""
    if not rows:
        return True
    first = connection.execute(sql.select(_EVENTS).where(_EVENTS.c.seq == rows[0]["seq"])).one_or_none()
    return first is not None and (first.at_s, first.body) == (rows[0]["at_s"], rows[0]["body"])
