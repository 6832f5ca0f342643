"""Kills by simulation: a search is cut after any number of decisions, and goes on from its ledger."""

from __future__ import annotations

import math
import pickle
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hpsearch.check import check_ledger
from hpsearch.conductor import Conductor
from hpsearch.decisions import Idle
from hpsearch.events import Asked, Event, Freed, Judged, Measured, Promoted, Resumed, Role, TrialState
from hpsearch.halted import SearchHalted
from hpsearch.plan import PROOF, confirm_proxy
from hpsearch.state import SearchState
from hpsearch.transfer.confirm import plan_of_size
from tests.hpsearch.simulation import PROOF_SHAPE, SIZE, World, begin, confirm, drive, resume, scratch, spec_of

DRIVERS = {"opened", "resumed", "adopted", "closed"}  # what only says who was there


def story(conductor: Conductor) -> list[Any]:
    """What happened, in its order: every decision as it was recorded, and what was measured, but not by whom."""
    return [told(entry.event) for entry in conductor.ledger.read() if entry.event.kind not in DRIVERS]


def told(event: Event) -> Any:
    """An event without the incarnations in its files' names."""
    if isinstance(event, Measured):
        return {**event.measurement, "checkpoint": ""}
    if isinstance(event, Freed):
        files = {
            trial_id: [Path(name).name.partition("-")[0] for name in names] for trial_id, names in event.files.items()
        }
        return files, event.reasons
    return event


@cache
def unbroken() -> list[Any]:
    """The story of a search that nobody killed."""
    with scratch() as folder:
        conductor = begin(Path(folder), spec_of(proof=PROOF_SHAPE))
        drive(conductor, World())
        conductor.close(complete=True, device_seconds={})
        return story(conductor)


@given(kills=st.lists(st.tuples(st.integers(1, 60), st.booleans()), min_size=1, max_size=4))
@settings(max_examples=12, deadline=None)
def test_with_one_slot_a_killed_search_ends_as_the_unbroken_one(kills: list[tuple[int, bool]]) -> None:
    """Killed after any number of decisions; or later, when the segment was on disk but not yet in the ledger."""
    with scratch() as folder:
        conductor = begin(Path(folder), spec_of(proof=PROOF_SHAPE))
        for number, (cut, is_trained) in enumerate(kills):
            drive(conductor, World(), transactions=cut)
            orphans = [World().measure(conductor.assignment(trial)) for trial in conductor.state.running.values()]
            conductor = resume(Path(folder), f"driver{number}")
            for orphan in orphans if is_trained else []:
                conductor.adopt(orphan)
        drive(conductor, World())
        conductor.close(complete=True, device_seconds={})
        assert story(conductor) == unbroken()


def confirmed(folder: Path, kills: Sequence[tuple[int, bool]]) -> list[Any]:
    """The story of a search and its confirm, which is killed after so many decisions each time."""
    conductor = begin(folder, spec_of())
    drive(conductor, World())
    conductor.close(complete=True, device_seconds={})
    plan = plan_of_size(conductor.state, conductor.state.spec.target, SIZE, 3)
    conductor = confirm(folder, plan)
    for number, (cut, is_trained) in enumerate(kills):
        drive(conductor, World(), transactions=cut)
        orphans = [World().measure(conductor.assignment(trial)) for trial in conductor.state.running.values()]
        conductor = resume(folder, f"driver{number}")
        for orphan in orphans if is_trained else []:
            conductor.adopt(orphan)
    drive(conductor, World())
    conductor.close(complete=True, device_seconds={})
    assert len(conductor.state.of(confirm_proxy(0), Role.CONFIRM)) == 3
    assert check_ledger(conductor.ledger.read()).differences == ()
    return story(conductor)


@pytest.mark.parametrize("is_trained", [False, True])
@pytest.mark.parametrize("cut", range(7))
def test_with_one_slot_a_confirm_killed_anywhere_ends_as_the_unbroken_one(
    tmp_path: Path, cut: int, is_trained: bool
) -> None:
    """After each of its three asks and three measurements; also twice."""
    unbroken_story = confirmed(tmp_path / "whole", [])
    assert confirmed(tmp_path / "killed", [(cut, is_trained), (1, is_trained)]) == unbroken_story


def test_with_one_slot_the_same_file_and_seed_tell_the_same_story(tmp_path: Path) -> None:
    stories = []
    for home in ("one", "two"):
        conductor = begin(tmp_path / home, spec_of(proof=PROOF_SHAPE))
        drive(conductor, World())
        stories.append(story(conductor))
    assert stories[0] == stories[1] and len(stories[0]) > 100


def test_another_seed_tells_another_story(tmp_path: Path) -> None:
    stories = []
    for seed in (0, 1):
        conductor = begin(tmp_path / str(seed), spec_of(seed=seed))
        drive(conductor, World(), transactions=1)
        stories.append(story(conductor))
    assert stories[0] != stories[1]


@given(cuts=st.lists(st.integers(1, 40), min_size=1, max_size=4), slots=st.integers(1, 6), seed=st.integers(0, 99))
@settings(max_examples=10, deadline=None)
def test_a_killed_search_measures_no_rung_twice_and_loses_no_trial(cuts: list[int], slots: int, seed: int) -> None:
    with scratch() as folder:
        conductor = begin(Path(folder), spec_of(proof=PROOF_SHAPE))
        for number, cut in enumerate(cuts):
            drive(conductor, World(), slots, seed, transactions=cut)
            conductor = resume(Path(folder), f"driver{number}")
        drive(conductor, World(), slots, seed)
        conductor.close(complete=True, device_seconds={})
        events = [entry.event for entry in conductor.ledger.read()]
        started = sum(isinstance(event, (Asked, Promoted)) for event in events)
        assert sum(len(trial.measurements) for trial in conductor.state.trials.values()) == started
        assert not conductor.state.running


