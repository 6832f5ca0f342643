"""A row of the stacked AdamW is torch.optim.AdamW with two parameter groups and a clip of its own."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from trials.optimizer import Rates, adamw_

SIZE, DECAYED = 40, 25  # parameters of a row; the first so many are decayed


@dataclass(frozen=True)
class Hyperparameters:
    learning_rate: float
    weight_decay: float
    beta1: float
    beta2: float
    eps: float
    gradient_clip: float


HYPERPARAMETERS = st.builds(
    Hyperparameters,
    st.floats(1e-6, 1.0),
    st.floats(0.0, 0.5),
    st.floats(0.0, 0.99),
    st.floats(0.5, 0.9999),
    st.floats(1e-10, 1e-3),
    st.floats(1e-3, 100.0) | st.just(math.inf),
)
EXAMPLE = Hyperparameters(1e-2, 0.1, 0.9, 0.95, 1e-8, 1.0)


def rates(trials: list[Hyperparameters], step: int, dtype: torch.dtype) -> Rates:
    names = [field.name for field in fields(Hyperparameters)]
    columns = {name: torch.tensor([[getattr(trial, name)] for trial in trials], dtype=dtype) for name in names}
    return Rates(**columns, step=torch.full((len(trials), 1), float(step), dtype=dtype))


def draws(rows: int, seed: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(rows, SIZE, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def stacked(
    trials: list[Hyperparameters], start: Tensor, gradients: list[Tensor], first_step: int = 1
) -> tuple[Tensor, list[Tensor]]:
    """Weights after the steps, and the norms of each."""
    weights, mean, square = start.clone(), torch.zeros_like(start), torch.zeros_like(start)
    decayed = (torch.arange(SIZE) < DECAYED).to(start.dtype)
    norms = [
        adamw_(weights, gradient, mean, square, rates(trials, step, start.dtype), decayed)
        for step, gradient in enumerate(gradients, first_step)
    ]
    return weights, norms


def reference(trial: Hyperparameters, start: Tensor, gradients: list[Tensor]) -> tuple[Tensor, list[float]]:
    """One row by torch's own optimizer and clip."""
    matrix, bias = torch.nn.Parameter(start[:DECAYED].clone()), torch.nn.Parameter(start[DECAYED:].clone())
    optimizer = torch.optim.AdamW(
        [{"params": [matrix], "weight_decay": trial.weight_decay}, {"params": [bias], "weight_decay": 0.0}],
        lr=trial.learning_rate,
        betas=(trial.beta1, trial.beta2),
        eps=trial.eps,
    )
    norms = []
    for gradient in gradients:
        matrix.grad, bias.grad = gradient[:DECAYED].clone(), gradient[DECAYED:].clone()
        norms.append(torch.nn.utils.clip_grad_norm_([matrix, bias], trial.gradient_clip).item())
        optimizer.step()
    return torch.cat([matrix.detach(), bias.detach()]), norms


@settings(max_examples=40)
@given(st.lists(HYPERPARAMETERS, min_size=1, max_size=4), st.integers(1, 12), st.integers(0, 2**32))
def test_each_row_is_torch_adamw_with_its_own_hyperparameters(
    trials: list[Hyperparameters], steps: int, seed: int
) -> None:
    start = draws(len(trials), seed)
    gradients = [draws(len(trials), seed + step) for step in range(1, steps + 1)]
    weights, norms = stacked(trials, start, gradients)
    for row, trial in enumerate(trials):
        expected, expected_norms = reference(trial, start[row], [gradient[row] for gradient in gradients])
        torch.testing.assert_close(weights[row], expected, rtol=1e-9, atol=1e-11)
        assert [norm[row].item() for norm in norms] == pytest.approx(expected_norms, rel=1e-12)


@pytest.mark.parametrize("beta2", [0.95, 0.999, 0.9999])
def test_single_precision_is_close_to_torch(beta2: float) -> None:
    """torch corrects the bias in double precision, we in single; at 0.9999 that shows in the fifth digit."""
    trial = Hyperparameters(1e-2, 0.1, 0.9, beta2, 1e-8, 1.0)
    gradients = [draws(1, step, torch.float32) for step in range(1, 101)]
    start = draws(1, 0, torch.float32)
    weights, _ = stacked([trial], start, gradients)
    expected, _ = reference(trial, start[0], [gradient[0] for gradient in gradients])
    torch.testing.assert_close(weights[0] - start[0], expected - start[0], rtol=1e-4, atol=1e-6)


@given(HYPERPARAMETERS, st.integers(0, 2), st.integers(0, 2**32))
def test_rows_do_not_see_each_other(other: Hyperparameters, watched: int, seed: int) -> None:
    """Not even a neighbour whose gradients are not numbers."""
    start, gradient = draws(3, seed, torch.float32), draws(3, seed + 1, torch.float32)
    weights, _ = stacked([EXAMPLE] * 3, start, [gradient] * 3)
    broken = torch.full_like(gradient, math.nan)
    broken[watched] = gradient[watched]
    trials = [EXAMPLE if row == watched else other for row in range(3)]
    again, _ = stacked(trials, start, [broken] * 3)
    assert torch.equal(again[watched], weights[watched])


def test_rows_count_their_own_steps() -> None:
    """A trial admitted later is at its first step while its neighbour is at its hundredth."""
    start, gradient = draws(2, 1), draws(2, 2)
    weights, mean, square = start.clone(), torch.zeros_like(start), torch.zeros_like(start)
    both = rates([EXAMPLE] * 2, 1, torch.float64)
    both.step[1] = 100.0
    adamw_(weights, gradient, mean, square, both, torch.ones(SIZE, dtype=torch.float64))
    alone = start[:1].clone()
    zeros = (torch.zeros_like(alone), torch.zeros_like(alone))
    adamw_(alone, gradient[:1], *zeros, rates([EXAMPLE], 1, torch.float64), torch.ones(SIZE, dtype=torch.float64))
    torch.testing.assert_close(weights[:1], alone, rtol=1e-14, atol=0)
    assert (weights[1] - start[1]).norm() < 0.5 * (alone[0] - start[0]).norm()


def test_norms_are_those_before_the_clip_and_gradients_are_left_alone() -> None:
    gradient = 5 * draws(2, 3)
    before = gradient.clone()
    _, (norms,) = stacked([EXAMPLE] * 2, draws(2, 4), [gradient])
    torch.testing.assert_close(norms, before.norm(dim=1))
    assert torch.equal(gradient, before)
