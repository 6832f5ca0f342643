"""How far from what was measured a recommendation may reach."""

from __future__ import annotations

from collections.abc import Iterator

from hpsearch.surface import Surface

MAX_REACH_PARAMS = 16.0  # beyond the largest size measured; a ladder of 16x has shown no more
MAX_REACH_TOKENS = 64.0  # beyond the largest budget measured: sizes at equal tokens per parameter move both
EDGE_OCTAVES = 0.25  # an optimum this near the end of the range may lie beyond it


def refusal(surface: Surface, params: float, tokens: float) -> str:
    """Why a recommendation for N = `params`, D = `tokens` would be a guess; empty where it is not."""
    settings = surface.sweep.settings
    if surface.num_settings < 2 and (settings != (params, tokens)).any():
        return "one setting only: no drift can be seen; add a smaller or a larger model, or another budget"
    reach_params, reach_tokens = params / settings[:, 0].max(), tokens / settings[:, 1].max()
    if reach_params > MAX_REACH_PARAMS:
        return (
            f"reach: the target has {reach_params:,.0f}x the parameters of the largest size measured, at most "
            f"{MAX_REACH_PARAMS:.0f}x is supported; measure larger models, or --accept-reach"
        )
    if reach_tokens > MAX_REACH_TOKENS:
        return (
            f"reach: the target has {reach_tokens:,.0f}x the tokens of the longest run measured, at most "
            f"{MAX_REACH_TOKENS:.0f}x is supported; train longer (a search: raise rung_ratios), or --accept-reach"
        )
    return ""


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
