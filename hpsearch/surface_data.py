"""Trials as the arrays that the surface is fitted to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hpsearch.surface_model import Array, Form, Layout, Rows, form_of
from search_spaces.errors import UserError
from search_spaces.parameter import Parameter

Indices = NDArray[np.int64]

DIVERGED_OCTAVES = 1.0  # a diverged run counts as twice the largest finite loss, as a lower bound


@dataclass(frozen=True)
class Sweep:
    """All measurements of a search, in an order that does not depend on the order they came in."""

    parameters: tuple[Parameter, ...]
    form: Form
    settings: Array  # (S, 2) params, tokens; ascending
    origin: Array  # (2,) mean of log2 N and of log2 D over the settings
    center_origin: Array  # (P,) octaves from which coordinates are counted: the fit knows no units
    loss_origin: float  # ln of the least loss, from which losses are counted
    rows: Rows
    log_loss: Array  # (R,) ln loss minus its origin
    diverged: NDArray[np.bool_]  # (R,)
    trials: tuple[str, ...]  # their names
    trial_of: Indices  # (R,) index of the row's trial among them
    repeat_of: Indices  # (R,) rows that differ in seed only share a number

    @property
    def layout(self) -> Layout:
        return Layout(len(self.parameters), len(self.settings), self.rows.shift_of.shape[1])

    def basis(self, params: float, tokens: float) -> Array:
        """(3,) 1, n, d of a setting, octaves from the data's mean."""
        return np.concatenate([[1.0], np.log2([params, tokens]) - self.origin])


def read_sweep(observations: pd.DataFrame, parameters: Sequence[Parameter]) -> Sweep:
    """Observations -> arrays.

    Args:
        observations: `trial`, `params` (N), `tokens` (D), `loss` (NaN or infinite: diverged), `seed`, and a
            column of raw values for each parameter; one row per trial and rung.
        parameters: the searched parameters.

    Raises:
        UserError: no run has a finite loss, a loss is not above zero, or a value is missing.
    """
    names = [parameter.name for parameter in parameters]
    assert {"trial", "params", "tokens", "loss", "seed", *names} <= set(observations.columns)
    table = observations.sort_values(["params", "tokens", "trial", "seed"], kind="stable", ignore_index=True)
    loss = table["loss"].to_numpy(np.float64)
    _check_losses(loss)
    _check_values(table, names)
    settings, setting_of = np.unique(table[["params", "tokens"]].to_numpy(np.float64), axis=0, return_inverse=True)
    origin = np.log2(settings).mean(axis=0)
    offsets = np.log2(settings)[setting_of] - origin
    repeat_of: Indices = np.asarray(table.groupby(["params", "tokens", *names], sort=True).ngroup(), np.int64)
    trial_of, trials = pd.factorize(table["trial"])
    diverged = ~np.isfinite(loss)
    worst = float(np.log(loss[~diverged].max()))
    coordinates = _coordinates(table, parameters)
    active = np.isfinite(coordinates)
    center_origin = _center_origin(coordinates, parameters)
    loss_origin = float(np.log(loss[~diverged].min()))
    rows = Rows(
        coordinates=np.where(active, coordinates - center_origin, 0.0),
        active=active.astype(np.float64),
        basis=np.column_stack([np.ones(len(table)), offsets]),
        setting_of=np.eye(len(settings))[setting_of],
        shift_of=_shift_of(table, repeat_of),
    )
    return Sweep(
        parameters=tuple(parameters),
        form=form_of([parameter.known_name for parameter in parameters]),
        settings=settings,
        origin=origin,
        center_origin=center_origin,
        loss_origin=loss_origin,
        rows=rows,
        log_loss=np.where(diverged, worst + DIVERGED_OCTAVES * np.log(2), np.log(np.where(diverged, 1.0, loss)))
        - loss_origin,
        diverged=diverged,
        trials=tuple(str(name) for name in trials),
        trial_of=np.asarray(trial_of, np.int64),
        repeat_of=repeat_of,
    )


def _check_losses(loss: Array) -> None:
    finite = loss[np.isfinite(loss)]
    if not len(finite):
        raise UserError(
            f"trials: loss: at least one trial must end with a finite loss, got {len(loss)} that diverged; "
            "lower the range of the learning rate or lengthen the warmup"
        )
    if finite.min() <= 0:
        raise UserError(
            f"trials: loss: must be above zero, got {finite.min():g}; use a loss in nats or bits, not a score"
        )


def _check_values(table: pd.DataFrame, names: Sequence[str]) -> None:
    for name in names:
        missing = int(table[name].isna().sum())
        if missing:
            raise UserError(
                f"trials: {name}: must be given for every trial, got {missing} empty of {len(table)}; "
                "fill them in or leave the parameter out of the space"
            )


def _coordinates(table: pd.DataFrame, parameters: Sequence[Parameter]) -> Array:
    columns = [[p.coordinate(float(value)) for value in table[p.name]] for p in parameters]
    return np.array(columns, np.float64).reshape(len(columns), len(table)).T


def _center_origin(coordinates: Array, parameters: Sequence[Parameter]) -> Array:
    """Mean coordinate (P,) of the runs in which a parameter is on; of one that never is, the middle of its range."""
    on = np.isfinite(coordinates)
    middle = np.array([sum(parameter.bounds) / 2 for parameter in parameters])
    total = np.where(on, coordinates, 0.0).sum(axis=0)
    return np.where(on.any(axis=0), total / np.maximum(on.sum(axis=0), 1), middle)


def _shift_of(table: pd.DataFrame, repeat_of: Indices) -> Array:
    """One column per seed of an N other than its main seed, where the sweep has repeats to tell seeds apart.

    The trials of one seed share initial weights and data, so what that seed adds to all of them is no
    evidence about the bowl; a repeat at the incumbent would bend it by just that.
    """
    seeds_of_config = table.groupby(repeat_of)["seed"].nunique()
    if seeds_of_config.max() < 2:
        return np.zeros((len(table), 0))
    counts = table.groupby(["params", "seed"]).size().rename("count").reset_index()
    order = counts.sort_values(["params", "count", "seed"], ascending=[True, False, True])
    main = order.drop_duplicates("params")
    others = order.drop(main.index).sort_values(["params", "seed"])
    pairs = zip(others["params"], others["seed"], strict=True)
    columns = [((table["params"] == params) & (table["seed"] == seed)).to_numpy() for params, seed in pairs]
    return np.array(columns, np.float64).reshape(len(columns), len(table)).T
