"""Freezing in mid-course, in the simulated search: what is kept, what stays free, and the run that audits it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from hpsearch.check import check_ledger
from hpsearch.conductor import Conductor
from hpsearch.events import Role, TrialState
from hpsearch.fits import surface_so_far
from hpsearch.freeze_stage import freeze_audit, frozen_in, frozen_values
from hpsearch.state import SearchState, Trial
from tests.hpsearch.simulation import World, begin, drive, spec_of

SPACE: dict[str, Any] = {
    "learning_rate": {"low": 1e-3, "high": 6.4e-2, "freezable": False},
    "beta2": {"low": 0.9, "high": 0.99},  # which the simulated loss does not know
}


def search(folder: Path, space: dict[str, Any] | None = None, **given: Any) -> Conductor:
    ladder = [{"width": width, "depth": 1, "heads": 2, "trials": 12} for width in (16, 32)]
    return begin(
        folder,
        spec_of(
            ladder=ladder,
            space=space or SPACE,
            scheduler={"name": "surface", "rung_ratios": [1.0, 3.0, 9.0]},
            sampler={"name": "surface", "startup_share": 0.3},
            **{"freezing": {"after_share": 0.5}, **given},
        ),
    )


@pytest.fixture(scope="module")
def conductor(tmp_path_factory: pytest.TempPathFactory) -> Conductor:
    made = search(tmp_path_factory.mktemp("freezing"))
    drive(made, World(noise=0.001))
    return made


@pytest.fixture(scope="module")
def state(conductor: Conductor) -> SearchState:
    return conductor.state


def frozen_trials(state: SearchState) -> list[Trial]:
    return [trial for trial in state.explored if frozen_in(trial)]


def test_what_is_flat_keeps_one_value_and_the_rest_is_refined(state: SearchState) -> None:
    kept = frozen_trials(state)
    assert len(kept) >= 4
    assert {tuple(frozen_in(trial)) for trial in kept} == {("beta2",)}
    assert len({trial.asked.values["beta2"] for trial in kept}) == 1
    assert len({trial.asked.values["learning_rate"] for trial in kept}) > 1


def test_nothing_is_frozen_before_its_share_of_the_trials(state: SearchState) -> None:
    assert min(trial.asked.number for trial in frozen_trials(state)) >= 12


def test_the_last_large_trial_is_free_and_runs_to_the_end(state: SearchState) -> None:
    audits = [trial for trial in state.explored if trial.audits_freeze]
    assert audits == [state.of(1, Role.EXPLORE)[-1]]
    assert audits[0].state is TrialState.COMPLETE and not frozen_in(audits[0])
    assert not audits[0].is_audited  # chosen by its place, it says nothing of how often pruning errs


def test_the_audit_says_what_freezing_cost(state: SearchState) -> None:
    surface = surface_so_far(state)
    assert surface is not None
    audit = freeze_audit(state, surface.noise_fraction)
    assert audit is not None and set(audit.frozen) == set(audit.free) == {"beta2"}
    free, kept = state.trials[audit.trial], state.trials[audit.frozen_trial]
    losses = [[m.loss for m in trial.measurements if m.tokens == audit.tokens] for trial in (kept, free)]
    assert audit.holds and audit.cost == pytest.approx(losses[0][0] / losses[1][0] - 1)


def test_every_decision_follows_from_the_ledger(conductor: Conductor) -> None:
    assert not check_ledger(conductor.ledger.read()).differences


def test_without_the_section_nothing_is_frozen(tmp_path: Path) -> None:
    plain = search(tmp_path, freezing=None)
    drive(plain, World(noise=0.001))
    assert not frozen_trials(plain.state) and frozen_values(plain.state) == {}
    assert freeze_audit(plain.state, 0.001) is None
    assert not any(trial.audits_freeze for trial in plain.state.explored)


def test_what_matters_is_not_frozen(tmp_path: Path) -> None:
    """The rate may be frozen as far as the space says; its optimum drifts."""
    free = search(tmp_path, space={**SPACE, "learning_rate": {"low": 1e-3, "high": 6.4e-2}})
    drive(free, World(noise=0.001))
    assert all("learning_rate" not in frozen_in(trial) for trial in free.state.explored)


def test_a_search_cut_anywhere_freezes_the_same(tmp_path: Path, state: SearchState) -> None:
    cut = search(tmp_path)
    drive(cut, World(noise=0.001), transactions=97)
    values = [trial.asked.values for trial in state.trials.values()]
    asked = [trial.asked.values for trial in cut.state.trials.values()]
    assert asked == values[: len(asked)]
