"""At the base every rule is the standard one; away from it, factors written down by hand, and those of `mup`."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from trials.architecture import Architecture, Role, gpt, llama
from trials.model import initial_weights
from trials.parametrization import Multipliers, OptimizerKind, Parametrization, Rule, Scales, standard

BASE = gpt(width=32, depth=2, heads=2, context_tokens=32, vocabulary=128)
WIDE, DEEP = (gpt(width, depth, 2, context_tokens=32, vocabulary=128) for width, depth in ((64, 2), (32, 4)))
MATRICES = (Role.HIDDEN, Role.RESIDUAL)
VECTORS = (Role.BLOCK_VECTOR, Role.FINAL_VECTOR)
OUTSIDE = (Role.EMBEDDING, Role.POSITION, Role.UNEMBEDDING)


def of(rule: Rule, base: Architecture = BASE) -> Parametrization:
    return Parametrization(rule, base.width, base.depth, base.head_size)


def scales(rule: Rule, shape: Architecture) -> dict[Role, Scales]:
    return {role: of(rule).scales(role, shape) for role in Role}


@st.composite
def shapes(draw: st.DrawFn) -> Architecture:
    build = draw(st.sampled_from([gpt, llama]))
    heads, half_head, depth = draw(st.integers(1, 64)), draw(st.integers(1, 128)), draw(st.integers(1, 200))
    return build(2 * half_head * heads, depth, heads, 64, 256)


@given(shapes(), st.sampled_from(Rule), st.sampled_from(Role))
def test_at_the_base_every_rule_is_the_standard_one(shape: Architecture, rule: Rule, role: Role) -> None:
    residual = 1 / math.sqrt(2 * shape.depth) if role is Role.RESIDUAL else 1.0
    assert vars(of(rule, shape).scales(role, shape)) == pytest.approx(vars(Scales(residual, 1.0, 1.0, 1.0)))
    expected = Multipliers(logits=1.0, residual=1.0, attention=1 / math.sqrt(shape.head_size))
    assert vars(of(rule, shape).multipliers(shape)) == pytest.approx(vars(expected))


@given(shapes(), shapes(), st.sampled_from(Role))
def test_the_standard_one_has_no_base(base: Architecture, shape: Architecture, role: Role) -> None:
    assert of(Rule.STANDARD, base).scales(role, shape) == standard(shape).scales(role, shape)
    assert of(Rule.STANDARD, base).multipliers(shape) == standard(shape).multipliers(shape)


@given(shapes(), shapes(), st.sampled_from(MATRICES), st.sampled_from(OptimizerKind))
def test_completep_keeps_rate_times_decay(
    base: Architecture, shape: Architecture, role: Role, optimizer: OptimizerKind
) -> None:
    factors = of(Rule.COMPLETEP, base).scales(role, shape, optimizer)
    assert factors.rate * factors.weight_decay == pytest.approx(1.0)


@given(shapes(), shapes(), st.sampled_from(Rule), st.sampled_from(Role))
def test_rates_of_muon_fall_with_the_root_of_the_width(
    base: Architecture, shape: Architecture, rule: Rule, role: Role
) -> None:
    """A matrix of full rank and given entries has a spectral norm as the root of its width; a line has its width.

    Source: Yang et al. 2023 (arXiv 2310.17813): what an update does to an output must not depend on the width.
    """
    adamw, muon = (of(rule, base).scales(role, shape, optimizer) for optimizer in OptimizerKind)
    if role in MATRICES:
        assert muon.rate**2 == pytest.approx(adamw.rate)
        assert muon.weight_decay**2 == pytest.approx(adamw.weight_decay)
    else:
        assert (muon.rate, muon.weight_decay) == (adamw.rate, adamw.weight_decay)
    assert (muon.init_std, muon.eps) == (adamw.init_std, adamw.eps)


HALF, ROOT_HALF = 0.5, math.sqrt(0.5)
SAME = Scales(init_std=1.0, rate=1.0, eps=1.0, weight_decay=1.0)
# Of a hidden matrix, a residual one, a vector of a block, and all outside of blocks. GPT-2 starts a residual
# matrix at 1 / sqrt(2 L): a half at the base depth of two.
DOUBLE_WIDTH: dict[Rule, tuple[Scales, Scales, Scales, Scales]] = {
    Rule.STANDARD: (SAME, replace(SAME, init_std=HALF), SAME, SAME),
    # Yang et al. 2022 (arXiv 2203.03466), table 8: hidden variance and Adam's rate over the width.
    Rule.MUP: (Scales(ROOT_HALF, HALF, 1, 1), Scales(ROOT_HALF / 2, HALF, 1, 1), SAME, SAME),
    # Dey et al. 2025 (arXiv 2505.01618), table 1 and equation 40: eps over the width, hidden decay times it.
    Rule.COMPLETEP: (
        Scales(ROOT_HALF, HALF, HALF, 2),
        Scales(ROOT_HALF / 2, HALF, HALF, 2),
        replace(SAME, eps=HALF),
        replace(SAME, eps=HALF),
    ),
}
DOUBLE_DEPTH: dict[Rule, tuple[Scales, Scales, Scales, Scales]] = {
    # Radford et al. 2019: 1 / sqrt(2 L) with L = 4.
    Rule.STANDARD: (SAME, replace(SAME, init_std=math.sqrt(1 / 8)), SAME, SAME),
    Rule.MUP: (SAME, replace(SAME, init_std=math.sqrt(1 / 8)), SAME, SAME),
    # Dey et al. 2025, table 1 with alpha = 1: the branch takes what the depth asks for, rates and starts stay.
    Rule.COMPLETEP: (replace(SAME, eps=HALF), Scales(HALF, 1, HALF, 1), replace(SAME, eps=HALF), SAME),
}


@pytest.mark.parametrize("rule", Rule)
@pytest.mark.parametrize(("shape", "table"), [(WIDE, DOUBLE_WIDTH), (DEEP, DOUBLE_DEPTH)], ids=["width", "depth"])
def test_scales_of_a_doubled_shape(
    rule: Rule, shape: Architecture, table: dict[Rule, tuple[Scales, Scales, Scales, Scales]]
) -> None:
    hidden, residual, vector, outside = table[rule]
    expected = {Role.HIDDEN: hidden, Role.RESIDUAL: residual, Role.BLOCK_VECTOR: vector, Role.FINAL_VECTOR: outside}
    expected |= dict.fromkeys(OUTSIDE, outside)
    found = scales(rule, shape)
    assert {role: vars(found[role]) for role in Role} == {role: pytest.approx(vars(expected[role])) for role in Role}


@pytest.mark.parametrize(
    ("rule", "shape", "logits", "residual", "attention"),
    [
        (Rule.STANDARD, WIDE, 1, 1, 1 / math.sqrt(32)),
        (Rule.STANDARD, DEEP, 1, 1, 1 / 4),
        (Rule.MUP, WIDE, 1 / 2, 1, 4 / 32),
        (Rule.MUP, DEEP, 1, 1, 1 / 4),
        (Rule.COMPLETEP, WIDE, 1 / 2, 1, 4 / 32),
        (Rule.COMPLETEP, DEEP, 1, 1 / 2, 1 / 4),
    ],
)
def test_multipliers_of_a_doubled_shape(
    rule: Rule, shape: Architecture, logits: float, residual: float, attention: float
) -> None:
    """Heads of the base have size 16, so attention over the head size h is 4 / h there, as over its root."""
    assert vars(of(rule).multipliers(shape)) == pytest.approx(
        {"logits": logits, "residual": residual, "attention": attention}
    )


def test_wider_by_more_heads_leaves_attention_alone() -> None:
    wide = gpt(width=64, depth=2, heads=4, context_tokens=32, vocabulary=128)
    assert {of(rule).multipliers(wide).attention for rule in Rule} == {1 / 4}


@pytest.mark.parametrize("rule", Rule)
@pytest.mark.parametrize("shape", [BASE, WIDE, DEEP], ids=["base", "wide", "deep"])
def test_initial_weights_have_the_scales(rule: Rule, shape: Architecture) -> None:
    for role, std in started(rule, shape).items():
        expected = {Role.BLOCK_VECTOR: 0.0, Role.FINAL_VECTOR: 0.0}.get(role, 0.02 * scales(rule, shape)[role].init_std)
        assert std == pytest.approx(expected, rel=0.04), role


def started(rule: Rule, shape: Architecture) -> dict[Role, float]:
    """Spread of the initial weights by role, gains apart."""
    row = torch.split(initial_weights(shape, of(rule), 0.02, 1), [weight.size for weight in shape.layout])
    by_role: dict[Role, list[Tensor]] = {}
    for weight, part in zip(shape.layout, row, strict=True):
        if not weight.ones:
            by_role.setdefault(weight.role, []).append(part)
    return {role: torch.cat(parts).std(unbiased=False).item() for role, parts in by_role.items()}


@pytest.fixture(scope="module")
def mup() -> Any:
    """The package of Yang et al., without which these tests say nothing."""
    return pytest.importorskip("mup", reason="needs the package mup, installed with --no-deps as `make` does")


@pytest.fixture(scope="module")
def models(mup: Any) -> tuple[nn.ModuleDict, nn.ModuleDict]:
    """A model of width 32 and one of 128 over it, both started by `mup`."""
    base, delta = plain_model(mup, 32), plain_model(mup, 64)
    narrow, wide = plain_model(mup, 32), plain_model(mup, 128)
    torch.manual_seed(0)
    for model in (narrow, wide):
        mup.set_base_shapes(model, base, delta=delta)
        for name in (*ROLES_BY_NAME, "tied"):
            if weight_of(model[name]).dim() == 2:
                mup.init.normal_(weight_of(model[name]), std=0.02)
    return narrow, wide


def plain_model(mup: Any, width: int) -> nn.ModuleDict:
    """A weight of every role, as `mup` would have it built."""
    embedding = nn.Embedding(128, width)
    return nn.ModuleDict(
        {
            "embedding": embedding,
            "tied": mup.MuSharedReadout(embedding.weight, bias=False),
            "positions": nn.Embedding(32, width),
            "norm": nn.LayerNorm(width),
            "qkv": nn.Linear(width, 3 * width),
            "attention_out": nn.Linear(width, width),
            "mlp_in": nn.Linear(width, 4 * width),
            "mlp_out": nn.Linear(4 * width, width),
            "final_norm": nn.LayerNorm(width),
            "unembedding": mup.MuReadout(width, 128, bias=False),
        }
    )


ROLES_BY_NAME = {
    "embedding": Role.EMBEDDING,
    "positions": Role.POSITION,
    "norm": Role.BLOCK_VECTOR,
    "qkv": Role.HIDDEN,
    "attention_out": Role.RESIDUAL,
    "mlp_in": Role.HIDDEN,
    "mlp_out": Role.RESIDUAL,
    "final_norm": Role.FINAL_VECTOR,
    "unembedding": Role.UNEMBEDDING,
}
FOURFOLD = gpt(width=128, depth=2, heads=2, context_tokens=32, vocabulary=128)


def test_initial_spread_grows_as_in_mup(models: tuple[nn.ModuleDict, nn.ModuleDict]) -> None:
    narrow, wide = models
    ours, base = (scales(Rule.MUP, shape) for shape in (FOURFOLD, BASE))
    for name, role in ROLES_BY_NAME.items():
        if weight_of(narrow[name]).dim() == 2:
            theirs = spread(wide[name]) / spread(narrow[name])
            assert ours[role].init_std / base[role].init_std == pytest.approx(theirs, rel=0.05), name


def spread(module: nn.Module) -> float:
    return weight_of(module).std().item()


def weight_of(module: nn.Module) -> Tensor:
    weight = module.weight
    assert isinstance(weight, Tensor)
    return weight


def test_rates_grow_as_in_mup(mup: Any, models: tuple[nn.ModuleDict, nn.ModuleDict]) -> None:
    """Of weights and, as rates of vectors, of biases, gains and shifts."""
    narrow, wide = (groups(mup, model) for model in models)
    ours = scales(Rule.MUP, FOURFOLD)
    for parameter, (rate, _) in wide.items():
        module, _, kind = parameter.partition(".")
        role = Role.BLOCK_VECTOR if kind == "bias" else ROLES_BY_NAME[module]
        assert ours[role].rate == rate / narrow[parameter][0], parameter


def test_rate_times_decay_stays_in_mup_as_it_does_here_under_independent_decay(
    mup: Any, models: tuple[nn.ModuleDict, nn.ModuleDict]
) -> None:
    """MuAdamW multiplies the decay of matrices by the width. Coupled, our rule lets rate times decay fall."""
    narrow, wide = (groups(mup, model) for model in models)
    for parameter, (rate, decay) in wide.items():
        assert rate * decay == pytest.approx(math.prod(narrow[parameter])), parameter
    assert {factors.weight_decay for factors in scales(Rule.MUP, FOURFOLD).values()} == {1.0}


def groups(mup: Any, model: nn.ModuleDict) -> dict[str, tuple[float, float]]:
    """Learning rate and weight decay of each parameter in the optimizer of `mup`."""
    optimizer = mup.MuAdamW(model.parameters(), lr=1e-3, weight_decay=0.1)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return {
        names[id(parameter)]: (group["lr"], group["weight_decay"])
        for group in optimizer.param_groups
        for parameter in group["params"]
    }


@pytest.mark.parametrize("readout", ["tied", "unembedding"])
def test_logits_shrink_as_in_mup(models: tuple[nn.ModuleDict, nn.ModuleDict], readout: str) -> None:
    for model, shape in zip(models, (BASE, FOURFOLD), strict=True):
        x = torch.randn(5, shape.width, generator=torch.Generator().manual_seed(1))
        plain = nn.functional.linear(x, weight_of(model[readout]))
        torch.testing.assert_close(model[readout](x), plain * of(Rule.MUP).multipliers(shape).logits)


def test_attention_shrinks_as_the_readme_of_mup_has_it() -> None:
    """The package leaves it to the model: `q @ k.T * 8 / d`, where 8 is the root of a base head size of 64."""
    for head_size in (32, 64, 128, 256):
        shape = gpt(width=4 * head_size, depth=2, heads=4, context_tokens=32, vocabulary=128)
        attention = Parametrization(Rule.MUP, 256, 2, 64).multipliers(shape).attention
        assert attention == pytest.approx(8 / head_size)
