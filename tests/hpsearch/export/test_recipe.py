"""The recipe: what every YAML reader reads alike."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from dataclasses import fields
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from hpsearch.domains import SEARCHABLE
from hpsearch.export.recipe import export, recipe, to_json, to_yaml
from hpsearch.folder import SearchFolder
from hpsearch.targets import parse_target, resolve_target
from hpsearch.transfer.recommend import recommend
from hpsearch.trials_table import read_state
from search_spaces.errors import UserError
from trials.architecture import Architecture


@given(st.floats(allow_nan=False, allow_infinity=False))
@settings(deadline=None)
def test_floats_are_floats_to_every_reader(value: float) -> None:
    text = to_yaml({"value": value})
    read = yaml.safe_load(text)["value"]  # PyYAML reads YAML 1.1
    assert isinstance(read, float) and read == value
    assert json.loads(to_json({"value": value}))["value"] == value
    assert re.fullmatch(r"value: -?[0-9]+\.[0-9]+(e[-+][0-9]{2,3})?\n", text), (
        "a float in the core schema of YAML 1.2 too"
    )


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan])
@pytest.mark.parametrize("write", [to_yaml, to_json])
def test_what_is_no_number_is_not_written(write: Callable[[dict[str, Any]], str], value: float) -> None:
    with pytest.raises((AssertionError, ValueError)):
        write({"value": value})


@pytest.mark.parametrize("text", ["3e-4", "yes", "null", "1:30", "a: b", "é\n\t", "# no", ""])
def test_text_stays_text(text: str) -> None:
    assert yaml.safe_load(to_yaml({"reason": text}))["reason"] == text


def test_the_same_search_gives_the_same_bytes(tiny: SearchFolder) -> None:
    """Read and fitted twice from the start; the file beside the trials is the same too."""
    texts = []
    for _ in range(2):
        state = read_state(tiny.ledger)
        target = resolve_target(state.spec.target, state.spec)
        texts.append(export(state, target, recommend(state, target), "yaml", accept_reach=False))
    assert texts[0] == texts[1] == tiny.recipe.read_text()


def test_a_recipe_leaves_nothing_to_a_default(tiny: SearchFolder) -> None:
    state = read_state(tiny.ledger)
    target = resolve_target(state.spec.target, state.spec)
    recommendation = recommend(state, target)
    data = recipe(state, target, recommendation)
    searched = {name: value.value for name, value in recommendation.parameters.items()}
    assert set(searched) == set(SEARCHABLE) == set(data["evidence"]["parameters"])
    total_tokens, batch_tokens = data["schedule"]["total_tokens"], data["batch"]["tokens"]
    told = {
        **{name: data["optimizer"][name] for name in ("learning_rate", "weight_decay", "beta1", "beta2", "eps")},
        "gradient_clip": data["optimizer"]["gradient_clip"],
        "warmup_fraction": data["schedule"]["warmup_tokens"] / total_tokens,
        "batch_sequences": batch_tokens / state.spec.context_tokens,
    }
    assert told == pytest.approx(searched, rel=1e-5, abs=batch_tokens / total_tokens)
    shape = {field.name: getattr(target.architecture, field.name) for field in fields(Architecture)}
    assert shape.items() <= data["architecture"].items()
    assert (data["architecture"]["params"], data["seed"]) == (target.architecture.params, state.spec.seed)
    assert total_tokens == pytest.approx(target.tokens, abs=batch_tokens)


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
