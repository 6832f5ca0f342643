"""The coordinate check as a picture: how far activations move, against the size of the model, a line a step."""

from __future__ import annotations

import io
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from hpsearch.folder import write_whole
from hpsearch.parametrization_check import Report, Trend
from hpsearch.parametrization_study import Axis, Learners


def draw_check(report: Report, path: Path) -> None:
    """Writes an SVG: a row over widths, one over depths, a panel a coordinate; only lines that are flat are kept."""
    trends = [trend for trend in report.trends if trend.learners is Learners.ALL]
    columns = len({trend.coordinate for trend in trends})
    figure = Figure(figsize=(2.6 * columns, 5.6), layout="constrained")
    panels = figure.subplots(len(Axis), columns, squeeze=False)
    for row, axis in zip(panels, Axis, strict=True):
        for panel, trend in zip(row, [trend for trend in trends if trend.axis is axis], strict=True):
            _draw(panel, trend)
        row[0].set_ylabel("change since initialisation")
    figure.suptitle(report.verdict)
    text = io.StringIO()
    figure.savefig(text, format="svg", metadata={"Date": None})
    write_whole(path, text.getvalue())


def _draw(panel: Axes, trend: Trend) -> None:
    for step, changes in enumerate(trend.changes, 1):
        panel.plot(trend.sizes, changes, marker="o", markersize=3, label=f"step {step}")
    panel.set(xscale="log", yscale="log", xlabel=str(trend.axis))
    panel.set_xticks(trend.sizes, labels=[str(size) for size in trend.sizes])
    panel.minorticks_off()
    verdict = "kept" if trend.passes else "not kept" if trend.promised else "not promised"
    panel.set_title(f"{trend.coordinate}\nslope {trend.change.value:+.2f}: {verdict}", fontsize=9)
