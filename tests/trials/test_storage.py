"""Files at a location: whole or not at all; a fault is never an absent file. With a real S3 store and a full disk."""

from __future__ import annotations

import errno
import os
import pickle
import resource
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from search_spaces.errors import UserError
from tests.conftest import REPOSITORY
from tests.object_store import BUCKET, ObjectStore, object_store
from tests.trials.test_checkpoint import DIGEST, MEASUREMENT, TENSORS_OF_TRUNK, TRUNK, load, read_measurement
from trials import checkpoint, storage
from trials.checkpoint import CheckpointError
from trials.storage import Denied, DiskFull, NoSuchStore, StorageError, Unreachable

NO_BUCKET = "s3://no-such-bucket"
as_user = pytest.mark.skipif(os.geteuid() == 0, reason="root may do anything")


@pytest.fixture(scope="module")
def store() -> Iterator[ObjectStore]:
    with object_store(os.environ) as found:
        yield found


@pytest.fixture(params=["path", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A location that nothing is under yet."""
    if request.param == "path":
        return str(tmp_path / "new")
    request.getfixturevalue("store")
    return f"s3://{BUCKET}/{tmp_path.name}"


def test_what_is_written_is_read_listed_and_deleted(place: str) -> None:
    one, two = f"{place}/a/one", f"{place}/b/two"
    assert (storage.size(one), storage.files_under(place)) == (None, [])
    storage.write(one, b"0123456789")
    storage.write(two, b"")
    assert (storage.size(one), storage.size(two)) == (10, 0)
    assert storage.read(one) == b"0123456789"
    assert (storage.read(one, 0, 4), storage.read(one, 4, 6), storage.read(one, 8, 100)) == (b"0123", b"45", b"89")
    assert storage.files_under(place) == [one, two]
    storage.write(one, b"again")
    assert storage.read(one) == b"again"
    storage.delete([one, f"{place}/never"])
    storage.delete([one])
    assert storage.files_under(place) == [two]


def test_of_several_writers_of_one_file_one_is_first(place: str) -> None:
    """All have looked before any has written, as writers on two sides of a cut do."""
    texts = [f"{number}".encode() * 1000 for number in range(8)]
    together = threading.Barrier(len(texts))

    def all_see_none(location: str) -> None:
        together.wait(30)

    with pytest.MonkeyPatch.context() as patch, ThreadPoolExecutor(len(texts)) as writers:
        patch.setattr(storage, "size", all_see_none)
        first = list(writers.map(partial(storage.write_first, f"{place}/a"), texts))
    assert first.count(True) == 1
    assert storage.read(f"{place}/a") == texts[first.index(True)]
    assert storage.files_under(place) == [f"{place}/a"], "nothing of those who lost is left"
    assert not storage.write_first(f"{place}/a", b"late")


@pytest.mark.parametrize("error", [errno.EPERM, errno.ENOTSUP])
def test_the_first_one_is_written_where_there_are_no_links(tmp_path: Path, error: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "link", mock.Mock(side_effect=OSError(error, os.strerror(error))))
        assert storage.write_first(str(tmp_path / "a"), b"1")
    assert (tmp_path / "a").read_bytes() == b"1"
    assert os.listdir(tmp_path) == ["a"]


def test_a_folder_is_no_file(place: str) -> None:
    storage.write(f"{place}/a/one", b"1")
    assert storage.size(f"{place}/a") is None


def test_what_is_absent_is_no_fault_of_the_store(place: str) -> None:
    with pytest.raises(FileNotFoundError):
        storage.read(f"{place}/never")
    with pytest.raises(CheckpointError, match="no such file"):
        load(f"{place}/never")


def test_a_place_that_can_be_written_to_is_left_as_it_was(place: str) -> None:
    storage.check_writable(place)
    assert storage.files_under(place) == []


def test_a_file_that_cannot_be_looked_at_is_not_absent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a mount whose server is gone; `Path.is_file` calls that no file in newer versions of Python."""

    def gone(path: Path) -> None:
        raise OSError(errno.ESTALE, os.strerror(errno.ESTALE), str(path))

    storage.write(str(tmp_path / "a"), b"1")
    monkeypatch.setattr(Path, "stat", gone)
    with pytest.raises(Unreachable, match=str(tmp_path / "a")):
        storage.size(str(tmp_path / "a"))


def test_a_file_of_others_is_seen_at_once(place: str) -> None:
    """No listing is remembered: a driver asks for what its workers write."""
    storage.write(f"{place}/a", b"1")
    assert storage.files_under(place) == [f"{place}/a"]
    code = "import sys; from trials import storage; storage.write(sys.argv[1], b'22'); storage.delete(sys.argv[2:])"
    subprocess.run([sys.executable, "-c", code, f"{place}/b", f"{place}/a"], check=True, cwd=REPOSITORY)
    assert (storage.size(f"{place}/a"), storage.size(f"{place}/b")) == (None, 2)


def test_a_checkpoint_comes_back_from_anywhere(place: str) -> None:
    checkpoint.save(f"{place}/t/1.safetensors", TRUNK, MEASUREMENT, DIGEST)
    assert read_measurement(f"{place}/t/1.safetensors") == MEASUREMENT
    again = load(f"{place}/t/1.safetensors")
    assert {name: row.tobytes() for name, row in again.tensors.items()} == {
        name: row.tobytes() for name, row in TENSORS_OF_TRUNK.items()
    }
    assert all(row.flags.writeable for row in again.tensors.values()), "torch takes no others"


def test_a_truncated_object_is_no_checkpoint(place: str) -> None:
    checkpoint.save(f"{place}/1", TRUNK, MEASUREMENT, DIGEST)
    whole = storage.read(f"{place}/1")
    for length in (0, 5, 100, len(whole) - 1):
        storage.write(f"{place}/2", whole[:length])
        with pytest.raises(CheckpointError):
            read_measurement(f"{place}/2")


def test_a_measurement_is_read_without_the_tensors(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    large = {name: np.zeros(10**6, np.float32) for name in checkpoint.TENSORS}
    checkpoint.save(f"{place}/1", replace(TRUNK, tensors=large), MEASUREMENT, DIGEST)
    taken: list[int] = []
    read = storage.read

    def counted(location: str, start: int = 0, end: int | None = None) -> bytes:
        found = read(location, start, end)
        taken.append(len(found))
        return found

    monkeypatch.setattr(storage, "read", counted)
    assert read_measurement(f"{place}/1") == MEASUREMENT
    assert sum(taken) < 20_000


def test_a_header_longer_than_the_first_request_is_read(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint.save(f"{place}/1", TRUNK, MEASUREMENT, DIGEST)
    monkeypatch.setattr(checkpoint, "FIRST_BYTES", 100)
    assert read_measurement(f"{place}/1") == MEASUREMENT


# ---- faults ----


def test_a_bucket_that_is_not_there_is_a_fault_of_the_search(store: ObjectStore) -> None:
    """Whatever is asked of it: an absent bucket has no absent files."""
    asks: list[Callable[[], object]] = [
        lambda: storage.write(f"{NO_BUCKET}/a", b"1"),
        lambda: storage.read(f"{NO_BUCKET}/a"),
        lambda: storage.size(f"{NO_BUCKET}/a"),
        lambda: storage.delete([f"{NO_BUCKET}/a"]),
        lambda: storage.files_under(f"{NO_BUCKET}/a"),
        lambda: load(f"{NO_BUCKET}/a"),
    ]
    for ask in asks:
        with pytest.raises(NoSuchStore, match=f"{NO_BUCKET}/a: the specified bucket does not exist; create it"):
            ask()


def test_a_store_that_is_away_is_not_an_empty_one(store: ObjectStore) -> None:
    checkpoint.save(f"s3://{BUCKET}/away/1", TRUNK, MEASUREMENT, DIGEST)
    store.stop()
    try:
        with pytest.raises(Unreachable, match=f"s3://{BUCKET}/away/1: could not connect .*; bring the store back"):
            load(f"s3://{BUCKET}/away/1")
    finally:
        store.start()
    assert read_measurement(f"s3://{BUCKET}/away/1") == MEASUREMENT


def test_without_credentials_it_is_said(store: ObjectStore, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    code = "from trials import storage; storage.write('s3://searches/a', b'1')"
    environment = {**os.environ, "HOME": str(tmp_path), "AWS_EC2_METADATA_DISABLED": "true"}
    ended = subprocess.run(
        [sys.executable, "-c", code], cwd=REPOSITORY, env=environment, capture_output=True, text=True
    )
    assert "trials.storage.Denied: s3://searches/a: " in ended.stderr and "correct the credentials" in ended.stderr


@pytest.mark.parametrize("location", ["sftp://host/a", "http://host/a", "memory://a", "x://a"])
def test_a_store_without_whole_writes_is_refused(location: str) -> None:
    with pytest.raises(StorageError, match=f"{location}: must be a local path or in an object store .*; mount it"):
        storage.write(location, b"1")


@pytest.mark.parametrize(
    ("number", "kind"),
    [
        (errno.ENOSPC, DiskFull),
        (errno.EDQUOT, DiskFull),
        (errno.EFBIG, DiskFull),
        (errno.EROFS, Denied),
        (errno.EACCES, Denied),
        (errno.EIO, Unreachable),
        (errno.ESTALE, Unreachable),
        (errno.ETIMEDOUT, Unreachable),
        (errno.ENAMETOOLONG, StorageError),
    ],
)
def test_errors_of_a_file_system_are_told_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, kind: type[StorageError]
) -> None:
    def fail(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patched, pytest.raises(StorageError) as raised:
        patched.setattr(os, "fsync", fail)
        storage.write(str(tmp_path / "a"), b"1")
    assert type(raised.value) is kind
    assert str(tmp_path / "a") in str(raised.value) and os.strerror(number)[1:] in str(raised.value)
    assert list(tmp_path.iterdir()) == [], "nothing half-written is left"


def test_a_name_that_is_too_long_or_below_a_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="ile name too long; correct --storage"):
        storage.write(str(tmp_path / ("x" * 300)), b"1")
    (tmp_path / "file").touch()
    assert storage.size(str(tmp_path / "file" / "a")) is None
    with pytest.raises(StorageError, match="file/a: "):
        storage.write(str(tmp_path / "file" / "a"), b"1")


@as_user
def test_a_folder_that_may_not_be_written_to_is_told(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(Denied, match="give this user the right"):
        storage.check_writable(str(tmp_path))


@contextmanager
def small_disk(folder: Path, size_bytes: int) -> Iterator[Path]:
    """A file system of a given size, in memory."""
    folder.mkdir(exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={size_bytes}", "tmpfs", str(folder)]
    mounted = subprocess.run(command, capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"no file system can be mounted here: {mounted.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_full_disk_is_told_and_what_was_there_stays(tmp_path: Path) -> None:
    with small_disk(tmp_path / "small", 65536) as disk:
        storage.write(str(disk / "a"), b"1" * 20_000)
        with pytest.raises(DiskFull, match=r"small/a: no space left on device; free space there, lower checkpoints"):
            storage.write(str(disk / "a"), b"2" * 60_000)
        assert [file.name for file in disk.iterdir()] == ["a"]
        assert storage.read(str(disk / "a")) == b"1" * 20_000
        storage.write(str(disk / "b"), b"3" * 20_000)


def test_a_limit_on_the_size_of_files_is_a_full_disk(tmp_path: Path) -> None:
    """For everybody who may not mount a small disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, before[1]))
    try:
        with pytest.raises(DiskFull, match="ile too large"):
            storage.write(str(tmp_path / "a"), b"2" * 60_000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert list(tmp_path.iterdir()) == []


def test_a_fault_crosses_processes_as_it_is() -> None:
    fault = DiskFull("s3://a/b", "no room", "make some")
    again = pickle.loads(pickle.dumps(fault))
    assert type(again) is DiskFull and isinstance(again, UserError)
    assert (str(again), again.location) == ("s3://a/b: no room; make some", "s3://a/b")


# ---- patience ----


class Away:
    """A store that answers from a given time on; asking and waiting take what the clock says."""

    def __init__(self, until_s: float, fault: StorageError) -> None:
        self.now_s = 0.0
        self.waits: list[float] = []
        self._until_s = until_s
        self._fault = fault

    def act(self) -> str:
        if self.now_s < self._until_s:
            raise self._fault
        return "here"

    def sleep(self, seconds: float) -> None:
        self.waits.append(seconds)
        self.now_s += seconds

    def asked(self, patience_s: float) -> str:
        return storage.patiently(self.act, patience_s, self.sleep, lambda: self.now_s)


GONE = Unreachable("s3://a", "gone", "bring it back")


@given(st.floats(0, 1000), st.floats(0, 1000))
def test_a_store_that_comes_back_in_time_was_never_away(until_s: float, patience_s: float) -> None:
    away = Away(until_s, GONE)
    if until_s <= patience_s:
        assert away.asked(patience_s) == "here"
    else:
        with pytest.raises(Unreachable):
            away.asked(patience_s)
    assert away.now_s <= max(patience_s, 0) + 1e-6, "the time is bounded"
    assert all(wait <= storage.LAST_RETRY_S for wait in away.waits)


@pytest.mark.parametrize("kind", [DiskFull, Denied, NoSuchStore, StorageError])
def test_what_does_not_mend_itself_is_not_waited_for(kind: type[StorageError]) -> None:
    away = Away(1.0, kind("s3://a", "full", "free"))
    with pytest.raises(kind):
        away.asked(100.0)
    assert away.waits == []
