"""What a person sees of a replay."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from hpsearch.replay_report import Estimate, ReplayReport, Summary


def replay_view(report: ReplayReport) -> RenderableType:
    """A row a scheduler and proxy: what it saves, what that costs, and its mistakes."""
    table = Table(title=_title(report), title_justify="left", caption=_caption(report), caption_justify="left")
    for heading in ("scheduler", "N", "saved", "regret", "pruned", "false prunes", "of the pruned"):
        table.add_column(heading, justify="left" if heading == "scheduler" else "right")
    for name, scheduler in report.schedulers.items():
        for summary in (*scheduler.proxies, scheduler.in_all):
            table.add_row(name, *_row(summary), end_section=summary is scheduler.in_all)
    return Group(table, *[Text.assemble(("warning ", "yellow"), warning) for warning in report.warnings])


def _row(summary: Summary) -> Iterator[str]:
    yield "all" if summary.params is None else f"{summary.params:,.0f}"
    shown = _with_interval if summary.params is None else _value
    yield shown(summary.saved, 100, 0, "%")
    yield shown(summary.regret, 100, 2, "%")
    yield shown(summary.pruned, 1, 1, "")
    yield shown(summary.false_prunes, 1, 1, "")
    yield shown(summary.false_prune_rate, 100, 0, "%")


def _value(estimate: Estimate, factor: int, digits: int, unit: str) -> str:
    return "-" if estimate.value is None else f"{factor * estimate.value:.{digits}f}{unit}"


def _with_interval(estimate: Estimate, factor: int, digits: int, unit: str) -> str:
    value = _value(estimate, factor, digits, unit)
    if estimate.interval95 is None:
        return value
    low, high = (f"{factor * end:.{digits}f}" for end in estimate.interval95)
    return f"{value}\n{low} to {high}"


def _title(report: ReplayReport) -> str:
    return (
        f"{report.num_usable} of {report.num_recorded} recorded trials, {report.num_complete} of them with a final "
        f"loss, judged by {report.metric}"
    )


def _caption(report: ReplayReport) -> str:
    orders = "the recorded order" if report.sampler == "recorded" else f"{report.num_orders} random orders"
    intervals = "; intervals: 95 %, of the mean over orders of the same trials" if report.num_orders > 1 else ""
    return (
        f"{orders}{intervals}; false prune: pruned, though its final loss is within {report.tolerance:.2%} of the best"
    )
