"""A row of the stacked update is torch's own optimizer with a parameter group a role, and a clip of its own."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from tests.trials.conftest import CONFIG
from trials.architecture import Architecture, Role, Weight, gpt, llama
from trials.optimizer import ROLES, orthogonal, role_index, update_of
from trials.parametrization import OptimizerKind, standard
from trials.rates import step_numbers, unpack
from trials.roles import MUON_RMS, NEWTON_SCHULZ
from trials.trial import DecayConvention, TrialConfig

GPT = gpt(width=4, depth=1, heads=2, context_tokens=3, vocabulary=5)
LLAMA = replace(llama(8, 1, 4, context_tokens=3, vocabulary=5, kv_heads=2, feed_forward=6), qk_norm=True)
ALL_ROLES = (GPT, LLAMA)  # a GPT has positions, a Llama an unembedding
RUNG_TOKENS = 1200
FACTOR = 0.5  # of the schedule: each step below is taken halfway up the warmup
SEEDS = st.integers(0, 2**32)
RATIOS = st.floats(0.1, 10.0)


def example(architecture: Architecture, optimizer: OptimizerKind) -> TrialConfig:
    return replace(
        CONFIG,
        architecture=architecture,
        parametrization=standard(architecture),
        optimizer=optimizer,
        warmup_tokens=CONFIG.batch_sequences * architecture.context_tokens,
    )


@st.composite
def configs(draw: st.DrawFn, architecture: Architecture, optimizer: OptimizerKind) -> TrialConfig:
    return replace(
        example(architecture, optimizer),
        learning_rate=draw(st.floats(1e-6, 0.1)),
        embedding_rate_ratio=draw(RATIOS),
        unembedding_rate_ratio=draw(RATIOS),
        hidden_rate_ratio=draw(RATIOS),
        vector_rate_ratio=draw(RATIOS),
        weight_decay=draw(st.floats(0.0, 0.5)),
        weight_decay_convention=draw(st.sampled_from(DecayConvention)),
        beta1=draw(st.floats(0.0, 0.99)),
        beta2=draw(st.floats(0.5, 0.9999)),
        eps=draw(st.floats(1e-10, 1e-3)),
        muon_momentum=draw(st.floats(0.0, 0.99)),
        gradient_clip=draw(st.floats(1e-3, 100.0) | st.just(math.inf)),
    )


def draws(architecture: Architecture, rows: int, seed: int, dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, architecture.params_total, generator=generator, dtype=dtype)


def numbers(trials: list[TrialConfig], step: int, dtype: torch.dtype) -> Tensor:
    return torch.from_numpy(np.stack([step_numbers(trial, 0, RUNG_TOKENS, step) for trial in trials])).to(dtype)


def stacked(trials: list[TrialConfig], start: Tensor, gradients: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
    """Weights after the steps, and the norms of each."""
    update = update_of(trials[0].architecture, trials[0].optimizer, "cpu")
    weights, mean, square = start.clone(), torch.zeros_like(start), torch.zeros_like(start)
    norms = [
        update.apply_(weights, gradient, mean, square, unpack(numbers(trials, step, start.dtype))[0])
        for step, gradient in enumerate(gradients, 1)
    ]
    return weights, norms


def parts(row: Tensor, layout: tuple[Weight, ...]) -> list[Tensor]:
    split = torch.split(row, [weight.size for weight in layout])
    return [part.clone().view(weight.shape) for part, weight in zip(split, layout, strict=True)]


def side_by_side(matrix: Tensor, columns: tuple[int, ...]) -> list[Tensor]:
    """The matrices that are stored as one, each with memory of its own."""
    return [block.clone() for block in torch.split(matrix, list(columns), dim=1)]


def rate_and_decay(trial: TrialConfig, role: Role) -> tuple[float, float]:
    """Learning rate of a role, and its weight decay as torch takes it: to be multiplied by that rate."""
    ratio = {
        Role.EMBEDDING: trial.embedding_rate_ratio,
        Role.POSITION: trial.embedding_rate_ratio,
        Role.UNEMBEDDING: trial.unembedding_rate_ratio,
        Role.HIDDEN: trial.hidden_rate_ratio,
        Role.RESIDUAL: trial.hidden_rate_ratio,
        Role.BLOCK_VECTOR: trial.vector_rate_ratio,
        Role.FINAL_VECTOR: trial.vector_rate_ratio,
    }[role]
    rate = FACTOR * trial.learning_rate * ratio
    decayed = role in (Role.EMBEDDING, Role.UNEMBEDDING, Role.HIDDEN, Role.RESIDUAL)
    independent = trial.weight_decay_convention is DecayConvention.INDEPENDENT
    return rate, decayed * trial.weight_decay * (FACTOR / rate if independent else 1.0)


class PlainMuon:
    """Muon on one matrix, by its singular values: what Newton-Schulz does to each is a polynomial."""

    def __init__(self, matrix: Tensor, columns: tuple[int, ...]) -> None:
        self.matrix, self.columns, self.momentum = matrix, columns, torch.zeros_like(matrix)

    def step(self, gradient: Tensor, beta: float, rate: float, decay: float) -> None:
        self.momentum = beta * self.momentum + (1 - beta) * gradient
        nesterov = beta * self.momentum + (1 - beta) * gradient
        blocks = [plain_orthogonal(block) for block in side_by_side(nesterov, self.columns)]
        scaled = [block * 0.2 * max(block.shape) ** 0.5 for block in blocks]
        self.matrix *= 1 - rate * decay
        self.matrix -= rate * torch.cat(scaled, dim=1)


def plain_orthogonal(matrix: Tensor) -> Tensor:
    left, values, right = torch.linalg.svd(matrix / (matrix.norm() + 1e-7), full_matrices=False)
    a, b, c = NEWTON_SCHULZ
    for _ in range(5):
        values = a * values + b * values**3 + c * values**5
    result: Tensor = left @ torch.diag(values) @ right
    return result


def reference(trial: TrialConfig, start: Tensor, gradients: list[Tensor]) -> tuple[Tensor, list[float]]:
    """One row by torch's own AdamW and clip, a group a weight, and the plain Muon."""
    layout = trial.architecture.layout
    parameters = [torch.nn.Parameter(part) for part in parts(start, layout)]
    by_role = [rate_and_decay(trial, weight.role) for weight in layout]
    muons = {
        place: PlainMuon(parameters[place].data, weight.columns)
        for place, weight in enumerate(layout)
        if trial.optimizer is OptimizerKind.MUON and weight.name.startswith("0.") and len(weight.shape) == 2
    }
    groups: list[dict[str, Any]] = [
        {"params": [parameters[place]], "lr": rate, "weight_decay": decay}
        for place, (rate, decay) in enumerate(by_role)
        if place not in muons
    ]
    optimizer = torch.optim.AdamW(groups, betas=(trial.beta1, trial.beta2), eps=trial.eps)
    norms = []
    for gradient in gradients:
        for parameter, part in zip(parameters, parts(gradient, layout), strict=True):
            parameter.grad = part
        norms.append(torch.nn.utils.clip_grad_norm_(parameters, trial.gradient_clip).item())
        optimizer.step()
        for place, muon in muons.items():
            clipped = parameters[place].grad
            assert clipped is not None
            muon.step(clipped, trial.muon_momentum, *by_role[place])
    return torch.cat([parameter.detach().flatten() for parameter in parameters]), norms


