"""A made-up search as events: what a ledger would hold, for whoever reads ledgers."""

from __future__ import annotations

from hpsearch.events import Asked, Closed, Event, Judged, Measured, Opened, Promoted, Role, TrialState
from hpsearch.plan import rung_tokens, trial_config
from hpsearch.spec import Spec
from tests.hpsearch.simulation import report, spec_of
from trials.trial import Assignment

RUNG_RATIOS = [1.0, 3.0, 9.0]


def stream(num_trials: int, search_id: str = "stream") -> list[Event]:
    """A search in which every trial reaches the third rung."""
    ladder = [{"width": 16, "depth": 1, "heads": 2, "trials": num_trials}]
    spec = spec_of(ladder=ladder, scheduler={"name": "asha", "rung_ratios": RUNG_RATIOS}, repeats=0)
    opened = Opened(
        spec=spec.model_dump(mode="json"), corpus_id="corpus", tokenizer_id="tokens", versions={}, incarnation=search_id
    )
    events: list[Event] = [opened]
    for number in range(num_trials):
        events += _trial(spec, number)
    return [*events, Closed(complete=True, device_seconds={})]


def _trial(spec: Spec, number: int) -> list[Event]:
    trial_id = f"trial-{number:05}"
    values = {"learning_rate": 1e-3 + 1e-6 * number, "weight_decay": 0.1}
    config = trial_config(spec, 0, values, seed=number)
    rungs = rung_tokens(spec, 0, 4)
    events: list[Event] = [
        Asked(
            trial_id=trial_id,
            number=number,
            proxy=0,
            role=Role.EXPLORE,
            repeat_of="",
            values=values,
            config=config.to_dict(),
            rungs=rungs,
            cost_flops=1,
            reasons={},
        )
    ]
    for rung, tokens in enumerate(rungs):
        if rung:
            events.append(Promoted(trial_id=trial_id, rung=rung, cost_flops=1, reasons={}))
        measurement = report(Assignment(trial_id, config, tokens, (), "file"), 3.0 + 1.0 / (1 + rung))
        events.append(Measured(trial_id=trial_id, rung=rung, measurement=measurement.to_dict()))
        verdict = TrialState.COMPLETE if rung == len(rungs) - 1 else TrialState.PAUSED
        events.append(Judged(trial_id=trial_id, rung=rung, verdict=verdict, reasons={}))
    return events
