"""What replays add up to: means over the orders of arrival, with bootstrap intervals."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from hpsearch.replay import (
    RULES,
    RecordedProxy,
    RuleSettings,
    Run,
    no_surface,
    replay_order,
    surface_fitter,
)
from search_spaces.errors import UserError
from search_spaces.parameter import Parameter

Array = NDArray[np.float64]

Metric = Literal["loss", "raw_loss"]
NUM_RESAMPLES = 2000
MIN_COMPLETE = 6  # trials with a final loss, below which a replay says nothing


@dataclass(frozen=True)
class Recording:
    """The recorded trials of a search or a table."""

    source: str
    parameters: tuple[Parameter, ...]
    seed: int  # of the surface's draws
    flops: Literal["recorded", "6ND"]
    proxies: tuple[RecordedProxy, ...]  # smallest first; those with two rungs and a complete trial
    num_recorded: int  # trials of all proxies, of no use or not

    @property
    def num_complete(self) -> int:
        return sum(proxy.num_complete for proxy in self.proxies)

    @property
    def num_usable(self) -> int:
        return sum(len(proxy.trials) for proxy in self.proxies)


@dataclass(frozen=True)
class Question:
    """Which rules are replayed, and how."""

    schedulers: tuple[str, ...]
    metric: Metric
    num_orders: int  # random permutations; 0: the recorded order alone
    rules: RuleSettings


@dataclass(frozen=True)
class Estimate:
    """A mean over orders; no intervals where there is one order, no value where nothing was pruned in any."""

    value: float | None
    interval80: tuple[float, float] | None
    interval95: tuple[float, float] | None


@dataclass(frozen=True)
class Summary:
    """What a rule did with the trials of one proxy, or of all."""

    params: float | None  # None: all proxies
    saved: Estimate  # fraction of the FLOPs of running every trial to its end
    regret: Estimate  # of the best survivor, a fraction of the loss; of all proxies the mean
    pruned: Estimate  # trials an order
    false_prunes: Estimate  # trials an order
    false_prune_rate: Estimate  # of the pruned


@dataclass(frozen=True)
class SchedulerReport:
    """One rule's replay."""

    in_all: Summary
    proxies: tuple[Summary, ...]
    runs: tuple[Run, ...]  # from which all of it follows


@dataclass(frozen=True)
class ProxyReport:
    """What was replayed of one proxy."""

    params: float
    num_rungs: int
    full_tokens: float  # median at the last rung
    num_recorded: int
    num_complete: int
    num_diverged: int
    best_loss: float
    final_losses: Mapping[str, float | None]  # by usable trial, in recorded order; None: diverged
    segment_flops: Mapping[str, tuple[float, ...]]  # likewise, to each of its rungs


@dataclass(frozen=True)
class ReplayReport:
    """The answer of `hpsearch replay`."""

    source: str
    metric: Metric
    sampler: Literal["recorded", "random"]
    num_orders: int
    reduction_factor: int
    tolerance: float
    flops: Literal["recorded", "6ND"]
    num_recorded: int
    num_usable: int
    num_complete: int
    proxies: tuple[ProxyReport, ...]
    schedulers: Mapping[str, SchedulerReport]
    warnings: tuple[str, ...]


def replay(recording: Recording, question: Question) -> ReplayReport:
    """Replays each rule over all orders.

    Raises:
        UserError: too few trials have a known outcome.
    """
    check_enough(recording)
    schedulers = {name: _scheduler_report(name, recording, question) for name in question.schedulers}
    return ReplayReport(
        source=recording.source,
        metric=question.metric,
        sampler="random" if question.num_orders else "recorded",
        num_orders=max(question.num_orders, 1),
        reduction_factor=question.rules.reduction_factor,
        tolerance=question.rules.tolerance,
        flops=recording.flops,
        num_recorded=recording.num_recorded,
        num_usable=recording.num_usable,
        num_complete=recording.num_complete,
        proxies=tuple(_proxy_report(proxy) for proxy in recording.proxies),
        schedulers=schedulers,
        warnings=(*_warnings(recording, question), *_surface_warnings(schedulers)),
    )


def check_enough(recording: Recording) -> None:
    """A replay needs trials whose outcome is known.

    Raises:
        UserError: there are fewer than six.
    """
    if recording.num_complete < MIN_COMPLETE:
        raise UserError(
            f"{recording.source}: at least {MIN_COMPLETE} trials must be measured at the last of two or more rungs of "
            f"their proxy, got {recording.num_complete} of {recording.num_recorded} trials; give a table with more "
            "runs that were not stopped early, or run a search with a higher scheduler.audit_share"
        )


