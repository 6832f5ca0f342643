"""The sensitivity of every parameter as a picture: what each value costs, a line for each size and budget."""

from __future__ import annotations

import math
from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from hpsearch.svg import write_svg
from hpsearch.transfer.profile import Value
from hpsearch.transfer.sensitivity import ParameterSensitivity, SensitivityReport
from hpsearch.transfer.status import Status
from search_spaces.errors import UserError

COLUMNS = 4
MOST_SHOWN = 1.0  # percent of the loss; what costs more, or diverged, lies on the upper edge
COLORS = {Status.FROZEN: "tab:cyan", Status.LAW: "tab:green", Status.OPEN: "tab:orange"}


def check_figure(path: Path) -> None:
    """Before anything is computed.

    Raises:
        UserError: the name does not end in a format that can be drawn.
    """
    if path.suffix != ".svg":
        raise UserError(f"--figure: must end in .svg, got {path}; a browser shows it, and every editor takes it")


def draw_sensitivity(report: SensitivityReport, path: Path) -> None:
    """Writes an SVG: a panel a parameter that was varied, the decided value as a vertical line."""
    shown = {name: found for name, found in report.parameters.items() if found.settings}
    rows = max(1, math.ceil(len(shown) / COLUMNS))
    figure = Figure(figsize=(3.0 * COLUMNS, 2.4 * rows), layout="constrained")
    panels = figure.subplots(rows, COLUMNS, squeeze=False).ravel()
    for panel, (name, found) in zip(panels, shown.items(), strict=False):
        _draw(panel, name, found)
    for panel in panels[len(shown) :]:
        panel.set_axis_off()
    write_svg(figure, path)


def _draw(panel: Axes, name: str, found: ParameterSensitivity) -> None:
    values = list(dict.fromkeys(cost.value for setting in found.settings for cost in setting.costs))
    places = _places(values)
    for i, setting in enumerate(found.settings):
        at = [places[cost.value] for cost in setting.costs]
        percent = [MOST_SHOWN if cost.loss is None else min(100 * cost.loss, MOST_SHOWN) for cost in setting.costs]
        shade = matplotlib.colormaps["viridis"](i / max(len(found.settings) - 1, 1))
        label = f"N {setting.params:.2g}, D {setting.tokens:.2g}"
        panel.plot(at, percent, marker="o", markersize=3, linewidth=1, color=shade, label=label)
    if found.value in places:
        panel.axvline(places[found.value], color=COLORS.get(found.status, "grey"), linewidth=4, alpha=0.4)
    every = range(0, len(values), max(1, math.ceil(len(values) / 5)))
    panel.set_xticks([places[values[i]] for i in every], [_label(values[i]) for i in every], fontsize=7)
    panel.set_ylim(-0.05, 1.05 * MOST_SHOWN)
    panel.set_title(f"{name}: {found.status}", fontsize=9)
    panel.set_ylabel("loss above best, %", fontsize=7)
    if len(found.settings) <= COLUMNS:
        panel.legend(fontsize=6)


def _places(values: list[Value]) -> dict[Value, float]:
    """Along the axis: values above zero by their logarithm, else one after the other."""
    if all(not isinstance(value, str) and value > 0 for value in values):
        return {value: math.log2(float(value)) for value in values}
    return {value: float(i) for i, value in enumerate(values)}


def _label(value: Value) -> str:
    return value if isinstance(value, str) else f"{value:.3g}"
