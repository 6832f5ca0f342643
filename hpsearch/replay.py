"""What another promotion rule would have done on recorded trials whose outcome is known.

The trials of one proxy arrive one after another. At each rung the rule sees what has been revealed so far and says
which trials go on; a trial that never reaches the last rung is pruned. As its outcome was recorded all the same, the
rule's savings, its regret and its mistakes can be counted. One trial runs at a time, promotions before arrivals; the
smaller proxies come first, and what they revealed stays known.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import isfinite, nan
from typing import Protocol

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hpsearch.fits import Outlook, judged
from hpsearch.next_trial import trusted
from hpsearch.rungs import SURELY_BAD
from hpsearch.surface import EXCESS_CAP, fit_surface
from search_spaces.errors import UserError
from search_spaces.parameter import Parameter

Array = NDArray[np.float64]

FIT_EVERY = 4  # arrivals; a fit each would cost minutes, and change little
FIT_GROWTH = 1.1  # of the measurements since the last fit


@dataclass(frozen=True)
class RecordedTrial:
    """A trial whose outcome is known: measured at the last rung, or diverged on the way there."""

    trial: str
    values: Mapping[str, float]
    seed: float
    tokens: tuple[float, ...]  # at each of its rungs
    losses: tuple[float, ...]  # annealed; infinite at the rung where it diverged, its last
    shown: tuple[float, ...]  # what a rule sees: these, or the raw losses
    flops: tuple[float, ...]  # of the segment to each rung

    @property
    def final_loss(self) -> float:
        return self.losses[-1]


@dataclass(frozen=True)
class RecordedProxy:
    """The usable trials of one proxy, in the order in which they came."""

    params: float
    num_rungs: int
    num_recorded: int
    trials: tuple[RecordedTrial, ...]

    @property
    def full_tokens(self) -> float:
        return float(np.median([trial.tokens[-1] for trial in self.trials if isfinite(trial.final_loss)]))

    @property
    def best_loss(self) -> float:
        return min(trial.final_loss for trial in self.trials)

    @property
    def num_complete(self) -> int:
        return sum(isfinite(trial.final_loss) for trial in self.trials)

    def with_trials(self, trials: tuple[RecordedTrial, ...]) -> RecordedProxy:
        """The same proxy with its trials in another order."""
        return replace(self, trials=trials)


class Judge(Protocol):
    """What a rule may ask of a fitted surface."""

    @property
    def noise_fraction(self) -> float: ...

    def trial_regret_draws(self, trial: str, params: float, tokens: float, config: Mapping[str, float]) -> Array: ...


Fitter = Callable[[Sequence[Mapping[str, object]]], Judge | None]  # revealed rows -> a surface that may judge, or None


@dataclass(frozen=True)
class RuleSettings:
    """What the rules are told."""

    reduction_factor: int
    tolerance: float  # regret at the full budget, a fraction of the loss


@dataclass
class Board:
    """What has been revealed of one proxy so far."""

    proxy: RecordedProxy
    settings: RuleSettings
    arrived: list[RecordedTrial] = field(default_factory=list)
    rung_of: dict[str, int] = field(default_factory=dict)  # by trial: the last rung revealed
    judge: Judge | None = None

    def population(self, rung: int) -> list[RecordedTrial]:
        """Those measured at a rung, best first."""
        measured = [trial for trial in self.arrived if self.rung_of[trial.trial] >= rung]
        return sorted(measured, key=lambda trial: trial.shown[rung])

    def waits(self, trial: RecordedTrial, rung: int) -> bool:
        return self.rung_of[trial.trial] == rung and isfinite(trial.shown[rung])


Rule = Callable[[Board, int], Sequence[RecordedTrial]]  # board, rung -> trials that may go on from it, best first


def never_prune(board: Board, rung: int) -> list[RecordedTrial]:
    """The reference: every trial goes on to the end."""
    return [trial for trial in board.population(rung) if board.waits(trial, rung)]


def by_rank(board: Board, rung: int) -> list[RecordedTrial]:
    """ASHA's rule: the best of a rung, one in `reduction_factor`."""
    population = board.population(rung)
    quota = len(population) // board.settings.reduction_factor
    return [trial for trial in population[:quota] if board.waits(trial, rung)]


def by_surface(board: Board, rung: int) -> list[RecordedTrial]:
    """As many as by rank, but those expected to lose least at the full budget; by rank while no surface may judge."""
    if board.judge is None:
        return by_rank(board, rung)
    population = board.population(rung)
    room = len(population) // board.settings.reduction_factor
    room -= sum(board.rung_of[trial.trial] > rung for trial in population)
    waiting = [(_outlook(board, board.judge, trial), trial) for trial in board.arrived if board.waits(trial, rung)]
    waiting.sort(key=lambda pair: pair[0].regret)
    return [trial for expected, trial in waiting[: max(room, 0)] if expected.probability_bad < SURELY_BAD]


