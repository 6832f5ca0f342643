"""Samplers: pure functions of the search so far, which stay inside the space."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hpsearch.conductor import Conductor
from hpsearch.events import Asked, Role
from hpsearch.sampler import propose
from hpsearch.state import fold
from tests.hpsearch.simulation import World, begin, drive, report, scratch, spec_of

SPACE: dict[str, Any] = {
    "learning_rate": {"low": 1e-3, "high": 6.4e-2, "prior": {"center": 8e-3, "sd_octaves": 1.5}},
    "beta2": {"values": [0.9, 0.95, 0.99]},
    "weight_decay": {"low": 0.0, "high": 0.4, "scale": "linear"},
    "batch_sequences": {"low": 2, "high": 9},
}
SAMPLERS = ["surface", "tpe", "gp", "cmaes", "grid", "qmc", "random"]


def search(folder: Path, sampler: str, **changes: Any) -> Conductor:
    fixed = {"warmup_fraction": 0.05}
    return begin(folder, spec_of(space=SPACE, fixed=fixed, sampler={"name": sampler, "startup_share": 0.3}, **changes))


@pytest.mark.parametrize("sampler", SAMPLERS)
@given(cut=st.integers(0, 60), slots=st.integers(1, 4), seed=st.integers(0, 99))
@settings(max_examples=10, deadline=None)
def test_the_same_search_proposes_the_same(sampler: str, cut: int, slots: int, seed: int) -> None:
    """Asked twice, and asked of a state that was folded anew; inside the space whatever was measured before."""
    with scratch() as folder:
        conductor = search(Path(folder), sampler)
        drive(conductor, World(), slots, seed, transactions=cut)
        state, parameters = conductor.state, conductor.state.spec.parameters
        refolded = fold(((entry.seq, entry.event) for entry in conductor.ledger.read()), "ledger")
        for proxy in (0, 1):
            values = propose(state, proxy, len(state.trials)).values
            assert values == propose(state, proxy, len(state.trials)).values
            assert values == propose(refolded, proxy, len(state.trials)).values
            assert list(values) == list(SPACE)
            assert all(values[p.name] == pytest.approx(p.nearest(values[p.name]), rel=1e-12) for p in parameters)


@pytest.mark.parametrize("sampler", [name for name in SAMPLERS if name != "grid"])
def test_another_seed_and_another_trial_propose_something_else(tmp_path: Path, sampler: str) -> None:
    proposals = []
    for seed in (0, 1):
        conductor = search(tmp_path / str(seed), sampler, seed=seed)
        drive(conductor, World(), transactions=30)
        proposals += [trial.asked.values["learning_rate"] for trial in conductor.state.of(0, Role.EXPLORE)]
    assert len(set(proposals)) == len(proposals) > 10


def test_any_prefix_of_quasi_random_covers_the_space(tmp_path: Path) -> None:
    """Of the first 2 ** k proposals each 2 ** -k slice of a parameter holds one, in the prior's quantiles."""
    ladder = [{"width": 16, "depth": 1, "heads": 2, "trials": 16}]
    conductor = begin(tmp_path, spec_of(ladder=ladder, sampler={"name": "qmc"}))
    drive(conductor, World(), slots=16, transactions=16)
    parameters = conductor.state.spec.parameters
    for parameter in parameters:
        low, high = parameter.bounds
        values = [trial.asked.values[parameter.name] for trial in conductor.state.trials.values()]
        quantiles = [(parameter.coordinate(value) - low) / (high - low) for value in values]
        for count in (2, 4, 8, 16):
            assert sorted(int(quantile * count) for quantile in quantiles[:count]) == list(range(count))


def test_proxies_are_explored_at_different_points(tmp_path: Path) -> None:
    state = search(tmp_path, "qmc").state
    assert propose(state, 0, 0) != propose(state, 1, 0)
    assert propose(state, 0, 0) == propose(state, 0, 1), "the place in the sequence counts, not the trial's number"


def test_tpe_begins_when_its_startup_share_is_explored(tmp_path: Path) -> None:
    """0.3 of 9 trials are 3: until then the proposals are the quasi-random ones."""
    values = {}
    for sampler in ("tpe", "qmc"):
        conductor = search(tmp_path / sampler, sampler)
        drive(conductor, World(), slots=9, transactions=9)
        values[sampler] = [trial.asked.values for trial in conductor.state.of(0, Role.EXPLORE)]
    alike = [ours == quasi for ours, quasi in zip(values["tpe"], values["qmc"], strict=True)]
    assert alike == [True] * 3 + [False] * 6


def test_tpe_learns_where_the_losses_are_low(tmp_path: Path) -> None:
    ladder = [{"width": 16, "depth": 1, "heads": 2, "trials": 30}]
    space = {"learning_rate": {"low": 1e-4, "high": 1.0}}
    conductor = begin(tmp_path, spec_of(ladder=ladder, space=space, scheduler={"rung_ratios": [9.0]}))
    drive(conductor, World(cliff_octaves=99, noise=0.0))
    best = World().best_log2_rate(3312, 30000)
    parameter = conductor.state.spec.parameters[0]
    miss = [
        abs(parameter.coordinate(t.asked.values["learning_rate"]) - best) for t in conductor.state.of(0, Role.EXPLORE)
    ]
    assert sum(miss[18:]) / 12 < 0.6 * sum(miss[:18]) / 18


def test_a_promoted_trial_still_counts_by_what_it_has_shown(tmp_path: Path) -> None:
    """The best trial of a rung runs on; TPE must not take it for a bad one because it is pending."""
    ladder = [{"width": 16, "depth": 1, "heads": 2, "trials": 30}]
    space = {"learning_rate": {"low": 1e-4, "high": 1.0}}
    conductor = begin(tmp_path, spec_of(ladder=ladder, space=space, sampler={"name": "tpe", "startup_share": 0.3}))
    while len(conductor.state.of(0, Role.EXPLORE)) < 9:
        decision = conductor.decide()
        assert isinstance(decision, Asked)
        conductor.start(decision)
    for trial in list(conductor.state.running.values()):
        conductor.measured(report(conductor.assignment(trial), abs(trial.config.learning_rate - 0.02) + 1.0))
    before = propose(conductor.state, 0, 99)
    decision = conductor.decide()
    assert not isinstance(decision, Asked)
    conductor.start(decision)  # type: ignore[arg-type]  # a promotion
    assert propose(conductor.state, 0, 99) == before
