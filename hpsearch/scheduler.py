"""Ray Tune's scheduler and searcher: two thin faces of one conductor.

Ray Tune places and supervises trials. What is asked, paused, promoted and stopped is decided by
`hpsearch.decisions` and recorded by the conductor; here it is only translated.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from typing import Any

from ray import tune
from ray.tune.schedulers import TrialScheduler
from ray.tune.search import Searcher

from hpsearch.conductor import Conductor
from hpsearch.decisions import Decision, Idle
from hpsearch.events import Asked, Predicted, Promoted, TrialState
from trials.trial import Assignment, Measurement

TuneTrial = Any  # ray.tune.experiment.Trial, which is untyped
Controller = Any  # ray.tune's TuneController
MAX_LOSSES = 20  # of workers in a row; one that cannot even start burns some seconds each


class Desk:
    """What scheduler and searcher share: the conductor, and which of its trials have a Tune trial now."""

    def __init__(
        self,
        conductor: Conductor,
        runners: tuple[str, ...],
        num_workers: int,
        release: Callable[[str], None],
        on_event: Callable[[], None],
    ) -> None:
        self.conductor = conductor
        self.runners = runners  # names that workers find the stack actors by
        self.num_workers = num_workers
        self.release = release  # makes the devices forget a trial, without waiting for them
        self.on_event = on_event  # called after each decision: the progress view
        self.handed_out: set[str] = set()  # our trial ids with a live Tune trial
        self.unfinished: list[Assignment] = []  # begun, and with no worker yet: handed out first
        self.num_first = 0  # workers that begin together

    def __reduce__(self) -> tuple[type, tuple[()]]:
        return object, ()

    @property
    def has_room(self) -> bool:
        """Whether another trial may run. Paused trials do not count: counting them would deadlock the search."""
        return len(self.conductor.state.running) < self.num_workers

    def config(self, assignment: Assignment) -> dict[str, Any]:
        """What a thin worker is given."""
        worker = {"runners": self.runners, "num_first": self.num_first}
        # As text: Ray Tune copies, merges and flattens a configuration key by key, for every trial and again for each
        # of its names.
        return {"trial_id": assignment.trial_id, "assignment": json.dumps(assignment.to_dict()), **worker}

    def decide(self) -> Decision:
        """The next thing to do; a prediction is written down before what follows from it."""
        decision = self.conductor.decide()
        if isinstance(decision, Predicted):
            self.conductor.predict(decision)
            self.on_event()
            decision = self.conductor.decide()
        return decision

    def begin_first(self) -> None:
        """Begins whatever can begin before anything is measured, beside what was cut in mid-segment.

        So that it is known how many workers begin together.
        """
        while self.has_room and not self.conductor.stopping:
            decision = self.decide()
            if not isinstance(decision, Asked | Promoted):
                break
            self.begin(decision)
        running = self.conductor.state.running.values()
        self.unfinished = [self.conductor.assignment(trial) for trial in running]
        self.num_first = len(self.unfinished)

    def begin(self, decision: Asked | Promoted) -> dict[str, Any]:
        """Starts a segment and returns its worker's config."""
        assignment = self.conductor.start(decision)
        self.on_event()
        return self.config(assignment)


class LedgerSearcher(Searcher):
    """Hands out new trials, and those that a restart found without a Tune trial."""

    def __init__(self, desk: Desk) -> None:
        super().__init__(metric="loss", mode="min")
        self._desk = desk

    def __reduce__(self) -> tuple[type, tuple[()]]:
        return object, ()

    def set_max_concurrency(self, max_concurrent: int) -> bool:
        return True  # `suggest` counts running trials itself

    def suggest(self, trial_id: str) -> Any:  # a config, None or Searcher.FINISHED, which is text
        desk, conductor = self._desk, self._desk.conductor
        if conductor.stopping:
            return Searcher.FINISHED
        if desk.unfinished:
            return self._hand_out(desk.config(desk.unfinished.pop(0)))
        if not desk.has_room:
            return None
        decision = desk.decide()
        if decision is Idle.FINISHED:
            return Searcher.FINISHED
        if isinstance(decision, Asked) or (isinstance(decision, Promoted) and decision.trial_id not in desk.handed_out):
            return self._hand_out(desk.begin(decision))
        return None

    def _hand_out(self, config: dict[str, Any]) -> dict[str, Any]:
        self._desk.handed_out.add(config["trial_id"])
        return config

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        pass  # the scheduler has seen it

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        pass  # the verdict is in the ledger, which is where the sampler reads it

    def save(self, checkpoint_path: str) -> None:
        pass  # the ledger is the state

    def restore(self, checkpoint_path: str) -> None:
        raise AssertionError("a search resumes from its ledger, never from Ray Tune's snapshot")


