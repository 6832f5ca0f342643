"""What a person sees of the big run's losses so far, and of a recheck."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.text import Text

from hpsearch.transfer.explanations import Verdict
from hpsearch.transfer.watching import Watched

COLORS = {
    Verdict.TOO_EARLY: "yellow",
    Verdict.ON_TRACK: "green",
    Verdict.BETTER: "green",
    Verdict.RATE_TOO_LOW: "red",
    Verdict.RATE_TOO_HIGH: "red",
    Verdict.LEVEL_SHIFT: "red",
    Verdict.WORSE: "red",
    Verdict.UNSTABLE: "bold red",
}


def watched_view(watched: Watched) -> RenderableType:
    """The verdict, what to do, by what explanation, and what to beware of."""
    explanations = ", ".join(f"{name} {value:.0%}" for name, value in watched.probability.items())
    lines = [Text(f"-> {remedy}") for remedy in watched.remedy]
    return Group(
        Text(watched.text, style=COLORS[watched.verdict]),
        *lines,
        *[Text(f"explanations: {explanations}") for _ in [0] if explanations],
        Text(_evidence(watched)),
        *[Text.assemble(("warning ", "yellow"), warning) for warning in watched.warnings],
    )


def _evidence(watched: Watched) -> str:
    config = ", ".join(f"{name} {value:.4g}" for name, value in watched.config.items())
    gap = f"gap to the annealed loss from {watched.num_gaps} rungs" if watched.num_gaps else "gap by the prior"
    return (
        f"at {watched.tokens:,.0f} tokens; {watched.num_losses} losses count, from {watched.counted_from:,.0f} to "
        f"{watched.counted_to:,.0f} tokens; predicted for {config}; {gap}"
    )
