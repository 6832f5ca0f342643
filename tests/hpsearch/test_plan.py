"""What a search file comes to: rungs on whole steps, configurations that are complete, FLOPs that add up."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
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
)
from hpsearch.spec import Spec
from search_spaces.errors import UserError
from tests.hpsearch.simulation import PROOF_SHAPE, spec_of

SEARCHED_BATCH: dict[str, Any] = {
    "space": {"learning_rate": {"low": 1e-3, "high": 1e-2}, "batch_sequences": {"low": 1, "high": 40}},
    "fixed": {"warmup_fraction": 0.05},
}
quick = settings(max_examples=60, deadline=None)
ratios = st.lists(st.floats(0.01, 50), min_size=1, max_size=4, unique=True).map(sorted)


def spec_with(rung_ratios: list[float], decay_share: float) -> Spec:
    fixed = {"batch_sequences": 4, "warmup_fraction": 0.0}
    return spec_of(scheduler={"rung_ratios": rung_ratios}, decay_share=decay_share, fixed=fixed)


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
    }


def test_warmup_is_of_the_last_rung() -> None:
    spec = spec_of()
    config = trial_config(spec, 0, {"learning_rate": 2e-3, "weight_decay": 0.2}, seed=7)
    assert config.warmup_tokens == round(0.05 * rung_tokens(spec, 0, 4)[-1])
    assert config.warmup_tokens < config.branch_tokens(rung_tokens(spec, 0, 4)[0])
    assert config.seed == 7


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
