"""What a search file comes to: sizes, rungs in tokens, configurations, FLOPs. Pure functions of the spec."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from hpsearch.domains import SEARCHABLE
from hpsearch.spec import Spec
from search_spaces.errors import UserError
from trials.architecture import Architecture
from trials.trial import TrialConfig

PROOF = -1  # the index of the proof among the proxies: it belongs to no rung population


def architecture(spec: Spec, proxy: int) -> Architecture:
    """The model of the ladder's proxy `proxy`, or of the proof."""
    if proxy == PROOF:
        assert spec.proof is not None
        return spec.architecture(spec.proof)
    return spec.architecture(spec.ladder[proxy])


def smallest_batch(spec: Spec) -> int:
    """Sequences of the smallest batch that the space allows; the fixed one where batch is not searched."""
    domain = spec.space.get("batch_sequences")
    return int(domain.ends[0] if domain else spec.value("batch_sequences"))


def rung_ratios(spec: Spec, proxy: int) -> tuple[float, ...]:
    """Tokens per non-embedding parameter at each rung of a proxy; the proof has one."""
    if proxy == PROOF:
        assert spec.proof is not None
        return (spec.proof.tokens_per_parameter,)
    return spec.rung_ratios(spec.ladder[proxy])


def rung_tokens(spec: Spec, proxy: int, batch_sequences: int) -> tuple[int, ...]:
    """Rungs of a proxy in tokens: ratio times N, on whole optimizer steps, at least one step apart."""
    step_tokens = batch_sequences * spec.context_tokens
    size = architecture(spec, proxy).params
    steps: list[int] = []
    for ratio in rung_ratios(spec, proxy):
        steps.append(max(round(ratio * size / step_tokens), steps[-1] + 1 if steps else 1))
    return tuple(step * step_tokens for step in steps)


def complete_values(spec: Spec, values: Mapping[str, float]) -> dict[str, float]:
    """The searched values with the fixed ones beside them: every parameter of a trial."""
    return {name: values[name] if name in values else spec.value(name) for name in SEARCHABLE}


def trial_config(spec: Spec, proxy: int, values: Mapping[str, float], seed: int) -> TrialConfig:
    """A configuration as a trial runs it: warmup resolved once, to tokens of the proxy's last rung."""
    chosen = complete_values(spec, values)
    batch_sequences = int(chosen["batch_sequences"])
    last_rung = rung_tokens(spec, proxy, batch_sequences)[-1]
    return TrialConfig(
        architecture=architecture(spec, proxy),
        batch_sequences=batch_sequences,
        learning_rate=chosen["learning_rate"],
        warmup_tokens=round(chosen["warmup_fraction"] * last_rung),
        decay_share=spec.decay_share,
        weight_decay=chosen["weight_decay"],
        beta1=chosen["beta1"],
        beta2=chosen["beta2"],
        eps=chosen["eps"],
        gradient_clip=chosen["gradient_clip"],
        seed=seed,
    )


def segment_flops(config: TrialConfig, rungs: tuple[int, ...], rung: int) -> int:
    """Training FLOPs of one rung, its branch included, from the branch point of the rung before."""
    start = config.branch_tokens(rungs[rung - 1]) if rung else 0
    return config.segment_flops(start, rungs[rung])


def trial_flops(spec: Spec, proxy: int) -> int:
    """FLOPs of one trial through all its rungs, at the batch that whole steps make the dearest."""
    return max(sum(_rung_flops(spec, proxy, batch_sequences)) for batch_sequences in _batches(spec))


def expected_flops(spec: Spec, proxy: int) -> float:
    """FLOPs that a proxy's trials will take: one in `reduction_factor` goes on from a rung, repeats go all the way."""
    if proxy == PROOF:
        return float(spec.proof.trials * trial_flops(spec, PROOF)) if spec.proof else 0.0
    costs, factor = _rung_flops(spec, proxy, _batches(spec)[0]), spec.scheduler.reduction_factor
    explored = sum(spec.ladder[proxy].trials / float(factor) ** rung * cost for rung, cost in enumerate(costs))
    return explored + spec.repeats * sum(costs)


def check_budget(spec: Spec, where: str) -> None:
    """A search must be able to keep its promises and still explore every proxy once.

    Raises:
        UserError: it cannot.
    """
    repeats = sum(spec.repeats * trial_flops(spec, proxy) for proxy in range(len(spec.ladder)))
    proof = spec.proof.trials * trial_flops(spec, PROOF) if spec.proof else 0
    explore = sum(trial_flops(spec, proxy) for proxy in range(len(spec.ladder)))
    least = repeats + proof + explore
    if spec.budget_flops < least:
        raise UserError(
            f"{where}: budget_flops: must cover one trial of every proxy ({explore:.3g}), the repeats ({repeats:.3g}) "
            f"and the proof ({proof:.3g}), got {spec.budget_flops:.3g}; raise it to at least {least:.3g}, "
            "or lower rung_ratios, repeats or the proof"
        )


def _rung_flops(spec: Spec, proxy: int, batch_sequences: int) -> list[int]:
    """FLOPs of each rung of a trial, which follow from its batch alone."""
    lowest = {name: domain.ends[0] for name, domain in spec.space.items()}
    config = trial_config(spec, proxy, {**lowest, "batch_sequences": float(batch_sequences)}, spec.seed)
    rungs = rung_tokens(spec, proxy, batch_sequences)
    return [segment_flops(config, rungs, rung) for rung in range(len(rungs))]


def _batches(spec: Spec) -> Sequence[int]:
    """Every batch that a trial may have, ascending."""
    if "batch_sequences" not in spec.space:
        return [int(spec.value("batch_sequences"))]
    domain = spec.space["batch_sequences"]
    low, high = domain.ends
    return [int(value) for value in domain.values] or range(int(low), int(high) + 1)
