"""Do the findings still stand after a change of data, sequence length or architecture? Three trials, and what they say.

The trials lie along the learning rate, at the predicted optimum and on both sides of it.

Shapes: R runs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from scipy.special import ndtr

from hpsearch.laws import FLOPS_PER_PARAMETER_TOKEN
from hpsearch.surface import Surface
from hpsearch.surface_answers import Z80
from hpsearch.surface_fit import NOISE_GROWTH
from hpsearch.surface_model import Array, row_floor, row_loss
from hpsearch.surface_priors import SCATTER_SD
from hpsearch.surface_stability import stability
from hpsearch.transfer.part import Part
from hpsearch.transfer.recheck_grid import Normal, Predicted, Weighed, bowl_grid
from hpsearch.transfer.status import tolerance
from hpsearch.transfer.table_recommendation import Interval, Setting
from search_spaces.parameter import Parameter

STEP_OCTAVES = 1.5  # from the predicted optimum to the trials on both sides of it
TELLING_SD = 0.4  # octaves to which three trials must place the optimum, so that a move of one is seen
# Of the excess that the surface predicts for a setting's own runs, the share that they must show. After 226 steps of
# 1.4e4 parameters it was 0.2, so no rate was better than another there; elsewhere 0.6 to 1.3, 0.8 to 1.1 at 3e8.
MIN_BOWL_SHARE, MIN_BOWL_RUNS = 0.5, 4
# Probability from which a finding stands, or has moved. Of 40 made-up families without a change 2 were said to have
# another place of the optimum, of 40 moved by an octave all.
SURE = 0.75
NEAR_OCTAVES = 0.05  # within which two values are one
UNLIKELY = 0.1  # chance of divergence at which one is news
LEVEL = "level of the loss"  # the finding on which no recommended value rests


class Outcome(StrEnum):
    """What became of a finding."""

    STANDS = "STANDS"
    MOVED = "MOVED"
    NOT_TOLD = "NOT_TOLD"


class RecheckPlan(Part):
    """The three trials."""

    setting: Setting
    parameter: str  # that they vary
    trials: tuple[dict[str, float], ...]  # the predicted optimum first
    flops: float  # of all three, as 6 N D
    expected_sd_octaves: float  # to which they will place the optimum
    tells: bool  # whether that is enough; if not, repeat each trial under other seeds


class Finding(Part):
    """One finding, as it was predicted and as it was measured."""

    name: str
    outcome: Outcome
    predicted: float | None
    predicted80: Interval | None
    measured: float | None
    measured80: Interval | None
    probability_stands: float | None  # against it having moved, both as likely before
    text: str
    redo: str


class Recheck(Part):
    """What still stands."""

    setting: Setting
    findings: tuple[Finding, ...]
    parameter: str
    before: float  # its recommended value at the target
    after: float  # with the new runs
    warnings: tuple[str, ...]

    @property
    def needs_action(self) -> bool:
        """Whether a finding has moved that recommended values rest on."""
        return any(finding.outcome is Outcome.MOVED and finding.name != LEVEL for finding in self.findings)


@dataclass(frozen=True)
class NewRuns:
    """Runs under the changed conditions, at one setting."""

    setting: Setting
    values: tuple[Mapping[str, float], ...]  # of each run, every parameter of the surface
    log_loss: Array  # (R,) NaN where one diverged


def probed(surface: Surface) -> Parameter:
    """The parameter that the trials vary: the learning rate where it is searched."""
    parameters = surface.sweep.parameters
    return next((parameter for parameter in parameters if parameter.known_name == "learning_rate"), parameters[0])


def plan_recheck(surface: Surface) -> RecheckPlan:
    """The three trials at the cheapest setting of the surface at which they tell."""
    settings = [Setting(params=n, tokens=d) for n, d in surface.sweep.settings.tolist()]
    each = [(_expected_sd(surface, setting), _flops(setting), setting) for setting in settings]
    has_bowl = [_bowl_share(surface, i) >= MIN_BOWL_SHARE for i in range(len(settings))]
    telling = [found for found, has in zip(each, has_bowl, strict=True) if has and found[0] <= TELLING_SD]
    sd, flops, setting = min(telling, key=lambda found: found[1]) if telling else min(each, key=lambda found: found[0])
    parameter, best = probed(surface), optimum(surface, setting)
    at = parameter.coordinate(best[parameter.name])
    moved = [parameter.value(at + octaves) for octaves in (0.0, -STEP_OCTAVES, STEP_OCTAVES)]
    return RecheckPlan(
        setting=setting,
        parameter=parameter.name,
        trials=tuple({**best, parameter.name: value} for value in moved),
        flops=3 * flops,
        expected_sd_octaves=sd,
        tells=bool(telling),
    )


def optimum(surface: Surface, setting: Setting) -> dict[str, float]:
    """The predicted best configuration; all but the probed parameter on its allowed values."""
    best, name = surface.optimum(setting.params, setting.tokens), probed(surface).name
    return {
        parameter.name: best[parameter.name].value
        if parameter.name == name
        else parameter.nearest(best[parameter.name].value)
        for parameter in surface.sweep.parameters
    }


def _flops(setting: Setting) -> float:
    return FLOPS_PER_PARAMETER_TOKEN * setting.params * setting.tokens


def _expected_sd(surface: Surface, setting: Setting) -> float:
    """Sd in octaves of the vertex through three trials: that of their slope over twice the curvature."""
    curvature = surface.sensitivity(probed(surface).name, setting.params, setting.tokens).curvature
    noise = float(np.hypot(surface.fit.noise.paired, NOISE_GROWTH * curvature * STEP_OCTAVES**2))
    return float(noise / (2.0**0.5 * STEP_OCTAVES) / (2.0 * curvature))


def _bowl_share(surface: Surface, setting: int) -> float:
    """How much of the excess that is predicted for a setting's runs they show; 0 where they are too few to tell."""
    sweep, unknowns = surface.sweep, surface.sweep.layout.unpack(surface.fit.vector)
    own = surface.fit.problem.good & (sweep.rows.setting_of[:, setting] > 0)
    excess = (row_loss(unknowns, sweep.rows, sweep.form) - row_floor(unknowns, sweep.rows))[own]
    if len(excess) < MIN_BOWL_RUNS or not np.ptp(excess):
        return 0.0
    return float(np.polyfit(excess, sweep.log_loss[own], 1)[0])


