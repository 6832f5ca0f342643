"""What the keys of a search file must fulfil together; each rule is a function of the whole search."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from math import isclose
from typing import TYPE_CHECKING

from hpsearch.domains import SEARCHABLE, WARMUPS, check_alternatives
from search_spaces.parameter import Scale
from trials.architecture import Architecture, Kind
from trials.parametrization import OptimizerKind, Rule

if TYPE_CHECKING:
    from hpsearch.model_spec import Shape
    from hpsearch.spec import Spec

SAME_RATIO = 0.15  # of inner widths: what rounding makes of one ratio in the smallest proxies
ROUNDED_STEPS = 2  # a rung and its branch are whole steps: either may lie half a step off, and a ramp's end one


def check(spec: Spec) -> None:
    """All rules but those of the target.

    Raises:
        ValueError: one is broken; the message begins with the key.
    """
    _check_parameters(spec)
    _check_shapes(spec)
    _check_inner_widths(spec)
    _check_ladder(spec)
    _check_warmup(spec)
    _check_batch_ramp(spec)


def _check_parameters(spec: Spec) -> None:
    """Each parameter has one value, from one place, and something that reads it."""
    for name, known in SEARCHABLE.items():
        if name in spec.space and name in spec.fixed:
            raise ValueError(f"fixed.{name}: also in space; remove it from one of the two")
        required = not known.has_default and name not in (*WARMUPS, "timescale")
        if required and name not in spec.space and name not in spec.fixed:
            raise ValueError(f"space.{name}: neither searched nor fixed; add it to space or to fixed")
    check_alternatives(spec.space, spec.fixed)
    for name in [*spec.space, *spec.fixed]:
        where = f"{_place(spec, name)}.{name}"
        if name == "muon_momentum" and spec.optimizer is not OptimizerKind.MUON:
            raise ValueError(f"{where}: only Muon has it, got optimizer {spec.optimizer}; remove one of the two")
        if name == "unembedding_rate_ratio" and spec.model.kind is not Kind.LLAMA:
            raise ValueError(f"{where}: only a llama has an unembedding of its own, got a {spec.model.kind}; remove it")
        if name == "qk_norm" and spec.model.qk_norm:
            raise ValueError(f"{where}: says the same as model.qk_norm, got both; keep one")


def _check_shapes(spec: Spec) -> None:
    for where, shape in _sizes(spec).items():
        try:
            spec.architecture(shape)
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from error


def _check_inner_widths(spec: Spec) -> None:
    """muP and CompleteP count every matrix of a block by the model's width, so what lies inside has to grow with it."""
    if spec.parametrization.rule is Rule.STANDARD:
        return
    shares = {where: attention_share(spec.architecture(shape)) for where, shape in _sizes(spec).items()}
    first, *others = shares
    for where in others:
        if not isclose(shares[where], shares[first], rel_tol=SAME_RATIO):
            raise ValueError(
                f"{where}.heads: under {spec.parametrization.rule} heads x head size must be as large a part of the "
                f"width as in {first} ({shares[first]:.3g}), got {shares[where]:.3g}; change heads, or model.head_size"
            )


def attention_share(shape: Architecture) -> float:
    """Width of all queries over that of the model."""
    return shape.heads * shape.head_size / shape.width


def _check_ladder(spec: Spec) -> None:
    sizes = [spec.architecture(proxy).params for proxy in spec.ladder]
    if sizes != sorted(set(sizes)):
        raise ValueError(f"ladder: must ascend in non-embedding parameters, got {sizes}; sort the proxies")
    if spec.proof is None:
        return
    size = spec.architecture(spec.proof).params
    if size <= sizes[-1]:
        raise ValueError(
            f"proof: must be larger than the ladder's largest proxy ({sizes[-1]:,}), got {size:,}; widen it"
        )
    rate = spec.space.get("learning_rate")
    if rate is None or rate.scale not in (None, Scale.LOG):
        raise ValueError("proof: moves the learning rate by octaves; search it on a log scale, or remove proof")


def _check_warmup(spec: Spec) -> None:
    """A trial is never judged inside its warmup: it must end before the first rung's branch begins."""
    (name,) = [name for name in WARMUPS if name in spec.parameter_names]
    longest = spec.ends(name)[1]
    step_tokens = spec.ends("batch_sequences")[1] * spec.context_tokens
    limits = []
    for params, ratios in _runs(spec):
        # In tokens per parameter: the last rung, a token, a step.
        unit = {WARMUPS[0]: ratios[-1], WARMUPS[1]: 1 / params, WARMUPS[2]: step_tokens / params}[name]
        limits.append(trunk_share(spec) * (ratios[0] / unit))
    if longest > min(limits):
        until = "the first rung" if trunk_share(spec) == 1 else "the first rung's anneal branch begins"
        of_what = {WARMUPS[0]: " of the last rung", WARMUPS[1]: " tokens", WARMUPS[2]: " steps"}[name]
        raise ValueError(
            f"{_place(spec, name)}.{name}: must end before {until} "
            f"({min(limits):.3g}{of_what}), got {longest:g}; lower it, or raise rung_ratios[0]"
        )


def _check_batch_ramp(spec: Spec) -> None:
    """The ramp, too, ends before the first branch, from where on all steps are full."""
    if spec.batch_ramp is None:
        return
    smallest, largest = spec.ends("batch_sequences")
    if spec.batch_ramp.start_sequences > smallest:
        raise ValueError(
            f"batch_ramp.start_sequences: must not exceed the smallest batch ({smallest:g}), "
            f"got {spec.batch_ramp.start_sequences}; lower it"
        )
    margin_tokens = ROUNDED_STEPS * largest * spec.context_tokens
    limit = min((trunk_share(spec) * ratios[0] - margin_tokens / params) / ratios[-1] for params, ratios in _runs(spec))
    if spec.batch_ramp.ramp_fraction > limit:
        raise ValueError(
            f"batch_ramp.ramp_fraction: must end {ROUNDED_STEPS} steps before the first rung's anneal branch begins "
            f"({max(limit, 0):.3g} of the last rung), got {spec.batch_ramp.ramp_fraction:g}; lower it, or raise "
            "rung_ratios[0]"
        )


def trunk_share(spec: Spec) -> float:
    """The least share of a rung that a trial is through when its branch begins.

    A decay over all of the run (share 1) begins where the warmup ends, so there it is the rung itself.
    """
    shares = spec.space["decay_share"].values if "decay_share" in spec.space else ()
    return min(1.0 if share == 1 else 1 - share for share in shares or spec.ends("decay_share"))


def _sizes(spec: Spec) -> Mapping[str, Shape]:
    """The shapes of a search by their place in the file."""
    ladder: dict[str, Shape] = {f"ladder.{i}": proxy for i, proxy in enumerate(spec.ladder)}
    return ladder if spec.proof is None else {**ladder, "proof": spec.proof}


def _runs(spec: Spec) -> Iterator[tuple[int, tuple[float, ...]]]:
    """N and rungs, in tokens per parameter, of the proxies and the proof."""
    for proxy in spec.ladder:
        yield spec.architecture(proxy).params, spec.rung_ratios(proxy)
    if spec.proof is not None:
        yield spec.architecture(spec.proof).params, (spec.proof.tokens_per_parameter,)


def _place(spec: Spec, name: str) -> str:
    return "space" if name in spec.space else "fixed"
