"""A checkpoint is whole and ours, or it is refused; a kill leaves what was there before."""

from __future__ import annotations

import json
import os
import pickle
import zlib
from dataclasses import replace
from functools import reduce
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given
from hypothesis import strategies as st

from tests.trials.conftest import measurement, segment
from trials import checkpoint
from trials.checkpoint import FORMAT, TENSORS, CheckpointError, Trunk, sealed
from trials.stability import LossTrace
from trials.trial import Measurement

SIZE = 7
DIGEST = "of the configuration"
MEASUREMENT = measurement(segment(Path("folder"), "a", 20), 2.5)
TRACE = reduce(LossTrace.add, [4.1, 3.9, 4.0], LossTrace())
TENSORS_OF_TRUNK = {name: np.arange(SIZE, dtype=np.float32) + place for place, name in enumerate(TENSORS)}
TRUNK = Trunk(1024, 16, TRACE, TENSORS_OF_TRUNK)
HEADER = {
    "format": str(FORMAT),
    "tokens": "1024",
    "steps": "16",
    "trace": json.dumps(TRACE.to_dict()),
    "measurement": json.dumps(MEASUREMENT.to_dict()),
    "config": DIGEST,
    "tensors": f"{zlib.crc32(b''.join(TENSORS_OF_TRUNK[name].tobytes() for name in sorted(TENSORS))):08x}",
}
ROWS = st.lists(st.floats(width=32), min_size=SIZE, max_size=SIZE).map(lambda row: np.array(row, dtype=np.float32))
TRACES = st.lists(st.floats(), max_size=20).map(lambda losses: reduce(LossTrace.add, losses, LossTrace()))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The bytes of a checkpoint."""
    path = tmp_path_factory.mktemp("whole") / "a.safetensors"
    checkpoint.save(str(path), TRUNK, MEASUREMENT, DIGEST)
    return path.read_bytes()


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One file, written anew by every example."""
    return tmp_path_factory.mktemp("scratch") / "b.safetensors"


def read_measurement(path: Path | str) -> Measurement:
    return checkpoint.read_measurement(str(path), MEASUREMENT.trial_id, MEASUREMENT.tokens)


def load(path: Path | str) -> Trunk:
    return checkpoint.load(str(path), SIZE, DIGEST)


def refused(path: Path) -> None:
    """Asserts that neither reader takes the file, and that both name it."""
    with pytest.raises(CheckpointError, match=path.name):
        read_measurement(path)
    with pytest.raises(CheckpointError, match=path.name):
        load(path)


def test_whole_is_read(scratch: Path) -> None:
    safetensors.numpy.save_file(TENSORS_OF_TRUNK, scratch, metadata=sealed(HEADER))
    assert read_measurement(scratch) == MEASUREMENT
    assert load(scratch).trace == TRACE


@given(
    st.integers(0, 2**63),
    st.integers(0, 2**63),
    st.tuples(ROWS, ROWS, ROWS),
    TRACES,
    st.floats(allow_nan=False),
    st.text(),
)
def test_comes_back_as_it_was(
    scratch: Path,
    tokens: int,
    steps: int,
    rows: tuple[np.ndarray, np.ndarray, np.ndarray],
    trace: LossTrace,
    loss: float,
    trial_id: str,
) -> None:
    measured = replace(MEASUREMENT, loss=loss, trial_id=trial_id)
    checkpoint.save(str(scratch), Trunk(tokens, steps, trace, dict(zip(TENSORS, rows, strict=True))), measured, DIGEST)
    again = load(scratch)
    assert (again.tokens, again.steps) == (tokens, steps)
    assert repr(again.trace) == repr(trace), "NaN is not equal to itself"
    assert [again.tensors[name].tobytes() for name in TENSORS] == [row.tobytes() for row in rows]
    assert checkpoint.read_measurement(str(scratch), trial_id, measured.tokens) == measured


def places(whole: bytes) -> dict[str, int]:
    """Where a safetensors file can end too early: its header's length, the header, the tensors."""
    start, end = 8, 8 + int.from_bytes(whole[:8], "little")
    row = 4 * SIZE
    return {
        "empty": 0,
        "in the length": 5,
        "after the length": start,
        "in the header": (start + end) // 2,
        "one short of the header": end - 1,
        "after the header": end,
        "in the first tensor": end + row // 2,
        "after the first tensor": end + row,
        "in the last tensor": end + 2 * row + 1,
        "one byte short": len(whole) - 1,
    }


