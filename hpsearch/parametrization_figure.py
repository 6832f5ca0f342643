"""The coordinate check as a picture: how far activations move, against the size of the model, a line a step."""

from __future__ import annotations

from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from hpsearch.parametrization_check import Report, Trend
from hpsearch.parametrization_study import Axis, Learners
from hpsearch.svg import write_svg

LEAST_SPAN = 10.0  # of a panel from bottom to top, so that what is kept looks level


def draw_check(report: Report, path: Path) -> None:
    """Writes an SVG: a row over widths, one over depths, a panel a coordinate; only lines that are flat are kept."""
    coordinates = list(dict.fromkeys(trend.coordinate for trend in report.trends))
    figure = Figure(figsize=(2.4 * len(coordinates), 5.6), layout="constrained")
    panels = figure.subplots(len(Axis), len(coordinates), squeeze=False)
    for row, axis in zip(panels, Axis, strict=True):
        for panel, coordinate in zip(row, coordinates, strict=True):
            _draw(panel, [trend for trend in report.trends if (trend.axis, trend.coordinate) == (axis, coordinate)])
        row[0].set_ylabel("mean absolute change\nsince initialisation")
    lines, names = panels[0][-1].get_legend_handles_labels()
    figure.legend(lines, names, loc="outside lower center", ncols=len(names), fontsize=8)
    figure.suptitle(report.verdict, color="tab:red" if report.faults else "black")
    write_svg(figure, path)


def _draw(panel: Axes, trends: list[Trend]) -> None:
    """One coordinate over one axis: every step where all weights learn, the last where blocks learn alone."""
    for trend in trends:
        if trend.learners is Learners.BLOCKS:
            panel.plot(trend.sizes, trend.changes[-1], "--", color="gray", label="blocks alone")
            continue
        for step, changes in enumerate(trend.changes, 1):
            color = matplotlib.colormaps["viridis"](0.9 * step / len(trend.changes))
            panel.plot(trend.sizes, changes, "o-", color=color, markersize=3, linewidth=1, label=f"step {step}")
    panel.set(xscale="log", yscale="log", xlabel=str(trends[0].axis))
    low, high = panel.get_ylim()
    spare = max(1.0, (LEAST_SPAN * low / high) ** 0.5)
    panel.set_ylim(low / spare, high * spare)
    panel.set_xticks(trends[0].sizes, labels=[str(size) for size in trends[0].sizes])
    panel.minorticks_off()
    panel.tick_params(labelsize=8)
    faults = [trend for trend in trends if trend.promised and not trend.passes]
    verdict = "not kept" if faults else "kept" if trends[0].promised else "not promised"
    slopes = ", ".join(f"{trend.change.value:+.2f}" for trend in trends)
    panel.set_title(
        f"{trends[0].coordinate}\nslope {slopes}: {verdict}", fontsize=8, color="red" if faults else "black"
    )
