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
    return max(MIN_TOLERANCE, 2 * surface.noise_fraction)


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
        reason = f"costs at most {max(damages):.2%} at {len(damages)} settings, tolerance {allowed:.2%}"
        return Decided(Status.FROZEN, reason, at_target.mean, at_target.bound90)
    if at_target.bound90 <= allowed or not _prior_only(surface.exponents[parameter.name]):
        law = _law(surface.exponents[parameter.name])
        return Decided(Status.LAW, f"{law}; not frozen: {obstacle}", at_target.mean, at_target.bound90)
    reason = f"the trials do not tell its drift, only the prior does; may cost {at_target.bound90:.2%}"
    return Decided(Status.OPEN, reason, at_target.mean, at_target.bound90)


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


def _prior_only(exponents: Exponents) -> bool:
    """Whether the trials have said nothing about one of the two drifts."""
    return exponents.params.prior_only or exponents.tokens.prior_only


def _law(exponents: Exponents) -> str:
    return f"octaves per octave: {exponents.params.value:+.2f} of N, {exponents.tokens.value:+.2f} of D"
