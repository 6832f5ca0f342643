"""The ledger: the append-only record of a search, in SQL. What happened is here and nowhere else.

One writer, the search driver, held by a lock; any number of readers. A transaction is one decision with
everything it decides, so no kill leaves half of one.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sqlalchemy as sql
from pydantic import ValidationError

from hpsearch.events import EVENT, Event
from search_spaces.errors import UserError

SCHEMA_VERSION = 2  # 2: confirms
NETWORK_FILE_SYSTEMS = {
    "nfs",
    "nfs4",
    "cifs",
    "smb2",
    "smb3",
    "smbfs",
    "afpfs",
    "9p",
    "fuse.sshfs",
    "lustre",
    "ceph",
    "glusterfs",
    "fuse.glusterfs",
    "beegfs",
    "gpfs",
}

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

    def __init__(self, path: Path) -> None:
        self.path = path
        self._engine = sql.create_engine(f"sqlite:///{path}", connect_args={"timeout": 30})
        sql.event.listen(self._engine, "connect", _configure_sqlite)

    def __reduce__(self) -> tuple[type, tuple[()]]:
        # Ray Tune pickles what is reachable from scheduler and searcher, for a file that is never read.
        return object, ()

    def create(self, *events: Event) -> None:
        """Makes the tables of a new ledger with its first events, all or nothing.

        Raises:
            UserError: the folder is on a network file system, where SQLite's log is not safe, or a ledger is there.
        """
        file_system = _file_system(self.path.parent)
        if file_system in NETWORK_FILE_SYSTEMS:
            raise UserError(
                f"{self.path}: a SQLite ledger is not safe on a network file system, got {file_system}; "
                "give --home on a local disk"
            )
        try:
            with self._engine.begin() as connection:
                connection.exec_driver_sql("BEGIN")  # else SQLite commits every table by itself
                _METADATA.create_all(connection, checkfirst=False)
                connection.execute(_SCHEMA.insert().values(version=SCHEMA_VERSION))
                _insert(connection, events)
        except sql.exc.DatabaseError as error:
            raise UserError(f"{self.path}: a ledger cannot be made here ({error.orig}); choose another name") from error

    def append(self, *events: Event) -> int:
        """Writes events in one transaction; returns the sequence number of the last."""
        with self._engine.begin() as connection:
            # An older ledger may now hold what only this version reads.
            older = _SCHEMA.c.version < SCHEMA_VERSION
            connection.execute(_SCHEMA.update().where(older).values(version=SCHEMA_VERSION))
            return _insert(connection, events)

    def read(self, after_seq: int = 0) -> list[Entry]:
        """All entries after a sequence number, in order.

        Raises:
            UserError: not a ledger, one of a newer version, or one that holds what no version wrote.
        """
        try:
            with self._engine.connect() as connection:
                self._check_version(connection)
                rows: Sequence[Any] = connection.execute(
                    sql.select(_EVENTS).where(_EVENTS.c.seq > after_seq).order_by(_EVENTS.c.seq)
                ).all()
        except sql.exc.DatabaseError as error:
            raise UserError(
                f"{self.path}: not a readable ledger ({error.orig}); give the folder of a search"
            ) from error
        for seq, row in enumerate(rows, after_seq + 1):
            if row.seq != seq:
                raise UserError(f"{self.path}: event {seq} is missing; restore the file from a copy")
        return [self._entry(row) for row in rows]

    def close(self) -> None:
        """Releases the database connections."""
        self._engine.dispose()

    @property
    def is_locked(self) -> bool:
        """Whether a driver writes now."""
        with suppress(FileNotFoundError), open(self.path.with_suffix(".lock"), encoding="utf-8") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
        return False

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Holds the lock of the one writer; the kernel frees it if the process dies.

        Raises:
            UserError: another driver holds it.
        """
        with open(self.path.with_suffix(".lock"), "a+", encoding="utf-8") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                lock.seek(0)
                holder = lock.read().strip() or "unknown"
                raise UserError(
                    f"{self.path.parent}: the search is running already (process {holder}); "
                    "wait for it, or stop that process"
                ) from error
            lock.truncate(0)
            lock.write(str(os.getpid()))
            lock.flush()
            yield

    def _check_version(self, connection: sql.Connection) -> None:
        version = connection.execute(sql.select(_SCHEMA.c.version)).scalar_one()
        if version > SCHEMA_VERSION:
            raise UserError(
                f"{self.path}: written by a newer hpsearch (ledger version {version}, this one reads "
                f"{SCHEMA_VERSION}); upgrade hpsearch"
            )

    def _entry(self, row: Any) -> Entry:
        try:
            return Entry(row.seq, row.at_s, EVENT.validate_json(row.body))
        except ValidationError as error:
            raise UserError(
                f"{self.path}: event {row.seq} cannot be read ({error.error_count()} faults); "
                "restore the file from a copy"
            ) from error


def _insert(connection: sql.Connection, events: Sequence[Event]) -> int:
    """Writes events behind the last one; returns the sequence number of the last."""
    last_seq = int(connection.execute(sql.select(sql.func.coalesce(sql.func.max(_EVENTS.c.seq), 0))).scalar_one())
    for seq, event in enumerate(events, last_seq + 1):
        row = {"seq": seq, "at_s": time.time(), "body": event.model_dump_json()}
        connection.execute(_EVENTS.insert().values(row))
    return last_seq + len(events)


def _configure_sqlite(connection: Any, _: Any) -> None:
    """Write-ahead log with full sync: a committed decision survives a power cut, at about 3.5 ms a commit."""
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute("PRAGMA synchronous=FULL")
    cursor.close()


def _file_system(folder: Path) -> str:
    """The type of the file system that a folder is on, by the longest mount point above it."""
    import psutil  # here, as only a new search asks

    parents = {str(parent) for parent in (folder.resolve(), *folder.resolve().parents)}
    mounts = [part for part in psutil.disk_partitions(all=True) if part.mountpoint in parents]
    return max(mounts, key=lambda part: len(part.mountpoint)).fstype if mounts else "unknown"
