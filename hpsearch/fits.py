"""The surface as a search has it while it runs: a pure function of the ledger's prefix, fitted once a prefix."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

from hpsearch.next_trial import trusted
from hpsearch.state import SearchState, Trial
from hpsearch.surface import Surface, fit_surface
from hpsearch.surface_model import Array
from hpsearch.trials_table import first_observations
from search_spaces.errors import UserError

EVERY = 32  # measurements up to which each is fitted at once; later only when there are a twentieth more
GROWTH = 1.05


@dataclass(frozen=True)
class Outlook:
    """What the surface expects of a trial at its full budget."""

    regret: float  # expected, a fraction of the loss
    probability_bad: float  # that the regret exceeds the tolerance


class Noisy(Protocol):
    """Of a surface, how noisy a run is."""

    @property
    def noise_fraction(self) -> float: ...


def num_fitted(num_measured: int) -> int:
    """How many of the measurements the present fit has seen: a fit each would cost a long search its driver."""
    fitted = min(num_measured, EVERY)
    while math.ceil(fitted * GROWTH) <= num_measured and fitted >= EVERY:
        fitted = math.ceil(fitted * GROWTH)
    return fitted


def surface_so_far(state: SearchState) -> Surface | None:
    """The surface of what is measured; None while nothing has a finite loss above zero."""
    count = num_fitted(len(state.measured))
    if ("surface", count) not in state.memo:
        state.memo.clear()  # an older fit is asked for no more
        state.memo["surface", count] = _fit(state, count)
    surface: Surface | None = state.memo["surface", count]
    return surface


def trusted_surface(state: SearchState) -> Surface | None:
    """The surface where it may judge trials: each parameter bracketed at two settings; else None."""
    surface = surface_so_far(state)
    if ("trusted",) not in state.memo:
        state.memo["trusted",] = surface is not None and trusted(surface)
    return surface if state.memo["trusted",] else None


def outlook(state: SearchState, surface: Surface, trial: Trial) -> Outlook:
    """What the surface that was fitted last expects of a trial."""
    key = ("outlook", trial.trial_id)
    if key not in state.memo:
        state.memo[key] = outlook_of(surface, trial, state.spec.scheduler.tolerance)
    expected: Outlook = state.memo[key]
    return expected


def outlook_of(surface: Surface, trial: Trial, tolerance: float) -> Outlook:
    """What a surface expects of a trial of its fit, given the tolerance of the search."""
    params, tokens = trial.config.architecture.params, trial.asked.rungs[-1]
    return judged(surface, surface.trial_regret_draws(trial.trial_id, params, tokens, trial.asked.values), tolerance)


def judged(surface: Noisy, regret: Array, tolerance: float) -> Outlook:
    """Draws (K,) of a trial's regret at its full budget, against a tolerance that is never below the noise."""
    return Outlook(float(regret.mean()), float((regret > effective_tolerance(surface, tolerance)).mean()))


def effective_tolerance(surface: Noisy, tolerance: float) -> float:
    """The tolerance of a search: less than the noise of a run cannot be told."""
    return max(tolerance, surface.noise_fraction)


def _fit(state: SearchState, count: int) -> Surface | None:
    table = first_observations(state, count)
    if table.empty or not table["loss"].notna().any():
        return None
    try:
        return fit_surface(table, state.spec.parameters, state.spec.seed, hold_out=False)
    except UserError:  # a loss that is not above zero: no surface, and the search goes on by rank
        return None
