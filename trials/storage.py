"""Files where a search keeps them: a location is text, a local path or the URL of an object store.

Faults are few and each names location, reason and remedy:

    StorageError        none of those below; it will not mend itself
      DiskFull          disk, quota or file-size limit
      Denied            permission or credentials
      NoSuchStore       bucket or folder, or the package that speaks its protocol
      Unreachable       may mend itself: `patiently` tries again for a bounded time

A file that is not there is a FileNotFoundError, never one of these: what cannot be reached is not absent.
No heavy import here, as thin workers name these errors; fsspec is loaded by the first URL.
"""

from __future__ import annotations

import errno
import logging
import os
import stat
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

from search_spaces.errors import UserError, one_line

log = logging.getLogger(__name__)

PARTIAL = ".partial"  # the ending of what is being written
# Stores whose PUT is whole or not at all. Others (sftp, hdfs, ...) write in place: mount them.
OBJECT_STORES = ("s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "oss", "oci")
CONDITIONAL_STORES = (
    "s3",
    "s3a",
    "gs",
    "gcs",
    "az",
    "abfs",
    "abfss",
)  # whose client passes on "only where there is none"
PATIENCE_S = 300.0  # how long a store may be away without stopping a search
FIRST_RETRY_S = 0.5
LAST_RETRY_S = 10.0  # the interval doubles up to here

ABSENT = {errno.ENOENT, errno.ENOTDIR, errno.ELOOP}
FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
DENIED = {errno.EACCES, errno.EPERM, errno.EROFS}
AWAY = {  # of a mount whose server is gone
    errno.EIO,
    errno.ESTALE,
    errno.ETIMEDOUT,
    errno.ENOTCONN,
    errno.ECONNREFUSED,
    errno.ECONNRESET,
    errno.EHOSTDOWN,
    errno.EHOSTUNREACH,
    errno.ENETUNREACH,
    errno.EREMOTEIO,
    errno.EBUSY,  # what s3fs makes of "slow down"
}
NO_LINKS = {errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK}
LOST_RACE = {"PreconditionFailed", "412", "ConditionalRequestConflict", "409"}  # of S3: somebody else's file is there
FULL_CODES = {"QuotaExceeded", "InsufficientCapacity", "XMinioStorageFull", "EntityTooLarge"}  # of S3 and its kin

Answer = TypeVar("Answer")


class StorageError(UserError):
    """A location that cannot be used, told as "location: reason; remedy"."""

    def __init__(self, location: str, reason: str, remedy: str) -> None:
        super().__init__(location, reason, remedy)  # what it is pickled by, on its way between processes
        self.location = location
        self.reason = reason
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{one_line(f'{self.location}: {self.reason}')}; {self.remedy}"


class DiskFull(StorageError):
    """No room: disk, quota or the process's file-size limit."""


class Denied(StorageError):
    """Permissions or credentials."""


class NoSuchStore(StorageError):
    """No such bucket or folder, or nothing here that speaks its protocol."""


class Unreachable(StorageError):
    """The store, or the mount's server, does not answer."""


REMEDIES: dict[type[StorageError], str] = {
    DiskFull: "free space there, lower checkpoints.budget_bytes, or give another --storage",
    Denied: "give this user the right to write there, or correct the credentials in the environment",
    NoSuchStore: "create it, or correct --storage",
    Unreachable: "bring the store back",
    StorageError: "correct --storage",
}


def write(location: str, data: bytes) -> None:
    """Writes a file whole or not at all, and durably.

    Raises:
        StorageError: it cannot be written; nothing half-written is left.
    """
    with _told(location):
        try:
            path = _local(location)
            if path is not None:
                _write_local(path, data, os.replace)
            else:
                store, key = _remote(location)
                store.pipe_file(key, data)
        except FileNotFoundError as error:  # the bucket, or a folder that was removed meanwhile
            raise _fault(NoSuchStore, location, error) from error


def write_first(location: str, data: bytes) -> bool:
    """Writes a file as `write` does, but only where there is none; of several writers one is told True.

    Where the file system has no hard links, or the store takes no conditions, two writers of the same instant may both
    be told True, and the second one's file stays.

    Raises:
        StorageError: it cannot be written; nothing half-written is left.
    """
    if size(location) is not None:
        return False
    with _told(location), suppress(FileExistsError):
        try:
            path = _local(location)
            if path is not None:
                _write_local(path, data, _link)
            else:
                _put_first(location, data)
        except FileNotFoundError as error:
            raise _fault(NoSuchStore, location, error) from error
        return True
    return False


def read(location: str, start: int = 0, end: int | None = None) -> bytes:
    """The bytes of a file from `start` to before `end`, or to its end.

    Raises:
        FileNotFoundError: there is no such file.
        StorageError: it cannot be read.
    """
    with _told(location):
        path = _local(location)
        if path is None:
            store, key = _remote(location)
            found: bytes = store.cat_file(key, start=start, end=end) if start or end else store.cat_file(key)
            return found
        with open(path, "rb") as file:
            file.seek(start)
            return file.read(-1 if end is None else end - start)


def size(location: str) -> int | None:
    """Bytes of a file, None where there is none.

    Raises:
        StorageError: that cannot be told.
    """
    with suppress(FileNotFoundError), _told(location):
        path = _local(location)
        if path is not None:
            return _local_size(path)
        store, key = _remote(location)
        info = store.info(key)
        return int(info["size"]) if info["type"] == "file" else None
    return None


def _local_size(path: Path) -> int | None:
    """As `size`; not by `Path.is_file`, for which from Python 3.14 on a file that cannot be looked at is none."""
    try:
        found = path.stat()
    except OSError as error:
        if error.errno in ABSENT:
            return None
        raise
    return found.st_size if stat.S_ISREG(found.st_mode) else None


def delete(locations: Iterable[str]) -> None:
    """Removes files; one that is not there is no fault. Files of one store go in one request.

    Raises:
        StorageError: one cannot be removed; files after it may be left.
    """
    stores: dict[str, list[str]] = {}
    for location in locations:
        path = _local(location)
        if path is None:
            stores.setdefault(location.partition("://")[0], []).append(location)
            continue
        with _told(location):
            path.unlink(missing_ok=True)
    for urls in stores.values():
        with suppress(FileNotFoundError), _told(urls[0]):
            remote = [_remote(url) for url in urls]
            remote[0][0].rm([key for _, key in remote])


def files_under(location: str) -> list[str]:
    """Locations of all files below, partial ones too; none where there is no such folder.

    Raises:
        StorageError: that cannot be told.
    """
    with suppress(FileNotFoundError), _told(location):
        path = _local(location)
        if path is not None:
            return sorted(os.path.join(folder, name) for folder, _, names in os.walk(path) for name in names)
        store, key = _remote(location)
        return sorted(location.rstrip("/") + found.removeprefix(key.rstrip("/")) for found in store.find(key))
    return []


def check_writable(location: str) -> None:
    """Writes a small file below and removes it, so that a fault is known before anything is spent.

    Raises:
        StorageError: that fails.
    """
    probe = f"{location.rstrip('/')}/probe-{_writer()}"
    write(probe, b"hpsearch")
    delete([probe])


def patiently(
    act: Callable[[], Answer],
    patience_s: float,
    sleep: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> Answer:
    """Does it, again and again for so many seconds where the store cannot be reached.

    Raises:
        StorageError: another fault, or the time is over.
    """
    started_s, interval_s = clock(), FIRST_RETRY_S
    while True:
        try:
            return act()
        except Unreachable as fault:
            left_s = started_s + patience_s - clock()
            if left_s <= 0:
                raise
            log.warning("%s; tried again for %.0f s", fault, left_s)
            sleep(min(interval_s, left_s))
            interval_s = min(2 * interval_s, LAST_RETRY_S)


def _write_local(path: Path, data: bytes, place: Callable[[Path, Path], None]) -> None:
    """Beside, synced, put in place, and the folder synced: without it a power cut may take the name."""
    _make_folder(path.parent)
    beside = path.with_name(f"{path.name}.{_writer()}{PARTIAL}")
    try:
        with open(beside, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        place(beside, path)
    except OSError:
        with suppress(OSError):
            beside.unlink()
        raise
    _sync_folder(path.parent)


def _link(beside: Path, path: Path) -> None:
    """A rename that takes nobody's place."""
    try:
        os.link(beside, path)
    except OSError as error:
        if error.errno not in NO_LINKS:
            raise
        os.replace(beside, path)
    else:
        beside.unlink()


def _put_first(location: str, data: bytes) -> None:
    store, key = _remote(location)
    try:
        conditional = location.partition("://")[0] in CONDITIONAL_STORES
        store.pipe_file(key, data, **({"mode": "create"} if conditional else {}))
    except OSError as error:
        if _code(error) in LOST_RACE:
            raise FileExistsError(location) from error
        if _code(error) != "NotImplemented":  # what a store says that does not know conditions
            raise
        store.pipe_file(key, data)


def _make_folder(folder: Path) -> None:
    if folder.is_dir():
        return
    _make_folder(folder.parent)
    folder.mkdir(exist_ok=True)
    _sync_folder(folder.parent)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _writer() -> str:
    """This thread, among those of all nodes of a shared mount."""
    return f"{os.uname().nodename}-{os.getpid()}-{threading.get_native_id()}"


def _local(location: str) -> Path | None:
    """The path, where the location is one."""
    return None if "://" in location else Path(location)


def _remote(location: str) -> tuple[Any, str]:
    """The store of a URL, and the file's key in it."""
    protocol = location.partition("://")[0]
    if protocol not in OBJECT_STORES:
        known = ", ".join(OBJECT_STORES)
        raise StorageError(
            location, f"must be a local path or in an object store ({known}), got {protocol}", "mount it, give its path"
        )
    try:
        import fsspec

        # A listing kept in memory would answer for files that others have written or removed since.
        store, key = fsspec.core.url_to_fs(location, use_listings_cache=False)
    except ImportError as error:
        raise NoSuchStore(
            location, f"no package here for {protocol} ({error})", "pip install 'hpsearch[s3]' for s3"
        ) from error
    return store, key


@contextmanager
def _told(location: str) -> Iterator[None]:
    """Makes the many errors of file systems and clients into the few of this module."""
    try:
        yield
    except (StorageError, FileNotFoundError) as error:
        if _code(error) == "NoSuchBucket":
            raise _fault(NoSuchStore, location, error) from error
        raise
    except OSError as error:
        raise _fault(_kind(location, error), location, error) from error
    except Exception as error:  # of a store's client, which has a hundred of them
        if _local(location) is not None:
            raise
        raise _fault(Denied if "Credential" in type(error).__name__ else Unreachable, location, error) from error


def _kind(location: str, error: OSError) -> type[StorageError]:
    code = _code(error)
    if error.errno in FULL or code in FULL_CODES:
        return DiskFull
    if error.errno in DENIED or isinstance(error, PermissionError):
        return Denied
    if error.errno in AWAY or isinstance(error, TimeoutError | ConnectionError):
        return Unreachable
    if _local(location) is None and error.errno is None:
        return Unreachable
    return StorageError


def _code(error: BaseException) -> str:
    """What an S3 store calls the fault, if it does."""
    response = getattr(error.__cause__, "response", None)
    return str(response.get("Error", {}).get("Code", "")) if isinstance(response, dict) else ""


def _fault(kind: type[StorageError], location: str, error: BaseException) -> StorageError:
    reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return kind(location, f"{reason[0].lower()}{reason[1:]}", REMEDIES[kind])
