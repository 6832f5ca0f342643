"""Whoever alters a decision in a ledger is found out."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from hpsearch.check import check_ledger
from hpsearch.events import EVENT, Role, TrialState
from hpsearch.ledger import Entry
from hpsearch.transfer.confirm import plan_of_size
from search_spaces.errors import UserError
from tests.hpsearch.simulation import PROOF_SHAPE, SIZE, World, begin, confirm, drive, resume, scratch, spec_of

DECISIONS = ["asked", "judged", "promoted", "predicted", "ended"]


def searched(folder: Path, slots: int = 1, seed: int = 0, **changes: Any) -> list[Entry]:
    conductor = begin(folder, spec_of(**changes))
    drive(conductor, World(), slots, seed)
    conductor.close(complete=True, device_seconds={})
    return conductor.ledger.read()


@cache
def recorded(proof: bool) -> tuple[Entry, ...]:
    """A whole search, made once."""
    with scratch() as folder:
        return tuple(searched(Path(folder), slots=3, proof=PROOF_SHAPE if proof else None))


@cache
def confirmed() -> tuple[Entry, ...]:
    """A whole search and two confirms of it, made once."""
    with scratch() as name:
        folder = Path(name)
        conductor = begin(folder, spec_of(proof=PROOF_SHAPE))
        drive(conductor, World(), slots=3)
        conductor.close(complete=True, device_seconds={})
        for trials in (3, 2):
            plan = plan_of_size(conductor.state, conductor.state.spec.target, SIZE, trials)
            conductor = confirm(folder, plan, f"confirm{trials}")
            drive(conductor, World(), slots=2)
            conductor.close(complete=True, device_seconds={})
        return tuple(conductor.ledger.read())


def altered(value: Any) -> Any:
    """Another value of the same kind."""
    if isinstance(value, bool):
        return not value
    for enum in (Role, TrialState):
        if value in list(enum):
            return next(str(member) for member in enum if member != value)
    if isinstance(value, str):
        return f"{value}x"
    if isinstance(value, dict):
        key = next(iter(value), "new")
        return {**value, key: altered(value.get(key, 0))}
    return [*value[:-1], value[-1] + 1] if isinstance(value, list) else value + 1


def is_found(entries: tuple[Entry, ...], place: int, changes: dict[str, Any]) -> bool:
    """Whether a ledger that says something else at a place is refused, or differs just there."""
    body = {**json.loads(entries[place].event.model_dump_json()), **changes}
    try:
        event = EVENT.validate_json(json.dumps(body))
    except ValidationError:
        return True
    forged = Entry(entries[place].seq, entries[place].at_s, event)
    differences = check_ledger([*entries[:place], forged, *entries[place + 1 :]]).differences
    return bool(differences) and differences[0].seq == forged.seq


@given(slots=st.integers(1, 8), seed=st.integers(0, 999))
@settings(max_examples=8, deadline=None)
def test_every_decision_follows_from_its_prefix_in_any_order_of_arrival(slots: int, seed: int) -> None:
    with scratch() as folder:
        checked = check_ledger(searched(Path(folder), slots, seed, proof=PROOF_SHAPE))
    assert checked.differences == ()
    assert set(checked.decisions) >= set(DECISIONS)


@given(cuts=st.lists(st.integers(1, 30), min_size=1, max_size=3), slots=st.integers(1, 6), seed=st.integers(0, 999))
@settings(max_examples=8, deadline=None)
def test_so_it_does_where_drivers_were_killed_and_stopped(cuts: list[int], slots: int, seed: int) -> None:
    with scratch() as folder:
        conductor = begin(Path(folder), spec_of())
        for cut in cuts:
            drive(conductor, World(), slots, seed, transactions=cut)
            if cut % 2:
                conductor.close(complete=False, device_seconds={})
            conductor = resume(Path(folder), f"after{cut}")
        drive(conductor, World(), slots, seed)
        conductor.close(complete=True, device_seconds={})
        assert check_ledger(conductor.ledger.read()).differences == ()


@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_an_altered_decision_is_found(data: st.DataObject) -> None:
    """Any field of any decision, altered by as little as its kind allows."""
    entries = recorded(proof=False)
    place = data.draw(st.sampled_from([i for i, entry in enumerate(entries) if entry.event.kind in DECISIONS]))
    body = json.loads(entries[place].event.model_dump_json())
    field = data.draw(st.sampled_from(sorted(set(body) - {"kind"})))
    assert is_found(entries, place, {field: altered(body[field])}), (field, body)


@pytest.mark.parametrize("field", ["values", "low80", "high80", "regret", "observations"])
def test_an_altered_prediction_is_found(field: str) -> None:
    entries = recorded(proof=True)
    place = next(i for i, entry in enumerate(entries) if entry.event.kind == "predicted")
    body = json.loads(entries[place].event.model_dump_json())
    assert is_found(entries, place, {field: altered(body[field])})


def test_every_decision_of_a_confirm_follows_from_its_prefix() -> None:
    checked = check_ledger(list(confirmed()))
    assert checked.differences == () and checked.decisions["confirm_opened"] == 2 and checked.decisions["closed"] == 3


@pytest.mark.parametrize("field", ["target", "size", "prediction", "loss", "loss_low80", "loss_high80", "cost_flops"])
def test_an_altered_plan_of_a_confirm_is_found(field: str) -> None:
    entries = confirmed()
    place = max(i for i, entry in enumerate(entries) if entry.event.kind == "confirm_opened")
    plan = json.loads(entries[place].event.model_dump_json())["plan"]
    forged = {**plan["target"], "width": 8} if field == "target" else altered(plan[field])  # one that may not be asked
    assert is_found(entries, place, {"plan": {**plan, field: forged}})


@pytest.mark.parametrize("field", ["values", "config", "rungs", "role", "proxy", "number", "cost_flops"])
def test_an_altered_trial_of_a_confirm_is_found(field: str) -> None:
    entries = confirmed()
    place = max(i for i, entry in enumerate(entries) if entry.event.kind == "asked")
    body = json.loads(entries[place].event.model_dump_json())
    assert is_found(entries, place, {field: altered(body[field])})


def test_a_confirm_of_a_search_that_was_not_complete_is_found() -> None:
    entries = confirmed()
    place = next(i for i, entry in enumerate(entries) if entry.event.kind == "closed")
    early = [Entry(entry.seq - 1, entry.at_s, entry.event) for entry in entries[place + 1 :]]
    (difference,) = check_ledger([*entries[:place], *early]).differences
    assert difference.seq == early[0].seq and "a confirm of a search that is not complete" in difference.recomputed


@pytest.mark.parametrize("kind", [*DECISIONS, "measured"])
@pytest.mark.parametrize("trial_id", ["t9999", "t0001"])
def test_an_event_of_another_trial_is_found(kind: str, trial_id: str) -> None:
    entries = recorded(proof=False)
    places = [i for i, entry in enumerate(entries) if entry.event.kind == kind]
    assert all(is_found(entries, place, {"trial_id": trial_id}) for place in places[-1:])


def test_an_end_that_comes_twice_is_found() -> None:
    entries = recorded(proof=False)
    place = max(i for i, entry in enumerate(entries) if entry.event.kind == "ended")
    twice = Entry(entries[place].seq + 1, 0.0, entries[place].event)
    checked = check_ledger([*entries[: place + 1], twice])
    assert [difference.seq for difference in checked.differences] == [twice.seq]


def test_a_search_that_is_called_complete_too_early_is_found(tmp_path: Path) -> None:
    conductor = begin(tmp_path, spec_of())
    drive(conductor, World(), transactions=20)
    conductor.close(complete=True, device_seconds={})
    assert (
        check_ledger(conductor.ledger.read()).differences[-1].recomputed.startswith('{"kind":"closed","complete":false')
    )


def test_an_empty_ledger_is_told() -> None:
    with pytest.raises(UserError, match="ledger: empty; the search never began"):
        check_ledger([])
