"""The plan of one large run: what each law makes of a compute budget, its time and money, and how to tune for it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from hpsearch.expected_gain import Setting
from hpsearch.laws import FLOPS_PER_PARAMETER_TOKEN, SEQUENCE_TOKENS, step_law_batch
from hpsearch.surface import Surface
from hpsearch.transfer.published_runs import PublishedRun, published_runs
from hpsearch.transfer.reach import refusal
from hpsearch.transfer.run_cost import Cluster
from hpsearch.transfer.scaling_laws import (
    HOFFMANN,
    KAPLAN,
    KAPLAN_WARMUP_STEPS,
    REFIT,
    SCALING_LAWS,
    Range,
    ScalingLaw,
    SumLaw,
    kaplan_batch,
    kaplan_tokens_needed,
)
from hpsearch.transfer.shapes import COUNT_TOLERANCE, AspectPlateau, Shape, propose_shape, shape_of
from hpsearch.transfer.status import drift_is_told
from hpsearch.transfer.tuning_plan import Outlook, outlook
from trials.architecture import Architecture

GROWTH = 8.0  # Kaplan et al.: an 8 times larger model wants some 5 times the data
WARMUP_SHARE = 0.1  # of the run at most, which a model trained on few tokens would else spend in its warmup
LEAST_EXPONENT = 0.02  # of a search's floor, below which its optimum says nothing


@dataclass(frozen=True)
class Batch:
    """Tokens a step, and by which rule."""

    tokens: int
    source: str


@dataclass(frozen=True)
class Warmup:
    """Tokens over which the learning rate rises, and by which rule."""

    tokens: int
    source: str


@dataclass(frozen=True)
class Said:
    """What a search's own trials say at some N and D."""

    values: Mapping[str, float]  # the best ones of its parameters, inside their range where no drift is told
    refused: str  # why they would be a guess; empty where they would not


@dataclass(frozen=True)
class PlanRow:
    """One way to spend the budget."""

    law: str
    source: str
    params: float
    counts_embedding: bool  # whether N has it
    tokens: float
    shape: Shape
    batch: Batch
    warmup: Warmup
    loss: float | None  # nats a token, by the law's own text and tokenizer
    measured: Range | None  # where the law was
    search: Said | None

    @property
    def flops(self) -> float:
        """6 N D."""
        return FLOPS_PER_PARAMETER_TOKEN * self.params * self.tokens

    @property
    def steps(self) -> int:
        return max(1, round(self.tokens / self.batch.tokens))

    @property
    def tokens_per_parameter(self) -> float:
        return self.tokens / self.params

    @property
    def beyond(self) -> tuple[float, float]:
        """Factors by which N and D lie outside of where the law was measured; 1 inside."""
        return (1.0, 1.0) if self.measured is None else self.measured.beyond(self.params, self.tokens)


@dataclass(frozen=True)
class Growth:
    """How many times more data a model 8 times larger wants, by each law, and where Kaplan et al. see overfitting."""

    model: float
    data: Mapping[str, float]  # by law
    tokens_needed: float  # D below which the target would overfit
    tokens_needed_grown: float  # the same of a model 8 times larger


@dataclass(frozen=True)
class Target:
    """The model that the tuning is for."""

    params: float  # non-embedding
    params_total: float
    tokens: float
    losses: Mapping[str, float]  # nats a token by each law, each by its own text


@dataclass(frozen=True)
class BigRunPlan:
    """All that is told of a large run."""

    asked: str
    flops: float
    rows: tuple[PlanRow, ...]
    published: tuple[PublishedRun, ...]
    growth: Growth
    target: Target
    noise: float  # relative sd of one run's loss, as assumed
    tuning: Outlook
    cluster: Cluster
    plateau: AspectPlateau  # of width / depth
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class Ask:
    """What is planned for: a budget, or a model and its tokens."""

    name: str
    flops: float
    setting: Setting | None = None  # N (non-embedding), D; None: the budget alone
    architecture: Architecture | None = None  # None: a shape is proposed
    batch_tokens: int = 0  # as published; 0 where it was not


@dataclass(frozen=True)
class Means:
    """What the plan is made with."""

    cluster: Cluster
    plateau: AspectPlateau
    noise: float  # relative sd of one run's loss
    surface: Surface | None  # of the search's own trials


def plan_big_run(ask: Ask, means: Means) -> BigRunPlan:
    """What every law, and the search where there is one, makes of a budget, and how to tune for it.

    A budget without a model is tuned for at the refit's optimum.
    """
    own = own_law(means.surface) if means.surface else None
    laws = (*SCALING_LAWS, *([own] if own else []))
    rows = tuple(_law_row(law, ask.flops, means) for law in laws)
    if ask.setting is None:
        aim = next(row for row in rows if row.law == REFIT.name)
    else:
        aim = _asked_row(ask, ask.setting, means)
        rows = (aim, *rows)
    target = _target(aim, laws)
    return BigRunPlan(
        asked=ask.name,
        flops=ask.flops,
        rows=rows,
        published=published_runs(),
        growth=_growth(target.params),
        target=target,
        noise=means.noise,
        tuning=outlook((target.params, target.tokens), means.noise),
        cluster=means.cluster,
        plateau=means.plateau,
        warnings=tuple(_warnings(rows, target, means, own)),
    )


