"""What a search file comes to: sizes, rungs in tokens, configurations, FLOPs. Pure functions of the spec."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from hpsearch.domains import DEFAULTS
from hpsearch.spec import Size, Spec
from search_spaces.errors import UserError
from trials.architecture import Architecture
from trials.checkpoint import size_bytes
from trials.roles import decay_rate
from trials.trial import TrialConfig

PROOF = -1  # the index of the proof among the proxies: it belongs to no rung population


def confirm_proxy(number: int) -> int:
    """The index among the proxies of a search's confirm `number`, counted from 0."""
    return PROOF - 1 - number


def architecture(spec: Spec, proxy: int) -> Architecture:
    """The model of the ladder's proxy `proxy`, or of the proof, by which it is counted."""
    if proxy == PROOF:
        assert spec.proof is not None
        return spec.architecture(spec.proof)
    return spec.architecture(spec.ladder[proxy])


def smallest_batch(spec: Spec) -> int:
    """Sequences of the smallest batch that the space allows; the fixed one where batch is not searched."""
    return int(spec.ends("batch_sequences")[0])


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
    """The searched values with the fixed ones beside them: every parameter that a trial reads."""
    return {name: values[name] if name in values else spec.value(name) for name in spec.parameter_names}


def trial_config(spec: Spec, proxy: int, values: Mapping[str, float], seed: int) -> TrialConfig:
    """A configuration as a trial runs it: what depends on the run's length is of the proxy's last rung."""
    last_rung = rung_tokens(spec, proxy, round(complete_values(spec, values)["batch_sequences"]))[-1]
    return run_config(spec, architecture(spec, proxy), last_rung, values, seed)


def size_run(spec: Spec, size: Size, values: Mapping[str, float], seed: int) -> tuple[TrialConfig, tuple[int, ...]]:
    """A configuration for one run of a size, and its one rung: its tokens on whole steps, at least one."""
    step_tokens = round(complete_values(spec, values)["batch_sequences"]) * spec.context_tokens
    tokens = max(round(size.tokens / step_tokens), 1) * step_tokens
    return run_config(spec, spec.architecture(size), tokens, values, seed), (tokens,)


def run_config(spec: Spec, shape: Architecture, run_tokens: int, values: Mapping[str, float], seed: int) -> TrialConfig:
    """A configuration for one run of a model: warmup, ramp and weight decay resolved once, to tokens of that run.

    Args:
        spec: the search.
        shape: the model, without the gains of a QK norm.
        run_tokens: length of the run.
        values: the searched parameters; a sequence of the batch has the search's context.
        seed: of initial weights and data.
    """
    chosen = {**DEFAULTS, **complete_values(spec, values)}
    batch_sequences = round(chosen["batch_sequences"])
    batch_tokens, ramp = batch_sequences * spec.context_tokens, spec.batch_ramp
    config = TrialConfig(
        architecture=replace(shape, qk_norm=bool(chosen["qk_norm"])),
        parametrization=spec.parametrization.parametrization(architecture(spec, 0)),
        optimizer=spec.optimizer,
        batch_sequences=batch_sequences,
        batch_start_sequences=ramp.start_sequences if ramp else batch_sequences,
        batch_ramp_tokens=round(ramp.ramp_fraction * run_tokens) if ramp else 0,
        learning_rate=chosen["learning_rate"],
        embedding_rate_ratio=chosen["embedding_rate_ratio"],
        unembedding_rate_ratio=chosen["unembedding_rate_ratio"],
        hidden_rate_ratio=chosen["hidden_rate_ratio"],
        vector_rate_ratio=chosen["vector_rate_ratio"],
        warmup_tokens=_warmup_tokens(chosen, run_tokens, batch_tokens),
        decay=spec.schedule.decay,
        decay_share=chosen["decay_share"],
        decay_floor=chosen["decay_floor"],
        weight_decay=chosen.get("weight_decay", 0.0),
        weight_decay_convention=spec.weight_decay_convention,
        beta1=chosen["beta1"],
        beta2=chosen["beta2"],
        eps=chosen["eps"],
        muon_momentum=chosen["muon_momentum"],
        gradient_clip=chosen["gradient_clip"],
        init_std=chosen["init_std"],
        embedding_multiplier=chosen["embedding_multiplier"],
        output_multiplier=chosen["output_multiplier"],
        z_loss=chosen["z_loss"],
        logit_softcap=chosen["logit_softcap"],
        seed=seed,
    )
    if "timescale" not in chosen:
        return config
    return replace(
        config, weight_decay=weight_decay_of(chosen["timescale"], decay_rate(config), batch_tokens, run_tokens)
    )


