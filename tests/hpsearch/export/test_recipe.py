"""The recipe: what every YAML reader reads alike."""

from __future__ import annotations

import json

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from hpsearch.export.recipe import export, recipe, to_json, to_yaml
from hpsearch.folder import SearchFolder
from hpsearch.targets import parse_target, resolve_target
from hpsearch.transfer.recommend import recommend
from hpsearch.trials_table import read_state
from search_spaces.errors import UserError


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_floats_are_floats_to_every_reader(value: float) -> None:
    read = yaml.safe_load(to_yaml({"value": value}))["value"]
    assert isinstance(read, float) and read == value
    assert json.loads(to_json({"value": value}))["value"] == value


def test_a_recipe_is_complete_and_says_the_same_twice(tiny: SearchFolder) -> None:
    state = read_state(tiny.ledger)
    target = resolve_target(state.spec.target, state.spec)
    recommendation = recommend(state, target)
    data = recipe(state, target, recommendation)
    assert recommend(state, target) == recommendation
    assert export(state, target, recommendation, "yaml", False) == to_yaml(data)
    assert json.loads(export(state, target, recommendation, "json", False)) == yaml.safe_load(to_yaml(data))
    schedule, batch = data["schedule"], data["batch"]
    assert schedule["warmup_tokens"] + schedule["decay_tokens"] <= schedule["total_tokens"]
    assert all(schedule[key] % batch["tokens"] == 0 for key in ("warmup_tokens", "decay_tokens", "total_tokens"))
    assert set(recommendation.parameters) >= set(state.spec.space)


def test_a_refused_recommendation_is_not_exported(tiny: SearchFolder) -> None:
    state = read_state(tiny.ledger)
    target = resolve_target(parse_target("gpt3-175b"), state.spec)
    recommendation = recommend(state, target)
    with pytest.raises(UserError, match="refused: reach"):
        export(state, target, recommendation, "yaml", accept_reach=False)
    assert "gpt3-175b" in export(state, target, recommendation, "yaml", accept_reach=True)
