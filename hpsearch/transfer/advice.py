"""What goes with the recommended values, read from the surface: ties, alternatives, the next trial, what to watch.

All regrets are fractions of the loss at the target.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from math import isfinite

import numpy as np

from hpsearch.laws import FLOPS_PER_PARAMETER_TOKEN, LAWS, SEQUENCE_TOKENS
from hpsearch.next_trial import Option, most_gain
from hpsearch.surface import Prediction, Surface
from hpsearch.transfer.loss_laws import fit_losses, setting_floors
from hpsearch.transfer.part import Part
from hpsearch.transfer.status import tolerance
from search_spaces.parameter import Parameter

NUM_TIED = 61  # values across the 95 % interval, among which ties are looked for
EARLY_SHARE = 0.02  # of the run, by which trouble should show
MIN_SETTINGS_TO_STACK = 4
REUSE = "copied from the largest size"

Setting = tuple[float, float]  # N, D


class TieSet(Part):
    """The values that the trials cannot tell from the recommended one, and what chose among them."""

    low: float
    high: float
    rule: str


class Comparison(Part):
    """What a configuration costs at the target, beside the recommended one."""

    expected_regret: float
    interval90: tuple[float, float]
    regret_bound90: float
    better_than_recommended_probability: float


class Alternative(Comparison):
    """A configuration that somebody else would take."""

    values: dict[str, float]  # a parameter that it leaves out has its recommended value


class NextTrial(Part):
    """The run that would lower the expected regret most for its cost."""

    params: float
    tokens: float
    parameters: dict[str, float]
    expected_regret_after: float


class Reach(Part):
    """How far the target lies beyond what was measured, in times."""

    params: float
    tokens: float
    supported_params: float  # by the back-test


class EarlyLoss(Part):
    """What the target should be able to show early: the loss if training ended there, learning rate decayed."""

    tokens: float
    loss: float
    interval90: tuple[float, float]


def tie_set(surface: Surface, parameter: Parameter, config: Mapping[str, float], target: Setting) -> TieSet:
    """The stretch around a configuration's value in which the expected regret rises by less than can be seen."""
    name = parameter.name
    others = {key: value for key, value in config.items() if key != name}
    estimate = surface.optimum(*target, others)[name]
    ends = [parameter.coordinate(value) for value in (estimate.low95, estimate.high95, config[name])]
    octaves = np.linspace(min(ends), max(ends), NUM_TIED)
    here = int(np.argmin(np.abs(octaves - parameter.coordinate(config[name]))))
    regret = [surface.expected_regret(*target, {**others, name: parameter.value(float(x))}).mean for x in octaves]
    tied = np.array(regret) <= min(regret) + tolerance(surface)
    tied[here] = True
    low, high = _stretch(tied, here)
    values = sorted((parameter.value(float(octaves[low])), parameter.value(float(octaves[high]))))
    index = [p.name for p in surface.sweep.parameters].index(name)
    steep = surface.sweep.form.steep[index] > 0
    rule = "least expected regret, which is below the median: too high costs more than too low"
    return TieSet(low=values[0], high=values[1], rule=rule if steep else "least expected regret")


def _stretch(inside: np.ndarray[tuple[int], np.dtype[np.bool_]], here: int) -> tuple[int, int]:
    """First and last index of the run of true values around one of them."""
    low = high = here
    while low > 0 and inside[low - 1]:
        low -= 1
    while high + 1 < len(inside) and inside[high + 1]:
        high += 1
    return low, high


def usual_configs(
    surface: Surface, config: Mapping[str, float], target: Setting, sequence_tokens: float = SEQUENCE_TOKENS
) -> dict[str, dict[str, float]]:
    """What published laws say of the target, and what copying the best of the largest size would do.

    Args:
        surface: of the trials.
        config: the recommended one, which has what stays.
        target: N, D.
        sequence_tokens: of a sequence in the surface's batch.
    """
    largest = surface.sweep.settings[-1].tolist()
    found = {REUSE: {name: e.value for name, e in surface.optimum(*largest).items() if name in config}}
    for law in LAWS:
        values = {
            parameter.name: law.value(parameter.known_name, *target, sequence_tokens)
            for parameter in surface.sweep.parameters
            if parameter.known_name in law.formulas
        }
        found[law.name] = {name: value for name, value in values.items() if value > 0}  # where it holds
    return {name: values for name, values in found.items() if values}


