"""What may be said of a parameter at the target, and why: the freeze decision and its alternatives."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from hpsearch.surface import Exponents, Surface
from search_spaces.parameter import Parameter

MIN_TOLERANCE = 0.001  # a fraction of the loss: what no search of this kind can see
MIN_SETTINGS = 3  # that differ in size and in tokens, before a value may be frozen


class Status(StrEnum):
    """How a parameter gets its value at the target."""

    FROZEN = "FROZEN"  # one value serves everywhere
    LAW = "LAW"  # moved by the fitted drift
    PARAMETRIZED = "PARAMETRIZED"  # moved by the parametrization (muP, CompleteP)
    TUNED = "TUNED"  # measured at the target
    OPEN = "OPEN"  # must be re-tuned: the trials do not say
    FIXED = "FIXED"  # by the user


@dataclass(frozen=True)
class Decided:
    """A status with its reason in numbers, and what keeping the value may cost."""

    status: Status
    reason: str
    damage: float  # expected, as a fraction of the loss, at the target
    damage_bound90: float


def tolerance(surface: Surface) -> float:
    """Below this a loss cannot be told from another: twice the seed noise, and never under 0.1 %."""
    return tolerance_of(surface.noise_fraction)


def tolerance_of(noise: float) -> float:
    """The same for a relative sd of one run."""
    return max(MIN_TOLERANCE, 2.0 * noise)


def decide(surface: Surface, parameter: Parameter, value: float, params: float, tokens: float) -> Decided:
    """The status of one parameter at N = `params`, D = `tokens`.

    Frozen needs all of: allowed by the space, settings that differ in size and in tokens, one value within the
    tolerance of the best at every one of them, and at the target within it too, at 90 %.
    """
    allowed = tolerance(surface)
    damages = [
        surface.expected_regret(setting_params, setting_tokens, {parameter.name: value}).mean
        for setting_params, setting_tokens in surface.sweep.settings
    ]
    at_target = surface.expected_regret(params, tokens, {parameter.name: value})
    obstacle = _obstacle(surface, parameter, max(damages), at_target.bound90, allowed)
    if not obstacle:
        status = Status.FROZEN
        reason = f"costs at most {max(damages):.2%} at each of {len(damages)} settings, tolerance {allowed:.2%}"
    elif drift_is_told(surface, parameter):
        status = Status.LAW
        reason = f"{_law(surface.exponents[parameter.name])}; not frozen: {obstacle}"
    else:
        status = Status.OPEN
        reason = f"the trials do not tell how it drifts, only the prior does; not frozen: {obstacle}"
    return Decided(status, reason, at_target.mean, at_target.bound90)


def drift_is_told(surface: Surface, parameter: Parameter) -> bool:
    """Whether the trials have said something about both drifts, with N and with D."""
    exponents = surface.exponents[parameter.name]
    return not (exponents.params.prior_only or exponents.tokens.prior_only)


def _obstacle(surface: Surface, parameter: Parameter, worst: float, bound90: float, allowed: float) -> str:
    """Why a parameter may not be frozen; empty where it may."""
    settings = surface.sweep.settings
    sizes, budgets = len(set(settings[:, 0])), len(set(settings[:, 1]))
    if not parameter.freezable:
        return "the space says never"
    if len(settings) < MIN_SETTINGS or sizes < 2 or budgets < 2:
        return f"{len(settings)} settings of {sizes} sizes are too few"
    if worst > allowed:
        return f"no one value serves: {worst:.2%} lost at a setting, tolerance {allowed:.2%}"
    if bound90 > allowed:
        return f"may cost {bound90:.2%} at the target, tolerance {allowed:.2%}"
    return ""


def _law(exponents: Exponents) -> str:
    n, d = exponents.params, exponents.tokens
    return f"moves as N^({n.value:+.2f} ± {n.sd:.2f}) D^({d.value:+.2f} ± {d.sd:.2f})"
