"""Each witness of a kill test accepts a sound search and refuses the fault that it is there for."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from mlflow.tracking import MlflowClient

from hpsearch.events import Asked, Ended, Judged, Measured, Opened, Promoted, Resumed, TrialState
from hpsearch.folder import SearchFolder
from hpsearch.home import Home
from hpsearch.ledger import Entry
from hpsearch.mlflow_store import TRIAL_TAG
from hpsearch.record import Sender
from tests.chaos import witnesses
from tests.hpsearch.simulation import World, begin, drive, resume, scratch, spec_of

Entries = list[Entry]
Witness = Callable[[Entries], None]
Fault = Callable[[Entries], Entries]


def searched(folder: Path, cut: int) -> Entries:
    """A search with one slot, killed after so many transactions."""
    conductor = begin(folder, spec_of())
    if not drive(conductor, World(), transactions=cut):
        conductor = resume(folder, "another")
        drive(conductor, World())
    conductor.close(True, {})
    return conductor.ledger.read()


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    with scratch() as path:
        yield Path(path)


@pytest.fixture(scope="module")
def sound(folder: Path) -> Entries:
    return searched(folder / "killed", 20)


@pytest.fixture(scope="module")
def unbroken(folder: Path) -> Entries:
    return searched(folder / "unbroken", 10**6)


def changed(entries: Entries, kind: type, number: int, change: Callable[[Any], Any]) -> Entries:
    """The ledger with one event changed: the so many-th of a kind."""
    where = [index for index, entry in enumerate(entries) if isinstance(entry.event, kind)][number]
    return [*entries[:where], replace(entries[where], event=change(entries[where].event)), *entries[where + 1 :]]


def with_measurement(**values: Any) -> Callable[[Measured], Measured]:
    return lambda event: event.model_copy(update={"measurement": {**event.measurement, **values}})


def next_bit(event: Measured) -> Measured:
    return with_measurement(loss=event.measurement["loss"] * (1 + 2**-52))(event)


def twice(event: Measured) -> Measured:
    return with_measurement(flops=2 * event.measurement["flops"])(event)


def otherwise(event: Asked) -> Asked:
    return event.model_copy(update={"values": {**event.values, "weight_decay": 0.05}})


def failed(event: Judged) -> Judged:
    return event.model_copy(update={"verdict": TrialState.FAIL})


def cut(event: Ended) -> Ended:
    return event.model_copy(update={"state": TrialState.STOPPED})


def test_a_sound_search_passes(sound: Entries, unbroken: Entries) -> None:
    witnesses.decisions_are_recomputed(sound)
    witnesses.nothing_is_lost(sound)
    witnesses.nothing_is_measured_twice(sound)
    witnesses.segments_start_at_their_rung(sound)
    witnesses.same_search(sound, unbroken)
    assert len(sound) == len(unbroken) + 1  # the resume


@pytest.mark.parametrize(
    "witness, fault",
    [
        (witnesses.decisions_are_recomputed, lambda entries: changed(entries, Asked, 3, otherwise)),
        (witnesses.decisions_are_recomputed, lambda entries: changed(entries, Judged, 3, failed)),
        (witnesses.decisions_are_recomputed, lambda entries: entries[:1]),
        (witnesses.nothing_is_lost, lambda entries: entries[:-1]),
        (witnesses.nothing_is_lost, lambda entries: changed(entries, Ended, 0, cut)),
        (witnesses.nothing_is_lost, lambda entries: changed(entries, Judged, -1, failed)),
        (witnesses.nothing_is_measured_twice, lambda entries: [*entries, entries[2]]),
        (witnesses.segments_start_at_their_rung, lambda entries: changed(entries, Measured, 2, twice)),
        (
            witnesses.segments_start_at_their_rung,
            lambda entries: changed(entries, Measured, 2, with_measurement(message="file: not a whole checkpoint")),
        ),
    ],
)
def test_a_fault_is_seen(
    sound: Entries, witness: Callable[[Entries], None], fault: Callable[[Entries], Entries]
) -> None:
    assert isinstance(sound[2].event, Measured)
    with pytest.raises(AssertionError):
        witness(fault(sound))


@pytest.mark.parametrize(
    "fault",
    [
        lambda entries: changed(entries, Measured, 5, next_bit),
        lambda entries: changed(entries, Asked, 5, otherwise),
        lambda entries: [entry for entry in entries if not isinstance(entry.event, Promoted)],
        lambda entries: [entry for entry in entries if not isinstance(entry.event, Ended)],
    ],
)
def test_another_search_is_told_from_the_unbroken_one(sound: Entries, unbroken: Entries, fault: Fault) -> None:
    with pytest.raises(AssertionError):
        witnesses.same_search(fault(sound), unbroken)


def test_a_second_checkpoint_of_a_segment_is_seen(sound: Entries) -> None:
    opened, resumed = (entry for entry in sound if isinstance(entry.event, Opened | Resumed))
    one, other = (f"100-{entry.event.incarnation}.safetensors" for entry in (opened, resumed))
    came_ns = round(resumed.at_s * 1e9)
    seen = {}
    for event in (entry.event for entry in sound if isinstance(entry.event, Measured)):
        seen[event.trial_id, str(event.measurement["tokens"])] = {(one, 1)}
    witnesses.segments_are_saved_once(seen, sound)
    first, later = next(iter(seen)), (other, came_ns + 10**10)
    witnesses.segments_are_saved_once({**seen, first: {(one, came_ns + 10**9), later}}, sound)
    for twice in ({(one, 1), (one, 2)}, {(one, came_ns - 10**9), later}):
        with pytest.raises(AssertionError, match="trained twice"):
            witnesses.segments_are_saved_once({**seen, first: twice}, sound)
    with pytest.raises(AssertionError, match="nobody saw"):
        witnesses.segments_are_saved_once({}, sound)


def test_a_run_too_many_and_one_left_running_are_seen(tmp_path: Path) -> None:
    entries = searched(tmp_path / "killed", 5)
    folder = SearchFolder(Home(tmp_path, mlflow=f"sqlite:///{tmp_path / 'mlflow.db'}"), "killed")
    sender = Sender(folder)
    sender.send()
    witnesses.recorded_once(folder, entries)
    client = MlflowClient(folder.mlflow_uri)
    experiment = client.get_experiment_by_name("killed")
    assert experiment is not None
    run = client.search_runs([experiment.experiment_id])[0]
    client.update_run(run.info.run_id, status="RUNNING")
    with pytest.raises(AssertionError, match="left running"):
        witnesses.recorded_once(folder, entries)
    client.set_terminated(run.info.run_id)
    client.create_run(experiment.experiment_id, tags={TRIAL_TAG: "t0000"})
    with pytest.raises(AssertionError, match="t0000"):
        witnesses.recorded_once(folder, entries)
