"""Confirming a recommendation: one to three cheap trials at a size between ladder and target, predicted first.

The size lies on the straight line, in octaves of N and D, from the ladder's largest setting to the target.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import lcm, log2

from hpsearch.events import ConfirmPlan
from hpsearch.model_spec import Shape
from hpsearch.plan import rung_tokens, segment_flops, size_run, smallest_batch
from hpsearch.spec import Size, Spec, Target
from hpsearch.state import SearchState
from hpsearch.surface import Surface
from hpsearch.targets import ResolvedTarget, resolve_target
from hpsearch.transfer.proof import can_predict, fit_search, moved, predict_at, probed_parameter
from search_spaces.errors import UserError
from search_spaces.parameter import Scale
from trials.architecture import Architecture, Kind

OFFSETS = (0.0, -0.5, 0.5)  # octaves from the predicted value, in the order of the trials
SPENT_SHARE = 0.1  # of what the search has spent: what a confirm may cost where nothing else is said
LEAST_STEP = 2.0**0.5  # in N above the ladder's largest proxy: nearer, the trials would repeat the ladder
NUM_STEPS = 128  # shapes tried between ladder and target
WIDTH_MULTIPLE = 8  # of the shapes in between: what devices multiply well
ROUNDING = 0.999  # of the FLOPs of a run: the gains of a QK norm are counted in its cost, not in its size
ROUNDED_UP = 1.005  # what is shown with three digits is then enough


def check_confirmable(state: SearchState) -> None:
    """A confirm tests what a whole search recommends.

    Raises:
        UserError: it is not complete, too little was measured, or it has no learning rate to move by octaves.
    """
    name = state.spec.name
    if state.closed is None or not state.closed.complete:
        raise UserError(f"{name}: must be complete before it is confirmed; finish it with `hpsearch resume {name}`")
    if not can_predict(state):
        raise UserError(f"{name}: too few finished measurements to predict from; widen the search")
    probed = probed_parameter(state.spec)
    if probed.name != "learning_rate" or probed.scale is not Scale.LOG:
        raise UserError(
            f"{name}: space: a confirm moves the learning rate by octaves, got it {_searched(state.spec)}; "
            "search it on a log scale"
        )


def sizes_between(spec: Spec, target: ResolvedTarget) -> tuple[Size, ...]:
    """Sizes from the ladder's largest proxy to the target, both ends' shapes in proportion; N ascends.

    Raises:
        UserError: there is none.
    """
    shapes = {
        spec.architecture(shape).params: shape
        for shape in _shapes_between(spec, target)
        if not _shape_fault(spec, target, shape)
    }
    along = (_with_tokens(spec, target, shape) for _, shape in sorted(shapes.items()))
    sizes = tuple(size for size in along if not _fault(spec, target, size))
    if not sizes:
        raise UserError(
            f"--target: must leave room for a size above the ladder's largest proxy ({_largest(spec).params:,} "
            f"non-embedding parameters), got {target.architecture.params:,} with {target.tokens:.3g} tokens; "
            "name a larger target"
        )
    return sizes


def plan_of_size(state: SearchState, target: Target, size: Size, trials: int) -> ConfirmPlan:
    """The trials of a size that the user names.

    Raises:
        UserError: it does not lie between ladder and target.
    """
    fault = _fault(state.spec, resolve_target(target, state.spec), size)
    if fault:
        raise UserError(f"--size: {fault}")
    return confirm_plan(state, fit_search(state, proof=True), target, size, trials)


def affordable_plan(state: SearchState, target: Target, limit_flops: float, trials: int) -> ConfirmPlan:
    """The largest size whose trials cost no more than a limit.

    Where the limit does not reach beyond the ladder, the nearest size above it, in a run as long as is affordable.

    Raises:
        UserError: the limit does not cover the shortest of such runs.
    """
    spec, resolved = state.spec, resolve_target(target, state.spec)
    surface = fit_search(state, proof=True)
    sizes = sizes_between(spec, resolved)
    least = LEAST_STEP * _largest(spec).params
    far = [size for size in sizes if spec.architecture(size).params >= least] or [sizes[-1]]
    cheap = [size for size in far if _flops(spec, size, trials) <= limit_flops]
    for size in [*reversed(cheap), _shortened(spec, far[0], limit_flops / trials)]:
        plan = confirm_plan(state, surface, target, size, trials)
        if plan.cost_flops <= limit_flops and not _fault(spec, resolved, size):
            return plan
    shortest = far[0].model_copy(update={"tokens": float(_shortest_run(spec))})
    raise UserError(
        f"--flops: must cover --trials {trials} at the nearest size above the ladder, "
        f"{shortest.width}x{shortest.depth} with {shortest.tokens:,.0f} tokens, got {limit_flops:.3g}; raise it to "
        f"{ROUNDED_UP * trials * _limit_flops(spec, shortest):.3g}, or lower --trials"
    )


def confirm_plan(state: SearchState, surface: Surface, target: Target, size: Size, trials: int) -> ConfirmPlan:
    """What is predicted of a size from the surface of everything measured, and what its trials cost."""
    spec = state.spec
    params = spec.architecture(size).params
    prediction = predict_at(spec, surface, params, size.tokens)
    loss = surface.predict_loss(params, size.tokens, prediction.values)
    config, rungs = size_run(spec, size, prediction.values, spec.seed)
    return ConfirmPlan(
        target=target,
        size=size,
        trials=trials,
        prediction=prediction,
        loss=loss.median,
        loss_low80=loss.low80,
        loss_high80=loss.high80,
        cost_flops=trials * segment_flops(config, rungs, 0),
    )


def replanned(state: SearchState, plan: ConfirmPlan) -> ConfirmPlan:
    """The plan for the same target, size and number of trials, recomputed from what is measured."""
    assert state.closed is not None and state.closed.complete, "a confirm of a search that is not complete"
    fault = _fault(state.spec, resolve_target(plan.target, state.spec), plan.size)
    assert not fault, fault
    return confirm_plan(state, fit_search(state, proof=True), plan.target, plan.size, plan.trials)


def confirm_values(spec: Spec, plan: ConfirmPlan, number: int) -> dict[str, float]:
    """The configuration of trial `number` of a confirm, counted from 0."""
    return moved(spec, plan.prediction, OFFSETS[number])


def _searched(spec: Spec) -> str:
    rate = spec.space.get("learning_rate")
    return "fixed" if rate is None else f"on scale {rate.scale}"


def _largest(spec: Spec) -> Architecture:
    return spec.architecture(spec.ladder[-1])


def _runs(spec: Spec) -> tuple[int, ...]:
    """Tokens of the runs of the ladder's largest proxy, ascending."""
    return rung_tokens(spec, len(spec.ladder) - 1, smallest_batch(spec))


