"""Which parameters may stay as they are at the target: the damage of one value, from what it lost elsewhere.

A fixed value is followed over size and tokens, not the best one: the best of few noisy runs jumps. Its damage is how
much any other value is expected to gain on it at the target.

Shapes: S settings, V values.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import norm

from hpsearch.transfer.line import Line, fit_line
from hpsearch.transfer.profile import Array, Profile, Value
from hpsearch.transfer.proof import fit_vertex
from hpsearch.transfer.status import Status, tolerance_of

DRIFT_SD = 0.15  # octaves of optimum per octave of N or D, before anything is seen; weak parameters of `surface_priors`
WINDOW = 0.01  # relative loss beyond which a value only counts as far behind: how far says nothing of where it goes
LEAST_LEVER = 0.0002  # relative loss: what two values that look the same may differ by in truth
LUCK_IN_NOISE = 2.0  # of a difference between two runs that may be luck: the best of a few always looks ahead
STRAY_SHARE = 0.25  # of a difference, by which it strays from a straight line in log N and log D
EXPECTED, BOUND = 1.5, 3.0  # tolerances that the damage at the target and its 90 % bound may reach: 0.15 and 0.3 %
UNSEEN_SHARE = 0.5  # of how far the neighbour inside lies behind an outermost value, for the one outside
MIN_POINTS, VERTEX_STRAY = 3, 0.14  # values that place an optimum, and octaves by which one strays from a line
CLIFF_COST = float(np.log(1.1))  # a loss 10 % above the best is no place to stay
CLIFF_DRIFT_SD = 0.3  # octaves per octave of N or D by which an edge of stability moves
CLIFF_NOTCH_SD = 0.5  # octaves: within a notch nothing says where the edge lies
UNSEEN_CLIFF = (1.0, 1.0)  # octaves beyond the last stable value, and sd, where no run found the edge
MAX_CHANCE_OF_DIVERGENCE = 0.05
SAME_SIZE = 1.05  # within which a target has a size that was measured
COLLINEAR = 0.95  # correlation of log N and log D above which a drift with one is a drift with the other
MIN_SETTINGS = 3  # where sizes differ


@dataclass(frozen=True)
class Damage:
    """What keeping a value costs at the target, as a fraction of the loss."""

    mean: float
    bound90: float
    rival: Value | None  # the value that gains most on it; None: one beyond the outermost, which nobody tested
    chance_of_divergence: float


@dataclass(frozen=True)
class Frozen:
    """A decision, with what it rests on."""

    status: Status
    value: Value
    reason: str
    damage: Damage
    worst_cost: float  # of the value over the settings; NaN where it was not tested at each


def decide_profile(profile: Profile, target: tuple[float, float], noise: float, freezable: bool = True) -> Frozen:
    """Whether a parameter may be frozen, at which value, and why.

    Args:
        profile: of the parameter.
        target: N, D.
        noise: relative sd of one run.
        freezable: False where the user asks that it is never frozen.
    """
    tolerance = tolerance_of(noise)
    judged = [_judged(profile, v, target, noise) for v in range(len(profile.values))]
    licensed = [each for each in judged if not any(_obstacles(profile, *each, tolerance))]
    known = [each for each in judged if np.isfinite(each[2])] or judged
    v, damage, worst = min(licensed, key=_expected) if licensed else min(known, key=_worst)
    obstacles = [
        *_too_little(profile, target, freezable),
        *_obstacles(profile, v, damage, worst, tolerance),
    ]
    value = profile.values[v]
    if obstacles:
        return Frozen(Status.OPEN, value, "; ".join(obstacles), damage, worst)
    reason = f"costs at most {worst:.2%} at each of {len(profile.settings)} settings, tolerance {tolerance:.2%}"
    if len(np.unique(profile.settings[:, 0])) == 1:
        reason += f"; size untested: holds at N = {profile.settings[0, 0]:,.0f} only"
    return Frozen(Status.FROZEN, value, reason, damage, worst)


@dataclass(frozen=True)
class Lead:
    """By how much one value is better than another, as a line in log N and log D: a fraction of the loss."""

    at_settings: Array  # (S,) fitted; NaN where one of the two is not known
    mean: float  # at the target
    sd: float
    level: float = 0.0  # at the mean of the settings
    change_sd: float = 0.0  # of the change from there to the target


FAR_BEHIND = Lead(np.empty(0), -WINDOW, 0.0)


def worst_cost(profile: Profile, v: int, leads: Sequence[Lead], noise: float) -> float:
    """The most that value `v` costs at any setting, freed of noise; infinite where it diverged, NaN where unknown."""
    cost = profile.cost[:, v]
    if profile.diverged[:, v].any():
        return float("inf")
    if np.isnan(cost).any():
        return float("nan")
    known = [float(np.nanmax(lead.at_settings)) for lead in leads if np.isfinite(lead.at_settings).any()]
    beyond_luck = cost - LUCK_IN_NOISE * noise * np.sqrt(2.0 / np.maximum(profile.runs[:, v], 1.0))
    return float(max([0.0, *known, *beyond_luck.tolist()]))


def damage_at(profile: Profile, v: int, target: tuple[float, float], leads: Sequence[Lead]) -> Damage:
    """What value `v` is expected to cost at the target: the most that another value gains on it."""
    gains = [_expected_gain(lead) for lead in leads]
    rival = int(np.argmax(gains))
    return Damage(
        mean=gains[rival],
        bound90=max(0.0, *(lead.mean + norm.ppf(0.9) * lead.sd for lead in leads)),
        rival=profile.values[rival] if gains[rival] > 0 and rival < len(profile.values) else None,
        chance_of_divergence=chance_of_divergence(profile, v, target),
    )


def _expected_gain(lead: Lead) -> float:
    """E max(0, lead) of a normal lead."""
    if lead.sd == 0:
        return max(lead.mean, 0.0)
    ratio = lead.mean / lead.sd
    return float(lead.mean * norm.cdf(ratio) + lead.sd * norm.pdf(ratio))


def lead_of(profile: Profile, v: int, w: int, target: tuple[float, float], noise: float) -> Lead:
    """By how much value `w` is better than `v`.

    Bayesian linear regression in log N and log D. How fast one value can gain on another follows from how much they
    differ: at d octaves a bowl's loss k d^2 moves by 2 k d for each octave of its centre.
    """
    lead = profile.cost[:, v] - profile.cost[:, w]
    both = np.isfinite(lead) & (np.abs(lead) <= WINDOW)
    if v == w or not both.any():
        return FAR_BEHIND
    runs = np.maximum(profile.runs[both][:, [v, w]], 1.0)
    luck = noise * np.sqrt((1.0 / runs).sum(axis=1))
    size = float(np.sqrt(max(np.mean(lead[both] ** 2 - luck**2), 0.0)))
    distance = max(1.0, abs(float(np.nan_to_num(profile.coordinates[v] - profile.coordinates[w]))))
    sd = np.hypot(luck, STRAY_SHARE * np.abs(lead[both]))
    line = fit_line(profile.settings[both], lead[both], sd, 2.0 * DRIFT_SD * (size + LEAST_LEVER) / distance)
    mean, spread = line.at(np.array([target]))
    return Lead(
        at_settings=np.where(both, line.at(profile.settings)[0], np.nan),
        mean=float(mean[0]),
        sd=float(spread[0]),
        level=float(line.mean[0]),
        change_sd=line.change_sd(np.array(target)),
    )


def _beyond(inner: Lead) -> Lead:
    """The lead of a value that nobody tested, as far beyond an outermost one as its neighbour is inside.

    On a bowl the leads of two values at like distance on both sides add up to a constant: what one loses the other
    gains. At the settings the unseen one is taken to lie as far behind as an optimum halfway between the outermost
    and where it would be symmetric leaves it: half as far as the neighbour.
    """
    if not np.isfinite(inner.at_settings).any():
        return FAR_BEHIND
    behind = UNSEEN_SHARE * min(inner.level, 0.0)
    gained = inner.level - inner.mean
    return Lead(np.full_like(inner.at_settings, np.nan), behind + gained, inner.change_sd)


def _only_neighbour(profile: Profile, v: int) -> int | None:
    """The value next to an outermost one; None for a value inside, or without a place on a scale."""
    order = [w for w in np.argsort(profile.coordinates) if np.isfinite(profile.coordinates[w])]
    if len(order) < 2 or v not in (order[0], order[-1]):
        return None
    return int(order[1] if v == order[0] else order[-2])


def chance_of_divergence(profile: Profile, v: int, target: tuple[float, float]) -> float:
    """That value `v` lies beyond an edge of stability at the target, on either side."""
    if np.isnan(profile.coordinates[v]):
        return 0.0
    return max(_chance_beyond(profile, v, side, target) for side in (-1.0, 1.0))


def _chance_beyond(profile: Profile, v: int, side: float, target: tuple[float, float]) -> float:
    """The chance for one side: the edge's distance at each setting, led to the target by its own drift."""
    margins = [_margin(profile, s, v, side) for s in range(len(profile.settings))]
    if not any(seen for _, _, seen in margins):
        return 0.0
    distance, sd = (np.array([margin[i] for margin in margins]) for i in (0, 1))
    mean, spread = fit_line(profile.settings, distance, sd, CLIFF_DRIFT_SD).at(np.array([target]))
    return float(norm.cdf(-mean[0] / spread[0]))


