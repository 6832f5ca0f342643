"""What must hold of a search whatever was killed. Each function raises AssertionError where it does not."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from mlflow.tracking import MlflowClient

from hpsearch.check import check_ledger
from hpsearch.events import Ended, Event, Measured, Opened, Resumed, TrialState
from hpsearch.folder import SearchFolder
from hpsearch.ledger import Entry, read_ledger
from hpsearch.mlflow_store import TRIAL_TAG
from hpsearch.state import SearchState, fold
from trials.trial import Measurement, Outcome

LIFE = ("opened", "resumed", "adopted", "closed", "freed")  # events that tell of drivers and files, not of trials


def entries_of(folder: SearchFolder) -> list[Entry]:
    """The search's ledger."""
    return read_ledger(folder.ledger)


def state_of(entries: Sequence[Entry]) -> SearchState:
    return fold(((entry.seq, entry.event) for entry in entries), "ledger")


def decisions_are_recomputed(entries: Sequence[Entry]) -> None:
    """Every decision follows from the events before it."""
    checked = check_ledger(list(entries))
    assert checked.differences == (), checked.differences
    assert {"asked", "judged", "promoted"} <= set(checked.decisions), "nothing was decided"


def nothing_is_lost(entries: Sequence[Entry]) -> None:
    """The search is complete, and every trial has ended, each by its own merits."""
    state = state_of(entries)
    assert state.closed is not None and state.closed.complete, "the search is not complete"
    ends = {TrialState.COMPLETE, TrialState.PRUNED, TrialState.DIVERGED}
    lost = {trial.trial_id: trial.state for trial in state.trials.values() if trial.state not in ends}
    assert not lost, f"trials that were lost: {lost}"


def nothing_is_measured_twice(entries: Sequence[Entry]) -> None:
    """One measurement a trial and rung."""
    measured = Counter((e.event.trial_id, e.event.rung) for e in entries if isinstance(e.event, Measured))
    assert set(measured.values()) == {1}, measured


def segments_start_at_their_rung(entries: Sequence[Entry]) -> None:
    """No step before a rung's checkpoint was trained again: a segment's FLOPs are those from there on."""
    state = state_of(entries)
    for event in (entry.event for entry in entries if isinstance(entry.event, Measured)):
        measurement = Measurement.from_dict(event.measurement)
        if measurement.outcome is not Outcome.MEASURED:
            continue
        trial = state.trials[event.trial_id]
        config, rungs = trial.config, trial.asked.rungs
        start_tokens = config.branch_tokens(rungs[event.rung - 1]) if event.rung else 0
        flops = config.segment_flops(start_tokens, config.branch_tokens(rungs[event.rung]))
        assert measurement.flops == flops, f"{trial.trial_id}: {measurement.flops} FLOPs to rung {event.rung}: {flops}"
        assert not measurement.message, f"{trial.trial_id}: {measurement.message}"


def segments_are_saved_once(seen: Mapping[tuple[str, str], set[tuple[str, int]]], entries: Sequence[Entry]) -> None:
    """No segment that had a whole checkpoint when its driver came was trained again; each measured one was seen.

    Workers outlive a killed driver for a moment: what they write when the next one is there comes too late to count.
    """
    came_s = {entry.event.incarnation: entry.at_s for entry in entries if isinstance(entry.event, Opened | Resumed)}
    for segment, files in seen.items():
        versions = sorted((version_ns / 1e9, _writer(name)) for name, version_ns in files)
        for (earlier_s, earlier), (_, later) in pairwise(versions):
            assert earlier != later and earlier_s > came_s[later], f"{segment} was trained twice: {versions}, {came_s}"
    measured = [Measurement.from_dict(e.event.measurement) for e in entries if isinstance(e.event, Measured)]
    segments = {(m.trial_id, str(m.tokens)) for m in measured if m.outcome is Outcome.MEASURED}
    assert segments <= set(seen), f"checkpoints that nobody saw: {segments - set(seen)}"


def same_search(entries: Sequence[Entry], unbroken: Sequence[Entry]) -> None:
    """With one slot: what was asked, measured and judged is that of an unbroken run, to the last bit."""
    mine, theirs = essence(entries), essence(unbroken)
    for number, (one, other) in enumerate(zip(mine, theirs, strict=False)):
        assert one == other, f"event {number} of the trials: {one}, unbroken: {other}"
    assert len(mine) == len(theirs), f"{len(mine)} events of the trials, unbroken: {len(theirs)}"


def essence(entries: Sequence[Entry]) -> list[dict[str, Any]]:
    """The events of the trials, without the clock's time and the names of files, which name drivers and homes."""
    events = [entry.event for entry in entries]
    return [_bare(event) for event in events if event.kind not in LIFE and not _is_cut(event)]


def recorded_once(folder: SearchFolder, entries: Sequence[Entry]) -> None:
    """MLflow has one run a trial and one of the search, none of them running."""
    client = MlflowClient(folder.mlflow_uri)
    experiment = client.get_experiment_by_name(folder.name)
    assert experiment is not None, "MLflow has never heard of the search"
    runs = list(client.search_runs([experiment.experiment_id], max_results=1000))
    recorded = sorted(run.data.tags.get(TRIAL_TAG, "") for run in runs)
    assert recorded == ["", *sorted(state_of(entries).trials)], recorded
    running = [run.info.run_name for run in runs if run.info.status == "RUNNING"]
    assert not running, f"left running: {running}"


def _writer(checkpoint: str) -> str:
    """The incarnation in the name of a file."""
    return checkpoint.partition("-")[2].partition(".")[0]


def _is_cut(event: Event) -> bool:
    """A trial that a stop has cut, and that a resume has taken up again."""
    return isinstance(event, Ended) and event.state is TrialState.STOPPED


def _bare(event: Event) -> dict[str, Any]:
    bare = event.model_dump(mode="json")
    if isinstance(event, Measured):
        del bare["measurement"]["seconds"], bare["measurement"]["checkpoint"]
    return bare