def permuted(proxies: Sequence[RecordedProxy], seed: int) -> list[RecordedProxy]:
    """The same trials in another order of arrival."""
    rng = np.random.default_rng(seed)
    return [proxy.with_trials(tuple(proxy.trials[i] for i in rng.permutation(len(proxy.trials)))) for proxy in proxies]


def summarize(runs: Sequence[Run], params: float | None) -> Summary:
    """Sums over the runs of each order, then the means over orders."""
    orders = sorted({run.order for run in runs})

    def by_order(values: Sequence[float]) -> Array:
        return np.array([sum(v for run, v in zip(runs, values, strict=True) if run.order == o) for o in orders], float)

    ones = by_order([1.0] * len(runs))
    each = np.ones(len(orders))
    pruned, false = by_order([len(run.pruned) for run in runs]), by_order([len(run.false_prunes) for run in runs])
    full = by_order([run.full_flops for run in runs])
    return Summary(
        params=params,
        saved=estimate(full - by_order([run.spent_flops for run in runs]), full),
        regret=estimate(by_order([run.regret for run in runs]), ones),
        pruned=estimate(pruned, each),
        false_prunes=estimate(false, each),
        false_prune_rate=estimate(false, pruned),
    )


def estimate(numerators: Array, denominators: Array) -> Estimate:
    """A ratio of sums over orders (K,), with the percentile intervals of a bootstrap over the orders."""
    if denominators.sum() <= 0:
        return Estimate(None, None, None)
    value = float(numerators.sum() / denominators.sum())
    if len(numerators) < 2:
        return Estimate(value, None, None)
    drawn = np.random.default_rng(0).integers(len(numerators), size=(NUM_RESAMPLES, len(numerators)))
    tops, bottoms = numerators[drawn].sum(axis=1), denominators[drawn].sum(axis=1)
    low95, low80, high80, high95 = np.quantile(
        tops[bottoms > 0] / bottoms[bottoms > 0], [0.025, 0.1, 0.9, 0.975]
    ).tolist()
    return Estimate(value, (low80, high80), (low95, high95))


def _scheduler_report(name: str, recording: Recording, question: Question) -> SchedulerReport:
    fitter = surface_fitter(recording.parameters, recording.seed) if name == "surface" else no_surface
    orders = [permuted(recording.proxies, seed) for seed in range(question.num_orders)] or [list(recording.proxies)]
    runs = [
        run
        for order, proxies in enumerate(orders)
        for run in replay_order(proxies, order, RULES[name], fitter, question.rules)
    ]
    sizes = [proxy.params for proxy in recording.proxies]
    by_size = [summarize([run for run in runs if run.params == size], size) for size in sizes]
    return SchedulerReport(summarize(runs, None), tuple(by_size), tuple(runs))


def _proxy_report(proxy: RecordedProxy) -> ProxyReport:
    return ProxyReport(
        params=proxy.params,
        num_rungs=proxy.num_rungs,
        full_tokens=proxy.full_tokens,
        num_recorded=proxy.num_recorded,
        num_complete=proxy.num_complete,
        num_diverged=len(proxy.trials) - proxy.num_complete,
        best_loss=proxy.best_loss,
        final_losses={t.trial: t.final_loss if np.isfinite(t.final_loss) else None for t in proxy.trials},
        segment_flops={t.trial: t.flops for t in proxy.trials},
    )


def _warnings(recording: Recording, question: Question) -> Iterator[str]:
    left_out = recording.num_recorded - recording.num_usable
    if left_out:
        yield (
            f"{recording.num_usable} of {recording.num_recorded} trials have a known outcome; the other {left_out} "
            "(pruned, unfinished, or of a proxy without two rungs) are left out, so those replayed are better than "
            "what a search meets, and the figures hold for them only"
        )
    for proxy in recording.proxies:
        if len(proxy.trials) < question.rules.reduction_factor:
            yield (
                f"N = {proxy.params:,.0f}: {len(proxy.trials)} usable trials, fewer than the reduction factor "
                f"{question.rules.reduction_factor}: no rule but none promotes any"
            )


def _surface_warnings(schedulers: Mapping[str, SchedulerReport]) -> Iterator[str]:
    if "surface" in schedulers and not any(run.num_judged for run in schedulers["surface"].runs):
        yield "the surface was never trusted, so `surface` went by rank throughout, as `asha` does"
