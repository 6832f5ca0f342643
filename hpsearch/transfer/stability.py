"""Where each size goes unstable: the learning rates at which its trials trained, and those at which they diverged."""

from __future__ import annotations

import pandas as pd

from hpsearch.transfer.part import Part
from trials.trial import Outcome


class StabilityEdge(Part):
    """One size. The edge lies between the two rates where they are in order; where not, other parameters move it."""

    params: int  # non-embedding
    trials: int
    diverged: int
    highest_stable: float | None  # highest learning rate of a trial that reached its rungs
    lowest_diverged: float | None  # lowest of one that diverged; none did: the edge lies above the searched range

    @property
    def text(self) -> str:
        """In words."""
        size = f"N = {self.params:,}"
        if self.lowest_diverged is None:
            return f"{size}: stable up to {self.highest_stable:.3g}, the highest rate tried"
        stable = "no rate trained" if self.highest_stable is None else f"stable up to {self.highest_stable:.3g}"
        return f"{size}: {stable}, diverged from {self.lowest_diverged:.3g} ({self.diverged} of {self.trials} trials)"


def stability_edges(observations: pd.DataFrame) -> tuple[StabilityEdge, ...]:
    """The edge of every size, smallest first; none where the learning rate was not searched.

    Args:
        observations: a row a measurement, with `trial`, `params`, `outcome` and `learning_rate`.
    """
    if observations.empty or "learning_rate" not in observations:
        return ()
    return tuple(_edge(int(str(params)), rows) for params, rows in observations.groupby("params", sort=True))


def _edge(params: int, rows: pd.DataFrame) -> StabilityEdge:
    unstable = rows["outcome"] == Outcome.DIVERGED
    diverged = set(rows.loc[unstable, "trial"])
    stable = rows.loc[~rows["trial"].isin(diverged) & (rows["outcome"] == Outcome.MEASURED), "learning_rate"]
    rates = rows.loc[unstable, "learning_rate"]
    return StabilityEdge(
        params=params,
        trials=rows["trial"].nunique(),
        diverged=len(diverged),
        highest_stable=None if stable.empty else float(stable.max()),
        lowest_diverged=None if rates.empty else float(rates.min()),
    )
