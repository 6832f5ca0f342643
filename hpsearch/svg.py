"""A figure as an SVG file: whole or not at all, and the same figure always in the same bytes."""

from __future__ import annotations

import io
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure

from hpsearch.folder import write_whole


def write_svg(figure: Figure, path: Path) -> None:
    """Writes a figure; no date, no random names inside."""
    text = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": "hpsearch"}):
        figure.savefig(text, format="svg", metadata={"Date": None})
    write_whole(path, text.getvalue())