def optimum_drift(profile: Profile, noise: float) -> Line | None:
    """Where the best value lies, in octaves, as a line; None where fewer than two settings place it.

    At each setting the vertex of a parabola through the best value and its neighbours, as in the proof.
    """
    places, vertices = [], []
    for s, setting in enumerate(profile.settings):
        known = np.flatnonzero(np.isfinite(profile.log_loss[s]) & np.isfinite(profile.coordinates))
        if len(known) >= MIN_POINTS:
            at = known[np.argsort(profile.coordinates[known])]
            losses = np.exp(profile.log_loss[s, at] - profile.log_loss[s, at].min())  # a sd is relative to one
            points = list(zip(profile.coordinates[at].tolist(), losses.tolist(), strict=True))
            vertex, sd, _ = fit_vertex(points, noise)
            places.append(setting)
            vertices.append((vertex, float(np.hypot(sd, VERTEX_STRAY))))
    if len(places) < 2:
        return None
    center, sd = np.array(vertices).T
    return fit_line(np.array(places), center, sd, DRIFT_SD)


def _margin(profile: Profile, s: int, v: int, side: float) -> tuple[float, float, bool]:
    """Octaves from value `v` to the edge at a setting, their sd, and whether a run found the edge."""
    ahead = side * (profile.coordinates - profile.coordinates[v])
    fallen = profile.diverged[s] | (profile.cost[s] > CLIFF_COST)
    beyond = ahead[fallen & (ahead >= 0)]
    stable = ahead[~fallen & profile.tested[s] & (ahead >= 0)]
    if not len(beyond):
        return float(stable.max(initial=0.0)) + UNSEEN_CLIFF[0], UNSEEN_CLIFF[1], False
    first = float(beyond.min())
    last = float(stable[stable < first].max(initial=0.0))
    return (first + last) / 2.0, CLIFF_NOTCH_SD, True


