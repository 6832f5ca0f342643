"""What a driver finds at a resume: what a kill left is adopted, what nobody keeps is removed, what is gone is told."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from hpsearch import checkpoint_files
from hpsearch.checkpoint_files import adopt_orphans, check_present, remove_garbage, removing
from hpsearch.conductor import Conductor
from search_spaces.errors import UserError
from tests.hpsearch.simulation import World, begin, drive, resume, spec_of
from trials import checkpoint
from trials.checkpoint import Trunk
from trials.stability import LossTrace
from trials.storage import DiskFull, StorageError, Unreachable, files_under
from trials.trial import Assignment, Measurement


def train(assignment: Assignment) -> Measurement:
    """Measures without training, and leaves the file that training would have left."""
    measured = replace(World().measure(assignment), checkpoint=assignment.save_to)
    trunk = Trunk(0, 0, LossTrace(), dict.fromkeys(checkpoint.TENSORS, np.zeros(1, np.float32)))
    checkpoint.save(assignment.save_to, trunk, measured, assignment.config.digest)
    return measured


def asked(conductor: Conductor) -> Assignment:
    """The one segment that runs, begun if none does."""
    if not conductor.state.running:
        drive(conductor, World(), transactions=1)
    return conductor.assignment(next(iter(conductor.state.running.values())))


@pytest.fixture
def killed(tmp_path: Path) -> Conductor:
    """One trial measured; a second one's file written, its row not."""
    conductor = begin(tmp_path, spec_of())
    conductor.measured(train(asked(conductor)))
    train(asked(conductor))
    return conductor


def names(conductor: Conductor) -> list[str]:
    return [Path(file).name for file in files_under(conductor.folder.checkpoints)]


def test_an_orphan_is_adopted(killed: Conductor, tmp_path: Path) -> None:
    again = resume(tmp_path, "b")
    (running,) = again.state.running
    adopt_orphans(again)
    assert not again.state.running and len(again.state.trials[running].measurements) == 1
    assert again.state.trials[running].checkpoints[0].endswith("-a.safetensors"), "of the driver that was killed"


def test_of_several_writers_the_newest_whole_file_counts(killed: Conductor, tmp_path: Path) -> None:
    second = resume(tmp_path, "b")
    Path(train(asked(second)).checkpoint).write_bytes(b"half of it")
    again = resume(tmp_path, "c")
    adopt_orphans(again)
    (adopted,) = [trial for trial in again.state.trials.values() if trial.asked.number == 1]
    assert adopted.checkpoints[0].endswith("-a.safetensors")


def test_a_store_that_refuses_is_not_one_without_orphans(
    killed: Conductor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(location: str, *_: object) -> None:
        raise Unreachable(location, "no answer", "bring it back")

    killed.ledger.close()
    monkeypatch.setattr(checkpoint_files, "read_measurement", away)
    monkeypatch.setattr(checkpoint_files, "patiently", lambda act, patience_s: act())
    again = resume(tmp_path, "b")
    with pytest.raises(StorageError, match="no answer"):
        adopt_orphans(again)
    assert len(again.state.running) == 1, "still to be adopted"


def test_what_the_ledger_does_not_keep_is_removed(killed: Conductor, tmp_path: Path) -> None:
    folder = Path(killed.folder.checkpoints)
    (kept, _) = names(killed)
    late = folder / "t0000" / "384-fffff.safetensors"  # of a writer that was cut off
    half = folder / "t0001" / f"{kept}.node-7.partial"
    stranger = folder / "t0999" / kept
    stranger.parent.mkdir()
    for file in (late, half, stranger):
        file.write_bytes(b"1")
    again = resume(tmp_path, "b")
    adopt_orphans(again)
    remove_garbage(again)
    assert names(again) == [Path(file).name for trial in again.state.trials.values() for file in trial.checkpoints]
    assert len(names(again)) == 2
    remove_garbage(again)
    assert len(names(again)) == 2


def test_files_are_kept_though_the_folder_has_another_name_now(killed: Conductor, tmp_path: Path) -> None:
    """A link, a mount at another place: what the ledger names is found by trial and name."""
    again = resume(tmp_path, "b")
    adopt_orphans(again)
    (tmp_path / "link").symlink_to(tmp_path)
    again.folder = replace(again.folder, home=replace(again.folder.home, storage=str(tmp_path / "link")))
    remove_garbage(again)
    assert len(names(again)) == 2


def test_a_folder_that_is_gone_is_told(killed: Conductor, tmp_path: Path) -> None:
    check_present(killed.state)
    (tmp_path / killed.folder.name / "checkpoints").rename(tmp_path / "elsewhere")
    with pytest.raises(UserError, match=r"safetensors: this checkpoint and the others .* are not there; mount or"):
        check_present(killed.state)


def test_one_file_that_is_gone_is_no_reason_to_stop(tmp_path: Path) -> None:
    """Its trial is trained again, with a note in its measurement."""
    conductor = begin(tmp_path, spec_of())
    for _ in range(3):
        conductor.measured(train(asked(conductor)))
    Path(files_under(conductor.folder.checkpoints)[0]).unlink()
    check_present(conductor.state)


def test_a_new_search_needs_no_files(tmp_path: Path) -> None:
    check_present(begin(tmp_path, spec_of()).state)


def test_removing_is_done_beside_and_ends_with_the_block(tmp_path: Path) -> None:
    files = [tmp_path / str(number) for number in range(20)]
    for file in files:
        file.touch()
    with removing() as remove:
        for file in files:
            remove([str(file)])
    assert not any(file.exists() for file in files)
    assert "remover" not in {thread.name for thread in threading.enumerate()}


def test_a_file_that_cannot_be_removed_is_left_to_the_next_resume(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(files: list[str]) -> None:
        if files:
            raise DiskFull(files[0], "read-only", "mend it")

    monkeypatch.setattr(checkpoint_files, "delete", fail)
    with removing() as remove:
        remove(["a"])
        remove(["b"])
    assert "a: read-only; mend it; the next resume removes what is left" in caplog.text
