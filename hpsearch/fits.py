"""The surface as a search has it while it runs: a pure function of the ledger's prefix, fitted once a prefix."""

from __future__ import annotations

import math
from dataclasses import dataclass

from hpsearch.next_trial import trusted
from hpsearch.state import SearchState, Trial
from hpsearch.surface import Surface, fit_surface
from hpsearch.trials_table import first_observations
from search_spaces.errors import UserError

EVERY = 32  # measurements up to which each is fitted at once; later only when there are a twentieth more
GROWTH = 1.05


@dataclass(frozen=True)
class Outlook:
    """What the surface expects of a trial at its full budget."""

    regret: float  # expected, a fraction of the loss
    probability_bad: float  # that the regret exceeds the tolerance


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
        state.memo["surface", count] = _fit(state, count)
    surface: Surface | None = state.memo["surface", count]
    return surface


def trusted_surface(state: SearchState) -> Surface | None:
    """The surface where it may judge trials: each parameter bracketed at two settings; else None."""
    surface, count = surface_so_far(state), num_fitted(len(state.measured))
    if ("trusted", count) not in state.memo:
        state.memo["trusted", count] = surface is not None and trusted(surface)
    return surface if state.memo["trusted", count] else None


def outlook(state: SearchState, surface: Surface, trial: Trial) -> Outlook:
    """What the surface that was fitted last expects of a trial.

    Its own rungs are among what was fitted; added is only what they leave unexplained.
    """
    key = ("outlook", surface.num_observations, trial.trial_id)
    if key not in state.memo:
        params, tokens = trial.config.architecture.params, trial.asked.rungs[-1]
        regret = surface.trial_regret_draws(trial.trial_id, params, tokens, trial.asked.values)
        tolerance = max(state.spec.scheduler.tolerance, surface.noise_fraction)
        state.memo[key] = Outlook(float(regret.mean()), float((regret > tolerance).mean()))
    expected: Outlook = state.memo[key]
    return expected


def _fit(state: SearchState, count: int) -> Surface | None:
    table = first_observations(state, count)
    if table.empty or not table["loss"].notna().any():
        return None
    try:
        return fit_surface(table, state.spec.parameters, state.spec.seed, hold_out=False)
    except UserError:  # a loss that is not above zero: no surface, and the search goes on by rank
        return None