class PromotionScheduler(TrialScheduler):
    """Pauses every trial at every rung, and lets go on those that the conductor promotes."""

    def __init__(self, desk: Desk) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # of Ray
        self._desk = desk
        self._live: dict[str, TuneTrial] = {}  # by our trial id
        self._promoted: list[TuneTrial] = []  # not yet told to Ray Tune
        self._lost: Counter[str] = Counter()  # workers of each trial since its last result

    def __reduce__(self) -> tuple[type, tuple[()]]:
        return object, ()

    def on_trial_add(self, tune_controller: Controller, trial: TuneTrial) -> None:
        # Ray Tune gives a trial its folder when it is placed; one that ends before that, by an interrupt, has none, and
        # collecting the results at the end fails on it.
        trial.init_local_path()
        self._live[trial.config["trial_id"]] = trial

    def on_trial_result(self, tune_controller: Controller, trial: TuneTrial, result: dict[str, Any]) -> str:
        if "halt" in result:
            self._desk.conductor.halt(result["halt"])
            return str(TrialScheduler.STOP)
        return self._judge(tune_controller, trial, Measurement.from_dict(json.loads(result["measurement"])))

    def on_trial_error(self, tune_controller: Controller, trial: TuneTrial) -> None:
        """A worker or its node was lost: no fault of the trial, whose own faults are measurements.

        Its segment is handed out again, as after a restart. Ray Tune's own retry gives a trial up where it hears
        twice of one death, which happens. Where no worker lives to see a result the search halts: nothing that
        another trial does would mend that.
        """
        desk, trial_id = self._desk, trial.config["trial_id"]
        self._forget(trial)
        running = desk.conductor.state.running.get(trial_id)
        if running is None:
            return  # it was measured before; where it is promoted, it gets a new worker
        self._lost[trial_id] += 1
        desk.unfinished.append(desk.conductor.assignment(running))
        if self._lost[trial_id] > MAX_LOSSES:
            desk.conductor.halt(
                f"{trial_id}: its worker was lost {self._lost[trial_id]} times in a row; mend what search.log and the "
                "logs of Ray's workers say, then go on with `hpsearch resume`"
            )

    def on_trial_complete(self, tune_controller: Controller, trial: TuneTrial, result: dict[str, Any]) -> None:
        self._forget(trial)

    def on_trial_remove(self, tune_controller: Controller, trial: TuneTrial) -> None:
        self._forget(trial)

    def choose_trial_to_run(self, tune_controller: Controller) -> TuneTrial | None:
        conductor = self._desk.conductor
        if conductor.stopping:
            self._stop_all(tune_controller)
        elif self._desk.has_room and not self._desk.unfinished:  # else asked for nothing, at the price of a proposal
            decision = conductor.decide()
            if decision is Idle.FINISHED and not self._promoted:
                self._stop_all(tune_controller)
            self._promote(decision)
        # Each is told once. Were one told again while its worker is being reset, the next one's worker would wait in
        # Ray Tune's cache, which holds one, and the worker after that would be ended: a new one takes a second.
        return self._promoted.pop(0) if self._promoted else None

    def debug_string(self) -> str:
        return "promotion-type ASHA"

    def _judge(self, tune_controller: Controller, trial: TuneTrial, measurement: Measurement) -> str:
        del self._lost[measurement.trial_id]
        judged = self._desk.conductor.measured(measurement)
        self._desk.on_event()
        if judged.verdict is not TrialState.PAUSED:
            return str(TrialScheduler.STOP)
        # Tune's own PAUSE saves a checkpoint that we never read; this one costs a quarter of it.
        tune_controller.pause_trial(trial, should_checkpoint=False)
        return str(TrialScheduler.NOOP)

    def _promote(self, decision: object) -> None:
        if isinstance(decision, Promoted) and decision.trial_id in self._live:
            trial = self._live[decision.trial_id]
            trial.set_config(self._desk.begin(decision))
            self._promoted.append(trial)

    def _stop_all(self, tune_controller: Controller) -> None:
        """Paused trials would keep Ray Tune waiting for ever; for those in mid-segment it would wait ten seconds."""
        self._promoted.clear()
        for trial_id, trial in list(self._live.items()):
            tune_controller.stop_trial(trial)  # first: no answer of its worker is heard from here on
            if trial_id in self._desk.conductor.state.running:
                self._desk.release(trial_id)

    def _forget(self, trial: TuneTrial) -> None:
        self._live.pop(trial.config["trial_id"], None)
        self._desk.handed_out.discard(trial.config["trial_id"])


def tuner_options() -> dict[str, Any]:
    """Ray Tune without anything of its own on disk that anybody reads: no checkpoints, no callbacks."""
    return {
        "checkpoint_config": tune.CheckpointConfig(checkpoint_frequency=0, checkpoint_at_end=False),
        "failure_config": tune.FailureConfig(max_failures=0),
        "verbose": 0,
    }