def weight_decay_of(timescale: float, step_rate: float, batch_tokens: int, run_tokens: int) -> float:
    """The weight decay with which the hidden matrices are an average over a given share of the run.

    AdamW's weights are an exponential moving average of its updates over tau = B / (r wd D) of a run of D tokens,
    r being what weight decay is multiplied by at each step: wd = B / (r tau D).

    Args:
        timescale: tau, as a fraction of the run.
        step_rate: r, as `trials.roles.decay_rate`: their learning rate where decay is coupled to it, after all scales.
        batch_tokens: B, tokens of a step.
        run_tokens: D.

    Source: Bergsma et al. 2025 (Power Lines, arXiv 2505.13738), after Wang and Aitchison 2024 (arXiv 2405.13698).
    """
    return batch_tokens / run_tokens / timescale / step_rate


def _warmup_tokens(chosen: Mapping[str, float], run_tokens: int, batch_tokens: int) -> int:
    """The warmup in tokens, from whichever unit the search names."""
    if "warmup_steps" in chosen:
        return round(chosen["warmup_steps"] * batch_tokens)
    return round(chosen["warmup_tokens"] if "warmup_tokens" in chosen else chosen["warmup_fraction"] * run_tokens)


def segment_flops(config: TrialConfig, rungs: tuple[int, ...], rung: int) -> int:
    """Training FLOPs of one rung, its branch included, from the branch point of the rung before."""
    start = config.branch_tokens(rungs[rung - 1]) if rung else 0
    return config.segment_flops(start, rungs[rung])


def trial_flops(spec: Spec, proxy: int) -> int:
    """FLOPs of one trial through all its rungs, at the batch that whole steps make the dearest."""
    dearest = _dearest(spec, proxy)
    return max(sum(_rung_flops(spec, proxy, replace(dearest, batch_sequences=batch))) for batch in _batches(spec))


def expected_flops(spec: Spec, proxy: int) -> float:
    """FLOPs that a proxy's trials will take: one in `reduction_factor` goes on from a rung, repeats go all the way."""
    if proxy == PROOF:
        return float(spec.proof.trials * trial_flops(spec, PROOF)) if spec.proof else 0.0
    costs, factor = _rung_flops(spec, proxy, _dearest(spec, proxy)), spec.scheduler.reduction_factor
    explored = sum(spec.ladder[proxy].trials / float(factor) ** rung * cost for rung, cost in enumerate(costs))
    return explored + spec.repeats * sum(costs)


def needed_checkpoint_bytes(spec: Spec) -> int:
    """Bytes of checkpoints that may be needed at once, at most: a file of every trial, as each may wait to go on."""
    proof = spec.proof.trials * _file_bytes(spec, PROOF) if spec.proof else 0
    ladder = ((shape.trials + spec.repeats) * _file_bytes(spec, proxy) for proxy, shape in enumerate(spec.ladder))
    return proof + sum(ladder)


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


def _file_bytes(spec: Spec, proxy: int) -> int:
    return size_bytes(architecture(spec, proxy).params_total)


def _dearest(spec: Spec, proxy: int) -> TrialConfig:
    """A trial of the smallest batch that costs most: with the longest branches, and the gains of a QK norm."""
    highest = {name: spec.ends(name)[1] for name in spec.parameter_names}
    return trial_config(spec, proxy, {**highest, "batch_sequences": float(smallest_batch(spec))}, spec.seed)


def _rung_flops(spec: Spec, proxy: int, config: TrialConfig) -> list[int]:
    """FLOPs of each rung of a trial, which follow from its batch, decay share and model alone."""
    rungs = rung_tokens(spec, proxy, config.batch_sequences)
    return [segment_flops(config, rungs, rung) for rung in range(len(rungs))]


def _batches(spec: Spec) -> Sequence[int]:
    """Every batch that a trial may have, ascending."""
    low, high = spec.ends("batch_sequences")
    listed = spec.space["batch_sequences"].values if "batch_sequences" in spec.space else ()
    return [int(value) for value in listed] or range(int(low), int(high) + 1)
