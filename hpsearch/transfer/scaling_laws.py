"""Published laws of loss against size and data, and the split of a compute budget that each calls optimal.

N parameters, D tokens, losses in nats a token, C = 6 N D FLOPs. The laws disagree by design: they count other
parameters as N (Kaplan et al. without the embedding, Hoffmann et al. with it) and were measured with other warmups,
schedules and batches, on other texts. A loss compares with those of its own law only.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import exp, log
from typing import Protocol

from hpsearch.laws import FLOPS_PER_PARAMETER_TOKEN

PETAFLOP_DAY = 1e15 * 86400.0  # FLOPs
KAPLAN_WARMUP_STEPS = 3000  # Kaplan et al. 2020 (arXiv 2001.08361), section 2.2


@dataclass(frozen=True)
class Range:
    """Where a law was measured."""

    params: tuple[float, float]
    tokens: tuple[float, float]
    counts_embedding: bool  # whether its N has the embedding in it

    def beyond(self, params: float, tokens: float) -> tuple[float, float]:
        """Factors (of N, of D) by which a setting lies outside; 1 inside."""
        return _outside(params, self.params), _outside(tokens, self.tokens)


@dataclass(frozen=True)
class Optimum:
    """How a law spends a budget."""

    params: float
    tokens: float
    loss: float


class ScalingLaw(Protocol):
    """What a plan asks of a law."""

    @property
    def name(self) -> str: ...
    @property
    def source(self) -> str: ...
    @property
    def measured(self) -> Range: ...

    def loss(self, params: float, tokens: float) -> float:
        """Nats a token of a model of N parameters after D tokens."""

    def optimum(self, flops: float) -> Optimum:
        """The N, D that the law calls best for C FLOPs."""


@dataclass(frozen=True)
class SumLaw:
    """L = E + A / N^alpha + B / D^beta. Source: Hoffmann et al. 2022 (arXiv 2203.15556), equation 2."""

    name: str
    source: str
    measured: Range
    least: float  # E, nats
    size: float  # A
    data: float  # B
    alpha: float
    beta: float

    def loss(self, params: float, tokens: float) -> float:
        return float(self.least + self.size / params**self.alpha + self.data / tokens**self.beta)

    def optimum(self, flops: float) -> Optimum:
        """N = G (C / 6)^(beta / (alpha + beta)), D = (C / 6) / N, G = (alpha A / beta B)^(1 / (alpha + beta)).

        Source: Hoffmann et al. 2022, equation 4.
        """
        product = flops / FLOPS_PER_PARAMETER_TOKEN
        total = self.alpha + self.beta
        balance = (log(self.alpha * self.size) - log(self.beta * self.data)) / total
        params = exp(balance + self.beta / total * log(product))
        return Optimum(params, product / params, self.loss(params, product / params))

    def data_for_model(self, growth: float) -> float:
        """Factor in D that keeps the split optimal when N grows by a factor: growth^(alpha / beta)."""
        return float(growth ** (self.alpha / self.beta))


@dataclass(frozen=True)
class KaplanLaw:
    """The power laws of Kaplan et al. 2020 (arXiv 2001.08361)."""

    name: str = "kaplan"
    source: str = "Kaplan et al. 2020, arXiv 2001.08361"
    measured: Range = Range((768, 1.5e9), (2.2e7, 2.3e10), counts_embedding=False)

    def loss(self, params: float, tokens: float) -> float:
        return kaplan_loss(params, tokens)

    def optimum(self, flops: float) -> Optimum:
        """N = 1.3e9 C^0.73, D = 2e10 C^0.27, L = (3.1e8 / C)^0.050, C in PF-days.

        C is the least compute that reaches the loss, at batches far below the critical one. At the critical batch
        the run takes twice the tokens of that, which D has in it: 6 N D is 1.8 C at one PF-day.
        Source: Kaplan et al. 2020, table 6.
        """
        days = flops / PETAFLOP_DAY
        return Optimum(1.3e9 * days**0.73, 2e10 * days**0.27, kaplan_loss_of_compute(flops))


def kaplan_loss(params: float, tokens: float) -> float:
    """L(N, D) = [(6.4e13 / N)^(0.076 / 0.103) + 1.8e13 / D]^0.103. Source: Kaplan et al. 2020, equation 4.1."""
    return float(((6.4e13 / params) ** (0.076 / 0.103) + 1.8e13 / tokens) ** 0.103)


def kaplan_loss_of_params(params: float) -> float:
    """L(N) = (8.8e13 / N)^0.076, data without end. Source: Kaplan et al. 2020, equation 1.1."""
    return float((8.8e13 / params) ** 0.076)


def kaplan_loss_of_tokens(tokens: float) -> float:
    """L(D) = (5.4e13 / D)^0.095, a model as large as needed. Source: Kaplan et al. 2020, equation 1.2."""
    return float((5.4e13 / tokens) ** 0.095)


def kaplan_loss_of_compute(flops: float) -> float:
    """L(C) = (3.1e8 PF-days / C)^0.050, C the least compute. Source: Kaplan et al. 2020, equation 1.3."""
    return float((3.1e8 * PETAFLOP_DAY / flops) ** 0.050)


def critical_batch(loss: float) -> float:
    """B = 2e8 / L^(1 / 0.21) tokens: twice the least steps, and twice the least tokens.

    Source: Kaplan et al. 2020, equation 1.4, after McCandlish et al. 2018 (arXiv 1812.06162).
    """
    return float(2e8 / loss ** (1 / 0.21))


def kaplan_batch(flops: float) -> float:
    """B = 2.0e6 C^0.24 tokens, C in PF-days. Source: Kaplan et al. 2020, table 6."""
    return float(2.0e6 * (flops / PETAFLOP_DAY) ** 0.24)


def kaplan_least_steps(flops: float) -> float:
    """S = 5.4e3 C^0.03, C in PF-days; at the critical batch a run takes twice as many. Source: as above."""
    return float(5.4e3 * (flops / PETAFLOP_DAY) ** 0.03)


def kaplan_tokens_needed(params: float) -> float:
    """D = 5e3 N^0.74, below which a model overfits: 8 times the model wants some 5 times the data.

    Source: Kaplan et al. 2020, equation 4.4.
    """
    return float(5e3 * params**0.74)


def _outside(value: float, ends: tuple[float, float]) -> float:
    return max(1.0, value / ends[1], ends[0] / value)


# Hoffmann et al. 2022, section 3: over 400 models of 7e7 to 1.6e10 parameters, on 5e9 to 5e11 tokens.
CHINCHILLA_RANGE = Range((7e7, 1.6e10), (5e9, 5e11), counts_embedding=True)
KAPLAN = KaplanLaw()
HOFFMANN = SumLaw(
    name="hoffmann",
    source="Hoffmann et al. 2022, arXiv 2203.15556, the rounded constants as printed",
    measured=CHINCHILLA_RANGE,
    least=1.69,
    size=406.4,
    data=410.7,
    alpha=0.34,
    beta=0.28,
)
# A fit to the runs read off the paper's figures: the printed constants are rounded so much that they contradict the
# paper's own other two methods, and the 70B model that it trained.
REFIT = SumLaw(
    name="refit",
    source="of Hoffmann et al.'s runs by Besiroglu et al. 2024, arXiv 2404.10102",
    measured=CHINCHILLA_RANGE,
    least=1.82,
    size=482.0,
    data=2085.0,
    alpha=0.348,
    beta=0.366,
)
SCALING_LAWS: tuple[ScalingLaw, ...] = (KAPLAN, HOFFMANN, REFIT)
