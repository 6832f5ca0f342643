"""What a search does next, by simulation: whole searches over a loss whose optimum is known."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from math import inf
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hpsearch.conductor import Conductor
from hpsearch.decisions import Idle, incumbent, next_decision
from hpsearch.events import Asked, Ended, Event, Judged, Predicted, Promoted, Role, TrialState
from hpsearch.plan import PROOF, trial_flops
from hpsearch.state import SearchState, opening_state
from tests.hpsearch.simulation import PROOF_SHAPE, World, begin, drive, report, scratch, spec_of
from trials.trial import Assignment, Measurement

ENDS = {TrialState.COMPLETE, TrialState.PRUNED, TrialState.DIVERGED, TrialState.FAIL}
LADDER = [{"width": 16, "depth": 1, "heads": 2, "trials": 15}, {"width": 32, "depth": 1, "heads": 2, "trials": 9}]
worlds = st.builds(World, cliff_octaves=st.floats(0.5, 3), noise=st.floats(0, 0.02))
slots = st.integers(1, 8)
seeds = st.integers(0, 9999)


def searched(folder: Path, world: World, num_slots: int = 1, seed: int = 0, **changes: Any) -> Conductor:
    """A whole search, ended as it ends by itself."""
    conductor = begin(folder, spec_of(**changes))
    drive(conductor, world, num_slots, seed)
    conductor.close(complete=True, device_seconds={})
    return conductor


def drive_to_the_end(conductor: Conductor, proof: Callable[[Assignment], Measurement]) -> None:
    """One trial at a time: swept ones are measured by the ordinary world, those of the proof by `proof`."""
    while (decision := conductor.decide()) is not Idle.FINISHED:
        if isinstance(decision, Predicted):
            conductor.predict(decision)
            continue
        assert isinstance(decision, (Asked, Promoted))
        assignment = conductor.start(decision)
        measure = World().measure if conductor.state.prediction is None else proof
        conductor.measured(measure(assignment))


def events(conductor: Conductor) -> list[Event]:
    return [entry.event for entry in conductor.ledger.read()]


def least_budget(**changes: Any) -> int:
    """What `check_budget` asks for at least."""
    spec = spec_of(**changes)
    proof = spec.proof.trials * trial_flops(spec, PROOF) if spec.proof else 0
    return proof + sum((1 + spec.repeats) * trial_flops(spec, proxy) for proxy in range(len(spec.ladder)))


@given(world=worlds, num_slots=slots, seed=seeds)
@settings(max_examples=12, deadline=None)
def test_every_trial_ends_and_a_third_is_pruned(world: World, num_slots: int, seed: int) -> None:
    with scratch() as folder:
        state = searched(Path(folder), world, num_slots, seed, ladder=LADDER).state
    states = Counter(trial.state for trial in state.trials.values() if trial.asked.role is Role.EXPLORE)
    assert set(states) <= ENDS
    assert sum(states.values()) == 24
    assert states[TrialState.PRUNED] >= (len(state.trials) - states[TrialState.DIVERGED]) / 3
    assert all(trial.state is TrialState.COMPLETE for trial in state.never_pruned)


@given(world=worlds, num_slots=slots, seed=seeds, times_least=st.floats(1, 3), searched_batch=st.booleans())
@settings(max_examples=12, deadline=None)
def test_the_budget_holds_at_every_moment_and_promises_are_kept(
    world: World, num_slots: int, seed: int, times_least: float, searched_batch: bool
) -> None:
    changes: dict[str, Any] = {"ladder": LADDER}
    if searched_batch:
        rate = {"low": 1e-3, "high": 6.4e-2}
        changes |= {"space": {"learning_rate": rate, "batch_sequences": {"low": 2, "high": 40}}}
        changes |= {"fixed": {"warmup_fraction": 0.05}}
    budget = times_least * least_budget(**changes)
    with scratch() as folder:
        conductor = searched(Path(folder), world, num_slots, seed, budget_flops=budget, **changes)
        entries = conductor.ledger.read()
    state = opening_state(entries[0].event, "ledger")
    for entry in entries:
        state.apply(entry.seq, entry.event)
        assert state.spent_flops + state.reserved_flops <= budget
    for proxy in (0, 1):
        assert state.of(proxy, Role.EXPLORE)
        assert len(state.of(proxy, Role.REPEAT)) == (2 if incumbent(state, proxy) else 0)
    assert all(trial.state is TrialState.COMPLETE for trial in state.never_pruned)


@pytest.mark.parametrize("num_slots", [1, 5])
@pytest.mark.parametrize("times_least", [1.0, 1.2, 9.0])
def test_the_proof_is_held_however_small_the_budget(tmp_path: Path, num_slots: int, times_least: float) -> None:
    changes: dict[str, Any] = {"ladder": LADDER, "proof": PROOF_SHAPE}
    conductor = searched(tmp_path, World(), num_slots, budget_flops=times_least * least_budget(**changes), **changes)
    assert len(conductor.state.of(PROOF, Role.PROOF)) >= 3
    assert [len(conductor.state.of(proxy, Role.REPEAT)) for proxy in (0, 1)] == [2, 2]
    assert conductor.state.spent_flops <= conductor.state.spec.budget_flops


def test_small_proxies_come_first(tmp_path: Path) -> None:
    asked = [event for event in events(searched(tmp_path, World())) if isinstance(event, Asked)]
    explored = [event.proxy for event in asked if event.role is Role.EXPLORE]
    assert explored == [0] * 9 + [1] * 9


def test_the_small_do_not_eat_what_the_large_were_promised(tmp_path: Path) -> None:
    """Exploring the small proxy alone would use all of the budget; the large one has its trial and its repeats."""
    changes: dict[str, Any] = {"ladder": [{**LADDER[0], "trials": 300}, LADDER[1]], "sampler": {"name": "qmc"}}
    state = searched(tmp_path, World(), budget_flops=least_budget(**changes), **changes).state
    assert 9 < len(state.of(0, Role.EXPLORE)) < 300
    assert [len(state.of(1, role)) for role in (Role.EXPLORE, Role.REPEAT)] == [1, 2]


def test_who_earned_it_goes_on_before_anybody_new_is_asked(tmp_path: Path) -> None:
    conductor = begin(tmp_path, spec_of())
    kinds: list[str] = []
    while len(kinds) < 5:
        decision = conductor.decide()
        assert isinstance(decision, (Asked, Promoted))
        kinds.append(decision.kind)
        conductor.measured(World().measure(conductor.start(decision)))
    assert kinds == ["asked", "asked", "asked", "promoted", "asked"]


def test_repeats_repeat_the_incumbent_with_other_seeds(tmp_path: Path) -> None:
    state = searched(tmp_path, World(), num_slots=4, seed=50, ladder=LADDER).state
    for proxy in (0, 1):
        repeats, best = state.of(proxy, Role.REPEAT), incumbent(state, proxy)
        assert best is not None
        assert {trial.asked.repeat_of for trial in repeats} == {best.trial_id}
        assert {repr(trial.asked.values) for trial in repeats} == {repr(best.asked.values)}
        assert [trial.config.seed for trial in [best, *repeats]] == [0, 1, 2]
        assert {len(trial.measurements) for trial in repeats} == {len(best.measurements)}


def test_repeats_are_outside_the_populations(tmp_path: Path) -> None:
    state = searched(tmp_path, World()).state
    ranked = {trial_id for population in state.populations.values() for _, _, trial_id in population}
    assert ranked == {trial.trial_id for proxy in (0, 1) for trial in state.of(proxy, Role.EXPLORE)}


def test_a_bad_repeat_is_not_pruned(tmp_path: Path) -> None:
    conductor = begin(tmp_path, spec_of())
    while conductor.decide() is not Idle.FINISHED:
        decision = conductor.decide()
        assert isinstance(decision, (Asked, Promoted))
        assignment = conductor.start(decision)
        is_repeat = conductor.state.trials[assignment.trial_id].asked.role is Role.REPEAT
        conductor.measured(report(assignment, 50.0) if is_repeat else World().measure(assignment))
    assert [trial.state for trial in conductor.state.never_pruned] == [TrialState.COMPLETE] * 4


def test_an_incumbent_is_the_best_at_the_highest_rung(tmp_path: Path) -> None:
    state = searched(tmp_path, World()).state
    best = incumbent(state, 0)
    assert best is not None and best.is_last_rung
    assert best.loss == min(trial.loss for trial in state.of(0, Role.EXPLORE) if trial.is_last_rung)


def test_who_diverged_at_a_later_rung_is_no_incumbent(tmp_path: Path) -> None:
    """The best of the first rung goes on and diverges: the second best stands for the proxy."""
    rungs = {"name": "asha", "rung_ratios": [1.0, 3.0]}
    conductor = begin(tmp_path, spec_of(ladder=LADDER[1:], scheduler=rungs, repeats=1))
    for loss in (2.0, 1.0, 3.0, inf):
        decision = conductor.decide()
        assert isinstance(decision, (Asked, Promoted))
        conductor.measured(report(conductor.start(decision), loss))
    assert conductor.state.trials["t0001"].state is TrialState.DIVERGED
    best = incumbent(conductor.state, 0)
    assert best is not None and best.trial_id == "t0000"


def test_a_search_in_which_all_diverge_ends(tmp_path: Path) -> None:
    conductor = searched(tmp_path, World(cliff_octaves=-inf), num_slots=3, proof=PROOF_SHAPE)
    assert [trial.state for trial in conductor.state.trials.values()] == [TrialState.DIVERGED] * 18
    assert [incumbent(conductor.state, proxy) for proxy in (0, 1)] == [None, None]
    assert conductor.state.prediction is None
    assert next_decision(conductor.state) is Idle.FINISHED


@pytest.mark.parametrize("num_slots", [1, 4])
def test_the_prediction_comes_before_any_trial_of_its_size(tmp_path: Path, num_slots: int) -> None:
    happened = events(searched(tmp_path, World(), num_slots, proof=PROOF_SHAPE))
    predicted = next(i for i, event in enumerate(happened) if isinstance(event, Predicted))
    proofs = [i for i, event in enumerate(happened) if isinstance(event, Asked) and event.role is Role.PROOF]
    assert len(proofs) >= 3 and min(proofs) > predicted
    after = {event.role for event in happened[predicted:] if isinstance(event, Asked)}
    assert after == {Role.PROOF}, "nothing is swept after the prediction"
    running = {event.trial_id for event in happened[:predicted] if isinstance(event, (Asked, Promoted))}
    judged = {event.trial_id for event in happened[:predicted] if isinstance(event, Judged)}
    assert running == judged, "nothing runs while it is predicted"


def test_nothing_is_swept_after_the_prediction_though_a_cheap_proof_leaves_budget(tmp_path: Path) -> None:
    """The budget ended the exploring; probes that diverge at once give some of it back."""
    changes: dict[str, Any] = {"ladder": [{**LADDER[0], "trials": 300}, LADDER[1]], "sampler": {"name": "qmc"}}
    changes["proof"] = PROOF_SHAPE
    conductor = begin(tmp_path, spec_of(budget_flops=least_budget(**changes), **changes))

    def diverge_at_once(assignment: Assignment) -> Measurement:
        assert conductor.state.trials[assignment.trial_id].asked.role is Role.PROOF
        return replace(report(assignment, inf), flops=0, anneal_flops=0)

    drive_to_the_end(conductor, diverge_at_once)
    assert len(conductor.state.of(0, Role.EXPLORE)) < 300
    assert len(conductor.state.of(PROOF, Role.PROOF)) == 5


def test_the_proof_probes_the_prediction_and_an_octave_to_either_side(tmp_path: Path) -> None:
    state = searched(tmp_path, World(), num_slots=4, proof=PROOF_SHAPE).state
    assert state.prediction is not None
    predicted = state.prediction.values
    rates = [trial.asked.values["learning_rate"] / predicted["learning_rate"] for trial in state.of(PROOF, Role.PROOF)]
    assert rates[:3] == pytest.approx([1, 0.5, 2])
    assert all(trial.asked.values["weight_decay"] == predicted["weight_decay"] for trial in state.of(PROOF, Role.PROOF))


@pytest.mark.parametrize("best_offset, probes", [(0, 3), (-1, 4), (-2, 5), (9, 5)])
def test_the_proof_follows_a_slope_until_it_has_bracketed_the_optimum(
    tmp_path: Path, best_offset: int, probes: int
) -> None:
    """Octaves of the true optimum from the predicted one; five trials at most."""
    conductor = begin(tmp_path, spec_of(proof=PROOF_SHAPE))

    def lie_on_a_bowl(assignment: Assignment) -> Measurement:
        assert conductor.state.prediction is not None
        predicted = conductor.state.prediction.values["learning_rate"]
        offset = math.log2(assignment.config.learning_rate / predicted)
        return report(assignment, 3.0 + 0.1 * (offset - best_offset) ** 2)

    drive_to_the_end(conductor, lie_on_a_bowl)
    assert len(conductor.state.of(PROOF, Role.PROOF)) == probes


def test_what_waits_is_pruned_only_when_the_search_is_complete(tmp_path: Path) -> None:
    conductor = begin(tmp_path, spec_of())
    drive(conductor, World(), slots=3, transactions=20)
    running = {trial.trial_id for trial in conductor.state.running.values()}
    conductor.close(complete=False, device_seconds={})
    ended = {event.trial_id: event.state for event in events(conductor) if isinstance(event, Ended)}
    assert ended == dict.fromkeys(running, TrialState.STOPPED)


def test_a_state_says_nothing_of_who_asks(tmp_path: Path) -> None:
    """Deciding changes nothing, so it may be asked any number of times."""
    conductor = begin(tmp_path, spec_of())
    drive(conductor, World(), slots=3, transactions=20)
    state: SearchState = conductor.state
    assert next_decision(state) == next_decision(state) == conductor.decide()
