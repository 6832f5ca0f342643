"""The big run as a picture: its losses so far over the band that its trials predict."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from hpsearch.surface_answers import Z80
from hpsearch.svg import write_svg
from hpsearch.transfer.watching import Watch

DEVIATIONS95 = 1.96
MAX_POINTS = 2000  # of the log, evenly chosen: more are one blot


def draw_watch(watch: Watch, path: Path) -> None:
    """Writes an SVG."""
    answer, course, log = watch.answer, watch.course, watch.log
    figure = Figure(figsize=(7.0, 4.2), layout="constrained")
    axes = figure.subplots()
    for deviations, alpha in ((DEVIATIONS95, 0.15), (Z80, 0.3)):
        axes.fill_between(course.tokens, *course.interval(deviations), color="tab:blue", alpha=alpha, linewidth=0)
    axes.plot(course.tokens, np.exp(course.mean), color="tab:blue", linewidth=1, label="predicted, 80 and 95 %")
    shown = np.unique(np.linspace(0, len(log.tokens) - 1, MAX_POINTS).astype(int))
    shown = shown[np.isfinite(log.loss[shown]) & (log.tokens[shown] > 0)]
    axes.plot(log.tokens[shown], log.loss[shown], ".", color="black", markersize=3, label="so far")
    axes.axvline(answer.counted_from, color="gray", linewidth=0.8, linestyle=":", label="counts from here")
    axes.set(xscale="log", yscale="log", xlabel="tokens", ylabel="loss before the decay")
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter("{x:g}")
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.legend(fontsize=8)
    axes.set_title(answer.text, fontsize=8, color="tab:red" if answer.verdict.needs_action else "black", wrap=True)
    write_svg(figure, path)
