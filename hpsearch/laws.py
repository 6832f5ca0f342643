"""Published laws for learning rate and batch, as competing hypotheses about where the optimum lies and drifts.

A law is log-linear near any setting; one that is not (Kaplan et al.) is taken along its tangent there. One whose
runs had a D that followed from their N is a law of that line, and says nothing of what lies beside it. N counts
non-embedding parameters, D tokens; batches are in sequences of 2048 tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from math import log, log2
from statistics import mean, stdev

SEQUENCE_TOKENS = 2048  # of the campaigns that the laws are from
FLOPS_PER_PARAMETER_TOKEN = 6.0
NEAR_LINE = 2.0  # octaves of D from the line of a law within which its value is a first guess
Formula = Callable[[float, float], float]  # N, D -> value in the parameter's unit


def step_law_rate(params: float, tokens: float) -> float:
    """lr = 1.79 N^-0.713 D^0.307. Source: Li et al. 2025 (Step Law, arXiv 2503.04715)."""
    return float(1.79 * params**-0.713 * tokens**0.307)


def step_law_batch(params: float, tokens: float) -> float:
    """B = 0.58 D^0.571 tokens. Source: as above."""
    return float(0.58 * tokens**0.571 / SEQUENCE_TOKENS)


def deepseek_rate(params: float, tokens: float) -> float:
    """lr = 0.3118 C^-0.125. Source: DeepSeek LLM 2024 (arXiv 2401.02954); C counted as 6 N D here."""
    return float(0.3118 * (FLOPS_PER_PARAMETER_TOKEN * params * tokens) ** -0.125)


def deepseek_batch(params: float, tokens: float) -> float:
    """B = 0.2920 C^0.3271 tokens. Source: as above."""
    return float(0.2920 * (FLOPS_PER_PARAMETER_TOKEN * params * tokens) ** 0.3271 / SEQUENCE_TOKENS)


def kaplan_rate(params: float, tokens: float) -> float:
    """lr = 0.003239 - 0.0001395 ln N. Source: Kaplan et al. 2020 (arXiv 2001.08361), appendix D.6."""
    return 0.003239 - 0.0001395 * log(params)


def porian_rate(params: float, tokens: float) -> float:
    """lr = 0.0047 (N / 108e6)^(-1/3). Source: Porian et al. 2024 (arXiv 2406.19146)."""
    return float(0.0047 * (params / 108e6) ** (-1 / 3))


def porian_batch(params: float, tokens: float) -> float:
    """B = 160 (N / 108e6)^(2/3) sequences of 2048. Source: as above."""
    return float(160 * (params / 108e6) ** (2 / 3))


@dataclass(frozen=True)
class Drift:
    """What a law says of one parameter near a setting; None where it leaves something open."""

    center: float | None  # octaves at the setting, of a line where it meets the setting's N
    by_params: float | None  # octaves per octave of N, of a line along it
    by_tokens: float | None
    tokens_away: float = 0.0  # octaves of D from the setting to the line
    tokens_along: float = 0.0  # octaves of D per octave of N along the line


@dataclass(frozen=True)
class Law:
    """A published law: formulas where it gives values, exponents where it gives only these."""

    name: str
    formulas: Mapping[str, Formula]
    exponents: Mapping[str, tuple[float | None, float | None]]  # by N, by D
    line: Callable[[float], float] | None = None  # N -> the D of its runs, where it had but one for each N

    def value(self, name: str, params: float, tokens: float, sequence_tokens: float = SEQUENCE_TOKENS) -> float:
        """What it says of a parameter that it has a formula for; a batch in sequences of so many tokens."""
        unit = SEQUENCE_TOKENS / sequence_tokens if name == "batch_sequences" else 1.0
        return self.formulas[name](params, tokens) * unit

    def says(self, name: str, params: float, tokens: float) -> bool:
        """Whether it has a value there: inside its domain, and for one of a line not far beside it."""
        away = 0.0 if self.line is None else log2(self.line(params) / tokens)
        return self.formulas[name](params, tokens) > 0 and abs(away) <= NEAR_LINE

    def drifts(self, params: float, tokens: float, sequence_tokens: float = SEQUENCE_TOKENS) -> dict[str, Drift]:
        """By parameter, along the law's tangent at N = `params`, D = `tokens`; none where it has left its domain."""
        placed = {
            name: self._tangent(partial(self.value, name, sequence_tokens=sequence_tokens), params, tokens)
            for name in self.formulas
        }
        sloped = {name: Drift(None, *slopes) for name, slopes in self.exponents.items()}
        return sloped | {name: drift for name, drift in placed.items() if drift is not None}

    def _tangent(self, formula: Formula, params: float, tokens: float) -> Drift | None:
        if self.line is not None:
            return _along(self.line, formula, params, tokens)
        ends = [formula(params * 2**n, tokens * 2**d) for n, d in ((0, 0), (-0.5, 0), (0.5, 0), (0, -0.5), (0, 0.5))]
        if min(ends) <= 0:
            return None
        here, left, right, less, more = (log2(value) for value in ends)
        return Drift(here, right - left, more - less)


def _along(line: Callable[[float], float], formula: Formula, params: float, tokens: float) -> Drift | None:
    sizes = params, params * 2**-0.5, params * 2**0.5
    ends, budgets = [formula(size, line(size)) for size in sizes], [log2(line(size)) for size in sizes]
    if min(ends) <= 0:
        return None
    here, left, right = (log2(value) for value in ends)
    return Drift(here, right - left, None, budgets[0] - log2(tokens), budgets[2] - budgets[1])


def kaplan_tokens(params: float) -> float:
    """D of the runs of Kaplan et al. 2020: 2.5e5 steps of 2^19 tokens at every N (section 2.2)."""
    return 2.5e5 * 2**19


def porian_tokens(params: float) -> float:
    """D of the runs of Porian et al. 2024: 20 tokens a parameter."""
    return 20.0 * params


LAWS = (
    Law("step_law", {"learning_rate": step_law_rate, "batch_sequences": step_law_batch}, {}),
    Law("deepseek", {"learning_rate": deepseek_rate, "batch_sequences": deepseek_batch}, {}),
    Law("kaplan", {"learning_rate": kaplan_rate}, {}, kaplan_tokens),
    Law("porian", {"learning_rate": porian_rate, "batch_sequences": porian_batch}, {}, porian_tokens),
    # The best batch is a power of D and none of N. Source: Bergsma et al. 2025 (Power Lines, arXiv 2505.13738).
    Law("power_lines", {}, {"batch_sequences": (0.0, 0.383)}),
    # The rate falls as 1 / width, and N grows as width^3 where depth grows with it. Source: Yang et al. 2022 (muP,
    # arXiv 2203.03466), read for a hidden matrix under the standard parametrization.
    Law("mup_width", {}, {"learning_rate": (-1 / 3, None)}),
)


def first_guess(name: str, params: float, tokens: float) -> tuple[float, float] | None:
    """Where the laws place a parameter at a setting: mean and sd over them, octaves; None where fewer than two do."""
    places = [
        log2(law.value(name, params, tokens)) for law in LAWS if name in law.formulas and law.says(name, params, tokens)
    ]
    return (mean(places), stdev(places)) if len(places) > 1 else None
