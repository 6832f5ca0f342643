"""Parameters under a condition: off is the default, and everything stays a pure function of the search."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hpsearch.check import check_ledger
from hpsearch.conditions import active_values
from hpsearch.domains import DEFAULTS, Domain
from hpsearch.events import Predicted
from hpsearch.targets import resolve_target
from hpsearch.transfer.recommend import recommend
from hpsearch.transfer.status import Status
from tests.hpsearch.simulation import EVERYTHING, PROOF_SHAPE, World, begin, drive, spec_of
from trials.trial import Assignment, Measurement

SAMPLERS = ["tpe", "qmc", "random"]
CHAIN = {
    "z_loss": Domain(values=(1e-5, 1e-4), when={"qk_norm": (0,)}),
    "beta2": Domain(low=0.9, high=0.99, when={"z_loss": (1e-4,), "decay_floor": (0.0, 0.1)}),
    "qk_norm": Domain(values=(0, 1)),
    "decay_floor": Domain(values=(0, 0.1, 0.2)),
}


def test_a_condition_that_fails_switches_off_what_waits_for_it() -> None:
    drawn = {"z_loss": 1e-4, "beta2": 0.9, "qk_norm": 0.0, "decay_floor": 0.1}
    assert active_values(CHAIN, drawn) == drawn
    assert list(active_values(CHAIN, drawn)) == list(CHAIN)
    assert active_values(CHAIN, {**drawn, "qk_norm": 1.0}) == {
        "z_loss": 0.0,
        "beta2": 0.95,
        "qk_norm": 1.0,
        "decay_floor": 0.1,
    }
    assert active_values(CHAIN, {**drawn, "z_loss": 1e-5})["beta2"] == 0.95
    assert active_values(CHAIN, {**drawn, "decay_floor": 0.2})["beta2"] == 0.95


@given(
    drawn=st.fixed_dictionaries(
        {
            "z_loss": st.sampled_from([1e-5, 1e-4]),
            "beta2": st.floats(0.9, 0.99),
            "qk_norm": st.sampled_from([0.0, 1.0]),
            "decay_floor": st.sampled_from([0.0, 0.1, 0.2]),
        }
    )
)
def test_what_is_active_stays_as_it_was_drawn(drawn: dict[str, float]) -> None:
    active = active_values(CHAIN, drawn)
    assert active_values(CHAIN, active) == active
    assert all(active[name] in (drawn[name], DEFAULTS[name]) for name in CHAIN)
    assert all(active[name] == drawn[name] for name in ("qk_norm", "decay_floor"))


@pytest.mark.parametrize("sampler", SAMPLERS)
@given(cut=st.integers(0, 60), seed=st.integers(0, 99))
@settings(max_examples=5, deadline=None)
def test_every_proposal_keeps_the_conditions(
    tmp_path_factory: pytest.TempPathFactory, sampler: str, cut: int, seed: int
) -> None:
    changes: dict[str, Any] = {**EVERYTHING, "sampler": {"name": sampler, "startup_share": 0.3}}
    conductor = begin(tmp_path_factory.mktemp("search"), spec_of(**changes))
    drive(conductor, World(), slots=3, seed=seed, transactions=cut)
    for trial in conductor.state.trials.values():
        values = trial.asked.values
        assert values == active_values(conductor.state.spec.space, values)
        assert (values["z_loss"] == 0) == (values["qk_norm"] == 1)
        assert (trial.config.z_loss, trial.config.architecture.qk_norm) == (values["z_loss"], values["qk_norm"] == 1)


class Stabilised(World):
    """A world in which a QK norm is worth a twentieth of the loss."""

    def measure(self, assignment: Assignment) -> Measurement:
        measured = super().measure(assignment)
        worth = 0.95 if assignment.config.architecture.qk_norm else 1.0
        return replace(measured, loss=measured.loss * worth)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_search_under_conditions_is_recomputed_from_its_ledger(tmp_path: Path, sampler: str) -> None:
    """With a proof, whose prediction keeps the conditions too, and a recommendation that says what is off."""
    spec = spec_of(**{**EVERYTHING, "proof": PROOF_SHAPE, "sampler": {"name": sampler}})
    conductor = begin(tmp_path, spec)
    drive(conductor, Stabilised(noise=0.001), slots=4)
    conductor.close(complete=True, device_seconds={})
    entries = conductor.ledger.read()
    assert check_ledger(entries).differences == ()
    (predicted,) = [entry.event for entry in entries if isinstance(entry.event, Predicted)]
    assert (predicted.values["qk_norm"], predicted.values["z_loss"]) == (1, 0)
    recommended = recommend(conductor.state, resolve_target(spec.target, spec)).parameters
    assert (recommended["qk_norm"].value, recommended["z_loss"].value) == (1, 0)
    off = recommended["z_loss"]
    assert (off.status, off.reason) == (Status.FIXED, "off, as qk_norm = 0 does not hold")