def recheck(surface: Surface, runs: NewRuns, target: Setting, recommended: Mapping[str, float]) -> Recheck:
    """Judges every finding by new runs.

    Args:
        surface: through the runs before the change.
        runs: those after it.
        target: where the recommendation is read.
        recommended: what it is there.
    """
    parameter, plain = probed(surface), _plain(surface, runs)
    held = {name: value for name, value in runs.values[plain[0]].items() if name != parameter.name}
    at = np.array([parameter.coordinate(runs.values[i][parameter.name]) for i in plain])
    grid = bowl_grid(_predicted(surface, runs.setting, held), at, runs.log_loss[plain])
    place, before = grid.place(), recommended[parameter.name]
    shift, followed = _shift(surface, place, runs.setting, target)
    others = [other for other in surface.sweep.parameters if other.name != parameter.name]
    return Recheck(
        setting=runs.setting,
        findings=(
            _place(parameter, place, shift),
            _curvature(grid.log_curvature()),
            _level(grid.level()),
            *_divergence(surface, runs),
            *[_value(surface, runs, plain, other) for other in others],
        ),
        parameter=parameter.name,
        before=before,
        after=parameter.value(parameter.coordinate(before) + followed),
        warnings=tuple(_warnings(plain)),
    )


def _shift(surface: Surface, place: Weighed, setting: Setting, target: Setting) -> tuple[float, float]:
    """Octaves by which the new runs move the optimum at their setting, and at the target.

    What stands is one more measurement, which the target follows as far as the two go together in the posterior;
    what has moved takes the target along.
    """
    outcome = _outcome(place.stands)
    if outcome is Outcome.STANDS:
        shift = place.together - place.predicted.mean
        return shift, shift * _followed(surface, setting, target)
    shift = place.measured.mean - place.predicted.mean
    return shift, shift if outcome is Outcome.MOVED else 0.0


