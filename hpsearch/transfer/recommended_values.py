"""The values of a recommendation: what is free at its best, what is held where it is, and the others moved along."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict

from hpsearch.conditions import active_values
from hpsearch.domains import SEARCHABLE
from hpsearch.state import SearchState
from hpsearch.surface import Estimate, Surface
from hpsearch.targets import ResolvedTarget
from hpsearch.transfer.advice import TieSet, tie_set
from hpsearch.transfer.part import Part
from hpsearch.transfer.status import Status, decide, drift_is_told
from search_spaces.parameter import Parameter


class Recommended(Part):
    """One parameter at the target."""

    value: float
    low80: float
    high80: float
    low95: float
    high95: float
    status: Status
    reason: str
    damage: float  # expected cost of this value, as a fraction of the loss
    damage_bound90: float
    tie_set: TieSet | None  # null of what is fixed, or off


def _held(surface: Surface, parameter: Parameter, value: float) -> float:
    """A value that may be used: only a parameter whose drift the trials tell may leave its searched range.

    And only for where a trial can run at all: a warmup of 1.3 of the run is none.
    """
    free = drift_is_told(surface, parameter) and not parameter.values and not parameter.integer
    return value if free and SEARCHABLE[parameter.name].range.holds(value) else parameter.nearest(value)


def searched_values(
    state: SearchState, surface: Surface, target: ResolvedTarget, fixed: Mapping[str, float]
) -> dict[str, Recommended]:
    """Every searched parameter, the others following what the user fixed and what is held inside its range."""
    at = float(target.architecture.params), target.tokens
    held = dict(fixed)
    for parameter in state.spec.parameters:
        if parameter.name not in held:
            value = surface.optimum(*at, held)[parameter.name].value
            inside = _held(surface, parameter, value)
            if inside != value:
                held[parameter.name] = inside
    free = {name: estimate.value for name, estimate in surface.optimum(*at, held).items()}
    best = {p.name: held.get(p.name, free.get(p.name, math.nan)) for p in state.spec.parameters}
    active = active_values(state.spec.space, best)
    recommended = {}
    for parameter in state.spec.parameters:
        name, value = parameter.name, active[parameter.name]
        if value != best[name]:
            condition = _text(state.spec.space[name].when)
            recommended[name] = _settled(value, f"off, as {condition} does not hold")
        elif name in fixed:
            recommended[name] = _settled(value, "held by --fix")
        else:
            others = {key: other for key, other in held.items() if key != name}
            recommended[name] = _free(surface, parameter, value, surface.optimum(*at, others)[name], best, at)
    return recommended


def _free(
    surface: Surface,
    parameter: Parameter,
    value: float,
    estimate: Estimate,
    config: Mapping[str, float],
    at: tuple[float, float],
) -> Recommended:
    low80, high80, low95, high95 = (
        _held(surface, parameter, end) for end in (estimate.low80, estimate.high80, estimate.low95, estimate.high95)
    )
    low95, high95 = min(low95, low80), max(high95, high80)  # an end where no trial can run came back further
    tied = tie_set(surface, parameter, config, at)
    inside = {end: _held(surface, parameter, getattr(tied, end)) for end in ("low", "high")}
    return Recommended(
        value=value,
        low80=low80,
        high80=high80,
        low95=low95,
        high95=high95,
        tie_set=tied.model_copy(update=inside),
        **asdict(decide(surface, parameter, value, *at)),
    )


def fixed_values(state: SearchState) -> dict[str, Recommended]:
    """What the user fixed comes back as it was: the searched values hold beside it."""
    fixed = [name for name in state.spec.parameter_names if name not in state.spec.space]
    reason = {name: "in the search file" if name in state.spec.fixed else "hpsearch's default" for name in fixed}
    return {name: _settled(state.spec.value(name), reason[name]) for name in fixed}


def _settled(value: float, reason: str) -> Recommended:
    """A value that no trial was asked about."""
    return Recommended(
        value=value,
        low80=value,
        high80=value,
        low95=value,
        high95=value,
        status=Status.FIXED,
        reason=reason,
        damage=0.0,
        damage_bound90=0.0,
        tie_set=None,
    )


def _text(condition: Mapping[str, tuple[float, ...]]) -> str:
    """`qk_norm = 0 and beta2 = 0.95 or 0.99`"""
    return " and ".join(f"{name} = {' or '.join(f'{v:g}' for v in allowed)}" for name, allowed in condition.items())
