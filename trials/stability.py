"""Is a trial still learning? Its training losses, as far as they tell, and the verdict."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from typing import Any, Self

WINDOW_STEPS = 16  # averaged over, as one small batch of odd text is no divergence
START_RATIO = 1.05  # a mean loss this far above the first one, after warmup, has not learned but diverged
WARMUP_RATIO = 1.25  # during warmup a hump is no divergence yet
SPIKE_RATIO = 1.2  # a step this far above the mean of those before is counted as a spike
LOST_SHARE = 0.5  # of what was learned; a spike that stays this deep for long does not come back
LOST_STEPS = 64
LEARNED_SHARE = 0.1  # of the first loss: before that nothing was learned that could be lost


@dataclass(frozen=True)
class LossTrace:
    """The training losses of a trial so far; it goes with the trunk into the checkpoint."""

    start: float = math.nan  # loss of the first step
    best: float = math.inf  # lowest mean over a window
    recent: tuple[float, ...] = ()  # the window, newest last
    spikes: int = 0
    lost_steps: int = 0  # in a row

    def add(self, loss: float) -> LossTrace:
        """The trace with one more step."""
        recent = (*self.recent, loss)[-WINDOW_STEPS:]
        mean = sum(recent) / len(recent)
        full = len(recent) == WINDOW_STEPS
        spiked = len(self.recent) == WINDOW_STEPS and loss > SPIKE_RATIO * self.mean
        start = loss if math.isnan(self.start) else self.start
        best = min(self.best, mean) if full else self.best
        lost = start - best > LEARNED_SHARE * start and mean > best + LOST_SHARE * (start - best)
        return replace(
            self,
            start=start,
            best=best,
            recent=recent,
            spikes=self.spikes + spiked,
            lost_steps=self.lost_steps + 1 if lost else 0,
        )

    @property
    def mean(self) -> float:
        """Over the window; NaN before the first step."""
        return sum(self.recent) / len(self.recent) if self.recent else math.nan

    def divergence(self, warmed_up: bool) -> str:
        """Why the trial has diverged, or nothing.

        Args:
            warmed_up: whether its warmup was over when the window began.
        """
        if not self.recent:
            return ""
        if not math.isfinite(self.mean):
            return f"training loss {self.recent[-1]:.4g}, {self.start:.4g} at the start"
        bound = (START_RATIO if warmed_up else WARMUP_RATIO) * self.start
        if len(self.recent) == WINDOW_STEPS and self.mean > bound:
            return f"mean training loss {self.mean:.4g} is above the loss {self.start:.4g} at the start"
        if self.lost_steps >= LOST_STEPS:
            return (
                f"mean training loss {self.mean:.4g} has been above {self.best:.4g} by half of what was learned "
                f"for {self.lost_steps} steps, {self.start:.4g} at the start"
            )
        return ""

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Self:
        return cls(**{**data, "recent": tuple(data["recent"])})
