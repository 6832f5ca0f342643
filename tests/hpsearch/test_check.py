"""Whoever alters a decision in a ledger is found out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hpsearch.check import check_ledger
from hpsearch.events import TrialState
from hpsearch.ledger import Entry
from tests.hpsearch.simulation import PROOF_SHAPE, World, begin, drive, scratch, spec_of


def searched(folder: Path, slots: int = 1, seed: int = 0) -> list[Entry]:
    conductor = begin(folder, spec_of(proof=PROOF_SHAPE))
    drive(conductor, World(), slots, seed)
    conductor.close(complete=True, device_seconds={})
    return conductor.ledger.read()


@given(slots=st.integers(1, 8), seed=st.integers(0, 999))
@settings(max_examples=10, deadline=None)
def test_every_decision_follows_from_its_prefix_in_any_order_of_arrival(slots: int, seed: int) -> None:
    with scratch() as folder:
        checked = check_ledger(searched(Path(folder), slots, seed))
    assert checked.differences == ()
    assert set(checked.decisions) >= {"asked", "judged", "promoted", "predicted", "ended"}


@pytest.mark.parametrize("kind", ["asked", "judged", "promoted", "predicted"])
def test_an_altered_decision_is_found(kind: str, tmp_path: Path) -> None:
    entries = searched(tmp_path)
    place = next(i for i, entry in enumerate(entries) if entry.event.kind == kind)
    event = entries[place].event
    changes: dict[str, dict[str, Any]] = {
        "asked": {"values": {name: value * 1.01 for name, value in getattr(event, "values", {}).items()}},
        "judged": {"verdict": TrialState.COMPLETE},
        "promoted": {"cost_flops": 1},
        "predicted": {"regret": 0.0},
    }
    altered = Entry(entries[place].seq, entries[place].at_s, event.model_copy(update=changes[kind]))
    checked = check_ledger([*entries[:place], altered, *entries[place + 1 :]])
    assert checked.differences[0].seq == entries[place].seq