def _shortest_run(spec: Spec) -> int:
    """Tokens below which a warmup that the space allows may not end before the run decays."""
    return _runs(spec)[0]


def _fault(spec: Spec, target: ResolvedTarget, size: Size) -> str:
    """The rule that a size breaks, with the remedy; empty where it may be tried."""
    if not _shortest_run(spec) <= size.tokens <= target.tokens:
        return (
            f"tokens: must be at least the ladder's shortest run of its largest proxy ({_shortest_run(spec):,}) and "
            f"at most the target's ({target.tokens:.6g}), got {size.tokens:.6g}; change tokens"
        )
    return _shape_fault(spec, target, size)


def _shape_fault(spec: Spec, target: ResolvedTarget, shape: Shape) -> str:
    try:
        params = spec.architecture(shape).params
    except ValueError as error:
        return str(error)
    largest, most = _largest(spec).params, target.architecture.params
    if largest < params <= most:
        return ""
    return (
        f"must lie above the ladder's largest proxy ({largest:,} non-embedding parameters) and not above the "
        f"target ({most:,}), got {params:,}; change width or depth"
    )


def _shapes_between(spec: Spec, target: ResolvedTarget) -> Iterator[Shape]:
    """Shapes in proportion between the ladder's largest proxy and the target."""
    start, end = _largest(spec), target.architecture
    for step in range(1, NUM_STEPS + 1):
        share = step / NUM_STEPS
        heads = max(1, round(_between(start.kv_heads, end.kv_heads, share))) * spec.model.heads_per_kv
        multiple = _width_multiple(spec, heads)
        yield Shape(
            width=max(1, round(_between(start.width, end.width, share) / multiple)) * multiple,
            depth=round(_between(start.depth, end.depth, share)),
            heads=heads,
        )


def _with_tokens(spec: Spec, target: ResolvedTarget, shape: Shape) -> Size:
    """A shape with the tokens that lie as far on the way to the target's as its N does."""
    runs, params = _runs(spec), spec.architecture(shape).params
    least, most = _largest(spec).params, target.architecture.params
    tokens = _between(runs[-1], target.tokens, log2(params / least) / log2(most / least))
    return Size(**shape.model_dump(), tokens=min(max(round(tokens), runs[0]), target.tokens))


def _width_multiple(spec: Spec, heads: int) -> int:
    """Of a width in between: whole heads where the width makes them, of a llama even ones, as positions turn pairs."""
    of_heads = 1 if spec.model.head_size else heads * (2 if spec.model.kind is Kind.LLAMA else 1)
    return lcm(WIDTH_MULTIPLE, of_heads)


def _between(start: float, end: float, share: float) -> float:
    """A share of the way in octaves."""
    return float(start * (end / start) ** share)


def _flops(spec: Spec, size: Size, trials: int) -> float:
    """FLOPs of a size's trials, but for whole steps."""
    return trials * size.tokens * spec.architecture(size).training_flops_per_token


def _limit_flops(spec: Spec, size: Size) -> float:
    """FLOPs that one run of a size does not exceed, though its tokens are rounded up to whole steps."""
    return (size.tokens + _half_step(spec)) * spec.architecture(size).training_flops_per_token / ROUNDING


def _shortened(spec: Spec, size: Size, limit_flops: float) -> Size:
    """A size in as many tokens as a limit allows one run, or in as many as it has: the inverse of `_limit_flops`."""
    tokens = ROUNDING * limit_flops / spec.architecture(size).training_flops_per_token - _half_step(spec)
    return size.model_copy(update={"tokens": min(size.tokens, max(float(int(tokens)), 1.0))})


def _half_step(spec: Spec) -> float:
    """Tokens by which whole steps of the largest batch may lengthen a run."""
    return spec.ends("batch_sequences")[1] * spec.context_tokens / 2
