"""A step's numbers are its trial's: rates by role, what decay leaves, bias corrections, and the forward pass' own."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from tests.trials.conftest import ARCHITECTURE, CONFIG, STEP_TOKENS
from trials.architecture import Role
from trials.model import Knobs
from trials.optimizer import ROLES, Rates, update_of
from trials.parametrization import OptimizerKind, Parametrization, Rule
from trials.rates import NUMBERS, idle_numbers, step_numbers, unpack
from trials.roles import role_numbers
from trials.trial import DecayConvention, TrialConfig

RUNG_TOKENS = 100 * STEP_TOKENS
FLAT = replace(CONFIG, warmup_tokens=0)  # the whole rate from the first step on
DECAYED = {Role.EMBEDDING, Role.UNEMBEDDING, Role.HIDDEN, Role.RESIDUAL}
MATRICES = {Role.HIDDEN, Role.RESIDUAL}
MUP = Parametrization(Rule.MUP, base_width=8, base_depth=1, base_head_size=8)
COMPLETEP = replace(MUP, rule=Rule.COMPLETEP)


def unpacked(config: TrialConfig, tokens: int = 0, step: int = 10**6) -> tuple[Rates, Knobs]:
    """Of one trial, `(1, R)` and `(1, 1)`; at a late step no bias is left to correct."""
    return unpack(torch.from_numpy(step_numbers(config, tokens, RUNG_TOKENS, step)).unsqueeze(0))


def check(column: Tensor, values: Mapping[Role, float]) -> None:
    """Asserts that a column, `(1, R)`, has these values."""
    assert column[0].tolist() == pytest.approx([values[role] for role in ROLES], rel=1e-12)


def changed(config: TrialConfig, values: Mapping[str, Any]) -> TrialConfig:
    return replace(config, **values)


@pytest.mark.parametrize(
    ("ratio", "roles"),
    [
        ("embedding_rate_ratio", {Role.EMBEDDING, Role.POSITION}),
        ("unembedding_rate_ratio", {Role.UNEMBEDDING}),
        ("hidden_rate_ratio", MATRICES),
        ("vector_rate_ratio", {Role.BLOCK_VECTOR, Role.FINAL_VECTOR}),
    ],
)
@pytest.mark.parametrize("optimizer", OptimizerKind)
def test_a_ratio_moves_the_rates_of_its_roles(ratio: str, roles: set[Role], optimizer: OptimizerKind) -> None:
    config = replace(FLAT, optimizer=optimizer)
    check(unpacked(config)[0].rate, dict.fromkeys(ROLES, 0.01))
    moved = {role: 0.03 if role in roles else 0.01 for role in ROLES}
    check(unpacked(changed(config, {ratio: 3.0}))[0].rate, moved)


def test_coupled_decay_goes_with_the_rate_of_the_role() -> None:
    config = replace(FLAT, weight_decay=0.5, embedding_rate_ratio=2.0, hidden_rate_ratio=4.0)
    kept = {
        Role.EMBEDDING: 1 - 2 * 0.01 * 0.5,
        Role.POSITION: 1.0,
        Role.UNEMBEDDING: 1 - 0.01 * 0.5,
        Role.HIDDEN: 1 - 4 * 0.01 * 0.5,
        Role.RESIDUAL: 1 - 4 * 0.01 * 0.5,
        Role.BLOCK_VECTOR: 1.0,
        Role.FINAL_VECTOR: 1.0,
    }
    check(unpacked(config)[0].kept, kept)


@given(
    st.floats(1e-6, 1.0),
    st.floats(0.1, 10.0),
    st.sampled_from(Rule),
    st.sampled_from(OptimizerKind),
    st.integers(0, 99),
)
def test_independent_decay_goes_with_the_schedule_alone(
    rate: float, ratio: float, rule: Rule, optimizer: OptimizerKind, steps: int
) -> None:
    config = replace(
        CONFIG,
        optimizer=optimizer,
        learning_rate=rate,
        hidden_rate_ratio=ratio,
        embedding_rate_ratio=ratio,
        parametrization=replace(MUP, rule=rule),
        weight_decay=0.01,
        weight_decay_convention=DecayConvention.INDEPENDENT,
    )
    tokens = steps * STEP_TOKENS
    kept = 1 - config.schedule(tokens + STEP_TOKENS / 2, RUNG_TOKENS) * 0.01
    check(unpacked(config, tokens)[0].kept, {role: kept if role in DECAYED else 1.0 for role in ROLES})


@pytest.mark.parametrize("convention", DecayConvention)
@pytest.mark.parametrize(
    ("optimizer", "hidden"), [(OptimizerKind.ADAMW, 0.005), (OptimizerKind.MUON, 0.01 * math.sqrt(0.5))]
)
def test_rate_times_decay_of_hidden_matrices_stays_under_completep(
    convention: DecayConvention, optimizer: OptimizerKind, hidden: float
) -> None:
    """In either convention: width 16 over a base of 8 halves the rate and doubles the decay, of Muon by the root."""
    config = replace(FLAT, weight_decay_convention=convention, optimizer=optimizer)
    completep = replace(config, parametrization=COMPLETEP)
    assert torch.allclose(unpacked(completep)[0].kept, unpacked(config)[0].kept, rtol=1e-14)
    check(unpacked(completep)[0].rate, {role: hidden if role in MATRICES else 0.01 for role in ROLES})


def test_eps_follows_the_parametrization() -> None:
    """Twice the width and twice the depth: a half outside the blocks, a quarter inside."""
    inside = MATRICES | {Role.BLOCK_VECTOR}
    completep = {role: 1e-8 / (4 if role in inside else 2) for role in ROLES}
    check(unpacked(replace(FLAT, parametrization=COMPLETEP))[0].eps, completep)
    check(unpacked(replace(FLAT, parametrization=MUP))[0].eps, dict.fromkeys(ROLES, 1e-8))


def hidden_rate(config: TrialConfig, tokens: int) -> float:
    return float(unpacked(config, tokens)[0].rate[0, ROLES.index(Role.HIDDEN)])


def test_rate_is_that_of_the_middle_of_the_step() -> None:
    """A warmup of five steps, a decay over the last 20 of 100."""
    rates = [hidden_rate(CONFIG, step * STEP_TOKENS) for step in (0, 4, 5, 79, 80, 99)]
    assert rates == pytest.approx([0.001, 0.009, 0.01, 0.01, 0.01 * 19.5 / 20, 0.01 * 0.5 / 20])


def test_a_step_of_a_ramp_has_its_middle_earlier() -> None:
    """One sequence of sixteen tokens: eight of the 320 of the warmup have been seen."""
    config = replace(CONFIG, batch_start_sequences=1, batch_ramp_tokens=RUNG_TOKENS // 2)
    assert hidden_rate(config, 0) == pytest.approx(0.01 * 8 / 320)


@given(st.floats(0.0, 0.99), st.floats(0.5, 0.9999), st.integers(1, 10_000))
def test_bias_corrections_are_in_rate_and_eps(beta1: float, beta2: float, step: int) -> None:
    """m / (1 - b1^t) over sqrt(v / (1 - b2^t)) + eps, multiplied out (Kingma and Ba 2015, section 2)."""
    rates, _ = unpacked(replace(FLAT, beta1=beta1, beta2=beta2), step=step)
    square = math.sqrt(1 - beta2**step)
    check(rates.rate, dict.fromkeys(ROLES, 0.01 * square / (1 - beta1**step)))
    check(rates.eps, dict.fromkeys(ROLES, 1e-8 * square))
    assert torch.equal(rates.kept, unpacked(FLAT)[0].kept), "decay has no bias"


def test_muon_has_no_bias_to_correct() -> None:
    """What is orthogonal has one size whatever the momentum was divided by; all but block matrices are AdamW's."""
    rates, _ = unpacked(replace(FLAT, optimizer=OptimizerKind.MUON), step=1)
    corrected = 0.01 * math.sqrt(1 - 0.95) / (1 - 0.9)
    check(rates.rate, {role: 0.01 if role in MATRICES else corrected for role in ROLES})


