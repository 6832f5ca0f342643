"""The recipe: what every YAML reader reads alike."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from hpsearch.export.recipe import export, recipe, to_json, to_yaml
from hpsearch.folder import SearchFolder
from hpsearch.plan import trial_config
from hpsearch.targets import parse_target, resolve_target
from hpsearch.transfer.recommend import recommend
from hpsearch.trials_table import read_state
from search_spaces.errors import UserError
from tests.hpsearch.simulation import EVERYTHING, World, begin, drive, spec_of
from trials import model, optimizer
from trials.architecture import Architecture, Role
from trials.rates import step_numbers
from trials.roles import role_numbers
from trials.trial import DecayConvention


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
    """Read and fitted twice from the start; the file beside the trials, where there is one, is the same too."""
    texts = []
    for _ in range(2):
        state = read_state(tiny.ledger)
        target = resolve_target(state.spec.target, state.spec)
        recommendation = recommend(state, target)
        texts.append(export(state, target, recommendation, "yaml", accept_reach=True))
    assert texts[0] == texts[1]
    if recommendation.refused:  # so small a search may find that its own target is out of reach
        assert not tiny.recipe.exists()
    else:
        assert tiny.recipe.read_text() == texts[0]


def ratio(data: dict[str, Any], role: Role) -> float:
    """Of the final rate of a role to the base rate: in the standard parametrization, the role's own ratio."""
    rate: float = data["roles"][role]["learning_rate"]
    return rate / float(data["optimizer"]["learning_rate"])


