"""What Ray Tune runs in every slot's process: a thin worker that passes segments to a runner.

It imports neither torch nor mlflow, so a worker starts in a second; the model lives with the runner.
"""

from __future__ import annotations

import json
import time
from typing import Any, Protocol

import ray
from ray import tune
from ray.exceptions import RayActorError

from hpsearch.halted import SearchHalted
from trials.storage import StorageError
from trials.trial import Assignment, Measurement, Outcome

RETRY_S = 1.0  # between attempts to reach a runner that restarts
WORKER_BYTES = 200 * 2**20  # what a worker asks of Ray: memory only, so that the stack has all CPUs
# One object for all trials: Ray Tune compares their resources again and again, and sees at once that one is itself.
RESOURCES = tune.PlacementGroupFactory([{"memory": WORKER_BYTES}])


class Runner(Protocol):
    """Trains segments of trials. A call is idempotent by trial, so a caller may die and ask again.

    A trial's own fault is a measurement with outcome DIVERGED or FAIL; only infrastructure raises.
    """

    def advance(self, assignment: Assignment) -> Measurement:
        """Trains to the assignment's rung and measures there. Blocks.

        Raises:
            StorageError: its checkpoints cannot be read or written, so nothing more can be measured.
            SearchHalted: there is no device for it.
            RayActorError: the runner is restarting.
        """
        ...


class Trial(tune.Trainable):
    """One trial as Ray Tune sees it: every step is one segment, from rung to rung."""

    @classmethod
    def default_resource_request(cls, config: dict[str, Any]) -> tune.PlacementGroupFactory:
        return RESOURCES

    def setup(self, config: dict[str, Any]) -> None:
        from hpsearch.runners import connect  # here, so that the driver can name this class without an actor

        self._assignment = Assignment.from_dict(json.loads(config["assignment"]))
        self._runner = connect(config["runners"], config["num_first"])

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self._assignment = Assignment.from_dict(json.loads(new_config["assignment"]))
        return True

    def step(self) -> dict[str, Any]:
        try:
            # As text: Ray Tune flattens nested results.
            return {"measurement": json.dumps(advance(self._runner, self._assignment).to_dict())}
        except (StorageError, SearchHalted) as fault:  # of the search, not of this trial
            return {"halt": str(fault)}


def advance(runner: Runner, assignment: Assignment) -> Measurement:
    """One segment; waits out a runner that restarts, and turns the trial's own fault into a measurement."""
    while True:
        try:
            return runner.advance(assignment)
        except RayActorError:
            time.sleep(RETRY_S)  # the runner restarts by itself and finds the trial's checkpoint
        except ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, StorageError | SearchHalted):
                raise error.cause from None
            cause = f"{type(error.cause).__name__}: {error.cause}"
            return Measurement.fault(assignment, Outcome.FAIL, cause)
