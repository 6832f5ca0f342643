"""Which trial lowers the target's expected regret most, for the FLOPs that it costs.

First the valley is found on the cheapest setting: a fixed pattern over the box, or over what a prior leaves of it, then
draws of the optimum from the surface until some runs are good. From then on a closed form: near the optimum the
target's regret is quadratic in the centre, whose covariance a run shrinks by what it measures of it.

Shapes: P parameters, C candidates, R runs of a pattern.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.linalg import hadamard
from scipy.stats import qmc

from hpsearch.expected_gain import Knowledge, Setting, knowledge
from hpsearch.surface import Surface
from hpsearch.surface_hypotheses import bracketed_settings
from hpsearch.surface_model import Array, form_of
from search_spaces.parameter import Parameter

PATTERN_SHARE = 0.25  # of a parameter's range, on both sides of its middle
NUM_GOOD = 4  # runs within the good excess that say where the valley is
GOOD_EXCESS, GOOD_IN_NOISE = 0.03, 3.0
MAX_VALLEY_TRIALS = 8  # draws, after which the closed form decides with what there is
CANDIDATE_EXCESSES = (0.001, 0.004, 0.01, 0.018)  # relative loss at which candidates lie around the optimum
SAME_OCTAVES = 0.05  # within which two trials are one
NUM_RETREATS = 64  # points among which a retreat looks for room
NUM_BAD = 2  # bad runs of a size without a good one, after which it is left to the surface no more
MAX_OFFSET = 2.5  # candidates lie no further from the optimum: there the bowl is not known to hold


@dataclass(frozen=True)
class Option:
    """A setting at which a trial may run, and what it costs."""

    params: float
    tokens: float
    flops: float

    @property
    def setting(self) -> Setting:
        return self.params, self.tokens


@dataclass(frozen=True)
class Proposal:
    """The next trial, and why."""

    coordinates: Array  # (P,) octaves
    option: Option
    stage: str  # pattern, retreat, valley or gain
    gain: float  # expected fall of the target's regret, a fraction of the loss; 0 before the closed form


def next_trial(
    surface: Surface | None,
    parameters: Sequence[Parameter],
    diverged: Array,
    options: Sequence[Option],
    target: Setting,
    pending: Sequence[tuple[Array, Option]],
    rng: np.random.Generator,
) -> Proposal:
    """The next trial.

    Args:
        surface: of all trials so far; None before any has a finite loss.
        parameters: the searched ones; their bounds are the box.
        diverged: coordinates (T, P) of all trials, where there is no surface as all of them diverged.
        options: where a trial may run and is affordable, cheapest first.
        target: N, D.
        pending: trials that run, with their coordinates (P,).
        rng: of this ask.
    """
    box = np.array([parameter.bounds for parameter in parameters])
    told = len(diverged) if surface is None else surface.num_observations
    pattern = search_pattern(first_region(parameters))
    if told + len(pending) < len(pattern):
        return Proposal(pattern[told + len(pending)], options[0], "pattern", 0.0)
    if surface is None:
        steep = form_of([parameter.known_name for parameter in parameters]).steep
        running = np.array([coordinates for coordinates, _ in pending]).reshape(len(pending), len(box))
        return Proposal(retreat(steep, box, diverged, running), options[0], "retreat", 0.0)
    if told + len(pending) < len(pattern) + MAX_VALLEY_TRIALS and not valley_found(surface):
        return Proposal(_valley_draw(surface, options[0], box, rng), options[0], "valley", 0.0)
    return most_gain(surface, box, options, target, pending)


def first_region(parameters: Sequence[Parameter]) -> Array:
    """Where the pattern lies, (P, 2): the range, or of a parameter with a normal prior two sd on both sides of it."""
    return np.array([_believed(parameter) for parameter in parameters])


def _believed(parameter: Parameter) -> tuple[float, float]:
    low, high = parameter.bounds
    if math.isnan(parameter.prior_center):
        return low, high
    center, sd = parameter.coordinate(parameter.prior_center), parameter.prior_sd_octaves
    inside = max(low, center - 2.0 * sd), min(high, center + 2.0 * sd)
    return inside if inside[1] - inside[0] >= sd else (low, high)  # a prior beside the range tells nothing of it


def search_pattern(box: Array) -> Array:
    """The middle of the box (P, 2) and a two-level design around it, (1 + R, P)."""
    signs = two_level_signs(len(box))
    middle, reach = box.mean(axis=1), PATTERN_SHARE * np.ptp(box, axis=1)
    order = np.argsort(
        signs[:, 0], kind="stable"
    )  # low values of the first parameter first: cliffs are on the high side
    return np.vstack([middle, middle + reach * signs[order]])


def two_level_signs(count: int) -> Array:
    """(R, `count`) of -1 and 1, orthogonal columns.

    Source: Plackett and Burman 1946, by the columns of a Hadamard matrix.
    """
    size = 2 if count == 1 else 4 if count < 4 else 2 ** int(np.ceil(np.log2(count + 1)))
    return np.asarray(hadamard(size)[:, 1 : count + 1], np.float64)


def valley_found(surface: Surface) -> bool:
    """Whether enough runs are so good that the bowl around them can be trusted."""
    sweep, setting_of = surface.sweep, np.argmax(surface.sweep.rows.setting_of, axis=1)
    best = np.array([sweep.log_loss[setting_of == s].min() for s in range(len(sweep.settings))])
    good = max(GOOD_EXCESS, GOOD_IN_NOISE * surface.noise_fraction)
    return int((sweep.log_loss - best[setting_of] <= good).sum()) >= NUM_GOOD


def trusted(surface: Surface) -> bool:
    """Whether each parameter is bracketed: good or bad, runs lie on both sides of its optimum at two settings."""
    return bool((bracketed_settings(surface.fit) >= 2).all())


def retreat(steep: Array, box: Array, diverged: Array, running: Array) -> Array:
    """Away from what diverged or runs: half of the way down where too high is ruin, and where there is most room else.

    Args:
        steep: (P,) 1 where too high is ruin; nothing having diverged, nothing is known to be too high.
        box: (P, 2)
        diverged: (T, P)
        running: (A, P)
    """
    points = box[:, 0] + qmc.Sobol(len(box), scramble=False).random(NUM_RETREATS) * np.ptp(box, axis=1)
    taken = np.vstack([diverged, running])
    if not len(taken):
        return np.asarray(box.mean(axis=1))
    point = points[int(np.argmax(np.abs(points[:, None] - taken).sum(axis=2).min(axis=1)))]
    return np.asarray(np.where(steep * len(diverged) > 0, (box[:, 0] + taken.min(axis=0)) / 2.0, point))


def _valley_draw(surface: Surface, option: Option, box: Array, rng: np.random.Generator) -> Array:
    """One draw of the optimum: Thompson sampling."""
    centers = surface.bowls(*option.setting).center
    return np.asarray(np.clip(centers[rng.integers(len(centers))], *box.T))


def most_gain(
    surface: Surface, box: Array, options: Sequence[Option], target: Setting, pending: Sequence[tuple[Array, Option]]
) -> Proposal:
    """The trial with the largest expected fall of the target's regret per FLOP."""
    running = [option.setting for _, option in pending]
    known = knowledge(surface, [*(option.setting for option in options), *running], target)
    for coordinates, option in pending:
        known = [view.after(option.setting, coordinates) for view in known]
    weights = [hypothesis.weight for hypothesis in surface.hypotheses]
    views = list(zip(known, weights, strict=True))
    proposals = [
        _best_at(views, option, _candidates(surface, option, box, _running(option, pending))) for option in options
    ]
    best = max(proposals, key=lambda proposal: proposal.gain / proposal.option.flops)
    bad = bad_runs_only(surface, best.option.params)
    if len(bad) < NUM_BAD:
        return best
    there = np.array(_running(best.option, pending)).reshape(-1, len(box))
    return replace(best, coordinates=retreat(surface.sweep.form.steep, box, bad, there), stage="retreat")