def own_law(surface: Surface) -> SumLaw | None:
    """The floor of a search's surface as a law; None where its trials do not see the loss fall with N and D.

    E (1 + A 2^(-a n) + B 2^(-b d)), n and d octaves from the data's mean, is E + E A 2^(a origin) / N^a + ...
    """
    sweep = surface.sweep
    log_least, log_size, log_data, alpha, beta = sweep.layout.unpack(surface.fit.vector).floor.tolist()
    if min(alpha, beta) < LEAST_EXPONENT:
        return None
    least = float(np.exp(log_least + sweep.loss_origin))
    low, high = sweep.settings.min(axis=0).tolist(), sweep.settings.max(axis=0).tolist()
    return SumLaw(
        name="your trials",
        source=f"the floor of the surface of {surface.num_observations} measurements",
        measured=Range((low[0], high[0]), (low[1], high[1]), counts_embedding=False),
        least=least,
        size=float(least * np.exp(log_size) * 2.0 ** (alpha * sweep.origin[0])),
        data=float(least * np.exp(log_data) * 2.0 ** (beta * sweep.origin[1])),
        alpha=alpha,
        beta=beta,
    )


def _warnings(rows: Sequence[PlanRow], target: Target, means: Means, own: SumLaw | None) -> Iterator[str]:
    for row in rows:
        count = row.shape.params_total if row.counts_embedding else row.shape.params
        if abs(count / row.params - 1.0) > COUNT_TOLERANCE:
            yield f"shape: {row.law}: no usable one has about N = {row.params:.3g}; the nearest has {count:.3g}"
    if means.surface and not own:
        yield "the trials do not see the loss fall with N and with D: they give no law of their own"
    largest = means.plateau.sizes[1]
    if target.params > largest:
        yield (
            f"shape: tried up to N = {largest:.3g}, the target is {target.params / largest:.3g}x larger; the best "
            "width / depth of the largest is kept"
        )


def _law_row(law: ScalingLaw, flops: float, means: Means) -> PlanRow:
    best, counted = law.optimum(flops), law.measured.counts_embedding
    shape = propose_shape(best.params, means.plateau, counted)
    batch = _kaplan_batch(flops) if law is KAPLAN else _step_law_batch(shape.params, best.tokens)
    return PlanRow(
        law=law.name,
        source=law.source,
        params=best.params,
        counts_embedding=counted,
        tokens=best.tokens,
        shape=shape,
        batch=batch,
        warmup=_kaplan_warmup(batch) if law is KAPLAN else _warmup(best.params, best.tokens),
        loss=best.loss,
        measured=law.measured,
        search=_said(means.surface, shape.params, best.tokens),
    )


def _asked_row(ask: Ask, setting: Setting, means: Means) -> PlanRow:
    (params, tokens), model = setting, ask.architecture
    shape = (
        propose_shape(params, means.plateau, counts_embedding=False)
        if model is None
        else shape_of(model, means.plateau)
    )
    return PlanRow(
        law="asked",
        source=ask.name,
        params=params,
        counts_embedding=False,
        tokens=tokens,
        shape=shape,
        batch=Batch(ask.batch_tokens, "published") if ask.batch_tokens else _step_law_batch(params, tokens),
        warmup=_warmup(params, tokens),
        loss=None,
        measured=None,
        search=_said(means.surface, params, tokens),
    )


def _said(surface: Surface | None, params: float, tokens: float) -> Said | None:
    if surface is None:
        return None
    best = surface.optimum(params, tokens)
    values = {
        p.name: best[p.name].value if drift_is_told(surface, p) else p.nearest(best[p.name].value)
        for p in surface.sweep.parameters
    }
    return Said(values, refusal(surface, params, tokens))


def _target(row: PlanRow, laws: Sequence[ScalingLaw]) -> Target:
    """The model of a row, as it would be built where the row's N has the embedding in it."""
    params = float(row.shape.params) if row.counts_embedding else row.params
    total = params + row.shape.params_total - row.shape.params
    losses = {law.name: law.loss(total if law.measured.counts_embedding else params, row.tokens) for law in laws}
    return Target(params, total, row.tokens, losses)


def _kaplan_batch(flops: float) -> Batch:
    return Batch(_whole_sequences(kaplan_batch(flops)), "critical batch: twice the fewest steps (Kaplan et al. 2020)")


def _step_law_batch(params: float, tokens: float) -> Batch:
    best = step_law_batch(params, tokens) * SEQUENCE_TOKENS
    return Batch(_whole_sequences(best), "lowest loss (Step Law, Li et al. 2025)")


def _whole_sequences(tokens: float) -> int:
    return max(1, round(tokens / SEQUENCE_TOKENS)) * SEQUENCE_TOKENS


def _kaplan_warmup(batch: Batch) -> Warmup:
    return Warmup(KAPLAN_WARMUP_STEPS * batch.tokens, f"{KAPLAN_WARMUP_STEPS} steps (Kaplan et al. 2020)")


def _warmup(params: float, tokens: float) -> Warmup:
    """N tokens. Source: Porian et al. 2024 (arXiv 2406.19146), as in OLMo's ladder; a tenth of the run at most."""
    return Warmup(
        round(min(params, WARMUP_SHARE * tokens)), "N tokens (Porian et al. 2024), at most a tenth of the run"
    )


def _growth(params: float) -> Growth:
    needed, grown = kaplan_tokens_needed(params), kaplan_tokens_needed(GROWTH * params)
    data = {
        KAPLAN.name: grown / needed,
        HOFFMANN.name: HOFFMANN.data_for_model(GROWTH),
        REFIT.name: REFIT.data_for_model(GROWTH),
    }
    return Growth(GROWTH, data, needed, grown)
