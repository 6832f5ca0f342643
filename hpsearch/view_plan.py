"""What a person sees of the plan of a large run, and what a program does."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict
from functools import partial
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from hpsearch.surface import TOLERANCES
from hpsearch.transfer.big_run import BigRunPlan, PlanRow
from hpsearch.transfer.run_cost import Cluster
from hpsearch.transfer.tuning_plan import ANSWER_BOUND, LadderOutlook

UNITS = ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k"))


def plan_view(plan: BigRunPlan) -> RenderableType:
    """The laws side by side, published runs, the growth rule, and what tuning is expected to tell."""
    return Group(
        _laws(plan),
        *[Text(line) for line in _notes(plan)],
        Text(),
        _published(plan),
        Text(),
        _budgets(plan),
        Text(),
        _ladders(plan),
        *[Text(line) for line in _cheapest(plan)],
        *[Text.assemble(("warning ", "yellow"), warning) for warning in plan.warnings],
    )


def to_dict(plan: BigRunPlan) -> dict[str, Any]:
    """The plan as JSON has it, with what its parts work out."""
    told = asdict(plan)
    for row, planned in zip(told["rows"], plan.rows, strict=True):
        row |= {"steps": planned.steps, "tokens_per_parameter": planned.tokens_per_parameter}
        row |= {"flops": planned.flops, "beyond_params": planned.beyond[0], "beyond_tokens": planned.beyond[1]}
        row |= {name: getattr(plan.cluster, name)(planned.flops) for name in ("device_hours", "days", "money")}
        row["shape"]["aspect"] = planned.shape.aspect
    for run, published in zip(told["published"], plan.published, strict=True):
        run |= {"steps": published.steps, "flops": published.flops}
    for budget, planned_budget in zip(told["tuning"]["budgets"], plan.tuning.budgets, strict=True):
        expected = planned_budget.expected
        budget["expected"] |= {"num_runs": expected.num_runs, "device_hours": plan.cluster.device_hours(expected.flops)}
    return told


def short(value: float) -> str:
    """72.3B, 1.33T, 850k."""
    for size, letter in UNITS:
        if value >= size * 0.9995:
            return f"{value / size:.3g}{letter}" if value < 1000 * size else f"{value:.3g}"
    return f"{value:.3g}"


def _laws(plan: BigRunPlan) -> Table:
    table = Table(title=f"plan for {plan.asked}: {plan.flops:.3g} FLOPs", title_justify="left")
    table.add_column("")
    for row in plan.rows:
        table.add_column(Text(row.law), justify="right")
    for name, told in _lines(plan):
        table.add_row(name, *[Text(told(row)) for row in plan.rows])
    return table


def _lines(plan: BigRunPlan) -> Iterator[tuple[str, Callable[[PlanRow], str]]]:
    """The rows of the table: a heading, and what it says of a law."""
    yield "parameters N", lambda row: short(row.params)
    yield "  with embedding", lambda row: "yes" if row.counts_embedding else "no"
    yield "tokens D", lambda row: short(row.tokens)
    yield "D / N", lambda row: f"{row.tokens_per_parameter:.3g}"
    yield "loss, own text", lambda row: "-" if row.loss is None else f"{row.loss:.3f}"
    yield "width x depth", lambda row: f"{row.shape.width} x {row.shape.depth}"
    yield "  heads", lambda row: f"{row.shape.heads}"
    yield "  N in blocks", lambda row: short(row.shape.params)
    yield "  and embedding", lambda row: short(row.shape.params_total - row.shape.params)
    yield "batch, tokens", lambda row: short(row.batch.tokens)
    yield "steps", lambda row: f"{row.steps:,}"
    yield "warmup, tokens", lambda row: short(row.warmup.tokens)
    yield "FLOPs, 6 N D", lambda row: f"{row.flops:.3g}"
    yield "device hours", lambda row: short(plan.cluster.device_hours(row.flops))
    yield f"days on {plan.cluster.devices:,}", lambda row: _days(plan.cluster.days(row.flops))
    if plan.cluster.price is not None:
        yield "money", lambda row: short(plan.cluster.money(row.flops) or 0.0)
    yield "measured at N", lambda row: _range(row, 0)
    yield "  here beyond", lambda row: _beyond(row, 0)
    yield "measured at D", lambda row: _range(row, 1)
    yield "  here beyond", lambda row: _beyond(row, 1)
    said = plan.rows[0].search
    for name in said.values if said else ():
        yield f"your {name}", partial(_said, name=name)
    if said:
        yield "  within reach", lambda row: "no" if row.search and row.search.refused else "yes"


def _said(row: PlanRow, name: str) -> str:
    assert row.search is not None
    return f"{row.search.values[name]:.3g}"


def _days(days: float) -> str:
    return f"{days:,.0f}" if days >= 10 else f"{days:.2g}"


def _range(row: PlanRow, axis: int) -> str:
    if row.measured is None:
        return "-"
    low, high = row.measured.tokens if axis else row.measured.params
    return f"{short(low)} to {short(high)}"


def _beyond(row: PlanRow, axis: int) -> str:
    if row.measured is None:
        return "-"
    return f"{short(row.beyond[axis])}x" if row.beyond[axis] > 1 else "inside"


def _notes(plan: BigRunPlan) -> Iterator[str]:
    yield from (f"{row.law}: {row.source}" for row in plan.rows if row.measured is not None)
    yield (
        "they disagree by design: other parameters are counted, other warmups, schedules, batches and texts were used; "
        "kaplan's budget is the least that reaches the loss, of which a run at the critical batch takes about twice"
    )
    last = plan.rows[-1]
    yield f"batch: kaplan: critical batch, for speed; else {last.batch.source}. warmup: kaplan: 3000 steps; else " + (
        last.warmup.source
    )
    yield from _shape_notes(plan)
    yield f"time: {_cluster(plan.cluster)}; FLOPs without attention and unembedding"
    losses = ", ".join(f"{name} {loss:.3f}" for name, loss in plan.target.losses.items())
    yield f"loss at N = {short(plan.target.params)} in blocks, D = {short(plan.target.tokens)}: {losses}"
    growth = plan.growth
    wanted = ", ".join(f"{name} {factor:.1f}x" for name, factor in growth.data.items())
    yield (
        f"a model {growth.model:g}x larger wants more data: {wanted}. Kaplan et al. see no overfitting from "
        f"{short(growth.tokens_needed)} tokens on, {short(growth.tokens_needed_grown)} for the larger one"
    )


def _shape_notes(plan: BigRunPlan) -> Iterator[str]:
    params = plan.target.params
    ends = [(tolerance, *plan.plateau.ends(tolerance, params)) for tolerance in TOLERANCES]
    costs = "; ".join(f"{low:.0f} to {high:.0f} costs at most {tolerance:.2%}" for tolerance, low, high in ends)
    yield f"shape: width / depth best at {plan.plateau.best(params):.0f}, {costs}"
    yield f"  from {plan.plateau.source}"


def _cluster(cluster: Cluster) -> str:
    price = "" if cluster.price is None else f", {cluster.price:g} an hour each"
    return (
        f"{cluster.devices:,} x {cluster.device} of {cluster.peak_flops / 1e12:.4g} TFLOP/s at {cluster.mfu:.0%} "
        f"utilisation{price}"
    )


def _published(plan: BigRunPlan) -> Table:
    title = "published runs: N with embedding, steps at the last batch"
    table = Table(title=title, title_justify="left")
    for heading in ("run", "N", "D", "D / N", "width x depth", "batch", "steps", "FLOPs"):
        table.add_column(heading, justify="left" if heading == "run" else "right", no_wrap=True)
    for run in plan.published:
        table.add_row(
            run.name,
            short(run.params_total),
            short(run.tokens),
            short(run.tokens / run.params_total),
            f"{run.width} x {run.depth}",
            short(run.batch_tokens),
            short(run.steps),
            f"{run.flops:.2g}",
        )
    return table


def _budgets(plan: BigRunPlan) -> Table:
    caption = (
        "budget: of one run of the target; hours: of one device; proxy: the ladder's largest N of the target's; rate, "
        "batch: widths of the 80 % intervals in octaves; regret: expected, of the loss; bound: at 90 %. If the "
        f"surface's form holds, and one run's noise is {plan.noise:.2%}"
    )
    title = f"tuning for N = {short(plan.target.params)} in blocks, D = {short(plan.target.tokens)}: what to expect"
    table = Table(title=title, title_justify="left", caption=caption, caption_justify="left")
    for heading in ("budget", "FLOPs", "hours", "proxy", "runs", "rate", "batch", "regret", "bound"):
        table.add_column(heading, justify="right", no_wrap=True)
    for budget in plan.tuning.budgets:
        expected = budget.expected
        table.add_row(
            f"{100 * budget.share:g} %",
            f"{expected.flops:.2g}",
            short(plan.cluster.device_hours(expected.flops)),
            f"1/{expected.ladder.reach:g}",
            str(expected.num_runs),
            *[f"{width:.1f}" for width in expected.width80_octaves],
            f"{expected.expected_regret:.2%}",
            f"{expected.regret_bound90:.2%}",
        )
    return table


def _ladders(plan: BigRunPlan) -> RenderableType:
    """What it takes on each ladder until the target is answerable."""
    if not plan.tuning.ladders:
        return Text("tuning: the target is so small that its proxies would tell nothing; tune it itself")
    title = f"which ladder makes it answerable: regret within {ANSWER_BOUND:.1%} (90 %)"
    table = Table(title=title, title_justify="left")
    for heading in ("sizes, N in blocks", "D / N up to", "runs", "FLOPs", "of the target's", "hours"):
        table.add_column(heading, justify="left" if heading.startswith("sizes") else "right", no_wrap=True)
    for outlook in plan.tuning.ladders:
        params, tokens = outlook.ladder.settings[-1]
        sizes = ", ".join(map(short, outlook.ladder.sizes))
        table.add_row(sizes, f"{tokens / params:.3g}", *_cost(outlook, plan.cluster))
    return table


def _cost(outlook: LadderOutlook, cluster: Cluster) -> Iterator[str]:
    answer = outlook.answer
    if answer is None:
        yield from ("never", "-", f"bound {outlook.last.regret_bound90:.2%}", "-")
        return
    yield str(answer.num_runs)
    yield f"{answer.flops:.2g}"
    yield f"{answer.share:.2%}"
    yield short(cluster.device_hours(answer.flops))


def _cheapest(plan: BigRunPlan) -> Iterator[str]:
    """The runs of the cheapest ladder that answers."""
    answer = plan.tuning.answer
    if answer is None:
        return
    yield "the cheapest:"
    for (params, tokens), count in zip(answer.ladder.settings, answer.runs, strict=True):
        yield f"  {count:3} runs at N = {short(params)}, D = {short(tokens)} ({tokens / params:.3g} a parameter)"
    if answer.untold:
        yield f"  told by the prior only: {', '.join(answer.untold)}"
