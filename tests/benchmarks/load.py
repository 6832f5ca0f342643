"""What a search costs its driver: many trials of no work at all through the whole path.

Ledger, sampler, rungs, Ray Tune, thin workers, live view and MLflow are those of every search; only the actor that
would train answers at once. Three searched parameters, three rungs.

    python -m tests.benchmarks.load --trials 1000 --sampler tpe
    python -m tests.benchmarks.load --trials 10000 --sampler random --output docs/load.svg

`--all-rungs` takes every trial through all three rungs. `--mlflow URI` names a tracking server. `--outage SECONDS`
starts one, and kills it for so long once a third of the trials are asked; with `--apart` server and recorder have the
last CPU to themselves and all else has the first, so that a server that is away leaves no CPU to the search.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import tempfile
import threading
import time
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import platformdirs
import psutil
import ray
from rich.console import Console

from hpsearch.folder import SearchFolder
from hpsearch.home import Home
from hpsearch.runners import DeviceSetup, StartGate, start_stack_actors
from hpsearch.search import start_search
from hpsearch.spec import Spec, check_spec
from hpsearch.state import SearchState
from hpsearch.svg import write_svg
from hpsearch.view import LiveView
from tests.hpsearch.mlflow_server import MlflowServer
from tests.hpsearch.simulation import World
from trials.trial import Assignment

SAMPLE_EVENTS = 25  # the driver is looked at once in so many events
SLOTS = 3
PARTS = 20  # of a search, over which its cost is averaged


class TrivialActor:
    """Answers as a stack actor does, without a device, a text or a step: a loss with a known optimum."""

    def __init__(self, setup: DeviceSetup) -> None:
        self._world = World(cliff_octaves=99.0)
        self._gate = StartGate()

    @ray.method
    def shortfalls(self) -> list[str]:
        return []

    @ray.method
    def hello(self, worker: str) -> int:
        """See `hpsearch.runners.StartGate`."""
        return self._gate.arrive(worker)

    @ray.method
    def wait_for_workers(self, num_workers: int) -> None:
        """See `hpsearch.runners.StartGate`."""
        self._gate.wait(num_workers)

    @ray.method
    def advance(self, assignment: dict[str, Any]) -> dict[str, Any]:
        """The whole segment, at once."""
        return self._world.measure(Assignment.from_dict(assignment)).to_dict()

    @ray.method
    def release(self, trial_id: str) -> None:
        pass

    @ray.method
    def device_seconds(self) -> dict[str, float]:
        idle = {"training_s": 0.0, "measuring_s": 0.0, "admitting_s": 0.0, "span_s": 0.0}
        return {**idle, "workers": float(self._gate.num_arrived)}


@dataclass(frozen=True)
class Sample:
    """The driver at one moment."""

    trials: int  # asked so far
    events: int
    cpu_s: float  # of all threads of the driver's process
    wall_s: float
    memory_mb: float  # resident


class Watch(LiveView):
    """The view of every search, which looks at the driver too."""

    def __init__(self) -> None:
        super().__init__(Console(file=io.StringIO(), force_terminal=True, width=120))
        self._process = psutil.Process()
        self.samples: list[Sample] = []

    def update(self, state: SearchState) -> None:
        super().update(state)
        if state.measured and (not self.samples or state.seq >= self.samples[-1].events + SAMPLE_EVENTS):
            memory_mb = self._process.memory_info().rss / 1e6
            now = Sample(len(state.trials), state.seq, time.process_time(), time.perf_counter(), memory_mb)
            self.samples.append(now)


@dataclass(frozen=True)
class Loaded:
    """What a search of trivial work came to, from the first measurement on: until then Ray starts its workers."""

    sampler: str
    trials: int
    measurements: int
    trials_per_s: float
    cpu_ms_per_trial: float
    cpu_ms_per_event: list[float]  # over equal parts of the events
    wall_ms_per_event: list[float]
    memory_mb: dict[int, float]  # by trials asked
    memory_growth: float  # from trial 200 to trial 1,000, or the last one
    outage_shares: dict[str, float]  # events a second while MLflow was gone, over those around it, by clock


def spec_of(trials: int, sampler: str, all_rungs: bool, slots: int = SLOTS) -> Spec:
    """A search of so many trials; its budget ends nothing."""
    data: dict[str, Any] = {
        "name": "load",
        "context_tokens": 32,
        "ladder": [{"width": 16, "depth": 1, "heads": 2, "trials": trials}],
        "space": {
            "learning_rate": {"low": 1e-3, "high": 6.4e-2},
            "weight_decay": {"low": 0.01, "high": 0.64},
            "beta1": {"low": 0.8, "high": 0.98},
        },
        "fixed": {"batch_sequences": 4, "warmup_fraction": 0.05},
        "sampler": {"name": sampler, "startup_share": 0.01},
        "scheduler": {"name": "asha", "rung_ratios": [1.0, 3.0, 9.0], "audit_share": 1.0 if all_rungs else 0.1},
        "slots": slots,
        "budget_flops": 1e18,
        "repeats": 0,
        "target": {"width": 64, "depth": 2, "heads": 2, "tokens": 5e5},
    }
    return check_spec(data, "load")


def run(spec: Spec, home: Home, watch: Watch) -> SearchState:
    """The search, through the path of every search."""
    cache = Path(os.environ.get("HPSEARCH_CACHE", platformdirs.user_cache_path("hpsearch")))
    start_actors = partial(start_stack_actors, actor=ray.remote(TrivialActor))
    return start_search(spec, SearchFolder(home, spec.name), cache, watch, start_actors=start_actors)


def loaded(spec: Spec, state: SearchState, samples: list[Sample], outage: tuple[float, float] | None) -> Loaded:
    """What the samples say; the end of the search, where all that waits is closed at once, is left out."""
    first, last = samples[0], samples[-1]
    at = np.array([[s.trials, s.events, s.cpu_s, s.wall_s, s.memory_mb] for s in samples])
    ends = np.linspace(first.events, last.events, PARTS + 1)
    costs_ms = [1e3 * np.diff(np.interp(ends, at[:, 1], at[:, column])) / np.diff(ends) for column in (2, 3)]
    marks = [mark for mark in (100, 200, 500, 1000, 2000, 5000, 10_000) if mark <= last.trials]
    memory = {mark: float(at[np.searchsorted(at[:, 0], mark), 4]) for mark in marks}
    return Loaded(
        sampler=spec.sampler.name,
        trials=last.trials,
        measurements=len(state.measured),
        trials_per_s=(last.trials - first.trials) / (last.wall_s - first.wall_s),
        cpu_ms_per_trial=1e3 * (last.cpu_s - first.cpu_s) / (last.trials - first.trials),
        cpu_ms_per_event=costs_ms[0].round(3).tolist(),
        wall_ms_per_event=costs_ms[1].round(3).tolist(),
        memory_mb=memory,
        memory_growth=memory.get(1000, last.memory_mb) / memory[200] - 1.0 if 200 in memory else 0.0,
        outage_shares=_outage_shares(at, outage) if outage else {},
    )


def _outage_shares(at: Any, outage: tuple[float, float]) -> dict[str, float]:
    """Events within a span of wall time over those in as long a time around it, a second of each clock."""
    begin, end = outage
    half = (end - begin) / 2
    spans = [(begin - half, begin), (begin, end), (end, end + half)]
    events, cpu_s, wall_s = (
        [float(np.diff(np.interp(span, at[:, 3], at[:, column]))[0]) for span in spans] for column in (1, 2, 3)
    )
    around = events[0] + events[2]
    return {
        clock: (events[1] / seconds[1]) / (around / (seconds[0] + seconds[2]))
        for clock, seconds in (("wall", wall_s), ("driver CPU", cpu_s))
    }


def draw(path: Path, samples: list[Sample]) -> None:
    """Driver CPU an event, and the driver's memory, over the trials."""
    from matplotlib.figure import Figure

    at = np.array([[s.trials, s.events, s.cpu_s, s.memory_mb] for s in samples])
    ends = np.linspace(at[0, 1], at[-1, 1], 5 * PARTS + 1)
    cost_ms = 1e3 * np.diff(np.interp(ends, at[:, 1], at[:, 2])) / np.diff(ends)
    figure = Figure(figsize=(9, 3.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.plot(ends[1:], cost_ms, linewidth=1)
    left.set(
        xlabel="events so far", ylabel="driver CPU an event (ms)", ylim=(0, 1.3 * float(np.quantile(cost_ms, 0.99)))
    )
    right.plot(at[:, 1], at[:, 3], linewidth=1)
    right.set(xlabel="events so far", ylabel="driver memory (MB)", ylim=(0, None))
    figure.suptitle(f"{int(at[-1, 0]):,} trials of no work, {int(at[-1, 1]):,} events")
    write_svg(figure, path)


def keep_apart() -> None:
    """MLflow's server and its recorder on the last CPU, with what this thread will start; all else on the first."""
    first, *_, last = sorted(os.sched_getaffinity(0))
    here = psutil.Process()
    for process in [here, *here.children(recursive=True)]:
        of_mlflow = process.pid != here.pid and any(
            "mlflow" in part or "recorder" in part for part in process.cmdline()
        )
        for thread in process.threads():
            os.sched_setaffinity(thread.id, {last if of_mlflow else first})
    os.sched_setaffinity(0, {last})


class Outage(threading.Thread):
    """Kills a tracking server once the search is well under way, and starts it again after a while."""

    def __init__(self, watch: Watch, server: MlflowServer, seconds: float, after_trials: int, apart: bool) -> None:
        super().__init__(daemon=True)
        self._watch, self._server, self._seconds, self._after = watch, server, seconds, after_trials
        self._apart = apart
        self.span: tuple[float, float] | None = None

    def run(self) -> None:
        while not self._watch.samples or self._watch.samples[-1].trials < self._after:
            time.sleep(0.1)
        if self._apart:
            keep_apart()
            time.sleep(self._seconds)
        begun = time.perf_counter()
        self._server.kill()
        time.sleep(self._seconds)
        self.span = begun, time.perf_counter()
        self._server.start()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=1000)
    parser.add_argument("--sampler", default="tpe")
    parser.add_argument("--slots", type=int, default=SLOTS)
    parser.add_argument("--all-rungs", action="store_true")
    parser.add_argument("--home", type=Path, help="kept; else a folder that is thrown away")
    parser.add_argument("--mlflow", default="", help="URI of a tracking server; else a SQLite file")
    parser.add_argument("--outage", type=float, default=0.0, metavar="SECONDS")
    parser.add_argument("--apart", action="store_true")
    parser.add_argument("--output", type=Path, help="the picture")
    options = parser.parse_args()
    spec, watch = spec_of(options.trials, options.sampler, options.all_rungs, options.slots), Watch()
    with tempfile.TemporaryDirectory() as scratch, ExitStack() as stack:
        uri, outage = options.mlflow, None
        if options.outage:
            server = stack.enter_context(MlflowServer(Path(scratch) / "mlflow"))
            outage = Outage(watch, server, options.outage, options.trials // 3, options.apart)
            uri = server.uri
            outage.start()
        stack.enter_context(watch.shown())
        state = run(spec, Home((options.home or Path(scratch)).absolute(), mlflow=uri), watch)
    if options.output:
        draw(options.output, watch.samples)
    print(json.dumps(asdict(loaded(spec, state, watch.samples, outage.span if outage else None)), indent=2))


if __name__ == "__main__":
    main()