def test_an_orphaned_measurement_is_adopted_not_trained_again(tmp_path: Path) -> None:
    conductor = begin(tmp_path, spec_of())
    drive(conductor, World(), transactions=1)
    assignment = conductor.assignment(next(iter(conductor.state.running.values())))
    orphan = World().measure(assignment)  # its file was written, its row was not
    again = resume(tmp_path, "b")
    again.adopt(orphan)
    assert again.state.trials[orphan.trial_id].measurements == [orphan]
    assert [entry.event.kind for entry in again.ledger.read()][-3:] == ["adopted", "measured", "judged"]


def test_a_new_driver_writes_to_files_of_its_own(tmp_path: Path) -> None:
    conductor = begin(tmp_path, spec_of())
    drive(conductor, World(), transactions=1)
    before = conductor.assignment(next(iter(conductor.state.running.values())))
    again = resume(tmp_path, "b")
    after = again.assignment(next(iter(again.state.running.values())))
    assert (before.trial_id, before.rung_tokens) == (after.trial_id, after.rung_tokens)
    assert before.save_to != after.save_to


def test_what_is_stopped_can_be_resumed_and_what_is_complete_is_pruned(tmp_path: Path) -> None:
    conductor = begin(tmp_path, spec_of())
    drive(conductor, World(), slots=3, transactions=20)
    running, paused = set(conductor.state.running), [t for t in conductor.state.trials.values() if t.state == "PAUSED"]
    conductor.close(complete=False, device_seconds={})
    assert {conductor.state.trials[trial_id].state for trial_id in running} == {TrialState.STOPPED}
    assert paused and all(trial.state is TrialState.PAUSED for trial in paused)
    again = resume(tmp_path, "b")
    assert set(again.state.running) == running
    drive(again, World(), slots=3)
    again.close(complete=True, device_seconds={})
    assert TrialState.PAUSED not in {trial.state for trial in again.state.trials.values()}


def test_the_proof_is_predicted_before_it_is_tried(tmp_path: Path) -> None:
    conductor = begin(tmp_path, spec_of(proof=PROOF_SHAPE))
    drive(conductor, World(), slots=3)
    kinds = [(entry.event.kind, getattr(entry.event, "proxy", 0)) for entry in conductor.ledger.read()]
    assert kinds.index(("predicted", 0)) < kinds.index(("asked", PROOF))


def test_a_decision_is_in_the_ledger_before_it_is_handed_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    conductor = begin(tmp_path, spec_of())
    decision = conductor.decide()
    assert isinstance(decision, Asked)

    def full(*events: object, after_seq: int) -> int:
        raise OSError("disk full")

    with monkeypatch.context() as broken, pytest.raises(OSError, match="disk full"):
        broken.setattr(conductor.ledger, "append", full)
        conductor.start(decision)
    assert not conductor.state.trials
    conductor.start(decision)
    assert conductor.ledger.read()[-1].event == decision


def test_a_measurement_and_its_verdict_are_one_transaction(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    conductor = begin(tmp_path, spec_of())
    drive(conductor, World(), transactions=1)
    append, written = conductor.ledger.append, []

    def watched(*events: Event, after_seq: int) -> int:
        written.append([type(event) for event in events])
        return append(*events, after_seq=after_seq)

    monkeypatch.setattr(conductor.ledger, "append", watched)
    conductor.measured(World().measure(conductor.assignment(next(iter(conductor.state.running.values())))))
    assert written == [[Measured, Judged]]


def test_deciding_is_done_once_a_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    conductor = begin(tmp_path, spec_of())
    asked = []

    def wait(state: SearchState) -> Idle:
        asked.append(state.seq)
        return Idle.WAIT

    monkeypatch.setattr("hpsearch.conductor.next_decision", wait)
    assert [conductor.decide(), conductor.decide()] == [Idle.WAIT] * 2
    assert asked == [1]


def test_another_writer_is_noticed(tmp_path: Path) -> None:
    conductor = begin(tmp_path, spec_of())
    conductor.ledger.append(Resumed(incarnation="intruder", versions={}))
    with pytest.raises(SearchHalted, match="another driver has written to the ledger"):
        conductor.close(complete=False, device_seconds={})
    assert conductor.halted is not None and len(conductor.ledger.read()) == 2


@pytest.mark.parametrize(
    "change, said", [({"tokens": 128}, "measured at another rung"), ({"loss": math.nan}, "outcome")]
)
def test_a_measurement_that_cannot_be_is_refused(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    conductor = begin(tmp_path, spec_of())
    drive(conductor, World(), transactions=1)
    measurement = World().measure(conductor.assignment(next(iter(conductor.state.running.values()))))
    with pytest.raises(AssertionError, match=said):
        conductor.measured(replace(measurement, **change))
    assert len(conductor.ledger.read()) == 2


def test_a_measurement_is_taken_once(tmp_path: Path) -> None:
    conductor = begin(tmp_path, spec_of())
    drive(conductor, World(), transactions=1)
    measurement = World().measure(conductor.assignment(next(iter(conductor.state.running.values()))))
    conductor.measured(measurement)
    with pytest.raises(KeyError):
        conductor.measured(measurement)
    assert len(conductor.ledger.read()) == 4


def test_ray_may_pickle_what_it_never_reads(tmp_path: Path) -> None:
    conductor = begin(tmp_path, spec_of())
    assert type(pickle.loads(pickle.dumps(conductor))) is object
    assert type(pickle.loads(pickle.dumps(conductor.ledger))) is object
