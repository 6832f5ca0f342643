"""What the loss surface answers: values with their intervals, regrets, exponents, plateaus."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

Z80 = 1.2816  # sds on either side that hold 80 % of a normal
PRIOR_ONLY = 0.8  # posterior over prior sd above which the trials have said nothing


@dataclass(frozen=True)
class Estimate:
    """Where the best value of a parameter lies, as raw values; not clipped to the searched range."""

    value: float  # the decision: least expected regret, so on the safe side of the median
    median: float
    low80: float
    high80: float
    low95: float
    high95: float


@dataclass(frozen=True)
class Regret:
    """What a configuration costs against the optimum, as a fraction of the loss."""

    mean: float
    bound90: float


@dataclass(frozen=True)
class Prediction:
    """Loss of one run, its seed noise included."""

    median: float
    low80: float
    high80: float
    low90: float
    high90: float


@dataclass(frozen=True)
class Exponent:
    """Octaves by which the optimum moves per octave of N or D."""

    value: float
    sd: float
    posterior_over_prior_sd: float

    @property
    def prior_only(self) -> bool:
        """The trials cannot tell this exponent."""
        return self.posterior_over_prior_sd > PRIOR_ONLY


@dataclass(frozen=True)
class Exponents:
    """How the optimum of a parameter drifts, in its scale's coordinate (of a beta: log2(1 - beta))."""

    params: Exponent
    tokens: Exponent


@dataclass(frozen=True)
class Sensitivity:
    """What a parameter's distance from its optimum costs. The mappings go by tolerance, a fraction of loss."""

    curvature: float  # relative loss per octave^2, mean of the two sides
    low80: float
    high80: float
    half_width_octaves: Mapping[float, float]  # how far off costs the tolerance, mean of the two sides
    plateau: Mapping[float, tuple[float, float]]  # raw values between which it costs no more


@dataclass(frozen=True)
class Backtest:
    """A parameter's optimum at the largest setting, predicted without the trials of that size."""

    params: float
    tokens: float
    predicted: Estimate
    fitted: float  # the median of the fit that saw them
    inside: bool  # whether the fitted value lies in the predicted 80 % interval
    regret: float  # fraction of the loss that the predicted decision costs there
    misfit_octaves: float  # the part of the miss that the prediction's own uncertainty does not explain