def alternatives(
    surface: Surface, config: Mapping[str, float], target: Setting, sequence_tokens: float = SEQUENCE_TOKENS
) -> dict[str, Alternative]:
    """What the usual configurations cost, by name; arguments as above."""
    found = {}
    for name, values in usual_configs(surface, config, target, sequence_tokens).items():
        found[name] = alternative(surface, values, config, target)
    return found


def alternative(
    surface: Surface, theirs: Mapping[str, float], ours: Mapping[str, float], target: Setting
) -> Alternative:
    """What a configuration costs where the recommended one fills in what it leaves out: else it had an oracle there."""
    cost = compared(surface, {**ours, **theirs}, ours, target)
    return Alternative(**cost.model_dump(), values=dict(theirs))


def compared(surface: Surface, theirs: Mapping[str, float], ours: Mapping[str, float], target: Setting) -> Comparison:
    """What a configuration costs at the target; a parameter that it leaves out is at its best."""
    regret, recommended = surface.regret_draws(*target, theirs), surface.regret_draws(*target, ours)
    low, bound90, high = np.quantile(regret, [0.05, 0.9, 0.95]).tolist()
    return Comparison(
        expected_regret=float(regret.mean()),
        interval90=(low, high),
        regret_bound90=bound90,
        better_than_recommended_probability=float((regret < recommended).mean()),
    )


def model_error_share(surface: Surface, config: Mapping[str, float], target: Setting) -> float:
    """The share of the expected regret that comes from what the hold-out says the form cannot do."""
    with_it = surface.expected_regret(*target, config).mean
    without = replace(surface, backtest={}).expected_regret(*target, config).mean
    return max(0.0, 1.0 - without / with_it) if with_it > 0 else 0.0


def best_next_trial(surface: Surface, parameters: Sequence[Parameter], target: Setting, regret: float) -> NextTrial:
    """The best next run among the tested settings and one of twice the largest size and budget.

    Args:
        surface: of the trials.
        parameters: its own, whose bounds are the box.
        target: N, D.
        regret: expected now.
    """
    settings = surface.sweep.settings.tolist()
    largest = 2 * settings[-1][0], 2 * settings[-1][1]
    reachable = [Option(n, d, FLOPS_PER_PARAMETER_TOKEN * n * d) for n, d in [*settings, largest]]
    options = [option for option in reachable if option.flops <= reachable[-1].flops]
    box = np.array([parameter.bounds for parameter in parameters])
    proposal = most_gain(surface, box, options, target, [])
    pairs = zip(parameters, proposal.coordinates.tolist(), strict=True)
    return NextTrial(
        params=proposal.option.params,
        tokens=proposal.option.tokens,
        parameters={parameter.name: parameter.value(octaves) for parameter, octaves in pairs},
        expected_regret_after=max(0.0, regret - proposal.gain),
    )


def predicted_loss(surface: Surface, config: Mapping[str, float], target: Setting) -> Prediction:
    """The loss of one run of a configuration: stacked laws of the best loss, and what the configuration costs above it.

    With few settings nothing can be held out to weigh the laws by, and the surface's own law speaks alone.
    """
    if surface.num_settings < MIN_SETTINGS_TO_STACK:
        return surface.predict_loss(*target, config)
    best = fit_losses(setting_floors(surface), surface.noise_fraction).predict(*target)
    above = 1.0 + surface.expected_regret(*target, config).mean
    return Prediction(**{name: value * above for name, value in asdict(best).items()})


def early_loss(surface: Surface, config: Mapping[str, float], target: Setting) -> EarlyLoss:
    """The loss that the target should reach in its first tokens."""
    tokens = EARLY_SHARE * target[1]
    loss = surface.predict_loss(target[0], tokens, config)
    return EarlyLoss(tokens=tokens, loss=loss.median, interval90=(loss.low90, loss.high90))


def beyond_the_space(surface: Surface) -> tuple[str, ...]:
    """Parameters whose optimum at the largest setting lies outside the space, where that costs what can be seen."""
    params, tokens = surface.sweep.settings[-1].tolist()
    found = []
    for parameter, estimate in zip(surface.sweep.parameters, surface.optimum(params, tokens).values(), strict=True):
        inside = parameter.nearest(estimate.median)
        if not isfinite(estimate.median) or inside == estimate.median:
            continue
        held, free = (
            surface.expected_regret(params, tokens, {parameter.name: value}).mean for value in (inside, estimate.value)
        )
        if held - free > tolerance(surface):
            found.append(parameter.name)
    return tuple(found)
