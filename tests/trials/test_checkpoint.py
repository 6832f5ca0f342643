"""A checkpoint is whole and ours, or it is refused; a kill leaves what was there before."""

from __future__ import annotations

import json
import os
import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given
from hypothesis import strategies as st

from tests.trials.conftest import measurement, segment
from trials import checkpoint
from trials.checkpoint import TENSORS, CheckpointError, Trunk

SIZE = 7
MEASUREMENT = measurement(segment(Path("folder"), "a", 20), 2.5)
TRUNK = Trunk(1024, {name: np.arange(SIZE, dtype=np.float32) + place for place, name in enumerate(TENSORS)})
HEADER = {"format": "1", "tokens": "1024", "start_loss": "4.1", "measurement": json.dumps(MEASUREMENT.to_dict())}
ROWS = st.lists(st.floats(width=32), min_size=SIZE, max_size=SIZE).map(lambda row: np.array(row, dtype=np.float32))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The bytes of a checkpoint."""
    path = tmp_path_factory.mktemp("whole") / "a.safetensors"
    checkpoint.save(path, TRUNK, MEASUREMENT, 4.1)
    return path.read_bytes()


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One file, written anew by every example."""
    return tmp_path_factory.mktemp("scratch") / "b.safetensors"


def refused(path: Path) -> None:
    """Asserts that neither reader takes the file, and that both name it."""
    with pytest.raises(CheckpointError, match=path.name):
        checkpoint.read_measurement(path)
    with pytest.raises(CheckpointError, match=path.name):
        checkpoint.load(path, SIZE)


@given(st.integers(0, 2**63), st.tuples(ROWS, ROWS, ROWS), st.floats(), st.floats(allow_nan=False), st.text())
def test_comes_back_as_it_was(
    scratch: Path,
    tokens: int,
    rows: tuple[np.ndarray, np.ndarray, np.ndarray],
    start_loss: float,
    loss: float,
    trial_id: str,
) -> None:
    trunk = Trunk(tokens, dict(zip(TENSORS, rows, strict=True)))
    measured = replace(MEASUREMENT, loss=loss, trial_id=trial_id)
    checkpoint.save(scratch, trunk, measured, start_loss)
    again, start_loss_again = checkpoint.load(scratch, SIZE)
    assert again.tokens == tokens
    assert {name: row.tobytes() for name, row in again.tensors.items()} == {
        name: row.tobytes() for name, row in trunk.tensors.items()
    }
    assert np.array_equal(start_loss_again, start_loss, equal_nan=True)
    assert checkpoint.read_measurement(scratch) == measured


@given(st.data())
def test_truncated_anywhere_is_refused(whole: bytes, scratch: Path, data: st.DataObject) -> None:
    scratch.write_bytes(whole[: data.draw(st.integers(0, len(whole) - 1))])
    refused(scratch)


def test_longer_than_it_says_is_refused(whole: bytes, scratch: Path) -> None:
    scratch.write_bytes(whole + b"\0")
    refused(scratch)


@given(st.data())
def test_a_damaged_byte_is_refused_or_harmless(whole: bytes, scratch: Path, data: st.DataObject) -> None:
    """Never another exception, as that would end the thread that trains everybody's trials."""
    place = data.draw(st.integers(0, len(whole) - 1))
    scratch.write_bytes(whole[:place] + data.draw(st.binary(min_size=1, max_size=1)) + whole[place + 1 :])
    for read in (checkpoint.read_measurement, lambda path: checkpoint.load(path, SIZE)):
        try:
            read(scratch)
        except CheckpointError as error:
            assert scratch.name in str(error)


def test_other_shape_is_refused(whole: bytes, scratch: Path) -> None:
    scratch.write_bytes(whole)
    with pytest.raises(CheckpointError, match=rf"holds .*\({SIZE},\).*8 parameters was expected"):
        checkpoint.load(scratch, SIZE + 1)


@pytest.mark.parametrize("kind", ["float64", "missing", "surplus", "matrix"])
def test_other_tensors_are_refused(scratch: Path, kind: str) -> None:
    tensors = dict(TRUNK.tensors)
    match kind:
        case "float64":
            tensors["mean"] = tensors["mean"].astype(np.float64)
        case "missing":
            del tensors["square"]
        case "surplus":
            tensors["fourth"] = tensors["mean"]
        case "matrix":
            tensors["weights"] = tensors["weights"].reshape(1, SIZE)
    safetensors.numpy.save_file(tensors, scratch, metadata=HEADER)
    with pytest.raises(CheckpointError, match="parameters was expected"):
        checkpoint.load(scratch, SIZE)


@pytest.mark.parametrize("header", [None, {}, {"format": "pt"}, HEADER | {"format": "2"}])
def test_other_format_is_refused(scratch: Path, header: dict[str, str] | None) -> None:
    safetensors.numpy.save_file(dict(TRUNK.tensors), scratch, metadata=header)
    refused(scratch)


@pytest.mark.parametrize("key", ["tokens", "start_loss"])
@pytest.mark.parametrize("value", ["", "many"])
def test_header_without_a_number_is_refused(scratch: Path, key: str, value: str) -> None:
    safetensors.numpy.save_file(dict(TRUNK.tensors), scratch, metadata=HEADER | {key: value})
    with pytest.raises(CheckpointError, match=scratch.name):
        checkpoint.load(scratch, SIZE)


@pytest.mark.parametrize("text", ["", "{", "[]", "1", "{}", '{"loss": 1.0}'])
def test_header_without_a_measurement_is_refused(scratch: Path, text: str) -> None:
    safetensors.numpy.save_file(dict(TRUNK.tensors), scratch, metadata=HEADER | {"measurement": text})
    with pytest.raises(CheckpointError, match=scratch.name):
        checkpoint.read_measurement(scratch)


class Bomb:
    """Unpickled, it would leave a file behind."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[Path]]:
        return Path.touch, (self.path,)


def test_what_is_not_ours_is_refused_and_not_executed(tmp_path: Path) -> None:
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
    checkpoint.save(path, TRUNK, MEASUREMENT, 4.1)
    before = path.read_bytes()
    with monkeypatch.context() as patched, pytest.raises(Killed):
        patched.setattr(os, place, kill)
        checkpoint.save(path, replace(TRUNK, tokens=2048), replace(MEASUREMENT, loss=2.0), 4.1)
    assert path.read_bytes() == before
    checkpoint.save(path, replace(TRUNK, tokens=2048), replace(MEASUREMENT, loss=2.0), 4.1)
    assert checkpoint.load(path, SIZE)[0].tokens == 2048
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_kill_before_the_first_rename_leaves_no_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "new" / "a.safetensors"
    monkeypatch.setattr(os, "replace", kill)
    with pytest.raises(Killed):
        checkpoint.save(path, TRUNK, MEASUREMENT, 4.1)
    assert not path.exists()
    assert not list(path.parent.glob("*.safetensors"))