@pytest.mark.parametrize("place", list(places(bytes(8))))
def test_truncated_at_every_kind_of_place_is_refused(whole: bytes, scratch: Path, place: str) -> None:
    assert places(whole)["one byte short"] == places(whole)["after the header"] + 12 * SIZE - 1
    scratch.write_bytes(whole[: places(whole)[place]])
    refused(scratch)


@given(st.data())
def test_truncated_anywhere_is_refused(whole: bytes, scratch: Path, data: st.DataObject) -> None:
    scratch.write_bytes(whole[: data.draw(st.integers(0, len(whole) - 1))])
    refused(scratch)


def test_longer_than_it_says_is_refused(whole: bytes, scratch: Path) -> None:
    scratch.write_bytes(whole + b"\0")
    refused(scratch)


@given(st.data())
def test_a_damaged_byte_is_refused_or_harmless(whole: bytes, scratch: Path, data: st.DataObject) -> None:
    """Never another exception, as that would end the thread that trains everybody's trials; never another state."""
    place = data.draw(st.integers(0, len(whole) - 1))
    scratch.write_bytes(whole[:place] + data.draw(st.binary(min_size=1, max_size=1)) + whole[place + 1 :])
    try:
        assert read_measurement(scratch) == MEASUREMENT
        trunk = load(scratch)
        assert (trunk.tokens, trunk.steps, trunk.trace) == (TRUNK.tokens, TRUNK.steps, TRACE)
        assert {name: row.tobytes() for name, row in trunk.tensors.items()} == {
            name: row.tobytes() for name, row in TENSORS_OF_TRUNK.items()
        }
    except CheckpointError as error:
        assert scratch.name in str(error)


def test_somebody_elses_is_refused(whole: bytes, scratch: Path) -> None:
    """A model of as many parameters, as with other heads; another trial, another rung."""
    scratch.write_bytes(whole)
    with pytest.raises(CheckpointError, match=f"{scratch.name}: of another configuration"):
        checkpoint.load(str(scratch), SIZE, "of another one")
    for trial_id, tokens in (("b", MEASUREMENT.tokens), ("a", 1)):
        with pytest.raises(
            CheckpointError, match=f"{scratch.name}: of trial a at .* tokens, not of {trial_id} at {tokens}"
        ):
            checkpoint.read_measurement(str(scratch), trial_id, tokens)


def test_somebody_elses_file_does_not_answer_for_a_segment(whole: bytes, scratch: Path) -> None:
    scratch.write_bytes(whole)
    other = replace(MEASUREMENT, trial_id="b")
    assert checkpoint.save_first(str(scratch), TRUNK, other, DIGEST) == other
    assert checkpoint.read_measurement(str(scratch), "b", other.tokens) == other


def test_who_comes_second_takes_what_is_there(tmp_path: Path) -> None:
    """A device that was cut off, and whose segment another one has trained meanwhile."""
    path, late = tmp_path / "a.safetensors", replace(MEASUREMENT, loss=2.25)
    assert checkpoint.save_first(str(path), TRUNK, MEASUREMENT, DIGEST) == MEASUREMENT
    before = path.read_bytes()
    assert checkpoint.save_first(str(path), replace(TRUNK, steps=17), late, DIGEST) == MEASUREMENT
    assert path.read_bytes() == before
    path.write_bytes(before[:-1])
    assert checkpoint.save_first(str(path), TRUNK, late, DIGEST) == late
    assert read_measurement(path) == late


def test_other_shape_is_refused(whole: bytes, scratch: Path) -> None:
    scratch.write_bytes(whole)
    with pytest.raises(CheckpointError, match=rf"{scratch.name}: holds .*\({SIZE},\).*8 parameters was expected"):
        checkpoint.load(str(scratch), SIZE + 1, DIGEST)


