"""What a table of runs recommends for a target, and what it says of a configuration that the user has in mind."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from math import isfinite
from typing import Any

import numpy as np

from hpsearch.imported_table import ImportedTable
from hpsearch.surface import Estimate, Exponent, Priors, Surface, fit_surface
from hpsearch.surface_stability import stability
from hpsearch.transfer.advice import (
    Alternative,
    Comparison,
    EarlyLoss,
    NextTrial,
    Reach,
    TieSet,
    alternatives,
    best_next_trial,
    compared,
    early_loss,
    model_error_share,
    predicted_loss,
    tie_set,
)
from hpsearch.transfer.part import Part
from hpsearch.transfer.reach import EDGE_OCTAVES, broken_sizes_warning, is_at_edge, missed_warnings, reach, refusal
from hpsearch.transfer.status import Status, decide
from search_spaces.parameter import Parameter

MIN_SETTINGS = 3  # below it the drift and what strays from it cannot be told apart

Interval = tuple[float, float]


class Setting(Part):
    """A size and a budget."""

    params: float  # non-embedding
    tokens: float


class RecommendedValue(Part):
    """One parameter at the target."""

    value: float
    interval80: Interval
    interval95: Interval
    tie_set: TieSet | None  # null of what the user holds
    status: Status
    reason: str


class ExponentReport(Part):
    """Octaves by which an optimum moves per octave of N or D."""

    value: float
    sd: float
    posterior_over_prior_sd: float
    prior_only: bool


class ExponentReports(Part):
    """How the optimum of one parameter drifts."""

    params: ExponentReport
    tokens: ExponentReport


class PredictedLoss(Part):
    """The loss of one run of the recommended configuration."""

    value: float
    interval90: Interval


class TableRecommendation(Part):
    """All that a table says of a target. Regrets are fractions of the loss."""

    target: Setting
    parameters: dict[str, RecommendedValue]  # by the table's own names
    expected_regret: float
    regret_bound90: float
    exponents: dict[str, ExponentReports]
    model_error_share: float  # of the expected regret, what the hold-out says that the form cannot do
    compare: Comparison | None
    alternatives: dict[str, Alternative]  # published laws, and the largest size's best copied
    predicted_loss: PredictedLoss
    priors: dict[str, float]  # weight of each hypothesis
    backtest: dict[str, dict[str, Any]] | None
    stability: dict[str, Any] | None  # of the recommended configuration; null where no learning rate varies
    next_trial: NextTrial | None
    early_loss: EarlyLoss
    reach: Reach
    assumptions: dict[str, tuple[float, float]]  # mean and sd of what was believed before any run, logs and octaves
    refused: str | None
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class Question:
    """What is asked of a table."""

    target: Setting
    priors: Priors = "neutral"
    fixed: Mapping[str, float] = field(default_factory=dict)  # by the table's own names, as the next
    compare: Mapping[str, float] | None = None  # None: nothing; a parameter that it leaves out is at its best


def recommend_from_table(table: ImportedTable, question: Question) -> TableRecommendation:
    """Fits the surface to a table and reads it at the target.

    Args:
        table: the runs.
        question: the target, what is held there, and what to compare with.
    """
    surface = fit_surface(table.observations, table.parameters, seed=0, priors=question.priors)
    target, fixed = question.target, question.fixed
    estimates = surface.optimum(target.params, target.tokens, fixed)
    config = {p.name: fixed[p.name] if p.name in fixed else estimates[p.name].value for p in table.parameters}
    regret = surface.expected_regret(target.params, target.tokens, config)
    loss = predicted_loss(surface, config, (target.params, target.tokens))
    at = target.params, target.tokens
    stable = stability(surface, *at, config)
    free = {
        p.name: _recommended(surface, p, estimates[p.name], config, at) for p in table.parameters if p.name in estimates
    }
    return TableRecommendation(
        target=target,
        parameters={name: free[name] if name in free else _held(value) for name, value in config.items()},
        expected_regret=regret.mean,
        regret_bound90=regret.bound90,
        exponents={
            name: ExponentReports(params=_reported(exponents.params), tokens=_reported(exponents.tokens))
            for name, exponents in surface.exponents.items()
        },
        model_error_share=model_error_share(surface, config, at),
        compare=None if question.compare is None else compared(surface, question.compare, config, at),
        alternatives=alternatives(surface, config, at),
        predicted_loss=PredictedLoss(value=loss.median, interval90=(loss.low90, loss.high90)),
        priors=dict(surface.weights),
        backtest={name: asdict(tested) for name, tested in surface.backtest.items()} or None,
        stability=None if stable is None else asdict(stable),
        next_trial=best_next_trial(surface, table.parameters, at, regret.mean),
        early_loss=early_loss(surface, config, at),
        reach=reach(surface, *at),
        assumptions=surface.assumptions,
        refused=refusal(surface, *at) or None,
        warnings=(*table.warnings, *_warnings(surface, table, target)),
    )


def _recommended(
    surface: Surface, parameter: Parameter, estimate: Estimate, config: Mapping[str, float], at: tuple[float, float]
) -> RecommendedValue:
    decided = decide(surface, parameter, estimate.value, *at)
    return RecommendedValue(
        value=estimate.value,
        interval80=(estimate.low80, estimate.high80),
        interval95=(estimate.low95, estimate.high95),
        tie_set=tie_set(surface, parameter, config, at),
        status=decided.status,
        reason=decided.reason,
    )


def _held(value: float) -> RecommendedValue:
    interval = value, value
    return RecommendedValue(
        value=value,
        interval80=interval,
        interval95=interval,
        tie_set=None,
        status=Status.FIXED,
        reason="held by --fix",
    )


def _reported(exponent: Exponent) -> ExponentReport:
    return ExponentReport(**asdict(exponent), prior_only=exponent.prior_only)


def _warnings(surface: Surface, table: ImportedTable, target: Setting) -> Iterator[str]:
    if surface.num_settings < MIN_SETTINGS:
        yield f"{surface.num_settings} settings measured: drift cannot be told from straying; use three or more"
    yield from _reach_warnings(surface, target)
    for name, sizes in _at_edge(surface, table).items():
        where = ", ".join(f"{params:.3g}" for params in sizes)
        yield (
            f"{name}: the optimum lies within {EDGE_OCTAVES:g} octaves of the edge of the tested values, or beyond "
            f"it, at N = {where}; test further out"
        )
    yield from broken_sizes_warning(surface)
    yield from missed_warnings(surface)


def _reach_warnings(surface: Surface, target: Setting) -> Iterator[str]:
    """Where the target lies beyond the tested range in a direction in which only the prior says how optima move."""
    untold = {
        "N": [name for name, exponents in surface.exponents.items() if exponents.params.prior_only],
        "D": [name for name, exponents in surface.exponents.items() if exponents.tokens.prior_only],
    }
    tested = surface.sweep.settings
    for axis, value, column in zip(untold, (target.params, target.tokens), tested.T, strict=True):
        if untold[axis] and not column.min() <= value <= column.max():
            yield (
                f"reach: the target's {axis} of {value:.3g} lies beyond the tested {column.min():.3g} to "
                f"{column.max():.3g}, and how {', '.join(untold[axis])} move with {axis} is prior only: "
                f"the runs do not tell; test more values of {axis}"
            )


def _at_edge(surface: Surface, table: ImportedTable) -> dict[str, list[float]]:
    """By parameter the sizes at whose longest budget its optimum is not bracketed by the values tested there."""
    runs = table.observations
    found: dict[str, list[float]] = {}
    for params in np.unique(runs["params"]).tolist():
        of_size = runs[runs["params"] == params]
        optimum = surface.optimum(params, float(of_size["tokens"].max()))
        for parameter in table.parameters:
            center = parameter.coordinate(optimum[parameter.name].median)
            if _is_unbracketed(parameter, center, of_size[parameter.name].tolist()):
                found.setdefault(parameter.name, []).append(params)
    return found


def _is_unbracketed(parameter: Parameter, center: float, tested: Sequence[float]) -> bool:
    on = [coordinate for coordinate in map(parameter.coordinate, tested) if isfinite(coordinate)]
    return len(set(on)) > 1 and is_at_edge(center, (min(on), max(on)))
