"""What every parameter of a table or a search does to the loss, and which of them may stay as they are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import pandas as pd

from hpsearch.surface import TOLERANCES, Surface, fit_surface
from hpsearch.surface_answers import Z80
from hpsearch.transfer.freezing import CLIFF_COST, Frozen, decide_profile, optimum_drift
from hpsearch.transfer.importance import Importance
from hpsearch.transfer.line import Line
from hpsearch.transfer.part import Part
from hpsearch.transfer.profile import Array, Profile, Spread, Value, make_profile, pooled_noise
from hpsearch.transfer.status import Status, decide, tolerance_of
from search_spaces.parameter import Parameter, Scale

ASSUMED_NOISE, ASSUMED_DOF = 0.0003, 20.0  # relative sd of a validation loss; the weight of that beside repeats
NOTCH_OCTAVES = 1.0
NUM_VALUES = 13  # across a range, of a surface

Setting = tuple[float, float]  # N, D


class Cost(Part):
    """Of one value against the best, at one setting."""

    value: Value
    loss: float | None  # a fraction; None where it diverged


class AtSetting(Part):
    """What a parameter does at one size and budget; losses as fractions, None where the runs do not tell."""

    params: float
    tokens: float
    best: Value
    loss_per_notch: float | None  # a factor of two away from the best, mean of the sides that were tested
    loss_per_notch_interval80: tuple[float, float] | None
    plateau: dict[str, tuple[float, float] | None]  # by tolerance, the values between which it costs no more
    cliff_below_octaves: float | None  # from the best to the first value that diverged or lost a tenth
    cliff_above_octaves: float | None
    costs: tuple[Cost, ...]  # of the values that were tested, or for a surface of some across the range


class Drift(Part):
    """Octaves by which the best value moves per octave of N or D, and its sd; None where all runs have one of it.

    Of a beta, octaves of its distance from 1.
    """

    params: tuple[float, float] | None
    tokens: tuple[float, float] | None


class Interaction(Part):
    """A parameter whose best value another one drags along."""

    driver: str
    driven: str
    octaves: float  # by which the best of the driven moves for each octave of the driver
    sd: float


class ParameterSensitivity(Part):
    """One parameter: what was decided, and from what."""

    status: Status
    value: Value
    expected_damage: float | None  # of the value at the target, a fraction of the loss
    damage_bound90: float | None
    chance_of_divergence: float | None
    reason: str
    drift: Drift | None
    settings: tuple[AtSetting, ...]


class SensitivityReport(Part):
    """All parameters."""

    target_params: float
    target_tokens: float
    noise: float  # relative sd of one run
    tolerance: float  # relative loss below which two values are alike
    runs: int
    parameters: dict[str, ParameterSensitivity]
    interactions: tuple[Interaction, ...]
    importance: Importance | None
    warnings: tuple[str, ...]

    @property
    def frozen(self) -> tuple[str, ...]:
        """The names of the frozen parameters."""
        return tuple(name for name, found in self.parameters.items() if found.status is Status.FROZEN)


def from_profiles(
    profiles: Mapping[str, Profile], spreads: tuple[Spread, ...], target: Setting, noise: float | None
) -> tuple[float, dict[str, ParameterSensitivity]]:
    """Decides on parameters that were varied one at a time.

    Args:
        profiles: by parameter.
        spreads: what repeats say of the noise.
        target: N, D.
        noise: relative sd of one run; None: that of the repeats and of what is usual.

    Returns:
        The noise, and the decisions by name.
    """
    sigma = pooled_noise(spreads, ASSUMED_NOISE, ASSUMED_DOF) if noise is None else noise
    found = {}
    for name, profile in profiles.items():
        freezable = profile.parameter is None or profile.parameter.freezable
        found[name] = _reported(profile, decide_profile(profile, target, sigma, freezable), sigma)
    return sigma, found


def from_observations(
    runs: pd.DataFrame, parameters: tuple[Parameter, ...], target: Setting, noise: float | None
) -> tuple[float, dict[str, ParameterSensitivity], tuple[Interaction, ...]]:
    """Decides on parameters of runs in any design; with the interactions that the surface sees.

    Where a single parameter varies inside the settings its values are compared run by run; where several do, the
    surface tells them apart. What varies only from setting to setting cannot be told from size and budget.

    Args:
        runs: `params`, `tokens`, `loss` (NaN: diverged), `seed`, `trial`, the parameters, and `shape`, which tells
            models of one size apart.
        parameters: of the table.
        target: N, D.
        noise: relative sd of one run; None: as the runs tell.
    """
    seen: tuple[Interaction, ...] = ()
    varied = tuple(parameter for parameter in parameters if _varies_inside(runs, parameter.name))
    rest = {p.name: _only_with_size(runs, p) for p in parameters if p not in varied}
    if len(varied) == 1:
        (parameter,) = varied
        others = [p.name for p in parameters if p is not parameter]
        block = runs[["shape", *others]].astype(str).agg("|".join, axis=1)
        table = runs[["params", "tokens", "loss"]].assign(value=runs[parameter.name], block=block)
        profile, spread = make_profile(parameter.name, parameter, table)
        sigma, found = from_profiles({parameter.name: profile}, (spread,), target, noise)
    elif varied:
        surface = fit_surface(runs, varied, seed=0)
        sigma, found = surface.noise_fraction if noise is None else noise, from_surface(surface, target)
        seen = interactions(surface)
    else:
        sigma, found = ASSUMED_NOISE if noise is None else noise, {}
    return sigma, {p.name: found.get(p.name) or rest[p.name] for p in parameters}, seen


def from_surface(surface: Surface, target: Setting) -> dict[str, ParameterSensitivity]:
    """Decides on the parameters of a surface."""
    best = surface.optimum(*target)
    found = {}
    for parameter in surface.sweep.parameters:
        value = parameter.nearest(best[parameter.name].value)
        decided = decide(surface, parameter, value, *target)
        found[parameter.name] = ParameterSensitivity(
            status=decided.status,
            value=value,
            expected_damage=decided.damage,
            damage_bound90=decided.damage_bound90,
            chance_of_divergence=None,
            reason=decided.reason,
            drift=_surface_drift(surface, parameter.name),
            settings=tuple(_at_setting(surface, parameter, *setting) for setting in surface.sweep.settings.tolist()),
        )
    return found


def _surface_drift(surface: Surface, name: str) -> Drift:
    sizes, budgets = (len(np.unique(column)) for column in surface.sweep.settings.T)
    n, d = surface.exponents[name].params, surface.exponents[name].tokens
    return Drift(params=(n.value, n.sd) if sizes > 1 else None, tokens=(d.value, d.sd) if budgets > 1 else None)


def fixed(value: Value) -> ParameterSensitivity:
    """A parameter that no run varied."""
    return ParameterSensitivity(
        status=Status.FIXED,
        value=value,
        expected_damage=None,
        damage_bound90=None,
        chance_of_divergence=None,
        reason="no run varied it",
        drift=None,
        settings=(),
    )


def report(
    target: Setting,
    noise: float,
    num_runs: int,
    parameters: Mapping[str, ParameterSensitivity],
    importance: Importance | None,
    interactions: tuple[Interaction, ...],
    warnings: tuple[str, ...],
) -> SensitivityReport:
    """All that was found, in one piece."""
    return SensitivityReport(
        target_params=target[0],
        target_tokens=target[1],
        noise=noise,
        tolerance=tolerance_of(noise),
        runs=num_runs,
        parameters=dict(parameters),
        interactions=interactions,
        importance=importance,
        warnings=warnings,
    )


def _reported(profile: Profile, frozen: Frozen, noise: float) -> ParameterSensitivity:
    return ParameterSensitivity(
        status=frozen.status,
        value=frozen.value,
        expected_damage=frozen.damage.mean,
        damage_bound90=frozen.damage.bound90,
        chance_of_divergence=frozen.damage.chance_of_divergence,
        reason=frozen.reason,
        drift=_drift(optimum_drift(profile, noise), profile.settings),
        settings=tuple(_of_profile(profile, s, noise) for s in range(len(profile.settings)) if _came_out(profile, s)),
    )


def _came_out(profile: Profile, s: int) -> bool:
    return bool(np.isfinite(profile.log_loss[s]).any())


def _drift(line: Line | None, settings: Array) -> Drift | None:
    if line is None:
        return None
    slopes = zip(line.mean[1:].tolist(), np.sqrt(np.diag(line.covariance))[1:].tolist(), strict=True)
    by_params, by_tokens = (
        slope if len(np.unique(column)) > 1 else None for slope, column in zip(slopes, settings.T, strict=True)
    )
    return Drift(params=by_params, tokens=by_tokens)


def interactions(surface: Surface) -> tuple[Interaction, ...]:
    """The ridges of a surface, at the mean of its settings."""
    layout, fit, form = surface.sweep.layout, surface.fit, surface.sweep.form
    ridge, sd = float(layout.unpack(fit.vector).ridge), float(layout.unpack(fit.sd).ridge)
    names = [parameter.name for parameter in surface.sweep.parameters]
    return tuple(
        Interaction(driver=names[i], driven=names[j], octaves=ridge, sd=sd) for i, j in np.argwhere(form.coupling > 0)
    )


def _of_profile(profile: Profile, s: int, noise: float) -> AtSetting:
    cost, at = profile.cost[s], profile.coordinates
    best = int(np.nanargmin(cost))
    params, tokens = profile.settings[s].tolist()
    plateau = {f"{t:g}": None if np.isnan(at[best]) else _plateau(profile, cost, best, t) for t in TOLERANCES}
    below, above = _cliffs(profile, s, best)
    notch = _per_notch(profile, cost, best)
    luck = Z80 * noise * np.sqrt(1.5)  # of the mean of two runs against a third
    return AtSetting(
        params=params,
        tokens=tokens,
        best=profile.values[best],
        loss_per_notch=notch,
        loss_per_notch_interval80=None if notch is None else (max(0.0, notch - luck), notch + luck),
        plateau=plateau,
        cliff_below_octaves=below,
        cliff_above_octaves=above,
        costs=tuple(
            Cost(value=value, loss=None if profile.diverged[s, v] else float(cost[v]))
            for v, value in enumerate(profile.values)
            if profile.tested[s, v]
        ),
    )


def _known(profile: Profile, cost: Array) -> tuple[Array, Array]:
    """Coordinates and costs of the values that came out, ascending in octaves."""
    known = np.isfinite(cost) & np.isfinite(profile.coordinates)
    order = np.argsort(profile.coordinates[known])
    return profile.coordinates[known][order], cost[known][order]


def _per_notch(profile: Profile, cost: Array, best: int) -> float | None:
    """The mean cost one notch off, on a straight line between tested values; categories: of the next best."""
    if np.isnan(profile.coordinates[best]):
        others = np.delete(cost, best)
        return float(np.nanmin(others)) if np.isfinite(others).any() else None
    at, costs = _known(profile, cost)
    sides = [profile.coordinates[best] + side * NOTCH_OCTAVES for side in (-1, 1)]
    told = [float(np.interp(side, at, costs)) for side in sides if at[0] <= side <= at[-1]]
    return float(np.mean(told)) if told else None


def _plateau(profile: Profile, cost: Array, best: int, tolerance: float) -> tuple[float, float] | None:
    """The ends (values) of the stretch around the best that costs no more, on straight lines between tested values."""
    assert profile.parameter is not None
    at, costs = _known(profile, cost)
    here = int(np.argmin(np.abs(at - profile.coordinates[best])))
    ends = [at[_walk(costs, here, step)] for step in (-1, 1)]
    for i, step in enumerate((-1, 1)):
        inner = _walk(costs, here, step, tolerance)
        outer = inner + step
        if 0 <= outer < len(at):
            share = (tolerance - costs[inner]) / (costs[outer] - costs[inner])
            ends[i] = at[inner] + share * (at[outer] - at[inner])
    raw = [profile.parameter.value(float(end)) for end in ends]
    return min(raw), max(raw)


def _walk(costs: Array, here: int, step: int, tolerance: float = float("inf")) -> int:
    """The furthest index from `here` in one direction before the cost exceeds the tolerance."""
    while 0 <= here + step < len(costs) and costs[here + step] <= tolerance:
        here += step
    return here


def _cliffs(profile: Profile, s: int, best: int) -> tuple[float | None, float | None]:
    """Octaves from the best to the first value below and above it that diverged or lost a tenth."""
    away = profile.coordinates - profile.coordinates[best]
    if profile.parameter is not None and profile.parameter.scale is Scale.LOG_COMPLEMENT:
        away = -away  # a beta nearer to 1 is the higher one
    fallen = away[profile.diverged[s] | (profile.cost[s] > CLIFF_COST)]
    below, above = (abs(fallen[fallen * side > 0]) for side in (-1, 1))
    return (float(below.min()) if len(below) else None), (float(above.min()) if len(above) else None)


def _at_setting(surface: Surface, parameter: Parameter, params: float, tokens: float) -> AtSetting:
    found = surface.sensitivity(parameter.name, params, tokens)
    return AtSetting(
        params=params,
        tokens=tokens,
        best=surface.optimum(params, tokens)[parameter.name].median,
        loss_per_notch=found.curvature * NOTCH_OCTAVES**2,
        loss_per_notch_interval80=(found.low80 * NOTCH_OCTAVES**2, found.high80 * NOTCH_OCTAVES**2),
        plateau={f"{t:g}": ends for t, ends in found.plateau.items()},
        cliff_below_octaves=None,
        cliff_above_octaves=None,
        costs=tuple(_surface_costs(surface, parameter, (params, tokens))),
    )


def _surface_costs(surface: Surface, parameter: Parameter, setting: Setting) -> Iterator[Cost]:
    """Across the range, what a value is expected to cost with the others at their best."""
    for octaves in np.linspace(*parameter.bounds, NUM_VALUES).tolist():
        value = parameter.nearest(parameter.value(octaves))
        yield Cost(value=value, loss=surface.expected_regret(*setting, {parameter.name: value}).mean)


def _varies_inside(runs: pd.DataFrame, name: str) -> bool:
    """Whether a parameter has several values at one setting."""
    return bool(runs.groupby(["params", "tokens"])[name].nunique().max() > 1)


def _only_with_size(runs: pd.DataFrame, parameter: Parameter) -> ParameterSensitivity:
    largest = runs.sort_values(["params", "tokens"])[parameter.name].iloc[-1]
    return fixed(float(largest)).model_copy(
        update={
            "status": Status.OPEN,
            "reason": "has one value at each size and budget: what it does cannot be told from theirs",
        }
    )
