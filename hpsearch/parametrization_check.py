"""The coordinate check: do activations, and what training makes of them, keep their size as a model grows?

Small models of several widths, and of several depths, are trained for a few steps on one small batch. Seed by
seed, the logarithm of a mean absolute activation is fitted against that of the width or depth: a slope of 0 is a
size that is kept, 1 one that grows with the width. A rule passes where no size that it promises to keep has a
slope further from 0 than TOLERANCE. Two may fall: what is a mean of independent numbers until it is trained (under
muP logits start as 1 / sqrt(width)), so it is judged by its change; and the change of attention logits where all
weights learn, as queries and keys that an embedding has moved have not learned to agree. So everything is trained
once more with the matrices of the blocks learning alone, where a rate of theirs that falls too fast shows.

Measured with the defaults on 16 disjoint sets of 8 seeds, gpt and llama, AdamW: under `mup` over widths and
`completep` over both, slopes lie between -0.20 (attention logits; all others above -0.15) and +0.13. Under
`standard` changes grow over widths: logits with 0.72 to 0.91, branches and stream with 1.5 to 2.0. Under `mup` the
stream grows over depths, with 0.35 to 0.9. A power that is wrong by one half, of a rate, an initialisation or a
multiplier, makes the worst slope 0.32 to 0.9. Under Muon, `mup` keeps changes between -0.10 and +0.06 over widths,
and misses them by -0.5 where Muon's rate falls as AdamW's does.

A batch has 8 tokens because the rules speak of widths far above the number of tokens: with 256 tokens and the same
widths, logits change with a slope of -0.2 and attention logits with -0.5 under a rule that is right.

What the check cannot see: eps and weight decay, which tell after many steps, and the rates of vectors, whose
changes are small beside those of matrices.

Sources: Yang et al. 2022 (Tensor Programs V, arXiv 2203.03466), appendix D.1; over depths, Dey et al. 2025
(CompleteP, arXiv 2505.01618).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from rich.table import Table

from hpsearch.parametrization_study import Axis, Learners, Study
from search_spaces.errors import UserError

if TYPE_CHECKING:
    from trials.coordinates import Coordinate

TOLERANCE = 0.25  # largest slope of a size that counts as kept
Sizes = NDArray[np.float64]


@dataclass(frozen=True)
class Slope:
    """The power of the width or depth that a size goes with."""

    value: float
    error: float  # standard error over seeds


@dataclass(frozen=True)
class Trend:
    """How the size of one coordinate goes with the size of the model."""

    axis: Axis
    learners: Learners
    coordinate: Coordinate
    sizes: tuple[int, ...]  # widths or depths
    activations: tuple[tuple[float, ...], ...]  # geometric mean over seeds; a row a step, a column a size
    changes: tuple[tuple[float, ...], ...]  # since initialisation, likewise; from the first step on
    activation: Slope  # after the last step, like the next
    change: Slope
    promised: bool  # whether the rule must keep it

    @property
    def passes(self) -> bool:
        """Grows nowhere, and shrinks only where it may."""
        unlearned = self.learners is Learners.ALL and self.coordinate.learned_by_blocks
        lowest = -math.inf if self.coordinate.shrinks_at_start else -TOLERANCE, -math.inf if unlearned else -TOLERANCE
        slopes = self.activation.value, self.change.value
        return all(low <= slope <= TOLERANCE for low, slope in zip(lowest, slopes, strict=True))


@dataclass(frozen=True)
class Report:
    """The verdict and what it rests on."""

    study: Study
    trends: tuple[Trend, ...]

    @property
    def faults(self) -> tuple[Trend, ...]:
        """The promises that are not kept."""
        return tuple(trend for trend in self.trends if trend.promised and not trend.passes)

    @property
    def verdict(self) -> str:
        """One line."""
        study = self.study
        subject = f"{study.parametrization.rule} ({study.model.kind}, {study.optimizer})"
        if not self.faults:
            return (
                f"{subject} passes: sizes are kept over {' and '.join(axis for axis in Axis if study.promises(axis))}"
            )
        worst = max(self.faults, key=lambda trend: max(abs(trend.change.value), abs(trend.activation.value)))
        slope = max(worst.change.value, worst.activation.value, key=abs)
        return f"{subject} FAILS: {len(self.faults)} slopes; {worst.coordinate} go as {worst.axis}^{slope:.2f}"

    def to_dict(self) -> dict[str, Any]:
        trends = [{**asdict(trend), "passes": trend.passes} for trend in self.trends]
        found = {"passes": not self.faults, "verdict": self.verdict, "tolerance": TOLERANCE}
        return {**found, "study": self.study.model_dump(mode="json"), "trends": trends}


def check_parametrization(study: Study) -> Report:
    """Trains the models of a study and judges what they show.

    Raises:
        UserError: the training left the range of numbers, or left no trace.
    """
    return Report(
        study, tuple(trend for learners in Learners for axis in Axis for trend in _trends(study, axis, learners))
    )


def fit_slope(sizes: Sequence[int], values: Sizes) -> Slope:
    """Least squares of log2 value against log2 size, seed by seed.

    Args:
        sizes: `(S,)` widths or depths.
        values: `(S, K)`, above 0.
    """
    slopes = np.polyfit(np.log2(sizes), np.log2(values), 1)[0]
    return Slope(float(slopes.mean()), float(slopes.std(ddof=1) / math.sqrt(len(slopes))))


def _trends(study: Study, axis: Axis, learners: Learners) -> Iterator[Trend]:
    from trials.coordinates import Coordinate, training_sizes  # with torch, which a mistake need not wait for

    sizes = study.sizes(axis)
    runs = [training_sizes(study.config(axis, size, learners), study.steps, study.seeds) for size in sizes]
    for coordinate in Coordinate:
        if learners is Learners.BLOCKS and coordinate is Coordinate.EMBEDDING:
            continue  # no block is before it
        found = [[(row.activation, row.change) for row in run if row.coordinate is coordinate] for run in runs]
        table = np.array(found).reshape(len(sizes), study.steps + 1, study.seeds, 2).transpose(3, 1, 0, 2)
        activations, changes = table[0], table[1, 1:]  # (steps, S, K)
        if not (np.isfinite(table).all() and (activations > 0).all() and (changes > 0).all()):
            raise UserError(
                f"command line: learning_rate: must change {coordinate} by a finite amount at every {axis}, "
                f"got {study.learning_rate:g}; use one nearer to 0.004"
            )
        yield Trend(
            axis=axis,
            learners=learners,
            coordinate=coordinate,
            sizes=sizes,
            activations=_over_seeds(activations),
            changes=_over_seeds(changes),
            activation=fit_slope(sizes, activations[-1]),
            change=fit_slope(sizes, changes[-1]),
            promised=study.promises(axis),
        )


def _over_seeds(values: Sizes) -> tuple[tuple[float, ...], ...]:
    """`(steps, S, K)` -> the geometric mean over the seeds."""
    return tuple(map(tuple, np.exp2(np.log2(values).mean(2)).tolist()))


def check_table(report: Report) -> Table:
    """What a person sees of it in the terminal."""
    table = Table(title=report.verdict, title_justify="left")
    for name in ("over", "learning", "coordinate"):
        table.add_column(name)
    for name in ("change, smallest", "largest", "slope of change", "slope of activation"):
        table.add_column(name, justify="right")
    table.add_column("size")
    for trend in report.trends:
        first, last = trend.changes[-1][0], trend.changes[-1][-1]
        slopes = [f"{slope.value:+.2f} ± {slope.error:.2f}" for slope in (trend.change, trend.activation)]
        verdict = "kept" if trend.passes else "[red]NOT KEPT[/]" if trend.promised else "[dim]not kept, not promised[/]"
        cells = (trend.axis, trend.learners, trend.coordinate, f"{first:.2g}", f"{last:.2g}", *slopes, verdict)
        table.add_row(*cells, end_section=trend.coordinate is report.trends[-1].coordinate)
    return table
