"""`hpsearch watch-target`: a log of losses and the trials that predict it, read and put together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from hpsearch.big_run_source import Source, SourceOptions, read_source
from hpsearch.loss_log import LossLog, read_losses
from hpsearch.recommend_command import read_config
from hpsearch.transfer.anneal_gap import fit_gap
from hpsearch.transfer.course import BigRun
from hpsearch.transfer.watching import Watch, watch_run
from search_spaces.errors import UserError
from trials.schedule import learning_rate_factor
from trials.trial import TrialConfig

WARMUP_SHARE = 0.02  # of a run of which nothing says how long it warms up
DECAY_SHARE = 0.2  # of a run of which nothing says how long its rate decays
STEADY_FACTOR = 0.9  # of its peak, down to which a rate still counts as not decayed
PEAK_FACTOR = 0.99  # from which a logged rate has warmed up
NUM_PLACES = 1000  # of a run, at which its schedule is looked at


@dataclass(frozen=True)
class WatchOptions:
    """The options of the log and of the run, as they were given."""

    losses: Path
    batch_tokens: float | None
    learning_rate: float | None
    config: Path | None
    warmup_tokens: float | None


def watch(options: WatchOptions, source_options: SourceOptions) -> Watch:
    """Reads a log and what predicts it, and judges.

    Raises:
        UserError: an option or a file breaks a rule.
    """
    log = read_losses(options.losses, options.batch_tokens)
    source = read_source(source_options)
    run = big_run(options, source, log)
    watched = watch_run(log, source.surface, fit_gap(source.surface, source.rungs), run)
    warnings = (*source.refused, *watched.answer.warnings)
    return replace(watched, answer=watched.answer.model_copy(update={"warnings": warnings}))


def big_run(options: WatchOptions, source: Source, log: LossLog) -> BigRun:
    """The run as it is meant: what the options say, else the log, else the search, else what runs mostly have."""
    config = {**source.recommended, **given_config(options, source)}
    decay_share = source.schedule.decay_share if source.schedule else DECAY_SHARE
    decay_share = decay_share if decay_share < 1.0 else DECAY_SHARE  # a cosine: only its start is looked at
    warmup_tokens, end_tokens = _phase(source, config, log, decay_share)
    if options.warmup_tokens is not None:
        warmup_tokens = options.warmup_tokens
    shortest = float(source.surface.sweep.settings[:, 1].min()) * (1.0 - decay_share)
    return BigRun(
        params=source.target.params,
        tokens=source.target.tokens,
        config=config,
        warmup_tokens=warmup_tokens,
        steady=(max(warmup_tokens, shortest), end_tokens),
        decay_share=decay_share,
    )


def given_config(options: WatchOptions, source: Source) -> dict[str, float]:
    """The values that the user's run has otherwise than recommended.

    Raises:
        UserError: one is no parameter of the trials, or stands in both options.
    """
    values = {} if options.config is None else source.table.named(read_config(options.config), str(options.config))
    if options.learning_rate is None:
        return values
    rate = source.table.named({"learning_rate": options.learning_rate}, "--learning-rate")
    if set(rate) & set(values):
        raise UserError(f"--learning-rate: stands in {options.config} too; give one of them")
    return {**values, **rate}


def _phase(source: Source, config: Mapping[str, float], log: LossLog, decay_share: float) -> tuple[float, float]:
    """Tokens at which the warmup ends, and at which the rate has begun to fall."""
    planned = source.target.tokens
    if np.isfinite(log.learning_rate).any():
        return _logged_phase(log, planned)
    if source.schedule is not None:
        return float(source.schedule.warmup_tokens), _steady_until(source.schedule, planned)
    known = {p.known_name: config[p.name] for p in source.table.parameters}
    warmup_tokens = known.get("warmup_tokens", known.get("warmup_fraction", WARMUP_SHARE) * planned)
    return warmup_tokens, planned * (1.0 - decay_share)


def _steady_until(config: TrialConfig, planned: float) -> float:
    """Tokens up to which the rate of a run of `planned` tokens stays near its peak."""
    start, decay, floor = (1.0 - config.decay_share) * planned, config.decay, config.decay_floor
    places = np.linspace(0.0, planned, NUM_PLACES).tolist()
    factors = [learning_rate_factor(t, config.warmup_tokens, start, planned, decay, floor) for t in places]
    return float(max(t for t, factor in zip(places, factors, strict=True) if factor >= STEADY_FACTOR))


def _logged_phase(log: LossLog, planned: float) -> tuple[float, float]:
    """By the learning rates of the log; a rate that still rises has not warmed up."""
    rate = np.nan_to_num(log.learning_rate)
    warm = np.flatnonzero(rate >= PEAK_FACTOR * rate.max())
    fallen = np.flatnonzero((rate > 0) & (rate < STEADY_FACTOR * rate.max()) & (log.tokens > log.tokens[warm[0]]))
    return float(log.tokens[warm[0]]), float(log.tokens[fallen[0]]) if len(fallen) else planned
