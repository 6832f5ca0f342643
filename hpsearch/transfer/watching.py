"""Is the big run on track, and what is to be done? Its losses so far against what its trials predict."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from hpsearch.loss_log import LossLog
from hpsearch.surface import Surface
from hpsearch.surface_answers import Z80
from hpsearch.surface_stability import stability
from hpsearch.transfer.anneal_gap import AnnealGap
from hpsearch.transfer.course import BigRun, Course, learning_rate_of, predicted_course
from hpsearch.transfer.explanations import (
    FAULTS,
    MIN_LOSSES,
    Explanation,
    Judgement,
    Verdict,
    binned,
    is_too_early,
    judge,
    tells_from,
)
from hpsearch.transfer.part import Part
from hpsearch.transfer.unrest import Unrest, find_unrest

SAME_RATE = 1.05  # ratio within which two learning rates are one
NUM_SHOWN = 60  # token counts of the band
BRANCH_OCTAVES = (0.5, 3.0)  # least and most that a rate is said to be changed by on a branch
MIN_LOWER_OCTAVES = 1.0
NEAR_WARMUP = 4.0  # warmups within which trouble is blamed on too short a one


class Watched(Part):
    """What the losses say; its fields are the JSON that programs read. Fractions are of the loss."""

    verdict: Verdict
    text: str
    remedy: tuple[str, ...]
    probability: dict[str, float]  # of each explanation; empty where it is too early
    excess: float | None  # of the newest losses over the prediction
    detectable: float | None  # least excess all along that these losses would tell
    config: dict[str, float]
    tokens: float  # of the newest loss
    counted_from: float  # tokens; before lies the warmup, or less than any trial was trained on
    counted_to: float
    num_losses: int  # that count
    num_gaps: int  # rungs at which the gap between un-annealed and annealed was measured; 0: a prior
    band_tokens: tuple[float, ...]
    band80: tuple[tuple[float, float], ...]
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class Watch:
    """An answer with what a picture shows beside it."""

    answer: Watched
    log: LossLog
    course: Course


def watch_run(log: LossLog, surface: Surface, gap: AnnealGap, run: BigRun) -> Watch:
    """Judges a run by its log.

    Args:
        log: its losses so far.
        surface: through the trials, of losses of the same kind.
        gap: between un-annealed and annealed losses.
        run: the run as it is meant.
    """
    first, last = run.steady
    counted = log.part(np.isfinite(log.loss) & (log.tokens > first) & (log.tokens <= last))
    unrest = find_unrest(log, run.warmup_tokens)
    judgement = None if is_too_early(counted) else _judge(surface, gap, run, counted)
    calm = judgement.verdict if judgement else Verdict.TOO_EARLY
    verdict = Verdict.UNSTABLE if unrest.signs else calm
    band = predicted_course(surface, gap, run, np.geomspace(first, max(last, 2.0 * first), NUM_SHOWN))
    answer = Watched(
        verdict=verdict,
        text=_text(verdict, judgement, counted, run, unrest),
        remedy=tuple(_remedy(verdict, judgement, surface, run, unrest)),
        probability={str(name): value for name, value in judgement.probability.items()} if judgement else {},
        excess=judgement.excess if judgement else None,
        detectable=judgement.detectable if judgement else None,
        config=dict(run.config),
        tokens=float(log.tokens[-1]),
        counted_from=first,
        counted_to=last,
        num_losses=len(counted.tokens),
        num_gaps=gap.num_rungs,
        band_tokens=tuple(band.tokens.tolist()),
        band80=tuple(zip(*(end.tolist() for end in band.interval(Z80)), strict=True)),
        warnings=tuple(_warnings(log, surface, run, gap)),
    )
    return Watch(answer, log, band)


def _judge(surface: Surface, gap: AnnealGap, run: BigRun, counted: LossLog) -> Judgement:
    bins = binned(counted)
    return judge(bins, predicted_course(surface, gap, run, bins.tokens))


def _text(verdict: Verdict, judgement: Judgement | None, counted: LossLog, run: BigRun, unrest: Unrest) -> str:
    """The verdict with its reason in numbers."""
    if verdict is Verdict.UNSTABLE:
        return f"unstable: {'; '.join(unrest.signs)}"
    if judgement is None:
        start = float(counted.tokens[0]) if len(counted.tokens) else run.steady[0]
        return (
            f"too early: {len(counted.tokens)} losses count (after {run.steady[0]:,.0f} tokens); it can tell from "
            f"{tells_from(start):,.0f} tokens on, with {MIN_LOSSES} losses"
        )
    excess = f"{judgement.excess:+.1%} against the prediction"
    surely = f"{sum(judgement.probability[part] for part in _PARTS[verdict]):.0%}"
    if verdict is Verdict.ON_TRACK:
        return f"on track as far as it tells ({surely}): {excess}; {judgement.detectable:.1%} above it would be told"
    if verdict is Verdict.BETTER:
        return f"better than predicted ({surely}): {excess}"
    if verdict is Verdict.RATE_TOO_HIGH:
        return (
            f"rate too high ({surely}): {excess}, a gap that grows by {judgement.slope:.1%} ± {judgement.slope_sd:.1%} "
            "with each doubling of tokens"
        )
    if verdict is Verdict.RATE_TOO_LOW:
        return f"rate too low, or far too high ({surely}): {excess}, a gap that opened and no longer grows"
    if verdict is Verdict.LEVEL_SHIFT:
        level = f"{judgement.level:+.1%} ± {judgement.level_sd:.1%}"
        return f"level shift ({surely}): {level} all along; a gap that opened before looks alike"
    return f"worse than predicted ({surely}): {excess}; not yet told whether the gap grows, opened, or was always there"


_PARTS = {
    Verdict.ON_TRACK: (Explanation.AS_PREDICTED,),
    Verdict.BETTER: (Explanation.BELOW,),
    Verdict.WORSE: tuple(FAULTS),
    **{verdict: (explanation,) for explanation, verdict in FAULTS.items()},
}


def _remedy(
    verdict: Verdict, judgement: Judgement | None, surface: Surface, run: BigRun, unrest: Unrest
) -> Iterator[str]:
    """What to do, first things first."""
    if verdict in (Verdict.TOO_EARLY, Verdict.ON_TRACK):
        yield "go on, and look again when the tokens have doubled"
    if verdict is Verdict.BETTER:
        yield "go on; make sure that the losses are of text that the run does not train on, and of the search's kind"
    if verdict in (Verdict.LEVEL_SHIFT, Verdict.WORSE):
        yield (
            "compare with the trials: tokenizer and vocabulary, text, held-out or training loss, nats a token; "
            "a gap that is explained so is no reason to change the rate"
        )
    if verdict in (*FAULTS.values(), Verdict.WORSE):
        assert judgement is not None
        yield "look at the rate that each group of weights really has; one that is scaled twice looks like this"
        yield from _branches(verdict, judgement, surface, run)
    if verdict is Verdict.UNSTABLE:
        yield from _lower(surface, run, unrest.restart_tokens)


def _branches(verdict: Verdict, judgement: Judgement, surface: Surface, run: BigRun) -> Iterator[str]:
    """Rates to try from the newest checkpoint: off by as many octaves as cost what the run is behind."""
    rate, name = learning_rate_of(surface, run.config), _rate_name(surface)
    if not name:
        return
    curvature = surface.sensitivity(name, run.params, run.tokens).curvature
    octaves = float(np.clip((max(judgement.excess, 0.0) / curvature) ** 0.5, *BRANCH_OCTAVES))
    low, high = f"{rate / 2**octaves:.3g}", f"{rate * 2**octaves:.3g}"
    tried = low if verdict is Verdict.RATE_TOO_HIGH else f"{high} and {low}"
    yield (
        f"if that is not it, branch off for a tenth of the tokens so far with a {name} of {tried} ({octaves:.1f} "
        f"octaves from {rate:.3g}, which costs {curvature * octaves**2:.1%} at the target), anneal both the branch and "
        "the run, and keep what ends lower"
    )


def _lower(surface: Surface, run: BigRun, sound_tokens: float) -> Iterator[str]:
    """To what is stable with 90 %, an octave at least; and a longer warmup where that is what it may lack."""
    name, start = _rate_name(surface), f"restart from a checkpoint at {sound_tokens:,.0f} tokens or before"
    stable = stability(surface, run.params, run.tokens, run.config)
    if stable is None:
        yield f"{start}, with half of the learning rate"
        return
    octaves = max(MIN_LOWER_OCTAVES, -stable.margin_octaves)
    rate = learning_rate_of(surface, run.config) / 2**octaves
    regret = surface.expected_regret(run.params, run.tokens, {**run.config, name: rate}).mean
    yield (
        f"{start}, with {name} lowered by {octaves:.1f} octaves to {rate:.3g} (expected to cost {regret:.1%}); the "
        f"trials say that it is stable up to {stable.largest_stable:.3g} (90 %)"
    )
    if sound_tokens < NEAR_WARMUP * run.warmup_tokens:
        yield f"or from the start with a warmup of {2 * run.warmup_tokens:,.0f} tokens, twice as long"


def _rate_name(surface: Surface) -> str:
    """What the trials call the learning rate; empty where it does not vary."""
    return next((p.name for p in surface.sweep.parameters if p.known_name == "learning_rate"), "")


def _warnings(log: LossLog, surface: Surface, run: BigRun, gap: AnnealGap) -> Iterator[str]:
    if not gap.num_rungs:
        yield (
            "no loss before the anneal (raw_loss) among the trials: the gap to the annealed loss is a prior, "
            f"{gap.mean[0]:.1%}, and the band is wide"
        )
    peak = float(np.nanmax(log.learning_rate)) if np.isfinite(log.learning_rate).any() else float("nan")
    rate = learning_rate_of(surface, run.config)
    if max(peak, rate) > SAME_RATE * min(peak, rate):
        yield (
            f"the log's learning rate is at most {peak:.3g}, the band is for {rate:.3g}; correct the trainer, or give "
            f"--learning-rate {peak:.3g}"
        )
    if log.tokens[-1] > run.steady[1]:
        yield f"losses after {run.steady[1]:,.0f} tokens do not count: the rate decays there"