@pytest.mark.parametrize("rule", Rule)
@pytest.mark.parametrize("optimizer", OptimizerKind)
@pytest.mark.parametrize("convention", DecayConvention)
def test_final_numbers_of_a_role_are_those_that_it_is_trained_with(
    rule: Rule, optimizer: OptimizerKind, convention: DecayConvention
) -> None:
    """What a recipe tells a trainer, against the numbers of a step."""
    config = replace(
        FLAT,
        parametrization=replace(MUP, rule=rule),
        optimizer=optimizer,
        weight_decay_convention=convention,
        hidden_rate_ratio=0.5,
        embedding_rate_ratio=3.0,
    )
    final, (rates, _) = [role_numbers(config)[role] for role in ROLES], unpacked(config)
    check(rates.rate, {role: number.learning_rate for role, number in zip(ROLES, final, strict=True)})
    check(rates.eps, {role: number.eps for role, number in zip(ROLES, final, strict=True)})
    coupled = convention is DecayConvention.COUPLED
    kept = [1 - (number.learning_rate if coupled else 1.0) * number.weight_decay for number in final]
    assert rates.kept[0].tolist() == pytest.approx(kept, rel=1e-12)
    assert {role for role, number in zip(ROLES, final, strict=True) if number.update is OptimizerKind.MUON} == (
        MATRICES if optimizer is OptimizerKind.MUON else set()
    )


