"""What a search file comes to: rungs on whole steps, configurations that are complete, FLOPs that add up."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, reject, settings
from hypothesis import strategies as st

from hpsearch.plan import (
    PROOF,
    architecture,
    check_budget,
    complete_values,
    expected_flops,
    rung_tokens,
    segment_flops,
    trial_config,
    trial_flops,
    weight_decay_of,
)
from hpsearch.spec import Spec
from search_spaces.errors import UserError
from tests.hpsearch.simulation import EVERYTHING, PROOF_SHAPE, SPEC, spec_of
from trials.architecture import Role, gpt, llama
from trials.parametrization import OptimizerKind, Parametrization, Rule
from trials.roles import role_numbers
from trials.schedule import Decay
from trials.trial import DecayConvention, TrialConfig

SEARCHED_BATCH: dict[str, Any] = {
    "space": {"learning_rate": {"low": 1e-3, "high": 1e-2}, "batch_sequences": {"low": 1, "high": 40}},
    "fixed": {"warmup_fraction": 0.05},
}
quick = settings(max_examples=60, deadline=None)
ratios = st.lists(st.floats(0.01, 50), min_size=1, max_size=4, unique=True).map(sorted)


def spec_with(rung_ratios: list[float], decay_share: float) -> Spec:
    fixed = {"batch_sequences": 4, "warmup_fraction": 0.0, "decay_share": decay_share}
    return spec_of(scheduler={"rung_ratios": rung_ratios}, fixed=fixed)


def test_rungs_by_hand() -> None:
    """Width 16 and depth 1 make N = 3312; a step of 4 x 32 tokens is 128."""
    spec = spec_of(proof=PROOF_SHAPE)
    assert architecture(spec, 0).params == 3312
    assert rung_tokens(spec, 0, 4) == (26 * 128, 78 * 128, 233 * 128)
    assert rung_tokens(spec, PROOF, 4) == (round(3.0 * architecture(spec, PROOF).params / 128) * 128,)


@given(rung_ratios=ratios, batch=st.integers(1, 600))
@quick
def test_rungs_are_whole_steps_that_ascend(rung_ratios: list[float], batch: int) -> None:
    spec = spec_with(rung_ratios, 0.2)
    rungs = rung_tokens(spec, 0, batch)
    step_tokens = batch * spec.context_tokens
    assert len(rungs) == len(rung_ratios)
    assert all(tokens % step_tokens == 0 for tokens in rungs)
    assert list(rungs) == sorted(set(rungs)) and rungs[0] >= step_tokens


@given(rung_ratios=ratios, decay_share=st.floats(0.05, 0.9), proxy=st.integers(0, 1))
@quick
def test_a_trial_costs_its_last_rung_and_the_branches_before(
    rung_ratios: list[float], decay_share: float, proxy: int
) -> None:
    """The trunk is trained once; what a rung costs beyond it is its branch."""
    spec = spec_with(rung_ratios, decay_share)
    config, rungs = (
        trial_config(spec, proxy, {"learning_rate": 1e-3, "weight_decay": 0.1}, 0),
        rung_tokens(spec, proxy, 4),
    )
    branches = sum(tokens - config.branch_tokens(tokens) for tokens in rungs[:-1])
    per_token = config.architecture.training_flops_per_token
    costs = [segment_flops(config, rungs, rung) for rung in range(len(rungs))]
    assert sum(costs) == trial_flops(spec, proxy) == (rungs[-1] + branches) * per_token
    assert min(costs) > 0


def test_annealing_at_three_rungs_costs_about_nine_percent() -> None:
    spec = spec_of()
    last_rung = rung_tokens(spec, 1, 4)[-1] * architecture(spec, 1).training_flops_per_token
    assert trial_flops(spec, 1) / last_rung == pytest.approx(1.09, abs=0.005)


@given(batch=st.integers(1, 40), proxy=st.sampled_from([0, 1, PROOF]))
@quick
def test_no_batch_makes_a_trial_dearer_than_promised(batch: int, proxy: int) -> None:
    spec = spec_of(proof=PROOF_SHAPE, **SEARCHED_BATCH)
    config = trial_config(spec, proxy, {"learning_rate": 1e-3, "batch_sequences": float(batch)}, 0)
    rungs = rung_tokens(spec, proxy, batch)
    assert sum(segment_flops(config, rungs, rung) for rung in range(len(rungs))) <= trial_flops(spec, proxy)


def test_a_configuration_is_complete() -> None:
    spec = spec_of(fixed={"batch_sequences": 4, "warmup_fraction": 0.05, "beta1": 0.8})
    assert complete_values(spec, {"learning_rate": 2e-3, "weight_decay": 0.2}) == {
        "learning_rate": 2e-3,
        "warmup_fraction": 0.05,
        "batch_sequences": 4,
        "weight_decay": 0.2,
        "beta1": 0.8,
        "beta2": 0.95,
        "eps": 1e-8,
        "gradient_clip": 1.0,
        "decay_share": 0.2,
        "decay_floor": 0.0,
        "embedding_rate_ratio": 1.0,
        "hidden_rate_ratio": 1.0,
        "vector_rate_ratio": 1.0,
        "init_std": 0.02,
        "embedding_multiplier": 1.0,
        "output_multiplier": 1.0,
        "z_loss": 0.0,
        "logit_softcap": 0.0,
        "qk_norm": 0.0,
    }


def test_a_plain_search_trains_as_it_always_did() -> None:
    config = trial_config(spec_of(), 1, {"learning_rate": 2e-3, "weight_decay": 0.2}, 0)
    assert config.architecture == gpt(32, 1, 2, 32, 1024)
    assert config.parametrization == Parametrization(Rule.STANDARD, 16, 1, 8)
    assert (config.optimizer, config.weight_decay_convention) == (OptimizerKind.ADAMW, DecayConvention.COUPLED)
    assert (config.decay, config.decay_share, config.decay_floor) == (Decay.LINEAR, 0.2, 0.0)
    assert (config.batch_sequences, config.batch_start_sequences, config.batch_ramp_tokens) == (4, 4, 0)


@pytest.mark.parametrize("keys", [{"model": {"qk_norm": True}}, {"fixed": {**SPEC["fixed"], "qk_norm": 1}}])
def test_a_qk_norm_may_be_a_part_or_a_parameter(keys: dict[str, Any]) -> None:
    spec = spec_of(**keys)
    assert spec.value("qk_norm") == 1
    assert trial_config(spec, 0, {"learning_rate": 2e-3, "weight_decay": 0.2}, 0).architecture.qk_norm


def test_a_trial_is_told_everything_that_the_file_says() -> None:
    spec = spec_of(**EVERYTHING)
    values = {"learning_rate": 0.004, "timescale": 0.2, "qk_norm": 1.0, "z_loss": 0.0, "muon_momentum": 0.9}
    config, last_rung = trial_config(spec, 1, values, 7), rung_tokens(spec, 1, 4)[-1]
    plain = llama(32, 1, 4, 32, 1024, kv_heads=2, feed_forward=96)
    assert config.architecture == replace(plain, head_size=8, qk_norm=True)
    assert config.parametrization == Parametrization(Rule.MUP, 8, 2, 4)
    resolved = ("timescale", "qk_norm", "batch_size", "warmup_steps")
    plainly = {name: value for name, value in {**values, **EVERYTHING["fixed"]}.items() if name not in resolved}
    assert {name: getattr(config, name) for name in plainly} == plainly
    assert (config.optimizer, config.decay) == (OptimizerKind.MUON, Decay.COSINE)
    assert config.warmup_tokens == 5 * 128
    assert (config.batch_start_sequences, config.batch_ramp_tokens) == (1, round(0.05 * last_rung))
    assert config.weight_decay == pytest.approx(128 / (0.2 * last_rung))
    assert TrialConfig.from_dict(config.to_dict()) == config


@pytest.mark.parametrize("proxy", [0, 1, PROOF])
def test_both_arms_of_a_qk_norm_share_size_rungs_and_settings(proxy: int) -> None:
    spec = spec_of(**EVERYTHING, proof=PROOF_SHAPE)
    values = {"learning_rate": 0.004, "timescale": 0.2, "z_loss": 0.0, "muon_momentum": 0.9}
    without, with_norm = (trial_config(spec, proxy, {**values, "qk_norm": arm}, 0) for arm in (0.0, 1.0))
    assert with_norm.architecture.params - without.architecture.params == 2 * 8  # a gain of queries, one of keys
    assert without.architecture == architecture(spec, proxy)
    assert with_norm.warmup_tokens == without.warmup_tokens
    rungs = rung_tokens(spec, proxy, 4)
    costs = [sum(segment_flops(c, rungs, rung) for rung in range(len(rungs))) for c in (without, with_norm)]
    assert costs[0] < costs[1] == trial_flops(spec, proxy)


@given(share=st.sampled_from([0.1, 0.3, 1.0]), proxy=st.integers(0, 1))
@quick
def test_no_decay_share_makes_a_trial_dearer_than_promised(share: float, proxy: int) -> None:
    space = {"learning_rate": {"low": 1e-3, "high": 1e-2}, "decay_share": {"values": [0.1, 0.3, 1.0]}}
    spec = spec_of(space=space)
    config = trial_config(spec, proxy, {"learning_rate": 1e-3, "decay_share": share}, 0)
    rungs = rung_tokens(spec, proxy, 4)
    cost = sum(segment_flops(config, rungs, rung) for rung in range(len(rungs)))
    assert cost == trial_flops(spec, proxy) if share == 1 else cost < trial_flops(spec, proxy)


def test_a_decay_over_all_of_a_run_makes_every_rung_a_run_of_its_own() -> None:
    spec = spec_of(fixed={"batch_sequences": 4, "warmup_fraction": 0.05, "decay_share": 1})
    rungs, per_token = rung_tokens(spec, 0, 4), architecture(spec, 0).training_flops_per_token
    assert trial_flops(spec, 0) == sum(rungs) * per_token
    config = trial_config(spec, 0, {"learning_rate": 2e-3, "weight_decay": 0.2}, 0)
    assert config.warmup_tokens < rungs[0] and config.branch_tokens(rungs[0]) == 0
    assert config.schedule(config.warmup_tokens, rungs[0]) == 1 and config.schedule(rungs[0], rungs[0]) == 0


@given(
    timescale=st.floats(1e-3, 10),
    rate=st.floats(1e-5, 1),
    steps=st.integers(1, 10**6),
    batch_tokens=st.integers(1, 10**6),
)
def test_weights_of_a_timescale_average_over_that_share_of_the_run(
    timescale: float, rate: float, steps: int, batch_tokens: int
) -> None:
    """1 / (rate x decay) steps are the timescale of the moving average."""
    decay = weight_decay_of(timescale, rate, batch_tokens, steps * batch_tokens)
    assert 1 / (rate * decay) == pytest.approx(timescale * steps)
    independent = weight_decay_of(timescale, 1.0, batch_tokens, steps * batch_tokens)
    assert independent == pytest.approx(rate * decay)


@pytest.mark.parametrize(("convention", "step_rate"), [("coupled", 0.004), ("independent", 1.0)])
def test_a_timescale_is_of_the_last_rung_and_the_peak_rate(convention: str, step_rate: float) -> None:
    space = {"learning_rate": {"low": 1e-3, "high": 1e-2}, "timescale": {"low": 0.05, "high": 1.0}}
    spec = spec_of(space=space, weight_decay_convention=convention)
    config = trial_config(spec, 1, {"learning_rate": 0.004, "timescale": 0.5}, 0)
    last_rung = rung_tokens(spec, 1, 4)[-1]
    assert config.weight_decay == pytest.approx(weight_decay_of(0.5, step_rate, 128, last_rung))


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
@pytest.mark.parametrize("rule", ["standard", "mup", "completep"])
def test_a_timescale_is_that_of_the_hidden_matrices_at_every_size(rule: str, optimizer: str) -> None:
    """Whatever a rule, an optimizer or a ratio makes of their rate."""
    space = {"learning_rate": {"low": 1e-3, "high": 1e-2}, "timescale": {"low": 0.05, "high": 1.0}}
    fixed = {**SPEC["fixed"], "hidden_rate_ratio": 0.5}
    spec = spec_of(space=space, fixed=fixed, parametrization=rule, optimizer=optimizer)
    for proxy in range(2):
        config = trial_config(spec, proxy, {"learning_rate": 0.004, "timescale": 0.5}, 0)
        hidden = role_numbers(config)[Role.HIDDEN]
        steps = rung_tokens(spec, proxy, 4)[-1] / config.step_tokens
        assert 1 / (hidden.learning_rate * hidden.weight_decay) == pytest.approx(0.5 * steps)


@pytest.mark.parametrize(
    ("warmup", "tokens"), [({"warmup_fraction": 0.05}, None), ({"warmup_tokens": 999}, 999), ({"warmup_steps": 7}, 896)]
)
def test_a_warmup_is_resolved_from_any_unit(warmup: dict[str, float], tokens: int | None) -> None:
    spec = spec_of(fixed={"batch_sequences": 4, **warmup})
    config = trial_config(spec, 0, {"learning_rate": 2e-3, "weight_decay": 0.2}, 0)
    assert config.warmup_tokens == (tokens or round(0.05 * rung_tokens(spec, 0, 4)[-1]))


@given(
    batch=st.integers(2, 12),
    share=st.sampled_from([0.1, 0.2, 0.5, 1.0]),
    fraction=st.floats(0.01, 0.9),
    rung_ratios=st.sampled_from([[9.0, 30.0], [3.0], [1.0, 5.0]]),
)
@quick
def test_a_ramp_is_over_before_the_first_branch(
    batch: int, share: float, fraction: float, rung_ratios: list[float]
) -> None:
    """From there on (of a whole-run decay: from the rung on) every step is full; rungs lie between two steps."""
    changes: dict[str, Any] = {
        "batch_ramp": {"start_sequences": 2, "ramp_fraction": fraction},
        "scheduler": {"rung_ratios": rung_ratios},
        "fixed": {"batch_sequences": batch, "warmup_fraction": 0.0, "decay_share": share},
    }
    try:
        spec = spec_of(**changes)
    except UserError:
        reject()
    config = trial_config(spec, 0, {"learning_rate": 1e-3, "weight_decay": 0.1}, 0)
    first_rung = rung_tokens(spec, 0, batch)[0]
    tokens, full_from = 0, config.branch_tokens(first_rung) if share < 1 else first_rung
    while tokens < full_from:
        tokens += config.batch_sequences_at(tokens) * 32
    assert tokens == full_from and config.batch_sequences_at(tokens) == batch


def test_expected_flops_count_what_successive_halving_leaves() -> None:
    spec = spec_of(proof=PROOF_SHAPE, repeats=2)
    config, rungs = trial_config(spec, 0, {"learning_rate": 2e-3, "weight_decay": 0.2}, 0), rung_tokens(spec, 0, 4)
    costs = [segment_flops(config, rungs, rung) for rung in range(3)]
    assert expected_flops(spec, 0) == pytest.approx(9 * costs[0] + 3 * costs[1] + costs[2] + 2 * sum(costs))
    assert expected_flops(spec, PROOF) == 5 * trial_flops(spec, PROOF)
    assert expected_flops(spec_of(), PROOF) == 0


@pytest.mark.parametrize("proof", [None, PROOF_SHAPE])
def test_the_least_budget_is_one_trial_of_each_proxy_the_repeats_and_the_proof(proof: dict[str, Any] | None) -> None:
    spec = spec_of(proof=proof)
    least = 3 * (trial_flops(spec, 0) + trial_flops(spec, 1)) + (5 * trial_flops(spec, PROOF) if proof else 0)
    check_budget(spec_of(proof=proof, budget_flops=least), "file")
    with pytest.raises(UserError, match="file: budget_flops: must cover one trial of every proxy"):
        check_budget(spec_of(proof=proof, budget_flops=least - 1), "file")