def _judged(profile: Profile, v: int, target: tuple[float, float], noise: float) -> tuple[int, Damage, float]:
    leads = [lead_of(profile, v, w, target, noise) for w in range(len(profile.values))]
    leads += [_beyond(leads[w]) for w in [_only_neighbour(profile, v)] if w is not None]
    return v, damage_at(profile, v, target, leads), worst_cost(profile, v, leads, noise)


def _expected(judged: tuple[int, Damage, float]) -> float:
    return judged[2] + judged[1].mean


def _worst(judged: tuple[int, Damage, float]) -> tuple[float, float]:
    return judged[2], judged[1].mean


def _too_little(profile: Profile, target: tuple[float, float], freezable: bool) -> Iterator[str]:
    """Why no value of the parameter may be frozen."""
    sizes, budgets = (len(np.unique(column)) for column in profile.settings.T)
    if not freezable:
        yield "the space says never"
    if sizes == 1 and budgets < 2:
        yield "one setting: neither size nor budget tested"
    elif sizes == 1 and not 1 / SAME_SIZE <= target[0] / profile.settings[0, 0] <= SAME_SIZE:
        yield f"size untested: all runs have N = {profile.settings[0, 0]:,.0f}"
    elif sizes > 1 and (len(profile.settings) < MIN_SETTINGS or budgets < 2):
        yield f"{len(profile.settings)} settings of {sizes} sizes and {budgets} budgets are too few"


def _obstacles(profile: Profile, v: int, damage: Damage, worst: float, tolerance: float) -> Iterator[str]:
    """Why one value may not be frozen."""
    if np.isnan(worst):
        yield "no one value is known at every setting"
        return
    if worst == np.inf:
        yield "no one value came out at every setting"
        return
    if worst > tolerance:
        yield f"no one value serves: {profile.values[v]} costs {worst:.2%} at a setting, tolerance {tolerance:.2%}"
    if damage.mean > EXPECTED * tolerance or damage.bound90 > BOUND * tolerance:
        yield (
            f"its cost drifts with {_axes(profile)}: at the target {_rival(damage)} may gain {damage.mean:.2%}, "
            f"90 % bound {damage.bound90:.2%}"
        )
    if damage.chance_of_divergence > MAX_CHANCE_OF_DIVERGENCE:
        yield f"near a cliff: diverges at the target with {damage.chance_of_divergence:.0%}"


def _rival(damage: Damage) -> str:
    return "a value beyond what was tested" if damage.rival is None else f"{damage.rival}"


def _axes(profile: Profile) -> str:
    """What the settings can tell a drift by."""
    octaves = np.log2(profile.settings)
    varies = np.ptp(octaves, axis=0) > 0
    if not varies.all():
        return "size" if varies[0] else "budget"
    together = abs(float(np.corrcoef(octaves, rowvar=False)[0, 1])) > COLLINEAR
    return "size or budget (not separable here)" if together else "size and budget"
