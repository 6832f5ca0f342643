"""What each value of one parameter loses at each setting, all others held: the evidence for freezing it.

Losses are natural logarithms, so that their differences are relative losses; coordinates are in octaves.

Shapes: S settings (distinct N, D), V values.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from search_spaces.parameter import Parameter

Array = NDArray[np.float64]
Value = float | str

MAX_GAP_OCTAVES = 2.5  # between two tested values; further apart, what lies between is not known
SAME_DIGITS = 6  # values that agree in so many digits are one


@dataclass(frozen=True)
class Profile:
    """The relative loss of every tested value; between settings they do not compare, within one they do."""

    parameter: Parameter | None  # None: categories, which have no order
    name: str
    settings: Array  # (S, 2) params, tokens; ascending
    values: tuple[Value, ...]  # (V,) ascending where they have an order
    coordinates: Array  # (V,) octaves; NaN of a category, and of a value that is off
    log_loss: Array  # (S, V) NaN where it was not tested, or diverged
    diverged: NDArray[np.bool_]  # (S, V) whether any run with this value did
    runs: Array  # (S, V) finite losses behind each

    @cached_property
    def cost(self) -> Array:
        """Relative loss above the best of the setting, (S, V); between tested neighbours on a straight line."""
        filled = np.vstack([self._filled(row, bad) for row, bad in zip(self.log_loss, self.diverged, strict=True)])
        best = np.min(self.log_loss, axis=1, keepdims=True, initial=np.inf, where=np.isfinite(self.log_loss))
        return np.asarray(filled - best)

    @property
    def tested(self) -> NDArray[np.bool_]:
        """(S, V) whether the value was run at the setting, whatever came out."""
        return np.isfinite(self.log_loss) | self.diverged

    def _filled(self, log_loss: Array, diverged: NDArray[np.bool_]) -> Array:
        """A setting's losses with untested values between two near neighbours that came out."""
        known = np.isfinite(log_loss) & np.isfinite(self.coordinates)
        if known.sum() < 2:
            return log_loss
        at, losses = self.coordinates[known], log_loss[known]
        order = np.argsort(at)
        at, losses = at[order], losses[order]
        right = np.clip(np.searchsorted(at, self.coordinates), 1, len(at) - 1)
        inside = (
            (self.coordinates > at[0]) & (self.coordinates < at[-1]) & (at[right] - at[right - 1] <= MAX_GAP_OCTAVES)
        )
        between = np.interp(np.nan_to_num(self.coordinates), at, losses)
        return np.where(np.isnan(log_loss) & inside & ~diverged, between, log_loss)


@dataclass(frozen=True)
class Spread:
    """What repeats say of the noise: a sum of squared relative deviations, and its degrees of freedom."""

    squares: float
    dof: int


def make_profile(name: str, parameter: Parameter | None, runs: pd.DataFrame) -> tuple[Profile, Spread]:
    """The profile of one parameter, and the spread of what was run more than once.

    Args:
        name: of the parameter.
        parameter: its scale; None for categories.
        runs: `params`, `tokens`, `value`, `loss` (NaN: diverged) and `block`: runs of one block differ in nothing else.
            What a block has in common (a batch size, a shape) is taken out of its losses.
    """
    table = runs.assign(value=[_same(value) for value in runs["value"]])
    settings = np.unique(table[["params", "tokens"]].to_numpy(np.float64), axis=0)
    values = tuple(sorted(set(table["value"].tolist()), key=lambda value: (isinstance(value, str), value)))
    log_loss, diverged, count = (np.full((len(settings), len(values)), empty) for empty in (np.nan, 0.0, 0.0))
    squares, dof = 0.0, 0
    for s, (params, tokens) in enumerate(settings):
        here = table[(table["params"] == params) & (table["tokens"] == tokens)]
        effects, spread = value_effects(here)
        squares, dof = squares + spread.squares, dof + spread.dof
        for v, value in enumerate(values):
            of_value = here[here["value"] == value]
            diverged[s, v] = float(of_value["loss"].isna().any())
            count[s, v] = float(of_value["loss"].notna().sum())
            log_loss[s, v] = effects.get(value, np.nan)
    coordinates = np.array([_coordinate(parameter, value) for value in values])
    return Profile(parameter, name, settings, values, coordinates, log_loss, diverged > 0, count), Spread(squares, dof)


def value_effects(runs: pd.DataFrame) -> tuple[Mapping[Value, float], Spread]:
    """The ln loss of every value at one setting, freed of what its blocks have in common, and what is left over.

    Additive least squares, ln loss = value + block; blocks that share no value cannot be told apart, and the
    solution of least norm takes them for alike.
    """
    finite = runs[runs["loss"].notna()]
    if finite.empty:
        return {}, Spread(0.0, 0)
    value_of, values = pd.factorize(finite["value"])
    block_of, blocks = pd.factorize(finite["block"])
    design = np.hstack([np.eye(len(values))[value_of], np.eye(len(blocks))[block_of]])
    log_loss = np.log(finite["loss"].to_numpy(np.float64))
    origin = float(log_loss.mean())
    solution, _, rank, _ = np.linalg.lstsq(design, log_loss - origin, rcond=None)
    left = log_loss - origin - design @ solution
    effects = solution[: len(values)] + solution[len(values) :].mean() + origin
    return dict(zip(values, effects.tolist(), strict=True)), Spread(float(left @ left), len(finite) - int(rank))


def pooled_noise(spreads: Sequence[Spread], assumed: float, assumed_dof: float) -> float:
    """Relative sd of one run: of the repeats, shrunk towards what is assumed without any."""
    squares, dof = sum(spread.squares for spread in spreads), sum(spread.dof for spread in spreads)
    return float(np.sqrt((assumed_dof * assumed**2 + squares) / (assumed_dof + dof)))


def _same(value: Value) -> Value:
    return value if isinstance(value, str) else float(f"{value:.{SAME_DIGITS}g}")


def _coordinate(parameter: Parameter | None, value: Value) -> float:
    if parameter is None or isinstance(value, str):
        return float("nan")
    coordinate = parameter.coordinate(value)
    return coordinate if np.isfinite(coordinate) else float("nan")