def test_numbers_arrive_under_their_names() -> None:
    own = {
        "beta1": 0.11,
        "beta2": 0.12,
        "muon_momentum": 0.13,
        "gradient_clip": math.inf,
        "embedding_multiplier": 15.0,
        "output_multiplier": 16.0,
        "logit_softcap": 17.0,
        "z_loss": 18.0,
    }
    rates, knobs = unpacked(changed(FLAT, own))
    named = {"muon_momentum": rates.momentum, **vars(rates), **vars(knobs)}
    assert {name: named[name].item() for name in own} == own
    assert {getattr(rates, field.name).shape for field in fields(rates)} == {(1, len(ROLES)), (1, 1)}


def test_rows_keep_their_own_numbers() -> None:
    rows = [step_numbers(replace(FLAT, learning_rate=rate, beta1=rate), 0, RUNG_TOKENS, 7) for rate in (0.1, 0.2, 0.3)]
    together, _ = unpack(torch.from_numpy(np.stack(rows)))
    assert np.stack(rows).shape == (3, NUMBERS)
    for row, numbers in enumerate(rows):
        alone, _ = unpack(torch.from_numpy(numbers).unsqueeze(0))
        assert all(torch.equal(vars(together)[name][row : row + 1], vars(alone)[name]) for name in vars(alone))


@pytest.mark.parametrize("optimizer", OptimizerKind)
def test_an_idle_row_changes_nothing_and_stays_a_number(optimizer: OptimizerKind) -> None:
    rates, knobs = unpack(torch.from_numpy(idle_numbers().astype(np.float32)).unsqueeze(0))
    weights = torch.arange(ARCHITECTURE.params_total, dtype=torch.float32).unsqueeze(0)
    before, mean, square = weights.clone(), torch.zeros_like(weights), torch.zeros_like(weights)
    update_of(ARCHITECTURE, optimizer, "cpu").apply_(weights, torch.zeros_like(weights), mean, square, rates)
    assert torch.equal(weights, before)
    assert mean.isfinite().all() and square.isfinite().all()
    assert all(tensor.item() > 0 for tensor in vars(knobs).values()), "no cap of zero divides"
