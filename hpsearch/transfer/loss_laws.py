"""The loss at larger settings, with an interval: several scaling laws, weighed by what they would have predicted.

No single law is best on every family, and how well one fits says nothing about how well it predicts. So the larger
settings are hidden again and again, each law predicts them from the smaller ones, and these errors tell how much
weight each gets and how wide the interval must be.

Shapes: S settings, K forms, T targets.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats
from scipy.optimize import minimize
from scipy.special import log_softmax, softmax

from hpsearch.surface import Surface
from hpsearch.surface_answers import Prediction
from hpsearch.surface_model import Array
from hpsearch.transfer.loss_forms import FORMS, FittedForm, Points, fit_form
from search_spaces.errors import UserError

MIN_SETTINGS = 2  # distinct; below it nothing moves
MIN_WINDOW = 3  # settings from which others are predicted
MAX_WINDOWS = 5
SAME_OCTAVES = 0.01  # within which two sizes or budgets count as one
REACH_SD = 0.0015  # relative loss per octave of compute that every law may miss; published tables, 1 to 4 octaves
# How many windows must agree before they outweigh what is believed without any: that all forms are as good, and that
# their intervals are as wide as they should be. The errors of one table's windows are much alike.
WEIGHT_WINDOWS, WIDTH_WINDOWS = 5.0, 8.0
GOOD_FORMS = 0.25  # share of the forms whose error is the measure of a window: one that all miss must not decide
MAX_ERROR = 3.0  # sd of an interval; one that is missed by more says no more of its width
# Share of the forms' disagreement, a variance, that counts as uncertainty: some lie above the truth and some below, so
# that their mean is better than they are. Three published tables: with all of it 90 % intervals cover 94 to 100 % and
# are a fifth wider; with a quarter they cover 89 to 100 %, but a third beyond 18 times the compute.
DISAGREEMENT = 0.5


@dataclass(frozen=True)
class LossLaws:
    """Fitted laws and how far to trust them."""

    fitted: tuple[FittedForm, ...]  # (K,)
    shares: Array  # (K,)
    run_noise: float  # relative sd of one run
    largest: float  # log2 (N D) of the largest setting measured
    width: float  # by which the intervals are stretched
    num_windows: int  # that told the shares and the width

    @property
    def weights(self) -> Mapping[str, float]:
        """Of the laws, by name; they add up to one."""
        return dict(zip((one.form.name for one in self.fitted), self.shares.tolist(), strict=True))

    def predict(self, params: float, tokens: float) -> Prediction:
        """The loss of one run at N = `params`, D = `tokens`, as good as the settings that were fitted."""
        place = np.log2([[params, tokens]])
        center, sd = mix(*predictions(self.fitted, place), self.shares)
        reach = max(0.0, float(place.sum()) - self.largest)
        spread = self.width * float(np.sqrt(sd[0] ** 2 + (REACH_SD * reach) ** 2 + self.run_noise**2))
        quantiles = stats.t.ppf([0.5, 0.1, 0.9, 0.05, 0.95], WIDTH_WINDOWS + self.num_windows)
        return Prediction(*np.exp(center[0] + spread * quantiles).tolist())

    def predict_each(self, params: float, tokens: float) -> Mapping[str, float]:
        """The loss by every law, by name."""
        center, _ = predictions(self.fitted, np.log2([[params, tokens]]))
        return dict(zip((one.form.name for one in self.fitted), np.exp(center[:, 0]).tolist(), strict=True))


def fit_losses(settings: pd.DataFrame, run_noise: float) -> LossLaws:
    """Fit and weigh all laws.

    Args:
        settings: one row per setting with `params` (N), `tokens` (D), `loss`, the best there, and `sd`, its relative
            standard deviation.
        run_noise: relative sd of one run's loss, which a prediction contains.

    Raises:
        UserError: fewer than two different settings, or a loss that is not above zero.
    """
    points = _points(settings)
    fitted = tuple(fit_form(form, points) for form in FORMS)
    tests = list(hold_outs(points))
    shares = stack([test.relative for test in tests])
    return LossLaws(
        fitted=fitted,
        shares=shares,
        run_noise=run_noise,
        largest=float(points.place.sum(axis=1).max()),
        width=_width([test.mean_square(shares) for test in tests]),
        num_windows=len(tests),
    )


def setting_floors(surface: Surface) -> pd.DataFrame:
    """The best loss of every setting of a surface, as `fit_losses` takes it.

    A setting without a good run is left out: there the surface has only its own law to tell. So is a size that it
    takes for broken.
    """
    rows, good = surface.sweep.rows, surface.fit.problem.good
    seen = (rows.setting_of[good] > 0).any(axis=0) & ~np.isin(surface.sweep.settings[:, 0], surface.broken_sizes)
    told = surface.sweep.settings[seen]
    draws = np.array([surface.bowls(params, tokens).log_floor for params, tokens in told.tolist()]).reshape(
        len(told), -1
    )
    floors = pd.DataFrame(told, columns=["params", "tokens"])
    return floors.assign(loss=np.exp(np.median(draws, axis=1)), sd=draws.std(axis=1))


def predictions(fitted: Sequence[FittedForm], place: Array) -> tuple[Array, Array]:
    """ln loss and its sd by every form, (K, T) each, at settings (T, 2) of log2 N, log2 D."""
    center, sd = zip(*(one.predict(place) for one in fitted), strict=True)
    return np.array(center), np.array(sd)


def mix(center: Array, sd: Array, shares: Array) -> tuple[Array, Array]:
    """Mean (T,) of K forms and its sd: what each is unsure of, and what they disagree about."""
    mean = shares @ center
    return mean, np.sqrt(shares @ (sd**2 + DISAGREEMENT * (center - mean) ** 2))


def is_larger(place: Array, fitted: Array) -> NDArray[np.bool_]:
    """Which settings (T, 2) have more compute than all fitted ones (S, 2), with no less size or tokens than any.

    All in octaves. More compute alone does not make a setting larger: a huge model on few tokens is elsewhere.
    """
    further = place.sum(axis=1) > fitted.sum(axis=1).max() + SAME_OCTAVES
    return np.asarray(further & (place >= fitted.min(axis=0) - SAME_OCTAVES).all(axis=1))


@dataclass(frozen=True)
class HoldOut:
    """Settings (T,) as every form predicts them from a window of smaller ones."""

    center: Array  # (K, T) ln loss
    model_sd: Array  # (K, T)
    log_loss: Array  # (T,)
    sd: Array  # (T,) of what no form can know: reach and noise

    @property
    def relative(self) -> Array:
        """Errors of the forms, (K, T), as multiples of what a good one errs here, or of what none can know."""
        errors = (self.center - self.log_loss) / self.sd
        typical = np.sqrt((errors**2).mean(axis=1))
        return np.asarray(errors / max(1.0, float(np.quantile(typical, GOOD_FORMS))))

    def mean_square(self, shares: Array) -> float:
        """Of the mixture's errors, in its own sd."""
        mean, sd = mix(self.center, self.model_sd, shares)
        error = np.clip((mean - self.log_loss) / np.hypot(sd, self.sd), -MAX_ERROR, MAX_ERROR)
        return float((error**2).mean())