RULES: Mapping[str, Rule] = {"none": never_prune, "asha": by_rank, "surface": by_surface}


def _outlook(board: Board, judge: Judge, trial: RecordedTrial) -> Outlook:
    regret = judge.trial_regret_draws(trial.trial, board.proxy.params, board.proxy.full_tokens, trial.values)
    return judged(judge, regret, board.settings.tolerance)


def no_surface(revealed: Sequence[Mapping[str, object]]) -> Judge | None:
    """The fitter of rules that do without."""
    return None


def surface_fitter(parameters: Sequence[Parameter], seed: int) -> Fitter:
    """Fits the surface to what is revealed; it may judge once each parameter is bracketed at two settings."""

    def fit(revealed: Sequence[Mapping[str, object]]) -> Judge | None:
        table = pd.DataFrame(revealed)
        if not table["loss"].notna().any():
            return None
        try:
            surface = fit_surface(table, parameters, seed, hold_out=False)
        except UserError:  # a loss that is not above zero: by rank, as in a search
            return None
        return surface if trusted(surface) else None

    return fit


@dataclass(frozen=True)
class Run:
    """What a rule did with one proxy's trials in one order."""

    order: int
    params: float
    num_trials: int
    num_judged: int  # arrivals after which a surface judged, and not the rank
    reached: Mapping[str, int]  # the last rung of each trial, from 0
    pruned: tuple[str, ...]
    false_prunes: tuple[str, ...]  # pruned, though the final loss is within the tolerance of the best
    spent_flops: float
    full_flops: float  # of running every trial to its end
    winner: str  # best by final loss of those at the last rung; where none is there, best at the highest rung reached
    regret: float  # of the winner's final loss, a fraction of the best


def replay_order(
    proxies: Sequence[RecordedProxy], order: int, rule: Rule, fitter: Fitter, settings: RuleSettings
) -> list[Run]:
    """Replays all proxies, smallest first, their trials arriving as they stand."""
    revealed: list[Mapping[str, object]] = []
    return [_replay_proxy(Board(proxy, settings), order, rule, fitter, revealed) for proxy in proxies]


def _replay_proxy(board: Board, order: int, rule: Rule, fitter: Fitter, revealed: list[Mapping[str, object]]) -> Run:
    num_judged, num_fitted = 0, 0
    for trial in board.proxy.trials:
        board.arrived.append(trial)
        _reveal(board, trial, 0, revealed)
        if len(board.arrived) % FIT_EVERY == 0 and len(revealed) >= FIT_GROWTH * num_fitted:
            board.judge, num_fitted = fitter(revealed), len(revealed)
        num_judged += board.judge is not None
        while going := _next_promotion(board, rule):
            _reveal(board, going, board.rung_of[going.trial] + 1, revealed)
    return _result(board, order, num_judged)


def _reveal(board: Board, trial: RecordedTrial, rung: int, revealed: list[Mapping[str, object]]) -> None:
    board.rung_of[trial.trial] = rung
    loss = trial.shown[rung] if isfinite(trial.shown[rung]) else nan
    row = {"trial": trial.trial, "params": board.proxy.params, "tokens": trial.tokens[rung], "loss": loss}
    revealed.append({**row, "seed": trial.seed, **trial.values})


def _next_promotion(board: Board, rule: Rule) -> RecordedTrial | None:
    """The best of the highest rung from which one may go on."""
    for rung in reversed(range(board.proxy.num_rungs - 1)):
        for trial in rule(board, rung):
            return trial
    return None


def _result(board: Board, order: int, num_judged: int) -> Run:
    trials, best = board.proxy.trials, board.proxy.best_loss
    pruned = [trial for trial in trials if board.rung_of[trial.trial] < len(trial.losses) - 1]
    good = best * (1 + board.settings.tolerance)
    winner = _winner(board)
    return Run(
        order=order,
        params=board.proxy.params,
        num_trials=len(trials),
        num_judged=num_judged,
        reached=dict(board.rung_of),
        pruned=tuple(trial.trial for trial in pruned),
        false_prunes=tuple(trial.trial for trial in pruned if trial.final_loss <= good),
        spent_flops=sum(sum(trial.flops[: board.rung_of[trial.trial] + 1]) for trial in trials),
        full_flops=sum(sum(trial.flops) for trial in trials),
        winner=winner.trial,
        regret=min(winner.final_loss / best - 1, EXCESS_CAP),
    )


def _winner(board: Board) -> RecordedTrial:
    """The best of the highest rung that any reached, as its loss there has it."""
    last = board.proxy.num_rungs - 1
    reached = [trial for trial in board.arrived if isfinite(trial.shown[board.rung_of[trial.trial]])]
    highest = max(board.rung_of[trial.trial] for trial in reached)
    finalists = [trial for trial in board.population(highest) if isfinite(trial.shown[highest])]
    return min(finalists, key=lambda trial: trial.final_loss if highest == last else trial.shown[highest])
