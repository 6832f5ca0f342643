"""Which checkpoints are kept: what a trial needs always, the rest within the byte budget, nothing freed twice."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hpsearch.check import check_ledger
from hpsearch.conductor import Conductor
from hpsearch.decisions import incumbent
from hpsearch.events import Freed, Measured, Opened, Resumed, TrialState
from hpsearch.ledger import Entry
from hpsearch.state import SearchState, Trial, fold
from tests.hpsearch.simulation import PROOF_SHAPE, World, begin, drive, resume, scratch, spec_of
from trials.checkpoint import size_bytes

LIVE = {TrialState.RUNNING, TrialState.PAUSED, TrialState.STOPPED}
SMALL, LARGE = (size_bytes(spec_of().architecture(proxy).params_total) for proxy in spec_of().ladder)


def files_of(trial: Trial) -> list[str]:
    """All that the trial ever wrote, newest first."""
    return [measurement.checkpoint for measurement in reversed(trial.measurements) if measurement.checkpoint]


def incumbents(state: SearchState) -> list[Trial]:
    return [trial for proxy in range(len(state.spec.ladder)) if (trial := incumbent(state, proxy)) is not None]


def needed(state: SearchState) -> set[str]:
    live = [trial for trial in state.trials.values() if trial.state in LIVE and files_of(trial)]
    return {files_of(trial)[0] for trial in [*live, *incumbents(state)]}


def kept(state: SearchState) -> dict[str, int]:
    """Files that are kept, with their bytes; said anew, from what was measured and freed."""
    return {
        file: size_bytes(trial.config.architecture.params_total)
        for trial in state.trials.values()
        for file in files_of(trial)
        if file not in trial.freed
    }


def assert_kept_as_promised(state: SearchState) -> None:
    """Whatever the order of verdicts, at the end of every transaction."""
    files = kept(state)
    for trial in state.trials.values():
        if trial.state in LIVE:
            assert list(trial.checkpoints[:1]) == files_of(trial)[:1], "the newest of a trial that goes on"
        if trial.state in (TrialState.DIVERGED, TrialState.FAIL):
            assert trial.checkpoints == ()
        assert len(trial.checkpoints) <= (2 if trial.state in LIVE else 1)
    assert state.shelf.kept_bytes == sum(files.values())
    assert state.shelf.kept_bytes <= state.spec.checkpoints.budget_bytes or set(files) <= needed(state)


def searched(folder: Path, budget_bytes: float, slots: int, seed: int, world: World, cuts: list[int]) -> Conductor:
    """A search that is stopped or killed after so many transactions each time, and held to the promise throughout."""
    conductor = begin(folder, spec_of(proof=PROOF_SHAPE, checkpoints={"budget_bytes": budget_bytes}))
    for cut in [*cuts, 10**6]:
        while cut > 0 and not drive(conductor, world, slots, seed + cut, transactions=1):
            assert_kept_as_promised(conductor.state)
            cut -= 1
        if cut > 0:
            break
        if seed % 2:
            conductor.close(complete=False, device_seconds={})
            assert_kept_as_promised(conductor.state)
        conductor = resume(folder, f"after{len(conductor.state.incarnations)}")
        assert_kept_as_promised(conductor.state)
    conductor.close(complete=True, device_seconds={})
    return conductor


@given(
    budget_bytes=st.floats(1, 40 * LARGE),
    slots=st.integers(1, 6),
    seed=st.integers(0, 999),
    cliff=st.floats(0.5, 3),
    cuts=st.lists(st.integers(1, 40), max_size=2),
)
@settings(max_examples=20, deadline=None)
def test_kept_is_what_is_needed_and_what_the_budget_allows(
    budget_bytes: float, slots: int, seed: int, cliff: float, cuts: list[int]
) -> None:
    with scratch() as folder:
        conductor = searched(Path(folder), budget_bytes, slots, seed, World(cliff_octaves=cliff), cuts)
        assert_kept_as_promised(conductor.state)
        entries = conductor.ledger.read()
        freed = Counter(
            file for e in entries if isinstance(e.event, Freed) for files in e.event.files.values() for file in files
        )
        assert set(freed.values()) <= {1}, "nothing is freed twice"
        assert check_ledger(entries).differences == ()
        written = {e.event.measurement["checkpoint"] for e in entries if isinstance(e.event, Measured)} - {""}
        assert written == set(freed) | set(kept(conductor.state))


def ended(folder: Path, budget_bytes: float) -> SearchState:
    return searched(folder, budget_bytes, 2, 0, World(), []).state


def test_a_budget_for_nothing_keeps_the_incumbents_of_a_complete_search(tmp_path: Path) -> None:
    state = ended(tmp_path, 1.0)
    assert set(kept(state)) == {files_of(trial)[0] for trial in incumbents(state)} and len(kept(state)) == 2


def test_a_budget_for_all_keeps_the_newest_of_every_trial_that_did_not_diverge(tmp_path: Path) -> None:
    state = ended(tmp_path, 1e10)
    good = [trial for trial in state.trials.values() if trial.state in (TrialState.COMPLETE, TrialState.PRUNED)]
    assert set(kept(state)) == {files_of(trial)[0] for trial in good} and len(good) > 10


def test_of_trials_that_could_be_revived_the_best_are_kept(tmp_path: Path) -> None:
    state = ended(tmp_path, SMALL + 8 * LARGE)
    pruned = [trial for trial in state.trials.values() if trial.state is TrialState.PRUNED]
    kept_losses = [trial.loss for trial in pruned if trial.checkpoints]
    lost_losses = [trial.loss for trial in pruned if not trial.checkpoints]
    assert kept_losses and max(kept_losses) < min(lost_losses)


def test_what_is_needed_is_kept_above_the_budget(tmp_path: Path) -> None:
    conductor = begin(tmp_path, spec_of(checkpoints={"budget_bytes": 1.0}))
    drive(conductor, World(), slots=3, transactions=30)
    paused = [trial for trial in conductor.state.trials.values() if trial.state is TrialState.PAUSED]
    assert len(paused) > 3 and all(len(trial.checkpoints) == 1 for trial in paused)
    assert conductor.state.shelf.kept_bytes > 1


def test_the_one_before_the_newest_is_kept_while_there_is_room(tmp_path: Path) -> None:
    conductor = begin(tmp_path, spec_of())
    while not any(len(files_of(trial)) == 2 for trial in conductor.state.trials.values()):
        drive(conductor, World(), transactions=1)
    (trial,) = [trial for trial in conductor.state.trials.values() if len(files_of(trial)) == 2]
    assert trial.checkpoints == tuple(files_of(trial))


def test_a_freed_file_is_never_gone_on_from(tmp_path: Path) -> None:
    conductor = begin(tmp_path, spec_of(checkpoints={"budget_bytes": 1.0}))
    offered = []
    world = World()
    while conductor.decide() and not drive(conductor, world, slots=2, transactions=1):
        for trial in conductor.state.running.values():
            offered += [file for file in conductor.assignment(trial).resume_from if file in trial.freed]
    assert offered == []


def test_files_are_removed_after_the_ledger_says_so(tmp_path: Path) -> None:
    conductor = begin(tmp_path, spec_of(checkpoints={"budget_bytes": 1.0}))
    said: list[tuple[list[str], bool]] = []

    def remove(files: list[str]) -> None:
        freed = {
            f for e in conductor.ledger.read() if isinstance(e.event, Freed) for n in e.event.files.values() for f in n
        }
        said.append((files, set(files) <= freed))

    conductor.remove = remove
    drive(conductor, World(), slots=2)
    conductor.close(complete=True, device_seconds={})
    assert len(said) > 10 and all(written for _, written in said)
    removed = [file for files, _ in said for file in files]
    assert len(removed) == len(set(removed))


@pytest.mark.parametrize("change", ["more", "less", "other trial", "reasons"])
def test_an_altered_freeing_is_found(tmp_path: Path, change: str) -> None:
    searched(tmp_path, 4 * LARGE, 2, 0, World(), [])
    entries = resume(tmp_path, "reader").ledger.read()
    place = next(i for i, entry in enumerate(entries) if isinstance(entry.event, Freed))
    event = entries[place].event
    (trial_id, files) = next(iter(event.files.items()))
    forged = {
        "more": {"files": {**event.files, trial_id: (*files, "another")}},
        "less": {"files": {**event.files, trial_id: ("another",)}},
        "other trial": {"files": {"t9999": files}},
        "reasons": {"reasons": {**event.reasons, "kept_bytes": 0.0}},
    }[change]
    entries[place] = Entry(entries[place].seq, 0.0, event.model_copy(update=forged))
    assert check_ledger(entries).differences[0].seq == entries[place].seq


def test_a_ledger_of_before_there_was_a_budget_is_read_and_goes_on(tmp_path: Path) -> None:
    """Its search file has no such section, and it has freed nothing: the first verdict of this version does."""
    conductor = begin(tmp_path, spec_of())
    drive(conductor, World(), slots=2, transactions=60)
    entries = [entry for entry in conductor.ledger.read() if not isinstance(entry.event, Freed)]
    opened = entries[0].event
    spec = {key: value for key, value in opened.spec.items() if key != "checkpoints"}
    entries[0] = replace(entries[0], event=opened.model_copy(update={"spec": spec}))
    old = [Entry(seq, 0.0, entry.event) for seq, entry in enumerate(entries, 1)]
    assert isinstance(old[0].event, Opened) and check_ledger(old).differences == ()
    state = fold(((entry.seq, entry.event) for entry in old), "old")
    assert all(trial.checkpoints == tuple(files_of(trial)) for trial in state.trials.values())
    again = begin(tmp_path / "old", spec_of())
    for entry in old[1:]:
        again.ledger.append(entry.event, after_seq=entry.seq - 1)
    conductor = resume(tmp_path / "old", "new")
    drive(conductor, World(), slots=2)
    conductor.close(complete=True, device_seconds={})
    assert_kept_as_promised(conductor.state)
    checked = check_ledger(conductor.ledger.read())
    assert checked.differences == () and checked.decisions["freed"] > 1
    assert any(isinstance(entry.event, Resumed) for entry in conductor.ledger.read())