@pytest.mark.parametrize("kind", ["float64", "missing", "surplus", "matrix"])
def test_other_tensors_are_refused(scratch: Path, kind: str) -> None:
    tensors: dict[str, np.ndarray] = {**TENSORS_OF_TRUNK}
    match kind:
        case "float64":
            tensors["mean"] = tensors["mean"].astype(np.float64)
        case "missing":
            del tensors["square"]
        case "surplus":
            tensors["fourth"] = tensors["mean"]
        case "matrix":
            tensors["weights"] = tensors["weights"].reshape(1, SIZE)
    safetensors.numpy.save_file(tensors, scratch, metadata=sealed(HEADER))
    with pytest.raises(CheckpointError, match=f"{scratch.name}: .*parameters was expected"):
        load(scratch)


@pytest.mark.parametrize("found", [str(FORMAT - 1), str(FORMAT + 1), f"{FORMAT}.0", "pt", ""])
def test_older_newer_and_foreign_formats_are_refused_by_name(scratch: Path, found: str) -> None:
    safetensors.numpy.save_file(TENSORS_OF_TRUNK, scratch, metadata=sealed(HEADER | {"format": found}))
    refused(scratch)
    with pytest.raises(
        CheckpointError, match=f"{scratch.name}: checkpoint format {found}, this version reads {FORMAT}"
    ):
        load(scratch)


@pytest.mark.parametrize("header", [None, {}, {"made_by": "somebody"}])
def test_safetensors_that_are_not_ours_are_refused(scratch: Path, header: dict[str, str] | None) -> None:
    safetensors.numpy.save_file(TENSORS_OF_TRUNK, scratch, metadata=header)
    refused(scratch)


@pytest.mark.parametrize(
    ("key", "values"),
    [
        ("tokens", ["", "many", "1.5"]),
        ("steps", ["", "many", "1.5"]),
        ("config", ["", "of another"]),
        ("tensors", ["", "00000000"]),
        ("trace", ["", "{", "[]", "1", "null", "{}", '{"recent": 1}', '{"recent": [], "worst": 1.0}']),
        ("measurement", ["", "{", "[]", "1", "null", "{}", '{"loss": 1.0}', '{"outcome": "MEASURED"}']),
    ],
)
def test_damaged_header_is_refused(scratch: Path, key: str, values: list[str]) -> None:
    read = read_measurement if key == "measurement" else load
    damaged = [HEADER | {key: value} for value in values]
    for header in (*damaged, {name: value for name, value in HEADER.items() if name != key}):
        safetensors.numpy.save_file(TENSORS_OF_TRUNK, scratch, metadata=sealed(header))
        with pytest.raises(CheckpointError, match=scratch.name):
            read(scratch)


class Bomb:
    """Unpickled, it would leave a file behind."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[Path]]:
        return Path.touch, (self.path,)


def test_a_pickle_is_refused_and_not_executed(tmp_path: Path) -> None:
    path, trace = tmp_path / "a.safetensors", tmp_path / "trace"
    path.write_bytes(pickle.dumps(Bomb(trace)))
    refused(path)
    assert not trace.exists()
    pickle.loads(path.read_bytes())
    assert trace.exists(), "the bomb works"


def test_missing_file_or_folder_in_its_place_is_refused(tmp_path: Path) -> None:
    refused(tmp_path / "absent.safetensors")
    refused(tmp_path)


class Killed(BaseException):
    """Stands for a SIGKILL at the place where it is raised."""


def kill(*_: object) -> None:
    raise Killed


@pytest.mark.parametrize("place", ["fsync", "replace"])
def test_kill_before_the_rename_leaves_the_old_file_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    path = tmp_path / "a.safetensors"
    checkpoint.save(str(path), TRUNK, MEASUREMENT, DIGEST)
    before = path.read_bytes()
    with monkeypatch.context() as patched, pytest.raises(Killed):
        patched.setattr(os, place, kill)
        checkpoint.save(str(path), replace(TRUNK, tokens=2048), replace(MEASUREMENT, loss=2.0), DIGEST)
    assert path.read_bytes() == before
    checkpoint.save(str(path), replace(TRUNK, tokens=2048), replace(MEASUREMENT, loss=2.0), DIGEST)
    assert load(path).tokens == 2048
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_kill_before_the_first_rename_leaves_no_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "new" / "a.safetensors"
    monkeypatch.setattr(os, "replace", kill)
    with pytest.raises(Killed):
        checkpoint.save(str(path), TRUNK, MEASUREMENT, DIGEST)
    assert not path.exists()
    assert not list(path.parent.glob("*.safetensors"))
