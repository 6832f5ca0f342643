"""The surface inside a search: when it is fitted, whom it lets go on, and who is audited."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from hpsearch.check import check_ledger
from hpsearch.conductor import Conductor
from hpsearch.events import Promoted, TrialState
from hpsearch.fits import num_fitted, surface_so_far
from hpsearch.state import fold
from hpsearch.transfer.pruning import pruning_report
from tests.hpsearch.simulation import World, begin, drive, spec_of


def search(folder: Path, **scheduler: Any) -> Conductor:
    rungs = {"name": "surface", "rung_ratios": [1.0, 3.0, 9.0], **scheduler}
    sampler = {"name": "surface", "startup_share": 0.5}
    ladder = [{"width": width, "depth": 1, "heads": 2, "trials": 12} for width in (16, 32)]
    return begin(folder, spec_of(ladder=ladder, scheduler=rungs, sampler=sampler))


def test_fitted_with_each_measurement_at_first_and_ever_more_rarely_later() -> None:
    fitted = [num_fitted(count) for count in range(2000)]
    assert fitted == sorted(fitted) and fitted[:33] == list(range(33))
    assert all(0.95 * count - 1 <= seen <= count for count, seen in enumerate(fitted))
    assert len(set(fitted)) < 130


def test_a_search_by_the_surface_ends_and_every_decision_follows(tmp_path: Path) -> None:
    conductor = search(tmp_path)
    drive(conductor, World(), slots=3, seed=1)
    entries = conductor.ledger.read()
    checked = check_ledger(entries)
    assert not checked.differences and checked.decisions["promoted"] > 5
    told = [e.event for e in entries if isinstance(e.event, Promoted) and "expected_regret" in e.event.reasons]
    assert told and all(event.reasons["probability_bad"] < 0.9 for event in told)
    assert any(trial.state is TrialState.COMPLETE for trial in conductor.state.explored)


def test_one_slot_cut_anywhere_is_the_unbroken_search(tmp_path: Path) -> None:
    whole = search(tmp_path / "whole")
    drive(whole, World())
    cut = search(tmp_path / "cut")
    drive(cut, World(), transactions=31)
    refolded = fold(((entry.seq, entry.event) for entry in cut.ledger.read()), "ledger")
    surface, again = surface_so_far(cut.state), surface_so_far(refolded)
    assert surface is not None and again is not None
    assert surface.optimum(1e4, 1e5) == again.optimum(1e4, 1e5)
    values = [trial.asked.values for trial in whole.state.trials.values()]
    assert [trial.asked.values for trial in refolded.trials.values()] == values[: len(refolded.trials)]


@pytest.mark.parametrize("share", [0.1, 0.5])
def test_the_audited_are_chosen_before_anything_is_seen_and_run_to_the_end(tmp_path: Path, share: float) -> None:
    chosen = []
    for name, world in (("mild", World()), ("noisy", World(noise=0.05))):
        conductor = search(tmp_path / name, audit_share=share)
        drive(conductor, world, slots=2)
        audited = [i for i, trial in enumerate(conductor.state.explored) if trial.is_audited]
        ended = {trial.state for trial in conductor.state.explored if trial.is_audited}
        assert ended <= {TrialState.COMPLETE, TrialState.DIVERGED}
        surface = surface_so_far(conductor.state)
        assert surface is not None
        report = pruning_report(conductor.state, surface)
        assert report.audited_false <= report.audited_condemned <= report.audited <= len(audited)
        assert 0 < report.saved_share < 1 and report.expected_false <= report.pruned
        chosen.append(len(audited))
    assert chosen == ([0, 0] if share == 0.1 else [12, 12]), "of 24: 2 are too few, 12 are not"