@settings(max_examples=30)
@given(st.sampled_from(ALL_ROLES), st.sampled_from(OptimizerKind), st.integers(1, 6), SEEDS, st.data())
def test_each_row_is_torch_with_its_own_hyperparameters(
    architecture: Architecture, optimizer: OptimizerKind, steps: int, seed: int, data: st.DataObject
) -> None:
    """Rates a role, both conventions of weight decay, betas, eps, clip: all of a row's own."""
    trials = data.draw(st.lists(configs(architecture, optimizer), min_size=1, max_size=3))
    start = draws(architecture, len(trials), seed)
    gradients = [draws(architecture, len(trials), seed + step) for step in range(1, steps + 1)]
    weights, norms = stacked(trials, start, gradients)
    for row, trial in enumerate(trials):
        expected, expected_norms = reference(trial, start[row], [gradient[row] for gradient in gradients])
        torch.testing.assert_close(weights[row], expected, rtol=1e-7, atol=1e-9)
        assert [norm[row].item() for norm in norms] == pytest.approx(expected_norms, rel=1e-12)


@pytest.mark.parametrize("beta2", [0.95, 0.999, 0.9999])
def test_single_precision_is_close_to_torch(beta2: float) -> None:
    """What 0.9999 lacks to one has a rounding error of 2e-4, and so has the square; of the rest nothing shows."""
    trial = replace(example(GPT, OptimizerKind.ADAMW), beta2=beta2)
    gradients = [draws(GPT, 1, step, torch.float32) for step in range(1, 101)]
    start = draws(GPT, 1, 0, torch.float32)
    weights, _ = stacked([trial], start, gradients)
    expected, _ = reference(trial, start[0], [gradient[0] for gradient in gradients])
    assert (weights[0] - expected).norm() < 1e-4 * (expected - start[0]).norm()


