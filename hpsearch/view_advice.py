"""What a person sees beside the recommended values, of a search and of a table alike."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from rich.table import Table
from rich.text import Text

from hpsearch.transfer.advice import Alternative, Comparison, EarlyLoss, NextTrial, Reach, TieSet

YOURS = "yours"


def alternatives_table(
    alternatives: Mapping[str, Alternative], compare: Comparison | None, regret: float, bound90: float
) -> Table:
    """What others would take and what it costs, cheapest first, beside the recommended one."""
    table = Table(title="on the same scale, at the target", title_justify="left")
    for heading in ("configuration", "expected regret", "at most (90 %)", "chance to be better", "values"):
        table.add_column(heading)
    table.add_row("recommended", f"{regret:.2%}", f"{bound90:.2%}", "", "")
    named = {
        name: (cost, ", ".join(f"{k} {v:.3g}" for k, v in cost.values.items())) for name, cost in alternatives.items()
    }
    yours = {} if compare is None else {YOURS: (compare, "")}
    for name, (cost, values) in sorted({**named, **yours}.items(), key=lambda item: item[1][0].expected_regret):
        better = f"{cost.better_than_recommended_probability:.0%}"
        table.add_row(Text(name), f"{cost.expected_regret:.2%}", f"{cost.regret_bound90:.2%}", better, Text(values))
    return table


def tie_line(name: str, tied: TieSet) -> str:
    """What the trials cannot tell apart."""
    return f"{name}: {tied.low:.3g} to {tied.high:.3g} cannot be told apart; chosen: {tied.rule}"


def advice_lines(
    stability: Mapping[str, Any] | None, following: NextTrial | None, early: EarlyLoss, reach: Reach, model_error: float
) -> Iterator[str]:
    """Stability, the next trial, what to watch, how far it reaches."""
    if stability is not None:
        seen = f"{stability['diverged']} diverged" if stability["diverged"] else "none diverged, so by the prior"
        yield (
            f"stability: {stability['parameter']} up to {stability['largest_stable']:.3g} (90 %; {seen}), "
            f"{stability['margin_octaves']:.1f} octaves above; chance of divergence "
            f"{stability['chance_of_divergence']:.1%}"
        )
    if following is not None:
        values = ", ".join(f"{name} {value:.3g}" for name, value in following.parameters.items())
        yield (
            f"next trial: {values} at N = {following.params:,.0f}, D = {following.tokens:.3g}; expected regret then "
            f"{following.expected_regret_after:.2%}"
        )
    low, high = early.interval90
    yield (
        f"watch: at {early.tokens:.3g} tokens, with the learning rate decayed, the loss should be {early.loss:.3f} "
        f"({low:.3f} to {high:.3f}, 90 %)"
    )
    yield (
        f"reach: {reach.params:,.3g}x in N ({reach.supported_params:.3g}x supported), {reach.tokens:,.3g}x in D; "
        f"model error makes {model_error:.0%} of the expected regret"
    )
