"""How far from what was measured a recommendation may reach."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from hpsearch.surface import Backtest, Surface
from hpsearch.transfer.advice import Reach, beyond_the_space
from hpsearch.transfer.status import tolerance

MAX_REACH_PARAMS = 16.0  # beyond the largest size measured: a ladder of 16x has shown no more
MAX_REACH_TOKENS = 64.0  # beyond the largest budget measured: sizes at equal tokens per parameter move both
LEAST_REACH_PARAMS = 4.0  # one step of a usual ladder, whatever the back-test says: its misfit widens the intervals
EDGE_OCTAVES = 0.25  # an optimum this near the end of the range may lie beyond it


def supported_reach(surface: Surface) -> float:
    """Times the largest size measured that the back-test supports.

    Where the largest size was predicted badly from the smaller ones, no more than that prediction reached, or one
    step of a ladder.
    """
    if not costly_misses(surface):
        return MAX_REACH_PARAMS
    sizes = np.unique(surface.sweep.settings[:, 0])
    return max(float(sizes[-1] / sizes[-2]), LEAST_REACH_PARAMS)


def reach(surface: Surface, params: float, tokens: float) -> Reach:
    """How far N = `params`, D = `tokens` lie beyond what was measured."""
    largest = surface.sweep.settings.max(axis=0)
    return Reach(
        params=params / float(largest[0]),
        tokens=tokens / float(largest[1]),
        supported_params=supported_reach(surface),
    )


def costly_misses(surface: Surface) -> tuple[str, ...]:
    """Parameters whose back-test missed its 95 % interval and lost what can be seen against the fitted optimum.

    Of several parameters one misses an 80 % interval more often than not, and where the optimum is vague a miss
    costs nothing: neither says that the form fails.
    """
    return tuple(name for name, tested in surface.backtest.items() if _missed(tested) and _lost(surface, name, tested))


def _missed(tested: Backtest) -> bool:
    return not tested.predicted.low95 <= tested.fitted <= tested.predicted.high95


def _lost(surface: Surface, name: str, tested: Backtest) -> bool:
    predicted, fitted = (
        surface.expected_regret(tested.params, tested.tokens, {name: value}).mean
        for value in (tested.predicted.value, tested.fitted)
    )
    return predicted - fitted > tolerance(surface)


def refusal(surface: Surface, params: float, tokens: float) -> str:
    """Why a recommendation for N = `params`, D = `tokens` would be a guess; empty where it is not."""
    return "; ".join(_reasons(surface, params, tokens))


def _reasons(surface: Surface, params: float, tokens: float) -> Iterator[str]:
    settings = surface.sweep.settings
    if surface.num_settings < 2 and (settings != (params, tokens)).any():
        yield "one setting only: no drift can be seen; add a smaller or a larger model, or another budget"
        return
    reach_params, reach_tokens = params / settings[:, 0].max(), tokens / settings[:, 1].max()
    supported, missed = supported_reach(surface), costly_misses(surface)
    if reach_params > supported:
        why = f"the back-test missed {', '.join(missed)}" if missed else "a ladder has shown no more"
        yield (
            f"reach: the target has {reach_params:,.3g}x the parameters of the largest size measured, at most "
            f"{supported:.3g}x is supported, as {why}; measure larger models, or --accept-reach"
        )
    if reach_tokens > MAX_REACH_TOKENS:
        yield (
            f"reach: the target has {reach_tokens:,.3g}x the tokens of the longest run measured, at most "
            f"{MAX_REACH_TOKENS:.0f}x is supported; train longer (a search: raise rung_ratios), or --accept-reach"
        )
    for name in beyond_the_space(surface):
        yield f"edge: at the largest size the best {name} lies outside the values tested; widen them, or --accept-reach"


def is_at_edge(center: float, bounds: tuple[float, float]) -> bool:
    """Whether an optimum lies near an end of a range, or beyond it; all in octaves."""
    low, high = bounds
    return not low + EDGE_OCTAVES <= center <= high - EDGE_OCTAVES


def broken_sizes_warning(surface: Surface) -> Iterator[str]:
    """Names the sizes whose runs are left out of the answer."""
    if surface.broken_sizes:
        sizes = ", ".join(f"{params:,.0f}" for params in surface.broken_sizes)
        yield (
            f"every run at N = {sizes} diverged or is bad, more than a drift explains: left out as broken; look at "
            "its runs, or test lower learning rates there"
        )


def missed_warnings(surface: Surface) -> Iterator[str]:
    """Names the parameters whose back-test missed."""
    for name, tested in surface.backtest.items():
        if not tested.inside:
            yield (
                f"{name}: predicted from the smaller sizes it missed the fitted optimum at N = {tested.params:,.0f} "
                f"({tested.fitted:.3g} outside [{tested.predicted.low80:.3g}, {tested.predicted.high80:.3g}])"
            )