def bad_runs_only(surface: Surface, params: float) -> Array:
    """Coordinates (T, P) of the runs of a size that has no good one; none where it has."""
    sweep, good = surface.sweep, surface.fit.problem.good
    here = sweep.settings[np.argmax(sweep.rows.setting_of, axis=1), 0] == params
    return np.asarray((sweep.rows.coordinates + sweep.center_origin)[here & ~(here & good).any()])


def _running(option: Option, pending: Sequence[tuple[Array, Option]]) -> list[Array]:
    """Coordinates (P,) of the trials that run at a setting."""
    return [coordinates for coordinates, other in pending if other.setting == option.setting]


def _best_at(known: Sequence[tuple[Knowledge, float]], option: Option, candidates: Array) -> Proposal:
    """The best trial at a setting, alone or as the first of two, whichever gains more a trial."""
    alone, both = np.zeros(len(candidates)), np.zeros((len(candidates), len(candidates)))
    for view, weight in known:
        gradients, variance = view.gradients(option.setting, candidates)
        alone += weight * view.gains(gradients, variance)
        both += weight * view.pair_gains(gradients, variance)
    first = int(np.argmax(np.maximum(alone, both.max(axis=1) / 2.0)))
    gain = float(max(alone[first], both[first].max() / 2.0))
    partner = int(np.argmax(both[first]))
    chosen = partner if alone[partner] > alone[first] else first  # of the two, the one that tells more by itself
    return Proposal(candidates[chosen], option, "gain", gain)


def _candidates(surface: Surface, option: Option, box: Array, running: Sequence[Array]) -> Array:
    """Points (C, P) around the optimum of a setting, along each axis and each diagonal of a two-level design.

    Those where a trial runs already are left out, unless that is all of them.
    """
    bowls = surface.bowls(*option.setting)
    center = np.median(bowls.center, axis=0)
    curvature = np.exp(np.median(bowls.shape[0], axis=0))
    axes = np.vstack([np.eye(len(box)), -np.eye(len(box))])
    corners = two_level_signs(len(box))
    corners = np.vstack([corners, -corners]) / np.sqrt(len(box))
    steps = np.vstack([np.sqrt(excess) * np.vstack([axes, corners]) for excess in CANDIDATE_EXCESSES])
    offsets = np.clip(steps / np.sqrt(curvature), -MAX_OFFSET, MAX_OFFSET)
    points = np.unique(np.clip(np.vstack([center, center + offsets]), *box.T), axis=0)
    free = [all(np.abs(point - other).max() > SAME_OCTAVES for other in running) for point in points]
    return points[free] if any(free) else points
