"""How initial weights, rates and forward multipliers change with width and depth: one table a parametrization.

At the base shape all of them are the standard one. With m_d = width / base width and m_L = depth / base depth
every factor is m_d^a m_L^b, and the tables hold the pairs (a, b).

Kalra and Barkeshli 2026 (arXiv 2605.21486) attribute most of the gain of `mup` over `standard` under AdamW to
the embedding's rate; that rate is a ratio of its own (`embedding_rate_ratio`), in every parametrization.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from trials.architecture import Architecture, Role


class OptimizerKind(StrEnum):
    """Which update the matrices of the blocks get; all else gets AdamW's."""

    ADAMW = "adamw"
    MUON = "muon"


Exponents = tuple[float, float]  # of m_d and of m_L
NONE: Exponents = (0.0, 0.0)

# AdamW's updates of a matrix line up with its inputs, so what they do to an output grows as the width. Muon's are
# orthogonal: of the same root mean square, their spectral norm and what they do grow as the root of the width.
# Yang et al. 2023 (A spectral condition for feature learning, arXiv 2310.17813).
MUON_SHARE = 0.5


@dataclass(frozen=True)
class Row:
    """The exponents of one role."""

    init_std: Exponents = NONE
    rate: Exponents = NONE  # of AdamW; Muon's is `MUON_SHARE` of it
    eps: Exponents = NONE
    weight_decay: Exponents = NONE  # of the coupled convention; an independent one is scaled by nothing


@dataclass(frozen=True)
class Table:
    """A parametrization: a row a role, and the exponents of the forward multipliers."""

    rows: Mapping[Role, Row]
    logits: Exponents = NONE
    residual: Exponents = NONE
    attention_by_head_size: bool = False  # q k / h instead of q k / sqrt(h)
    residual_init_by_depth: bool = True  # GPT-2's 1 / sqrt(2 L), of the depth itself; else of the base depth


STANDARD = Table(rows={role: Row() for role in Role})

# Yang et al. 2022 (Tensor Programs V, arXiv 2203.03466), table 8, in the form of EleutherAI/nanoGPT-mup: hidden
# variance and Adam rate over m_d, logits over m_d, attention over the head size. The base has the target's
# depth, or the depth is not transferred.
MUP = Table(
    rows={role: Row(init_std=(-0.5, 0), rate=(-1, 0)) if role.is_block_matrix else Row() for role in Role},
    logits=(-1, 0),
    attention_by_head_size=True,
)

# Dey et al. 2025 (arXiv 2505.01618), table 1 with alpha = 1 and the eps of equation 40: blocks over m_L, so
# their rates stay; eps over m_d, in blocks over m_L too; hidden decay times m_d, so that rate times decay stays.
COMPLETEP = Table(
    rows={
        Role.EMBEDDING: Row(eps=(-1, 0)),
        Role.POSITION: Row(eps=(-1, 0)),
        Role.UNEMBEDDING: Row(eps=(-1, 0)),
        Role.HIDDEN: Row(init_std=(-0.5, 0), rate=(-1, 0), eps=(-1, -1), weight_decay=(1, 0)),
        Role.RESIDUAL: Row(init_std=(-0.5, 0), rate=(-1, 0), eps=(-1, -1), weight_decay=(1, 0)),
        Role.BLOCK_VECTOR: Row(eps=(-1, -1)),
        Role.FINAL_VECTOR: Row(eps=(-1, 0)),
    },
    logits=(-1, 0),
    residual=(0, -1),
    attention_by_head_size=True,
    residual_init_by_depth=False,
)


class Rule(StrEnum):
    """A parametrization by name."""

    STANDARD = "standard"
    MUP = "mup"
    COMPLETEP = "completep"

    @property
    def table(self) -> Table:
        return {Rule.STANDARD: STANDARD, Rule.MUP: MUP, Rule.COMPLETEP: COMPLETEP}[self]


@dataclass(frozen=True)
class Scales:
    """The factors of one weight, relative to the base shape."""

    init_std: float
    rate: float
    eps: float
    weight_decay: float


@dataclass(frozen=True)
class Multipliers:
    """What the forward pass is multiplied by."""

    logits: float
    residual: float  # of what a block adds to the residual stream
    attention: float  # of a query times a key


@dataclass(frozen=True)
class Parametrization:
    """A table and the shape at which it equals the standard one."""

    rule: Rule
    base_width: int
    base_depth: int
    base_head_size: int

    def scales(self, role: Role, shape: Architecture, optimizer: OptimizerKind = OptimizerKind.ADAMW) -> Scales:
        """The factors of a weight of this role; rate times weight decay stays what the table makes it."""
        row = self.rule.table.rows[role]
        share = MUON_SHARE if optimizer is OptimizerKind.MUON and role.is_block_matrix else 1.0
        residual_init = self._residual_init(shape) if role is Role.RESIDUAL else 1.0
        return Scales(
            init_std=self._factor(row.init_std, shape) * residual_init,
            rate=self._factor(row.rate, shape) ** share,
            eps=self._factor(row.eps, shape),
            weight_decay=self._factor(row.weight_decay, shape) ** share,
        )

    def multipliers(self, shape: Architecture) -> Multipliers:
        """The factors of the forward pass."""
        table = self.rule.table
        by_size = math.sqrt(self.base_head_size) / shape.head_size
        return Multipliers(
            logits=self._factor(table.logits, shape),
            residual=self._factor(table.residual, shape),
            attention=by_size if table.attention_by_head_size else 1 / math.sqrt(shape.head_size),
        )

    def _residual_init(self, shape: Architecture) -> float:
        """GPT-2's factor, so that the sum of 2 L branches has the variance of one (Radford et al. 2019)."""
        depth = shape.depth if self.rule.table.residual_init_by_depth else self.base_depth
        return 1 / math.sqrt(2 * depth)

    def _factor(self, exponents: Exponents, shape: Architecture) -> float:
        width, depth = exponents
        return float((shape.width / self.base_width) ** width * (shape.depth / self.base_depth) ** depth)


def standard(shape: Architecture) -> Parametrization:
    """The standard one, for which any base is the same."""
    return Parametrization(Rule.STANDARD, shape.width, shape.depth, shape.head_size)
