"""AdamW and Muon for a stack: every trial with its own rate a role, betas, eps, weight decay, clip and step count."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from trials.architecture import Architecture, Role, Weight
from trials.parametrization import OptimizerKind
from trials.roles import MUON_RMS, NEWTON_SCHULZ, NEWTON_SCHULZ_STEPS

ROLES = tuple(Role)  # the order of the columns below


@dataclass(frozen=True)
class Rates:
    """The numbers of one step: `(K, R)` with a column a role, or `(K, 1)`."""

    rate: Tensor  # (K, R) learning rate; of AdamW times sqrt(1 - beta2^t) / (1 - beta1^t)
    kept: Tensor  # (K, R) what weight decay leaves of a weight: 1 - learning rate x decay
    eps: Tensor  # (K, R) times sqrt(1 - beta2^t)
    beta1: Tensor  # (K, 1)
    beta2: Tensor  # (K, 1)
    momentum: Tensor  # (K, 1) Muon's
    gradient_clip: Tensor  # (K, 1) largest gradient norm; infinity for none


def role_index(architecture: Architecture) -> Tensor:
    """`(P,)`: the column of each parameter's role."""
    return torch.cat([torch.full((w.size,), ROLES.index(w.role), dtype=torch.int32) for w in architecture.layout])


def update_of(architecture: Architecture, kind: OptimizerKind, device: str) -> Update:
    """The update of one shape on a device."""
    orthogonal = torch.cat([torch.full((w.size,), w.role.is_block_matrix) for w in architecture.layout])
    return Update(kind, architecture.layout, role_index(architecture).to(device), orthogonal.to(device))


@dataclass(frozen=True)
class Update:
    """How the rows of one shape are updated: the optimizer, and which parameter has which role."""

    kind: OptimizerKind
    layout: tuple[Weight, ...]
    roles: Tensor  # (P,) of role_index
    orthogonal: Tensor  # (P,) True where Muon acts

    def apply_(self, weights: Tensor, gradients: Tensor, mean: Tensor, square: Tensor, rates: Rates) -> Tensor:
        """One step in place on the rows of `weights`, `mean` and `square`, all `(K, P)`.

        Every tensor that is needed is made before the first one is written to, so a step that runs out of
        memory leaves the rows as they were.

        Returns:
            `(K,)` gradient norms before the clip.

        Source: Loshchilov and Hutter 2019 (arXiv 1711.05101), algorithm 2, with the two bias corrections moved
        into rate and eps, as in Kingma and Ba 2015 (arXiv 1412.6980), section 2. Decay acts on matrices only.
        """
        norms: Tensor = torch.linalg.vector_norm(gradients, dim=1, keepdim=True)
        gradients = gradients * (rates.gradient_clip / (norms + 1e-6)).clamp(max=1.0)
        muon = self.kind is OptimizerKind.MUON
        beta1 = torch.where(self.orthogonal, rates.momentum, rates.beta1) if muon else rates.beta1
        new_mean = torch.lerp(gradients, mean, beta1)
        new_square = torch.lerp(gradients * gradients, square, rates.beta2)
        direction = new_mean / (new_square.sqrt() + self._by_role(rates.eps))
        if muon:
            self._orthogonalise_(direction, torch.lerp(gradients, new_mean, beta1))
        new_weights = weights * self._by_role(rates.kept) - self._by_role(rates.rate) * direction
        for old, new in ((mean, new_mean), (square, new_square), (weights, new_weights)):
            old.copy_(new)
        return norms.squeeze(1)

    def _by_role(self, numbers: Tensor) -> Tensor:
        """`(K, R)` -> `(K, P)`: each parameter's number."""
        return torch.index_select(numbers, 1, self.roles)

    def _orthogonalise_(self, direction: Tensor, momentum: Tensor) -> None:
        """Writes Muon's direction over AdamW's, for the matrices of the blocks.

        Matrices that lie side by side (queries, keys, values) are taken one by one.

        Source: Jordan et al. 2024, "Muon", with Nesterov momentum; the update's root mean square is AdamW's 0.2
        whatever the shape, Liu et al. 2025 (Moonlight, arXiv 2502.16982), so that one rate serves both.
        """
        place = 0
        for weight in self.layout:
            if weight.role.is_block_matrix:
                rows = slice(place, place + weight.size)
                matrices = momentum[:, rows].reshape(-1, *weight.shape)
                parts = torch.split(matrices, list(weight.columns), dim=2)
                scaled = [MUON_RMS * math.sqrt(max(part.shape[1:])) * orthogonal(part) for part in parts]
                direction[:, rows] = torch.cat(scaled, dim=2).flatten(1)
            place += weight.size


def orthogonal(matrices: Tensor) -> Tensor:
    """`(K, m, n)` -> nearly orthogonal matrices with the same singular vectors: Newton-Schulz, five steps.

    Source: Jordan et al. 2024, "Muon: an optimizer for hidden layers"; singular values end in about [0.7, 1.2].
    """
    a, b, c = NEWTON_SCHULZ
    tall = matrices.shape[1] > matrices.shape[2]
    x: Tensor = matrices.transpose(1, 2) if tall else matrices
    x = x / (torch.linalg.vector_norm(x, dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(NEWTON_SCHULZ_STEPS):
        gram = x @ x.transpose(1, 2)
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.transpose(1, 2) if tall else x
