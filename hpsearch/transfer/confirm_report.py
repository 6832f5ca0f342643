"""What a confirm showed: predicted against measured, and the recommendation before and after its trials."""

from __future__ import annotations

import math
from collections.abc import Sequence

from hpsearch.events import ConfirmPlan, Role
from hpsearch.plan import confirm_proxy
from hpsearch.spec import Size
from hpsearch.state import SearchState, Trial
from hpsearch.surface_answers import Z80
from hpsearch.targets import resolve_target
from hpsearch.transfer.confirm import OFFSETS
from hpsearch.transfer.part import Part
from hpsearch.transfer.proof import fit_vertex, probed_parameter
from hpsearch.transfer.recommend import Recommendation, recommend
from hpsearch.transfer.status import Status
from search_spaces.parameter import Parameter


class Interval(Part):
    """A value with its 80 % interval."""

    value: float
    low80: float
    high80: float

    def overlaps(self, other: Interval) -> bool:
        return self.low80 <= other.high80 and other.low80 <= self.high80


class ConfirmTrial(Part):
    """A value of the moved parameter, and what became of it."""

    value: float
    loss: float | None  # null where it diverged


class Recommendations(Part):
    """What is recommended for the target. Regrets are fractions of the loss."""

    parameters: dict[str, Interval]  # the searched ones
    expected_regret: float
    regret_bound90: float
    refused: str | None


class ConfirmReport(Part):
    """A prediction, its test, and what the test changed. Losses are in nats a token."""

    target: str
    target_params: int
    target_tokens: float
    size: Size
    params: int  # non-embedding, of the size
    cost_flops: int
    trials: tuple[ConfirmTrial, ...]  # the first at the predicted value
    parameter: str  # the moved one
    predicted: Interval
    measured: Interval | None  # vertex of the parabola through the trials; null unless all three have a loss
    bracketed: bool  # whether the best trial lies between the others
    hit: bool | None  # whether these two intervals overlap
    predicted_loss: Interval  # of one run at the predicted value, its noise included
    loss_inside: bool  # whether the loss at the predicted value lies in that interval
    lost: float | None  # by the predicted value, a fraction of the best loss; null where no other trial has a loss
    noise: float  # one run's sd over seeds, a fraction of the loss
    before: Recommendations
    after: Recommendations


def confirm_report(before: SearchState, after: SearchState) -> ConfirmReport:
    """The report of a search's last confirm.

    Args:
        before: the search as it was when the confirm was opened.
        after: the search with the confirm's trials.
    """
    plan, spec = after.confirms[-1], after.spec
    target = resolve_target(plan.target, spec)
    new = recommend(after, target)
    parameter = probed_parameter(spec)
    trials = after.of(confirm_proxy(len(after.confirms) - 1), Role.CONFIRM)
    predicted = _predicted(plan, parameter)
    measured = _measured(parameter, trials, new.evidence.noise)
    return ConfirmReport(
        target=target.name,
        target_params=target.architecture.params,
        target_tokens=target.tokens,
        size=plan.size,
        params=spec.architecture(plan.size).params,
        cost_flops=plan.cost_flops,
        trials=tuple(_trial(parameter, trial) for trial in trials),
        parameter=parameter.name,
        predicted=predicted,
        measured=measured,
        bracketed=_bracketed(trials),
        hit=None if measured is None else predicted.overlaps(measured),
        predicted_loss=Interval(value=plan.loss, low80=plan.loss_low80, high80=plan.loss_high80),
        loss_inside=plan.loss_low80 <= trials[0].loss <= plan.loss_high80,
        lost=_lost(parameter, trials, new.evidence.noise),
        noise=new.evidence.noise,
        before=_recommendations(recommend(before, target)),
        after=_recommendations(new),
    )


def _predicted(plan: ConfirmPlan, parameter: Parameter) -> Interval:
    name, prediction = parameter.name, plan.prediction
    return Interval(value=prediction.values[name], low80=prediction.low80[name], high80=prediction.high80[name])


def _trial(parameter: Parameter, trial: Trial) -> ConfirmTrial:
    value = trial.asked.values[parameter.name]
    return ConfirmTrial(value=value, loss=trial.loss if math.isfinite(trial.loss) else None)


def _points(parameter: Parameter, trials: Sequence[Trial]) -> list[tuple[float, float]]:
    """(octaves, loss) of the trials that have a loss, ascending."""
    points = ((parameter.coordinate(trial.asked.values[parameter.name]), trial.loss) for trial in trials)
    return sorted(point for point in points if math.isfinite(point[1]))


def _measured(parameter: Parameter, trials: Sequence[Trial], noise: float) -> Interval | None:
    points = _points(parameter, trials)
    if len(points) < len(OFFSETS):
        return None
    vertex, sd_octaves, _ = fit_vertex(points, noise)
    reach = Z80 * sd_octaves
    low, value, high = (parameter.value(vertex + moved) for moved in (-reach, 0.0, reach))
    return Interval(value=value, low80=low, high80=high)


def _bracketed(trials: Sequence[Trial]) -> bool:
    """Whether the trial at the predicted value is the best of three: then the others lie to both its sides."""
    return len(trials) == len(OFFSETS) and min(trials, key=lambda trial: trial.loss) is trials[0]


def _lost(parameter: Parameter, trials: Sequence[Trial], noise: float) -> float | None:
    points = _points(parameter, trials)
    if len(points) < 2 or not math.isfinite(trials[0].loss):
        return None
    least = fit_vertex(points, noise)[2] if len(points) == len(OFFSETS) else min(loss for _, loss in points)
    return trials[0].loss / least - 1


def _recommendations(recommendation: Recommendation) -> Recommendations:
    searched = {n: found for n, found in recommendation.parameters.items() if found.status is not Status.FIXED}
    return Recommendations(
        parameters={n: Interval(value=p.value, low80=p.low80, high80=p.high80) for n, p in searched.items()},
        expected_regret=recommendation.expected_regret,
        regret_bound90=recommendation.regret_bound90,
        refused=recommendation.refused,
    )
