"""Where a ledger is kept: a SQLite file of its own, or a schema of a PostgreSQL database.

A store knows what the two do differently: how a connection is made, who may write, and whether there is anything.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import socket
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import sqlalchemy as sql
from sqlalchemy.engine import URL, make_url

from search_spaces.errors import UserError, one_line

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
BUSY_TIMEOUT_S = 30  # a reader may hold up a SQLite writer for a moment
SCHEMA_PREFIX = "hpsearch_"
NAME_LENGTH = 63 - len(SCHEMA_PREFIX)  # PostgreSQL cuts longer names short
# Either side of a connection that has gone silent gives it up within half a minute, so that a search can be resumed
# elsewhere; left to itself TCP takes two hours.
POSTGRES_OPTIONS = {
    "connect_timeout": 5,
    "tcp_user_timeout": 30_000,  # ms
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "options": "-c tcp_keepalives_idle=10 -c tcp_keepalives_interval=5 -c tcp_keepalives_count=3",
}


@dataclass(frozen=True)
class PostgresAddress:
    """A search's ledger in a database that many searches share."""

    url: str
    search: str

    def __str__(self) -> str:
        return f"{self.url} (search {self.search})"


LedgerAddress = Path | PostgresAddress  # a path is that of a SQLite file


class RunsAlready(UserError):
    """Another process writes to the ledger."""

    def __init__(self, search: str, holder: str) -> None:
        super().__init__(f"{search}: the search is running already ({holder}); wait for it, or stop that process")
        self.holder = holder


class LedgerStore(Protocol):
    """What a ledger needs to know of where it is kept."""

    engine: sql.Engine
    remedy: str  # for a ledger that cannot be read

    def exists(self) -> bool:
        """Whether there is anything, readable or not."""
        ...

    def check_place(self) -> None:
        """Raises UserError where a new ledger would not be safe."""
        ...

    def prepare(self, connection: sql.Connection) -> None:
        """Makes the place for the tables of a new ledger; a transaction begins here at the latest."""
        ...

    def lock(self) -> AbstractContextManager[None]:
        """Holds what is locked outside the connections; raises UserError where another writer has it."""
        ...

    def lock_session(self, connection: sql.Connection) -> None:
        """Locks by a connection, for as long as it lasts; raises UserError where another writer has the lock."""
        ...

    def holder(self) -> str:
        """Who holds the lock of the writer; empty for nobody."""
        ...

    def is_lost(self, error: Exception) -> bool:
        """Whether a connection broke, or could not be made: it may be tried again."""
        ...

    def delete(self) -> None:
        """Removes the ledger whole."""
        ...


def store_at(address: LedgerAddress) -> LedgerStore:
    """The store of a ledger."""
    return PostgresStore(address) if isinstance(address, PostgresAddress) else SqliteStore(address)


