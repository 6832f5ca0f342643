"""What a run in MLflow says: of a trial its configuration and measurements, of a search its progress."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from mlflow.entities import Metric, Param, RunTag

from hpsearch.events import TrialState
from hpsearch.ledger import Entry
from hpsearch.state import SearchState, Trial
from trials.trial import Measurement, Outcome

MAX_TAG_CHARACTERS = 1000


def metrics_of(entry: Entry) -> list[Metric]:
    """What a rung measured, by tokens; nothing that is not finite, which MLflow would store as 1.8e308."""
    measurement = Measurement.from_dict(entry.event.measurement)
    at_ms = round(entry.at_s * 1000)
    flops = {"flops": float(measurement.flops), "anneal_flops": float(measurement.anneal_flops)}
    seen = {
        "val_loss": measurement.loss,
        "raw_val_loss": measurement.raw_loss,
        "far_val_loss": measurement.far_loss,
        "train_loss": measurement.train_loss,
        "gradient_norm": measurement.gradient_norm,
        "update_ratio": measurement.update_ratio,
        "max_attention_logit": measurement.max_attention_logit,
        "spikes": float(measurement.spikes),
        "unique_tokens": float(measurement.unique_tokens),
    }
    values = {**flops, **(seen if measurement.outcome is Outcome.MEASURED else {})}
    return [Metric(key, value, at_ms, measurement.tokens) for key, value in values.items() if math.isfinite(value)]


def params_of(trial: Trial) -> list[Param]:
    """The whole configuration, flat: the names of shape, parametrization and training do not meet."""
    config = trial.config.to_dict()
    shape, parametrization = config.pop("architecture"), config.pop("parametrization")
    flat: dict[str, Any] = {
        "model": shape.pop("kind"),
        "parametrization": parametrization.pop("rule"),
        **shape,
        **parametrization,
        **config,
        "params": trial.config.architecture.params,
        "log10_learning_rate": round(math.log10(trial.config.learning_rate), 6),
    }
    return [Param(key, str(value)) for key, value in flat.items()]


def tags_of(trial: Trial) -> list[RunTag]:
    """Where a trial stands, in our words: MLflow's status has fewer."""
    tags = {"state": str(trial.state), "rung": str(trial.rung)}
    message = trial.measurements[-1].message if trial.measurements else ""
    if message:
        tags["message"] = message[:MAX_TAG_CHARACTERS]
    return [RunTag(key, value) for key, value in tags.items()]


def search_metrics(state: SearchState, at_ms: int) -> list[Metric]:
    """What a search has spent, by its events."""
    values = {"spent_flops": float(state.spent_flops), "trials": float(len(state.trials))}
    if state.closed is not None:
        values |= {f"device_{key}": value for key, value in state.closed.device_seconds.items()}
    return [Metric(key, value, at_ms, state.seq) for key, value in values.items() if math.isfinite(value)]


def note_of(state: SearchState, counts: Mapping[TrialState, int]) -> str:
    """The description that the MLflow UI shows on the search's page."""
    counted = ", ".join(f"{counts[kind]} {kind}" for kind in TrialState if counts[kind])
    sizes = ", ".join(f"{state.spec.architecture(proxy).params:,}" for proxy in state.spec.ladder)
    return (
        f"**{state.spec.name}** (search {state.opened.incarnation}): proxies of {sizes} non-embedding parameters; "
        f"{counted or 'no trials yet'}; {state.spent_flops:.3g} of {state.budget_flops:.3g} FLOPs spent."
    )