def test_muon_is_torch_muon_where_it_matches_the_size_of_adamw() -> None:
    """torch's is in bfloat16, some two per cent off; queries, keys and values are three parameters of it."""
    shape = gpt(width=16, depth=1, heads=2, context_tokens=3, vocabulary=5)
    trial = replace(example(shape, OptimizerKind.MUON), gradient_clip=math.inf, weight_decay=0.3)
    start, gradients = draws(shape, 1, 0, torch.float32), [draws(shape, 1, step, torch.float32) for step in (1, 2, 3)]
    weights, _ = stacked([trial], start, gradients)
    rate, decay = rate_and_decay(trial, Role.HIDDEN)
    for place, weight in enumerate(shape.layout):
        if weight.role.is_block_matrix:
            before, after = (parts(row[0], shape.layout)[place] for row in (start, weights))
            theirs = [torch.nn.Parameter(block) for block in side_by_side(before, weight.columns)]
            optimizer = torch.optim.Muon(
                theirs, lr=rate, weight_decay=decay, momentum=trial.muon_momentum, adjust_lr_fn="match_rms_adamw"
            )
            for gradient in gradients:
                blocks = side_by_side(parts(gradient[0], shape.layout)[place], weight.columns)
                for parameter, block in zip(theirs, blocks, strict=True):
                    parameter.grad = block
                optimizer.step()  # type: ignore[no-untyped-call]  # of torch
            change = torch.cat(list(theirs), dim=1).detach() - before
            assert (after - before - change).norm() < 0.04 * change.norm(), weight.name


