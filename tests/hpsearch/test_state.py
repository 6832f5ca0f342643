"""The state of a search: what its events add up to, however often they are folded."""

from __future__ import annotations

from collections import Counter
from math import inf
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hpsearch.events import Closed, Resumed, Role, TrialState
from hpsearch.ledger import Entry
from hpsearch.state import SearchState, fold
from search_spaces.errors import UserError
from tests.hpsearch.simulation import PROOF_SHAPE, World, begin, drive, report, resume, scratch, spec_of


def facts(state: SearchState) -> dict[str, Any]:
    """Everything that a state holds, for comparison; what was computed from it is no part of it."""
    return {
        **vars(state),
        "memo": None,
        "trials": [vars(trial) for trial in state.trials.values()],
        "running": list(state.running),
    }


def folded(entries: list[Entry]) -> SearchState:
    return fold(((entry.seq, entry.event) for entry in entries), "ledger")


@given(seed=st.integers(0, 999), slots=st.integers(1, 6), cut=st.integers(1, 80), cliff=st.floats(-2, 3))
@settings(max_examples=15, deadline=None)
def test_replaying_a_ledger_gives_the_same_state(seed: int, slots: int, cut: int, cliff: float) -> None:
    with scratch() as folder:
        conductor = begin(Path(folder), spec_of(proof=PROOF_SHAPE))
        drive(conductor, World(cliff_octaves=cliff), slots, seed, transactions=cut)
        assert facts(folded(conductor.ledger.read())) == facts(conductor.state)
        conductor.close(complete=False, device_seconds={})
        again = resume(Path(folder), "b")
        drive(again, World(cliff_octaves=cliff), slots, seed, transactions=20)
        assert facts(folded(again.ledger.read())) == facts(again.state)


def counted(state: SearchState) -> dict[str, Any]:
    """What the state counts as it changes, counted anew from all its trials."""
    explored = [trial for trial in state.trials.values() if trial.asked.role is Role.EXPLORE]
    places = {(trial.asked.proxy, rung) for trial in explored for rung in range(3)}
    paused = [trial for trial in explored if trial.state is TrialState.PAUSED]
    by_rule = [trial for trial in explored if trial.trial_id not in state.condemned]
    waiting = {p: sorted(t.ranked for t in paused if (t.asked.proxy, t.rung) == p) for p in places}
    passed = {p: sum(t.asked.proxy == p[0] and t.rung > p[1] for t in by_rule) for p in places}
    return {
        "waiting": {place: ranked for place, ranked in waiting.items() if ranked},
        "passed": {place: count for place, count in passed.items() if count},
        "waiting_audits": [(trial.asked.number, trial.trial_id) for trial in paused if trial.must_finish],
        "num_explored": len(explored),
        "num_in": Counter(trial.state for trial in state.trials.values()),
        "later_flops": sum(t.later_flops for t in state.trials.values() if t.is_promised and t.is_live),
    }


@given(seed=st.integers(0, 999), slots=st.integers(1, 6), cuts=st.lists(st.integers(1, 50), max_size=3))
@settings(max_examples=25, deadline=None)
def test_what_is_counted_is_what_a_look_at_all_trials_finds(seed: int, slots: int, cuts: list[int]) -> None:
    """Whatever was stopped and resumed; the audited go on when their rule would have pruned them."""
    rungs = {"name": "asha", "rung_ratios": [1.0, 3.0, 9.0], "audit_share": 0.6}
    with scratch() as folder:
        conductor = begin(Path(folder), spec_of(scheduler=rungs, proof=PROOF_SHAPE))
        for cut in [*cuts, 1000]:
            drive(conductor, World(cliff_octaves=1.5), slots, seed, transactions=cut)
            conductor.close(complete=False, device_seconds={})
            conductor = resume(Path(folder), f"after{cut}")
            expected = counted(conductor.state)
            found = {name: getattr(conductor.state, name) for name in expected}
            found |= {name: {p: n for p, n in found[name].items() if n} for name in ("waiting", "passed")}
            assert found == expected
        assert conductor.state.condemned


def test_flops_are_reserved_when_begun_and_spent_when_measured(tmp_path: Path) -> None:
    conductor = begin(tmp_path, spec_of())
    drive(conductor, World(), slots=2, transactions=2)
    state = conductor.state
    first, second = state.trials.values()
    assert (state.spent_flops, state.reserved_flops) == (0, first.asked.cost_flops + second.asked.cost_flops)
    conductor.measured(World().measure(conductor.assignment(first)))
    assert (state.spent_flops, state.reserved_flops) == (first.flops_of(0), second.flops_of(0))
    assert first.later_flops == first.flops_of(1) + first.flops_of(2)
    assert second.later_flops == second.flops_of(1) + second.flops_of(2)


def test_a_trial_is_as_good_as_its_last_measurement(tmp_path: Path) -> None:
    conductor = begin(tmp_path, spec_of())
    drive(conductor, World(), transactions=1)
    trial = conductor.state.trials["t0000"]
    assert (trial.loss, trial.checkpoints) == (inf, ())
    measured = report(conductor.assignment(trial), 3.0)
    conductor.measured(measured)
    assert (trial.loss, trial.checkpoints, trial.state) == (3.0, (measured.checkpoint,), TrialState.PAUSED)


def test_populations_hold_explored_trials_of_one_size_best_first(tmp_path: Path) -> None:
    conductor = begin(tmp_path, spec_of(proof=PROOF_SHAPE))
    drive(conductor, World(cliff_octaves=1), slots=3)
    assert set(conductor.state.populations) == {(proxy, rung) for proxy in (0, 1) for rung in range(3)}
    for (proxy, _), population in conductor.state.populations.items():
        assert population == sorted(population)
        trials = [conductor.state.trials[trial_id] for _, _, trial_id in population]
        assert {(trial.asked.proxy, trial.asked.role) for trial in trials} == {(proxy, Role.EXPLORE)}
    assert conductor.state.populations[0, 0][-1][0] == inf


def test_a_resume_revives_what_was_stopped(tmp_path: Path) -> None:
    conductor = begin(tmp_path, spec_of())
    drive(conductor, World(), slots=3, transactions=7)
    running, paused = (
        list(conductor.state.running),
        [t.trial_id for t in conductor.state.trials.values() if t.measurements],
    )
    conductor.close(complete=False, device_seconds={})
    assert not conductor.state.running
    assert {conductor.state.trials[trial_id].state for trial_id in running} == {TrialState.STOPPED}
    state = resume(tmp_path, "b").state
    assert (list(state.running), state.incarnations[-1], state.closed) == (running, "b", None)
    assert {state.trials[trial_id].state for trial_id in paused if trial_id not in running} == {TrialState.PAUSED}


def test_events_come_in_order(tmp_path: Path) -> None:
    state = begin(tmp_path, spec_of()).state
    with pytest.raises(AssertionError, match="event 3 after 1"):
        state.apply(3, Closed(complete=True, device_seconds={}))


def test_an_empty_ledger_is_told() -> None:
    with pytest.raises(UserError, match="place: the ledger is empty; .* start it with `hpsearch run`"):
        fold([], "place")


def test_a_ledger_that_opens_no_search_is_told() -> None:
    with pytest.raises(UserError, match="place: event 1 must open the search, got .*; restore the file"):
        fold([(1, Resumed(incarnation="b", versions={}))], "place")