def test_a_recipe_leaves_nothing_to_a_default(tiny: SearchFolder) -> None:
    state = read_state(tiny.ledger)
    target = resolve_target(state.spec.target, state.spec)
    recommendation = recommend(state, target)
    data = recipe(state, target, recommendation)
    searched = {name: value.value for name, value in recommendation.parameters.items()}
    assert set(searched) == set(state.spec.parameter_names) == set(data["evidence"]["parameters"])
    total_tokens, batch_tokens = data["schedule"]["total_tokens"], data["batch"]["tokens"]
    told = {
        **{name: data["optimizer"][name] for name in ("learning_rate", "weight_decay", "beta1", "beta2", "eps")},
        "gradient_clip": data["optimizer"]["gradient_clip"],
        "init_std": data["optimizer"]["init_std"],
        "warmup_fraction": data["schedule"]["warmup_tokens"] / total_tokens,
        "decay_share": data["schedule"]["decay_tokens"] / total_tokens,
        "decay_floor": data["schedule"]["decay_floor"],
        "batch_sequences": batch_tokens / state.spec.context_tokens,
        "embedding_multiplier": data["parametrization"]["multipliers"]["embedding"],
        "output_multiplier": data["parametrization"]["multipliers"]["output"],
        "embedding_rate_ratio": ratio(data, Role.EMBEDDING),
        "hidden_rate_ratio": ratio(data, Role.HIDDEN),
        "vector_rate_ratio": ratio(data, Role.FINAL_VECTOR),
        "qk_norm": data["architecture"]["qk_norm"],
        **data["loss"],
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
    assert export(state, target, recommendation, "yaml", True) == to_yaml(data)
    assert json.loads(export(state, target, recommendation, "json", True)) == yaml.safe_load(to_yaml(data))
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


VALUES = {"learning_rate": 0.004, "timescale": 0.2, "qk_norm": 1.0, "z_loss": 0.0, "muon_momentum": 0.9}


@pytest.mark.parametrize("convention", DecayConvention)
@pytest.mark.parametrize("rule", ["standard", "mup", "completep"])
def test_a_role_is_trained_with_what_the_recipe_says_of_it(rule: str, convention: DecayConvention) -> None:
    """Against the numbers that a trial's step is made of, on the plateau and long after all bias corrections."""
    base = {"rule": rule, "base_width": 8, "base_depth": 3, "base_head_size": 4}
    spec = spec_of(**{**EVERYTHING, "parametrization": base, "weight_decay_convention": convention})
    config = trial_config(spec, 1, VALUES, 0)
    numbers = step_numbers(config, config.warmup_tokens, 10**9, step=10**9)
    rates, kept, eps = numbers[: 3 * len(optimizer.ROLES)].reshape(3, -1)
    weights = model.initial_weights(config.architecture, config.parametrization, config.init_std, 0)
    parts = torch.split(weights, [weight.size for weight in config.architecture.layout])
    starts = {weight.role: part for weight, part in zip(config.architecture.layout, parts, strict=True)}
    assert set(config.architecture.roles) == set(starts) == set(Role) - {Role.POSITION}
    for role in config.architecture.roles:
        told = role_numbers(config)[role]
        column = optimizer.ROLES.index(role)
        step = told.learning_rate if convention is DecayConvention.COUPLED else 1.0
        assert told.learning_rate == pytest.approx(rates[column])
        assert told.weight_decay == pytest.approx((1 - kept[column]) / step, abs=1e-12)
        assert told.eps == pytest.approx(eps[column])
        assert told.init_std == pytest.approx(float(starts[role].std()), rel=0.1)


def searched(folder: Path, **changes: Any) -> dict[str, Any]:
    """The recipe of a simulated search for its target."""
    conductor = begin(folder, spec_of(**changes))
    drive(conductor, World(), slots=4)
    conductor.close(complete=True, device_seconds={})
    target = resolve_target(conductor.state.spec.target, conductor.state.spec)
    data = recipe(conductor.state, target, recommend(conductor.state, target))
    assert yaml.safe_load(to_yaml(data)) == json.loads(to_json(data)) == data
    return data


def test_a_recipe_says_what_is_special_about_a_search(tmp_path: Path) -> None:
    data = searched(tmp_path, **EVERYTHING)
    shape, scaling, schedule, batch = (data[key] for key in ("architecture", "parametrization", "schedule", "batch"))
    assert (shape["kind"], shape["kv_heads"], shape["head_size"], shape["feed_forward_width"]) == ("llama", 1, 8, 192)
    assert (shape["norm"], shape["activation"], shape["positions"]) == ("rms_norm_before", "swiglu", "rotary")
    assert (shape["tied_embeddings"], shape["biases"], shape["rotary_base"]) == (False, False, 10_000.0)
    assert {key: scaling[key] for key in ("rule", "base_width", "base_depth", "base_head_size")} == {
        "rule": "mup",
        "base_width": 8,
        "base_depth": 2,
        "base_head_size": 4,
    }
    # Width 64 from 8: logits over 8, times the search's own quarter; attention over the head size.
    assert scaling["multipliers"] == {"embedding": 2.0, "output": 0.25 / 8, "residual": 1.0, "attention": 2 / 8}
    assert data["optimizer"]["name"] == "muon" and data["optimizer"]["update_rms"] == 0.2
    assert data["optimizer"]["weight_decay_convention"] == "independent"
    rate = data["optimizer"]["learning_rate"]
    assert data["roles"]["hidden"]["learning_rate"] == pytest.approx(2 * rate / 8**0.5, rel=1e-5)  # Muon's
    assert data["roles"]["unembedding"]["learning_rate"] == pytest.approx(rate / 2, rel=1e-5)
    assert [data["roles"][role]["update"] for role in ("residual", "embedding")] == ["muon", "adamw"]
    assert data["roles"]["hidden"]["init_std"] == pytest.approx(0.03 / 8**0.5, rel=1e-5)
    assert data["roles"]["block_vector"]["weight_decay"] == 0
    timescale = batch["tokens"] / (data["optimizer"]["weight_decay"] * schedule["total_tokens"])
    assert 0.05 * (1 - 1e-5) <= timescale <= 1.0 * (1 + 1e-5)
    assert (schedule["decay"], schedule["decay_floor"], data["loss"]["logit_softcap"]) == ("cosine", 0.1, 30.0)
    assert schedule["warmup_tokens"] == 5 * batch["tokens"]
    assert (batch["start_tokens"], batch["ramp_tokens"]) == (32, round(0.05 * schedule["total_tokens"]))


def test_bands_are_told(tmp_path: Path) -> None:
    shape = searched(tmp_path, model={"band_tokens": 8})["architecture"]
    assert (shape["kind"], shape["band_tokens"], shape["attention"]) == ("gpt", 8, "dense, banded, dense, banded, ...")
    assert (shape["norm"], shape["positions"], "rotary_base" in shape) == ("layer_norm_before", "learned", False)


def test_a_decay_over_all_of_a_run_begins_where_the_warmup_ends(tmp_path: Path) -> None:
    fixed = {"batch_sequences": 4, "warmup_fraction": 0.05, "decay_share": 1}
    schedule = searched(tmp_path, fixed=fixed)["schedule"]
    assert schedule["warmup_tokens"] + schedule["decay_tokens"] == schedule["total_tokens"]