@given(st.integers(1, 12), st.integers(1, 12), st.floats(-6, 6), SEEDS)
def test_orthogonal_brings_singular_values_near_one(rows: int, columns: int, exponent: float, seed: int) -> None:
    """Whatever the size of the matrix, as long as no direction of it is below 0.002 of the whole."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(2, rows, columns, generator=generator, dtype=torch.float64)
    left, _, right = torch.linalg.svd(noise, full_matrices=False)
    values = 0.01 + 0.99 * torch.rand(2, 1, min(rows, columns), generator=generator, dtype=torch.float64)
    matrices = 10**exponent * (left * values) @ right
    result = orthogonal(matrices)
    found = torch.linalg.svdvals(result)
    assert found.min() > 0.68 and found.max() < 1.21
    for ours, matrix in zip(result, matrices, strict=True):
        torch.testing.assert_close(ours, plain_orthogonal(matrix), rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(orthogonal(matrices.transpose(1, 2)), result.transpose(1, 2))


def test_queries_keys_and_values_are_taken_one_by_one() -> None:
    """A gradient of the values alone moves no query, and each block has singular values of its own near one."""
    trial = replace(example(LLAMA, OptimizerKind.MUON), gradient_clip=math.inf, weight_decay=0.0)
    place = next(place for place, weight in enumerate(LLAMA.layout) if weight.name == "0.qkv")
    rate, _ = rate_and_decay(trial, Role.HIDDEN)
    gradient = draws(LLAMA, 1, 1)
    weights, _ = stacked([trial], torch.zeros_like(gradient), [gradient])
    for block in side_by_side(parts(weights[0], LLAMA.layout)[place], (8, 4, 4)):
        values = torch.linalg.svdvals(block) / (rate * MUON_RMS * math.sqrt(max(block.shape)))
        assert values.min() > 0.68 and values.max() < 1.21
        assert 0.68 * MUON_RMS < block.square().mean().sqrt() / rate < 1.21 * MUON_RMS
    without = gradient.clone()
    parts_of_gradient = torch.split(without[0], [weight.size for weight in LLAMA.layout])
    parts_of_gradient[place].view(8, 16)[:, :12] = 0.0
    again, _ = stacked([trial], torch.zeros_like(gradient), [without])
    query, key, value = side_by_side(parts(again[0], LLAMA.layout)[place], (8, 4, 4))
    assert query.eq(0).all() and key.eq(0).all()
    torch.testing.assert_close(value, parts(weights[0], LLAMA.layout)[place][:, 12:])


@pytest.mark.parametrize("optimizer", OptimizerKind)
def test_without_gradients_weights_only_decay(optimizer: OptimizerKind) -> None:
    trial = replace(example(LLAMA, optimizer), weight_decay_convention=DecayConvention.INDEPENDENT)
    start = draws(LLAMA, 1, 5)
    weights, (norm,) = stacked([trial], start, [torch.zeros_like(start)])
    assert norm == 0
    for before, after, weight in zip(
        parts(start[0], LLAMA.layout), parts(weights[0], LLAMA.layout), LLAMA.layout, strict=True
    ):
        kept = 1 - FACTOR * trial.weight_decay if len(weight.shape) == 2 else 1.0
        torch.testing.assert_close(after, kept * before)


@pytest.mark.parametrize("optimizer", OptimizerKind)
@given(st.data(), st.integers(0, 2), SEEDS)
@settings(max_examples=20)
def test_rows_do_not_see_each_other(optimizer: OptimizerKind, data: st.DataObject, watched: int, seed: int) -> None:
    """Not even a neighbour whose gradients are not numbers."""
    trial, other = example(GPT, optimizer), data.draw(configs(GPT, optimizer))
    start, gradient = draws(GPT, 3, seed, torch.float32), draws(GPT, 3, seed + 1, torch.float32)
    weights, _ = stacked([trial] * 3, start, [gradient] * 3)
    broken = torch.full_like(gradient, math.nan)
    broken[watched] = gradient[watched]
    again, _ = stacked([trial if row == watched else other for row in range(3)], start, [broken] * 3)
    assert torch.equal(again[watched], weights[watched])


def test_norms_are_those_before_the_clip_and_gradients_are_left_alone() -> None:
    gradient = 5 * draws(GPT, 2, 3)
    before = gradient.clone()
    _, (norms,) = stacked([example(GPT, OptimizerKind.MUON)] * 2, draws(GPT, 2, 4), [gradient])
    torch.testing.assert_close(norms, before.norm(dim=1))
    assert torch.equal(gradient, before)


@pytest.mark.parametrize("architecture", ALL_ROLES, ids=["gpt", "llama"])
def test_columns_of_roles_and_muon_follow_the_layout(architecture: Architecture) -> None:
    update = update_of(architecture, OptimizerKind.MUON, "cpu")
    roles = [ROLES[column] for column in role_index(architecture).tolist()]
    assert roles == [weight.role for weight in architecture.layout for _ in range(weight.size)]
    assert torch.equal(update.roles, role_index(architecture))
    assert update.orthogonal.tolist() == [role in (Role.HIDDEN, Role.RESIDUAL) for role in roles]


class FullMemory(TorchDispatchMode):  # type: ignore[no-untyped-call]  # of torch
    """Lets so many operations through, then refuses all that make a tensor."""

    def __init__(self, operations: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # of torch
        self.left = operations

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if not func.is_view and func is not torch.ops.aten.copy_.default:
            if self.left == 0:
                raise torch.OutOfMemoryError("injected")
            self.left -= 1
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(("optimizer", "stride"), [(OptimizerKind.ADAMW, 1), (OptimizerKind.MUON, 11)])
def test_memory_that_runs_out_anywhere_in_a_step_leaves_the_rows_untouched(
    optimizer: OptimizerKind, stride: int
) -> None:
    """Every operation of AdamW's is refused once, of Muon's many every eleventh."""
    trial = example(LLAMA, optimizer)
    update, rates = update_of(LLAMA, optimizer, "cpu"), unpack(numbers([trial], 3, torch.float64))[0]
    before = [draws(LLAMA, 1, 1), draws(LLAMA, 1, 2), draws(LLAMA, 1, 3).square()]
    gradient, refused = draws(LLAMA, 1, 4), 0
    while True:
        weights, mean, square = (tensor.clone() for tensor in before)
        try:
            with FullMemory(refused):
                update.apply_(weights, gradient, mean, square, rates)
            break
        except torch.OutOfMemoryError:
            refused += stride
            assert all(map(torch.equal, (weights, mean, square), before))
    assert refused > 10
    assert not any(map(torch.equal, (weights, mean, square), before))
