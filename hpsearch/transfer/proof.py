"""The proof of a search: predict one size that was never swept, then train a few trials there and compare."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from hpsearch.conditions import active_values
from hpsearch.events import Predicted, Role, TrialState
from hpsearch.plan import PROOF, architecture, rung_tokens, smallest_batch
from hpsearch.spec import Spec
from hpsearch.state import SearchState
from hpsearch.surface import Priors, Surface, fit_surface
from hpsearch.surface_answers import Z80
from hpsearch.trials_table import observations
from search_spaces.parameter import Parameter

FIRST_PROBES = 3  # at the predicted value, an octave below and an octave above
MIN_OBSERVATIONS = 5  # finite losses without which there is nothing to predict from


@dataclass(frozen=True)
class ProofResult:
    """A prediction and what became of it."""

    parameter: str
    params: int
    tokens: int
    predicted: float
    low80: float
    high80: float
    probes: tuple[tuple[float, float], ...]  # (value, loss), ascending; infinite where diverged
    measured: float  # vertex of the parabola through the best probe and its neighbours
    measured_low80: float
    measured_high80: float
    lost: float  # what the predicted value costs against the vertex, as a fraction of the loss
    noise: float  # one run's sd over seeds, as a fraction of the loss

    @property
    def hit(self) -> bool:
        """Whether the two 80 % intervals overlap."""
        return self.low80 <= self.measured_high80 and self.measured_low80 <= self.high80


def probed_parameter(spec: Spec) -> Parameter:
    """The parameter that the proof varies: the learning rate where it is searched."""
    return next((parameter for parameter in spec.parameters if parameter.name == "learning_rate"), spec.parameters[0])


def can_predict(state: SearchState) -> bool:
    """Whether enough was measured to fit a surface."""
    measured = sum(math.isfinite(m.loss) and m.loss > 0 for trial in state.trials.values() for m in trial.measurements)
    return measured >= MIN_OBSERVATIONS


def fit_search(state: SearchState, proof: bool, priors: Priors = "neutral") -> Surface:
    """The surface of a search, fitted once; its draws are seeded from the search."""
    key = ("searched", len(state.measured), proof, priors)
    if key not in state.memo:
        state.memo[key] = fit_surface(
            observations(state, proof),
            state.spec.parameters,
            state.spec.seed,
            priors,
            sequence_tokens=state.spec.context_tokens,
        )
    surface: Surface = state.memo[key]
    return surface


def predict(state: SearchState) -> Predicted:
    """The recommendation at the proof's setting, from everything measured below it."""
    return predict_at(state.spec, fit_search(state, proof=False), *_setting(state))


def predict_at(spec: Spec, surface: Surface, params: float, tokens: float) -> Predicted:
    """The recommendation at N = `params`, D = `tokens`; only the probed parameter may leave its searched range."""
    estimates = surface.optimum(params, tokens)
    probed = probed_parameter(spec).name
    best = {
        parameter.name: estimates[parameter.name].value
        if parameter.name == probed
        else parameter.nearest(estimates[parameter.name].value)
        for parameter in spec.parameters
    }
    values = active_values(spec.space, best)
    return Predicted(
        values=values,
        low80={name: estimate.low80 for name, estimate in estimates.items()},
        high80={name: estimate.high80 for name, estimate in estimates.items()},
        regret=surface.expected_regret(params, tokens, values).mean,
        observations=surface.num_observations,
    )


def probe_values(state: SearchState) -> dict[str, float]:
    """The configuration of the next proof trial; empty where the probes have bracketed the optimum."""
    assert state.prediction is not None
    offsets = [0.0, -1.0, 1.0]
    trials = state.of(PROOF, Role.PROOF)
    if len(trials) < FIRST_PROBES:
        return moved(state.spec, state.prediction, offsets[len(trials)])
    by_offset = sorted((_offset(state, trial.asked.values), trial.loss) for trial in trials)
    best = min(range(len(by_offset)), key=lambda i: by_offset[i][1])
    if best == 0:
        return moved(state.spec, state.prediction, by_offset[0][0] - 1.0)
    if best == len(by_offset) - 1:
        return moved(state.spec, state.prediction, by_offset[-1][0] + 1.0)
    return {}