def _plain(surface: Surface, runs: NewRuns) -> list[int]:
    """The finite runs in which all but the probed parameter are as in the most of them."""
    name, finite = probed(surface).name, np.flatnonzero(np.isfinite(runs.log_loss)).tolist()
    rest = [tuple(value for key, value in sorted(runs.values[i].items()) if key != name) for i in finite]
    common = max(rest, key=lambda values: (rest.count(values), values))
    return [i for i, values in zip(finite, rest, strict=True) if values == common]


def _predicted(surface: Surface, setting: Setting, others: Mapping[str, float]) -> Predicted:
    """The bowl along the probed parameter, the others held."""
    index, bowls = surface.sweep.parameters.index(probed(surface)), surface.bowls(setting.params, setting.tokens)
    log_curvature, asymmetry, _ = bowls.shape
    level = bowls.log_floor + surface.regret_draws(setting.params, setting.tokens, others)
    return Predicted(
        place=_normal(surface.center_draws(setting.params, setting.tokens, others)[:, index]).plus(SCATTER_SD),
        log_curvature=_normal(log_curvature[:, index]),
        level=_normal(level).plus(surface.noise_fraction),
        steeper=float(asymmetry.mean()) * float(surface.sweep.form.steep[index]),
        noise=surface.fit.noise.paired,
    )


def _normal(draws: Array) -> Normal:
    return Normal(float(draws.mean()), float(draws.std()))


def _place(parameter: Parameter, weighed: Weighed, shift: float) -> Finding:
    """Where the best value lies."""
    redo = {
        Outcome.STANDS: "",
        Outcome.MOVED: (
            f"move {parameter.name} by {shift:+.1f} octaves everywhere, and search it again at two sizes: one setting "
            "does not say whether its drift is still the same"
        ),
        Outcome.NOT_TOLD: "repeat the three trials under another seed, or take them further apart",
    }
    return _compared(f"best {parameter.name}", weighed, parameter.value, redo)


def _curvature(weighed: Weighed) -> Finding:
    ratio = np.exp(weighed.measured.mean - weighed.predicted.mean)
    redo = {Outcome.MOVED: f"regrets, and what a value may cost, are {ratio:.1f} times what they were"}
    return _compared("cost of an octave", weighed, lambda log: float(np.exp(log)), redo, ".2%")


def _level(weighed: Weighed) -> Finding:
    redo = {Outcome.MOVED: "predicted losses no longer hold, the target's too; recommended values do not rest on them"}
    return _compared(LEVEL, weighed, lambda log: float(np.exp(log)), redo)


def _compared(
    name: str, weighed: Weighed, value: Callable[[float], float], redo: Mapping[Outcome, str], form: str = ".3g"
) -> Finding:
    """A finding with its intervals, given how a mean becomes a value and how that is printed."""
    (predicted, predicted80), (measured, measured80) = (
        _interval(normal, value) for normal in (weighed.predicted, weighed.measured)
    )
    outcome = _outcome(weighed.stands)
    said = f"predicted {_said(predicted, predicted80, form)}, measured {_said(measured, measured80, form)}"
    return Finding(
        name=name,
        outcome=outcome,
        predicted=predicted,
        predicted80=predicted80,
        measured=measured,
        measured80=measured80,
        probability_stands=weighed.stands,
        text=f"{said}; stands with {weighed.stands:.0%}",
        redo=redo.get(outcome, ""),
    )


def _interval(normal: Normal, value: Callable[[float], float]) -> tuple[float, Interval]:
    low, middle, high = (value(normal.mean + step * normal.sd) for step in (-Z80, 0.0, Z80))
    return middle, (min(low, high), max(low, high))