def hold_outs(points: Points) -> Iterator[HoldOut]:
    """Growing windows of compute, each predicting the larger settings; points must be sorted by compute."""
    compute = points.place.sum(axis=1)
    for size in _windows(compute):
        window, rest = points[:size], points[size:]
        rest = rest[is_larger(rest.place, window.place)]
        if not len(rest):
            continue
        center, model_sd = predictions([fit_form(form, window) for form in FORMS], rest.place)
        reach = rest.place.sum(axis=1) - compute[size - 1]
        yield HoldOut(center, model_sd, rest.log_loss, np.hypot(REACH_SD * reach, rest.sd))


def _windows(compute: Array) -> list[int]:
    """Sizes of windows, evenly spaced over log compute (S,), which ascends; none ends between two equals."""
    ends = [i for i in range(MIN_WINDOW, len(compute)) if compute[i] > compute[i - 1] + SAME_OCTAVES]
    if not ends:
        return []
    wanted = np.linspace(compute[ends[0]], compute[ends[-1]], MAX_WINDOWS)
    return sorted({min(ends, key=lambda i: abs(compute[i] - at)) for at in wanted.tolist()})


def stack(errors: Sequence[Array]) -> Array:
    """Weights (K,) of least squared hold-out error of the weighted mean, drawn to equal ones.

    Args:
        errors: of each window, (K, T), in multiples of a good form's; a window counts once, however many settings it
            predicts.

    Source: stacking of means, Yao et al. 2018 (arXiv 1704.02030), eq. 4, here with a Dirichlet prior that is worth
        `WEIGHT_WINDOWS` windows.
    """
    even = np.full(len(FORMS), 1.0 / len(FORMS))
    if not errors:
        return even
    square = np.sum([one @ one.T / one.shape[1] for one in errors], axis=0)

    def cost(logits: Array) -> tuple[float, Array]:
        shares = softmax(logits)
        slope = shares * (square @ shares - shares @ square @ shares) + WEIGHT_WINDOWS * (shares - even)
        return float(shares @ square @ shares / 2 - WEIGHT_WINDOWS * log_softmax(logits).mean()), slope

    return np.asarray(softmax(minimize(cost, np.zeros(len(FORMS)), jac=True, method="BFGS").x))


def _width(squares: Sequence[float]) -> float:
    """How much wider than stated the intervals must be, drawn to 1."""
    return float(np.sqrt((WIDTH_WINDOWS + sum(squares)) / (WIDTH_WINDOWS + len(squares))))


def _points(settings: pd.DataFrame) -> Points:
    """Sorted by compute."""
    table = settings[["params", "tokens", "loss", "sd"]].to_numpy(np.float64)
    count = len(np.unique(table[:, :2], axis=0))
    if count < MIN_SETTINGS:
        raise UserError(
            f"loss prediction: settings: at least {MIN_SETTINGS} different sizes or budgets are needed, got {count}; "
            "add a smaller or a larger model, or another budget"
        )
    loss = table[:, 2]
    if not (np.isfinite(loss) & (loss > 0)).all():
        raise UserError(
            f"loss prediction: loss: must be finite and above zero, got {loss.min():g}; leave diverged settings out"
        )
    assert (table[:, 3] > 0).all()
    place = np.log2(table[:, :2])
    order = np.lexsort((table[:, 3], loss, place[:, 1], place[:, 0], place.sum(axis=1)))
    return Points(place, np.log(loss), table[:, 3])[order]
