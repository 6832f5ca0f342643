"""The loss at larger settings: what no unit may change, laws that are recovered, and a published ladder."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hpsearch.surface import fit_surface
from hpsearch.surface_answers import Prediction
from hpsearch.transfer.loss_forms import FORMS, Form
from hpsearch.transfer.loss_laws import LossLaws, fit_losses, is_larger, mix, setting_floors, stack
from search_spaces.errors import UserError
from search_spaces.parameter import Parameter, Scale

LADDER = Path(__file__).parents[2] / "data" / "loss_ladder.csv"
NOISE = 0.0015
RATE = Parameter("learning_rate", 2.0**-12, 2.0**-5, Scale.LOG)
LARGEST = (1.6e7, 3.2e8)
few = settings(max_examples=4, deadline=None)


def grid(e: float = 1.7, a: float = 0.34, b: float = 0.28, cross: float = 1.0) -> pd.DataFrame:
    """Three sizes by three budgets of a law of Busbridge's form, without noise."""
    params, tokens = (np.ravel(x) for x in np.meshgrid([1e6, 4e6, 1.6e7], [2e7, 8e7, 3.2e8]))
    return truth(params, tokens, (e, a, b, cross))


def truth(params: np.ndarray, tokens: np.ndarray, law: tuple[float, float, float, float]) -> pd.DataFrame:
    e, a, b, cross = law
    bracket = 0.6 * (params / 1e6) ** (-a / cross) + 0.7 * (tokens / 2e7) ** (-b / cross)
    return pd.DataFrame({"params": params, "tokens": tokens, "loss": e + bracket**cross, "sd": NOISE})


def width(told: Prediction) -> float:
    return float(np.log(told.high90 / told.low90))


def ends(told: Prediction) -> list[float]:
    return [told.low90, told.low80, told.median, told.high80, told.high90]


@pytest.fixture(scope="module")
def laws() -> LossLaws:
    return fit_losses(grid(), NOISE)


@pytest.fixture(scope="module")
def ladder() -> pd.DataFrame:
    table = pd.read_csv(LADDER).assign(sd=NOISE)
    return table.sort_values("tokens", key=lambda tokens: tokens * table["params"], ignore_index=True)


@few
@given(st.floats(0.01, 100), st.floats(1e-6, 1e6), st.floats(1e-6, 1e6))
def test_units_of_loss_size_and_tokens_change_nothing_else(by_loss: float, by_params: float, by_tokens: float) -> None:
    table, scale = grid(), {"loss": by_loss, "params": by_params, "tokens": by_tokens}
    scaled = table.assign(**{name: table[name] * factor for name, factor in scale.items()})
    told = fit_losses(table, NOISE).predict(6.4e7, 1.3e9)
    moved = fit_losses(scaled, NOISE).predict(6.4e7 * by_params, 1.3e9 * by_tokens)
    assert np.divide(ends(moved), by_loss) == pytest.approx(ends(told), rel=1e-4)


@few
@given(st.permutations(range(9)))
def test_order_of_the_rows_does_not_matter(order: list[int]) -> None:
    assert fit_losses(grid().iloc[order], NOISE).predict(*LARGEST) == fit_losses(grid(), NOISE).predict(*LARGEST)


@few
@given(st.floats(1.0, 2.5), st.floats(0.25, 0.45), st.floats(0.25, 0.45), st.floats(0.5, 1.0))
def test_noise_free_losses_are_recovered(e: float, a: float, b: float, cross: float) -> None:
    """At a setting that was measured, and at twice the compute of the largest."""
    fitted = fit_losses(grid(e, a, b, cross).assign(sd=1e-4), 1e-4)
    for (params, tokens), tolerance in ((LARGEST, 0.001), ((2.3e7, 4.6e8), 0.005)):
        expected = truth(np.array([params]), np.array([tokens]), (e, a, b, cross))["loss"][0]
        told = fitted.predict(params, tokens)
        assert told.median == pytest.approx(expected, rel=tolerance)
        assert told.low80 < expected < told.high80


@settings(deadline=None)
@given(share=st.floats(0, 1), near=st.floats(0.1, 6), further=st.floats(0.1, 6))
def test_interval_widens_with_reach(laws: LossLaws, share: float, near: float, further: float) -> None:
    octaves = np.array([share, 1 - share])
    reaches = (0.0, near, near + further)
    widths = [width(laws.predict(*(np.array(LARGEST) * 2 ** (octaves * reach)))) for reach in reaches]
    assert widths[0] < widths[1] < widths[2]


def test_quantiles_are_in_order_and_weights_add_up(laws: LossLaws) -> None:
    told = ends(laws.predict(6.4e7, 1.3e9))
    assert told == sorted(told)
    assert sum(laws.weights.values()) == pytest.approx(1)
    assert set(laws.weights) == {form.name for form in FORMS} == set(laws.predict_each(6.4e7, 1.3e9))