def _followed(surface: Surface, setting: Setting, target: Setting) -> float:
    """Octaves by which the optimum at the target follows one octave at a setting, by the draws."""
    index = surface.sweep.parameters.index(probed(surface))
    here, there = (surface.center_draws(s.params, s.tokens)[:, index] for s in (setting, target))
    variance = float(here.var()) + SCATTER_SD**2
    return float(np.cov(here, there, bias=True)[0, 1]) / variance


def _divergence(surface: Surface, runs: NewRuns) -> Iterator[Finding]:
    """The edge of stability: whether runs diverged that should not have."""
    expected = [stability(surface, runs.setting.params, runs.setting.tokens, values) for values in runs.values]
    chances = [found.chance_of_divergence for found in expected if found is not None]
    if not chances:
        return
    diverged = ~np.isfinite(runs.log_loss)
    news = [chance for chance, lost in zip(chances, diverged, strict=True) if lost and chance < UNLIKELY]
    outcome = Outcome.MOVED if news else Outcome.STANDS
    yield Finding(
        name="edge of stability",
        outcome=outcome,
        predicted=sum(chances),
        predicted80=None,
        measured=float(diverged.sum()),
        measured80=None,
        probability_stands=None,
        text=f"{sum(chances):.1f} of {len(chances)} runs expected to diverge, {diverged.sum()} did",
        redo="lower the rates, and search the edge again before a large run" if news else "",
    )


def _value(surface: Surface, runs: NewRuns, plain: Sequence[int], parameter: Parameter) -> Finding:
    """Whether a value of another parameter is still as good as one that a run has tried in its place."""
    name, held = parameter.name, runs.values[plain[0]][parameter.name]
    allowed, noise = tolerance(surface), 2.0**0.5 * surface.fit.noise.paired
    pairs = [(i, j) for i in range(len(runs.values)) for j in plain if _differs_only_in(surface, runs, i, j, name)]
    gains = [(float(runs.log_loss[j] - runs.log_loss[i]), runs.values[i][name]) for i, j in pairs]
    gains = [(gain, value) for gain, value in gains if np.isfinite(gain)]
    if not gains:
        text = "none of the new runs has another value, all else as in one of the three"
        return _finding_of_value(name, Outcome.NOT_TOLD, text, f"add a run with another {name} to judge it")
    gain, value = max(gains)
    better = float(ndtr((gain - allowed) / noise))
    outcome = Outcome.MOVED if better >= SURE else Outcome.STANDS if better <= 1.0 - SURE else Outcome.NOT_TOLD
    text = f"{value:.4g} in place of {held:.4g} is {gain:+.2%} better, tolerance {allowed:.2%}, noise {noise:.2%}"
    return _finding_of_value(name, outcome, text, f"search {name} again" if outcome is Outcome.MOVED else "")


def _finding_of_value(name: str, outcome: Outcome, text: str, redo: str) -> Finding:
    return Finding(
        name=f"value of {name}",
        outcome=outcome,
        predicted=None,
        predicted80=None,
        measured=None,
        measured80=None,
        probability_stands=None,
        text=text,
        redo=redo,
    )


def _differs_only_in(surface: Surface, runs: NewRuns, first: int, second: int, name: str) -> bool:
    apart = {
        p.name: abs(p.coordinate(runs.values[first][p.name]) - p.coordinate(runs.values[second][p.name]))
        for p in surface.sweep.parameters
        if runs.values[first][p.name] != runs.values[second][p.name]
    }
    return apart.pop(name, 0.0) > NEAR_OCTAVES and all(octaves <= NEAR_OCTAVES for octaves in apart.values())


def _warnings(plain: Sequence[int]) -> Iterator[str]:
    if len(plain) < 3:
        yield f"{len(plain)} runs with a loss along the probed parameter; three tell its place, and its curvature"


def _outcome(stands: float) -> Outcome:
    return Outcome.STANDS if stands >= SURE else Outcome.MOVED if stands <= 1.0 - SURE else Outcome.NOT_TOLD


def _said(value: float, interval: Interval, form: str) -> str:
    return f"{value:{form}} ({interval[0]:{form}} to {interval[1]:{form}})"
