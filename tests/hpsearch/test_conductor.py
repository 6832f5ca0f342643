"""Kills by simulation: a search is cut after any number of decisions, and goes on from its ledger."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from hpsearch.conductor import Conductor
from hpsearch.events import Asked, Promoted, TrialState
from hpsearch.plan import PROOF
from tests.hpsearch.simulation import PROOF_SHAPE, World, begin, drive, resume, scratch, spec_of


def outcome(conductor: Conductor) -> list[tuple[Any, ...]]:
    """What a search comes to: every trial with its configuration, losses and state."""
    trials = conductor.state.trials.values()
    return [(t.asked.values, t.asked.role, t.state, [m.loss for m in t.measurements]) for t in trials]


@given(cuts=st.lists(st.integers(1, 40), max_size=4), noise=st.floats(0, 0.02))
@settings(max_examples=15, deadline=None)
def test_with_one_slot_a_killed_search_ends_as_the_unbroken_one(cuts: list[int], noise: float) -> None:
    with scratch() as folder:
        whole = begin(Path(folder) / "whole", spec_of(proof=PROOF_SHAPE))
        drive(whole, World(noise=noise))
        killed = begin(Path(folder) / "killed", spec_of(proof=PROOF_SHAPE))
        for number, cut in enumerate(cuts):
            drive(killed, World(noise=noise), transactions=cut)
            killed = resume(Path(folder) / "killed", f"driver{number}")
        drive(killed, World(noise=noise))
        assert outcome(killed) == outcome(whole)


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