def test_more_of_anything_lowers_the_loss(laws: LossLaws) -> None:
    losses = [laws.predict(1e6 * 2**octaves, 2e7 * 2**octaves).median for octaves in range(10)]
    assert losses == sorted(losses, reverse=True)


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.name)
def test_every_form_falls_with_size_and_tokens(form: Form) -> None:
    unknowns = np.array([mean for mean, _ in form.priors])
    steps, still = np.arange(-10.0, 11), np.zeros(21)
    assert (np.diff(form.curve(unknowns, steps, still)) < 0).all()
    assert (np.diff(form.curve(unknowns, still, steps)) < 0).all()


def test_one_setting_is_refused() -> None:
    with pytest.raises(UserError, match="at least 2 different sizes or budgets"):
        fit_losses(grid().iloc[[0, 0]], NOISE)


@pytest.mark.parametrize("loss", [0.0, -1.0, float("nan"), float("inf")])
def test_loss_that_is_none_is_refused(loss: float) -> None:
    table = grid()
    table.loc[2, "loss"] = loss
    with pytest.raises(UserError, match="finite and above zero"):
        fit_losses(table, NOISE)


@pytest.mark.parametrize("rows", [[0, 1], [0, 3], [0, 4], [0, 4, 8], [0, 1, 2]])
def test_few_settings_weigh_all_laws_alike_and_are_unsure(rows: list[int], laws: LossLaws) -> None:
    fitted = fit_losses(grid().iloc[rows], NOISE)
    assert (fitted.shares == 1 / len(FORMS)).all()
    assert fitted.num_windows == 0
    assert width(fitted.predict(6.4e7, 1.3e9)) > width(laws.predict(6.4e7, 1.3e9))


def test_weights_go_to_what_predicts() -> None:
    errors = np.full((len(FORMS), 1), 2.0)
    errors[3] = 0.0
    before, after = stack([errors] * 2), stack([errors] * 20)
    assert 1 / len(FORMS) < before[3] < after[3]
    assert after.sum() == pytest.approx(1)
    assert np.ptp(np.delete(after, 3)) < 1e-4


def test_mixture_is_as_unsure_as_its_forms_and_more_where_they_disagree() -> None:
    shares, sd = np.array([0.5, 0.5]), np.full((2, 2), 0.01)
    mean, spread = mix(np.array([[1.0, 1.0], [1.0, 1.2]]), sd, shares)
    assert mean == pytest.approx([1.0, 1.1])
    assert spread[0] == pytest.approx(0.01)
    assert spread[1] > spread[0]


def test_more_compute_on_fewer_tokens_is_not_larger() -> None:
    fitted = np.array([[20.0, 25.0], [22.0, 27.0]])
    asked = np.array([[23.0, 27.0], [20.0, 30.0], [30.0, 24.0], [22.0, 27.0]])
    assert is_larger(asked, fitted).tolist() == [True, True, False, False]


def test_published_ladder_is_predicted_from_its_cheapest_settings(ladder: pd.DataFrame) -> None:
    fitted, hidden = fit_losses(ladder[:6], NOISE), ladder[6:]
    told = [fitted.predict(*place) for place in hidden[["params", "tokens"]].to_numpy().tolist()]
    error = np.abs([one.median for one in told] / hidden["loss"] - 1)
    assert error.mean() < 0.008
    assert all(one.low90 < loss < one.high90 for one, loss in zip(told, hidden["loss"], strict=True))


def test_floors_of_a_surface_leave_out_what_diverged() -> None:
    octaves = np.array([-10.0, -9.0, -8.0, -7.0])
    tables = [
        pd.DataFrame({"learning_rate": 2.0**octaves, "params": n, "tokens": d, "loss": loss, "seed": 0})
        for n, d, loss in zip(*grid().loc[[0, 4, 8], ["params", "tokens", "loss"]].to_numpy().T, strict=True)
    ]
    runs = pd.concat([table.assign(loss=table["loss"] * (1 + 0.004 * (octaves + 8.5) ** 2)) for table in tables])
    ruined = tables[0].assign(params=3e7, loss=np.nan)
    runs = pd.concat([runs, ruined], ignore_index=True)
    floors = setting_floors(fit_surface(runs.assign(trial=runs.index.astype(str)), [RATE], seed=0, hold_out=False))
    expected = grid().loc[[0, 4, 8]]
    assert floors["params"].tolist() == expected["params"].tolist()
    assert floors["loss"].to_numpy() == pytest.approx(expected["loss"].to_numpy(), rel=0.004)
    assert (floors["sd"] > 0).all()
    assert fit_losses(floors, NOISE).predict(*LARGEST).median == pytest.approx(expected["loss"][8], rel=0.005)