def proof_result(state: SearchState, noise: float) -> list[ProofResult]:
    """What the proof showed; empty where it was not held or did not bracket the optimum."""
    if state.prediction is None:
        return []
    parameter = probed_parameter(state.spec)
    trials = [
        trial for trial in state.of(PROOF, Role.PROOF) if trial.state in (TrialState.COMPLETE, TrialState.DIVERGED)
    ]
    probes = tuple(sorted((trial.asked.values[parameter.name], trial.loss) for trial in trials))
    predicted_loss = next(
        (loss for value, loss in probes if value == state.prediction.values[parameter.name]), math.inf
    )
    points = [(parameter.coordinate(value), loss) for value, loss in probes if math.isfinite(loss)]
    if len(points) < FIRST_PROBES or math.isinf(predicted_loss):
        return []
    vertex, sd_octaves, least = fit_vertex(points, noise)
    reach = Z80 * sd_octaves
    ends = sorted((parameter.value(vertex - reach), parameter.value(vertex + reach)))
    params, tokens = _setting(state)
    return [
        ProofResult(
            parameter=parameter.name,
            params=params,
            tokens=tokens,
            predicted=state.prediction.values[parameter.name],
            low80=state.prediction.low80[parameter.name],
            high80=state.prediction.high80[parameter.name],
            probes=probes,
            measured=parameter.value(vertex),
            measured_low80=ends[0],
            measured_high80=ends[1],
            lost=predicted_loss / least - 1,
            noise=noise,
        )
    ]


def _setting(state: SearchState) -> tuple[int, int]:
    """N and D of the proof."""
    return architecture(state.spec, PROOF).params, rung_tokens(state.spec, PROOF, smallest_batch(state.spec))[-1]


def moved(spec: Spec, prediction: Predicted, octaves: float) -> dict[str, float]:
    """The predicted configuration with the probed parameter moved."""
    parameter = probed_parameter(spec)
    value = prediction.values[parameter.name]
    there = value if octaves == 0 else parameter.value(parameter.coordinate(value) + octaves)
    return active_values(spec.space, {**prediction.values, parameter.name: there})


def _offset(state: SearchState, values: dict[str, float]) -> float:
    assert state.prediction is not None
    parameter = probed_parameter(state.spec)
    predicted = state.prediction.values[parameter.name]
    return parameter.coordinate(values[parameter.name]) - parameter.coordinate(predicted)


def fit_vertex(points: list[tuple[float, float]], noise: float) -> tuple[float, float, float]:
    """Where a parabola through the best point and its two neighbours is least.

    Args:
        points: (octaves, loss), ascending.
        noise: relative sd of a loss.

    Returns:
        The vertex, held inside the three points; its sd in octaves; and the loss there.
    """
    best = min(range(len(points)), key=lambda i: points[i][1])
    middle = min(max(best, 1), len(points) - 2)
    x = np.array([point[0] for point in points[middle - 1 : middle + 2]])
    y = np.array([point[1] for point in points[middle - 1 : middle + 2]])
    curve, slope, level = np.polyfit(x - x[1], y, 2)
    if curve <= 0:  # no bowl: the best point, as uncertain as the probes are wide
        return points[best][0], float(x[2] - x[0]) / 2, points[best][1]
    vertex = float(np.clip(-slope / (2 * curve), x[0] - x[1], x[2] - x[1]))
    # d vertex / d y at equal steps h: the slope's sd is noise * y / (sqrt(2) h), divided by twice the curvature.
    step = float(x[2] - x[0]) / 2
    sd_octaves = noise * float(y.min()) / (math.sqrt(2) * step) / (2 * float(curve))
    least = min(float(np.polyval([curve, slope, level], vertex)), float(y.min()))
    return float(x[1]) + vertex, min(sd_octaves, 2 * step), least
