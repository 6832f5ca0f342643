"""What to beware of in the recommendation of a search, in words."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from hpsearch.freeze_stage import freeze_audit
from hpsearch.plan import architecture
from hpsearch.state import SearchState
from hpsearch.surface import Surface
from hpsearch.targets import ResolvedTarget
from hpsearch.transfer.reach import broken_sizes_warning, is_at_edge, missed_warnings
from hpsearch.transfer.status import drift_is_told
from search_spaces.parameter import Parameter


def cautions(
    state: SearchState, surface: Surface, target: ResolvedTarget, values: Mapping[str, float]
) -> Iterator[str]:
    """Of a recommendation for a target, with the values that it recommends."""
    parameters = state.spec.parameters
    sizes = len(set(surface.sweep.settings[:, 0]))
    if sizes < 3:
        yield f"{sizes} sizes measured: the drift with N cannot be checked; use three or more"
    untold = [p.name for p in parameters if not p.freezable and not drift_is_told(surface, p)]
    if untold:
        yield f"{', '.join(untold)}: the trials do not tell the drift, only the prior does; held to the searched range"
    for parameter in parameters:
        at_edge = [] if parameter.freezable else _sizes_at_edge(state, surface, parameter)
        if at_edge:
            where = ", ".join(f"{params:,.0f}" for params in at_edge)
            yield f"{parameter.name}: the optimum lies at the edge of the searched range at N = {where}; widen it"
    yield from broken_sizes_warning(surface)
    yield from missed_warnings(surface)
    batch_sequences = values.get("batch_sequences", 0) or state.spec.value("batch_sequences")
    batch_tokens = round(batch_sequences) * state.spec.context_tokens
    if target.published_batch_tokens and target.published_batch_tokens != batch_tokens:
        yield (
            f"batch: measured at {batch_tokens:,} tokens a step, {target.name} was trained with "
            f"{target.published_batch_tokens:,}; the learning rate holds for the measured one"
        )
    unlike = target.unlike(architecture(state.spec, len(state.spec.ladder) - 1))
    if unlike:
        yield f"parts: {target.name} has {', '.join(unlike)}; give the search a model of these parts, or trust it less"
    audit = freeze_audit(state, surface.noise_fraction)
    if audit is not None and not audit.holds:
        yield (
            f"freezing {', '.join(audit.frozen)} in mid-course cost {audit.cost:.2%} at the largest size, more than "
            f"{audit.tolerance:.2%}: search on with them free"
        )
    if state.closed is None or not state.closed.complete:
        yield "the search is not complete; `hpsearch resume` first"


def _sizes_at_edge(state: SearchState, surface: Surface, parameter: Parameter) -> list[float]:
    """The sizes of the ladder at whose longest budget the optimum lies near an end of the range, or beyond it."""
    centers = {
        params: parameter.coordinate(parameter.nearest(surface.optimum(params, tokens)[parameter.name].median))
        for params, tokens in _largest_settings(state, surface)
    }
    return [n for n, center in centers.items() if is_at_edge(center, parameter.bounds)]


def _largest_settings(state: SearchState, surface: Surface) -> list[tuple[float, float]]:
    """The longest budget of each size of the ladder."""
    sizes = {state.spec.architecture(proxy).params for proxy in state.spec.ladder}
    longest: dict[float, float] = {}
    for params, tokens in surface.sweep.settings:
        if int(params) in sizes:
            longest[params] = max(tokens, longest.get(params, 0.0))
    return sorted(longest.items())