class SqliteStore:
    """A file; its lock is the kernel's, so it ends with the process that held it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = path.with_suffix(".lock")
        self.remedy = "give the folder of a search, or restore the file from a copy"
        self.engine = sql.create_engine(f"sqlite:///{path}", connect_args={"timeout": BUSY_TIMEOUT_S})
        sql.event.listen(self.engine, "connect", _configure_sqlite)

    def exists(self) -> bool:
        return os.path.isfile(self._path)  # unlike Path.is_file it takes any text for a path

    def prepare(self, connection: sql.Connection) -> None:
        connection.exec_driver_sql("BEGIN")  # else SQLite commits every table by itself

    def check_place(self) -> None:
        file_system = _file_system(self._path.parent)
        if file_system in NETWORK_FILE_SYSTEMS:
            raise UserError(
                f"{self._path}: a SQLite ledger is not safe on a network file system, got {file_system}; "
                "give --home on a local disk, or --ledger postgresql://..."
            )

    @contextmanager
    def lock(self) -> Iterator[None]:
        with open(self._lock, "a+", encoding="utf-8") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                lock.seek(0)
                raise RunsAlready(str(self._path.parent), f"process {lock.read().strip() or 'unknown'}") from error
            lock.truncate(0)
            lock.write(str(os.getpid()))
            lock.flush()
            yield

    def lock_session(self, connection: sql.Connection) -> None:
        pass  # the lock is the file's, not the connection's

    def holder(self) -> str:
        with suppress(FileNotFoundError), open(self._lock, encoding="utf-8") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return lock.read().strip() or "unknown"
        return ""

    def is_lost(self, error: Exception) -> bool:
        return False  # a file has no connection to lose

    def delete(self) -> None:
        self.engine.dispose()
        for suffix in ("", "-wal", "-shm"):
            self._path.with_name(self._path.name + suffix).unlink(missing_ok=True)


class PostgresStore:
    """A schema; its lock is a session's, so it ends with the connection that held it."""

    def __init__(self, address: PostgresAddress) -> None:
        self._address = address
        self._schema = SCHEMA_PREFIX + address.search
        # An advisory lock has a number, not a name.
        self._key = int.from_bytes(hashlib.sha256(self._schema.encode()).digest()[:8], "big", signed=True)
        self.remedy = "start the database, or correct --ledger, PGPASSWORD or PGPASSFILE"
        self._engine = postgres_engine(address.url)
        self.engine: sql.Engine = self._engine.execution_options(schema_translate_map={None: self._schema})

    def exists(self) -> bool:
        with _answering(self._address.url), self._engine.connect() as connection:
            return self._schema in sql.inspect(connection).get_schema_names()

    def prepare(self, connection: sql.Connection) -> None:
        connection.execute(sql.schema.CreateSchema(self._schema))

    def check_place(self) -> None:
        if len(self._address.search) > NAME_LENGTH:
            raise UserError(
                f"{self._address.search}: must have at most {NAME_LENGTH} letters where PostgreSQL keeps the ledger, "
                f"got {len(self._address.search)}; choose a shorter --name"
            )

    @contextmanager
    def lock(self) -> Iterator[None]:
        yield  # the lock is the writing connection's

    def lock_session(self, connection: sql.Connection) -> None:
        free = connection.execute(sql.select(sql.func.pg_try_advisory_lock(self._key))).scalar_one()
        holder = "" if free else str(connection.execute(sql.text(HOLDER), {"key": self._key}).scalar() or "unknown")
        connection.commit()  # the lock outlives the transaction
        if not free:
            raise RunsAlready(self._address.search, holder)

    def holder(self) -> str:
        with _answering(self._address.url), self._engine.connect() as connection:
            return str(connection.execute(sql.text(HOLDER), {"key": self._key}).scalar() or "")

    def is_lost(self, error: Exception) -> bool:
        if isinstance(error, RunsAlready):
            return error.holder == _whoami()  # a session of ours that the database still takes for alive
        state = getattr(getattr(error, "orig", None), "sqlstate", None)  # none where the connection itself broke
        return isinstance(error, sql.exc.OperationalError) and (state is None or state[:2] in ("08", "57"))

    def delete(self) -> None:
        with _answering(self._address.url), self._engine.begin() as connection:
            connection.execute(sql.schema.DropSchema(self._schema, cascade=True))


# A 64-bit key is shown as two halves.
HOLDER = """
    SELECT activity.application_name FROM pg_locks AS held JOIN pg_stat_activity AS activity USING (pid)
    WHERE held.locktype = 'advisory' AND held.granted AND held.objsubid = 1
      AND (held.classid::bigint << 32 | held.objid::bigint) = :key
"""


def names_in(url: str) -> list[str]:
    """The searches of a database, by name."""
    with _answering(url), postgres_engine(url).connect() as connection:
        schemas = sql.inspect(connection).get_schema_names()
    return sorted(name.removeprefix(SCHEMA_PREFIX) for name in schemas if name.startswith(SCHEMA_PREFIX))


def postgres_engine(url: str) -> sql.Engine:
    """An engine for an address that was given by a person.

    Raises:
        UserError: it is not PostgreSQL's, holds a password, or the driver is not installed.
    """
    try:
        parsed = make_url(url)
    except sql.exc.ArgumentError as error:
        raise UserError(one_line("--ledger: must be the address of a database") + f"; {ADDRESS_RULE}") from error
    if parsed.get_backend_name() != "postgresql":
        raise UserError(one_line(f"--ledger: must be PostgreSQL's, got {parsed.drivername}") + f"; {ADDRESS_RULE}")
    if parsed.password or "password" in parsed.query:
        raise UserError(
            "--ledger: must not hold a password, which would be shown and logged; "
            "put it into PGPASSWORD, or into a file that PGPASSFILE names"
        )
    return _engine(parsed)


ADDRESS_RULE = "write postgresql://USER@HOST:PORT/DATABASE"


def _engine(url: URL) -> sql.Engine:
    options = {**POSTGRES_OPTIONS, "application_name": _whoami()}
    try:
        # No pool: a connection that waits in one would keep a dead server's session, or a lock.
        return sql.create_engine(url.set(drivername="postgresql+psycopg"), connect_args=options, poolclass=sql.NullPool)
    except ModuleNotFoundError as error:
        raise UserError("--ledger: PostgreSQL needs a driver; pip install 'hpsearch[postgres]'") from error


def _whoami() -> str:
    """This process, as the database shows it; PostgreSQL keeps 63 letters."""
    return f"process {os.getpid()} of {socket.gethostname()}"[:63]


@contextmanager
def _answering(url: str) -> Iterator[None]:
    """Turns a database that does not answer into an error for a person."""
    try:
        yield
    except sql.exc.OperationalError as error:
        raise UserError(
            one_line(f"{url}: the database does not answer ({error.orig})")
            + "; start it, or correct --ledger, PGPASSWORD or PGPASSFILE"
        ) from error


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
