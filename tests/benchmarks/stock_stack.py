"""The same search by this project and by the stock combination of its parts, end to end, on one machine.

48 trials of one small GPT (same model, initial weights, data, space, rungs, validation windows) are searched by

    hpsearch   `hpsearch run` of a search file, four slots, and
    stock      Ray Tune with a function trainable, `OptunaSearch`, `ASHAScheduler` and `MLflowLoggerCallback`,
               one process a trial, as users of the four write it: see `tests.benchmarks.stock_trial`.

Each side is one fresh process, timed from its start to its end: Ray's start, all trials, all records in MLflow; of
hpsearch also the fitted surface, recommendation and figure. Text is tokenized and the MLflow stores are made
before. hpsearch runs twice, first with nothing compiled, as on a machine that has never trained this shape, then with
what that has left; the second counts, as a shape compiles once a machine, and both are told. It goes before the stock
side, so files that are not in memory yet are read at its cost. The budgets are about 1 s and about 10 s of training a
trial, alone on one thread of this machine, which is timed first; the first rung is at a third of it.

Set in favour of the stock side: as many trials at once as there are CPUs, one thread each (on two CPUs faster than
one trial on both), and `TUNE_MAX_PENDING_TRIALS_PG` with as many again waiting, so that a freed CPU is taken at
once; torch's fused attention, GELU and AdamW; Tune's CSV, JSON and TensorBoard files, its view in the terminal,
Ray's dashboard and usage statistics off; Ray's workers at normal priority, as hpsearch has them. `reuse_actors` is
as it is by default for function trainables: a new process a trial.

The two prune differently and so train different amounts; both are told. Tune's ASHA judges a trial by its loss on
the way when it arrives at a rung, and stops it; hpsearch anneals it first, pauses it, and promotes the best.

    python -m tests.benchmarks.stock_stack [--budget 1|10|both] [--json]

needs a machine with nothing else to do: a stack on all CPUs suffers more from another busy process than
processes of one thread do.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click
import platformdirs
import torch
import yaml
from mlflow.tracking import MlflowClient
from rich.console import Console
from rich.table import Table

from hpsearch.corpus_source import corpus_source
from hpsearch.events import TrialState
from hpsearch.folder import SearchFolder
from hpsearch.home import Home
from hpsearch.plan import architecture, rung_tokens, smallest_batch, trial_config
from hpsearch.spec import Spec, check_spec
from hpsearch.trials_table import read_state
from search_spaces.parameter import Scale
from tests.benchmarks.stock_trial import StockSearch, reports
from trials.tokens import TokenSet, prepare

NUM_TRIALS, REDUCTION_FACTOR = 48, 3
SECONDS = {"1": 1.0, "10": 10.0}  # of a whole trial, alone on one thread of this machine
PROBED_STEPS = 99  # that this machine is timed by
STOCK_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AUTH_MODE": "disabled",
    "RAY_worker_niceness": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_MAX_PENDING_TRIALS_PG": str(2 * (os.cpu_count() or 1)),
}
# `-c`, not `-m`: Ray's workers then import the trainable instead of unpickling all of it.
STOCK_COMMAND = ("-c", "from tests.benchmarks.stock_trial import main; main()")


@dataclass(frozen=True)
class Side:
    """What one side did with its trials."""

    wall_s: float
    finished: int  # trained to the whole budget
    pruned: int
    diverged: int
    best_loss: float  # of the finished: annealed on both sides, on the same windows; nats a token
    trained_tokens: int

    def __post_init__(self) -> None:
        ended = self.finished + self.pruned + self.diverged
        if ended != NUM_TRIALS or self.finished == 0:
            raise SystemExit(f"{NUM_TRIALS} trials were to be run, {ended} were, {self.finished} to the end: {self}")


@dataclass(frozen=True)
class Comparison:
    """Both sides at one budget."""

    budget: str
    steps: int
    alone_s: float  # one trial in a plain loop on one thread
    compiling: Side  # hpsearch with nothing compiled
    hpsearch: Side
    stock: Side

    @property
    def ratios(self) -> dict[str, float]:
        """Of the stock side's wall time to each of hpsearch's."""
        return {"first": self.stock.wall_s / self.compiling.wall_s, "later": self.stock.wall_s / self.hpsearch.wall_s}


def search_of(steps: int) -> Spec:
    """The search whose trials take so many steps, with a rung at a third of them."""
    data: dict[str, Any] = {
        "name": "stack",
        "text": {"source": "python", "vocabulary": 1024, "validation_tokens": 8192},
        "context_tokens": 64,
        "ladder": [{"width": 64, "depth": 2, "heads": 4, "trials": NUM_TRIALS}],
        "space": {
            "learning_rate": {"low": 2.5e-4, "high": 1.6e-2, "scale": "log"},
            "warmup_fraction": {"low": 0.01, "high": 0.16, "scale": "log"},
            "weight_decay": {"low": 0.01, "high": 0.64, "scale": "log"},
            "beta2": {"low": 0.9, "high": 0.99, "scale": "linear"},  # a scale that both sides have
        },
        "fixed": {"batch_sequences": 8},
        "scheduler": {"rung_ratios": [1.0], "reduction_factor": REDUCTION_FACTOR},
        "slots": 4,
        "budget_flops": 1e18,  # never reached: both sides are bound by their number of trials
        "repeats": 0,
        "target": {"width": 128, "depth": 4, "heads": 4, "tokens": 1e7},
    }
    one_rung = check_spec(data, "benchmark")
    steps_per_ratio = architecture(one_rung, 0).params / (smallest_batch(one_rung) * one_rung.context_tokens)
    data["scheduler"]["rung_ratios"] = [steps / REDUCTION_FACTOR / steps_per_ratio, steps / steps_per_ratio]
    return check_spec(data, "benchmark")


def stock_search(spec: Spec, token_set: TokenSet, home: Path) -> StockSearch:
    """The same search for the stock side."""
    lowest = {name: domain.ends[0] for name, domain in spec.space.items()}
    rungs = rung_tokens(spec, 0, smallest_batch(spec))
    assert rungs[-1] == REDUCTION_FACTOR * rungs[0], "Ray's ASHA has rungs at powers of its reduction factor"
    return StockSearch(
        config=trial_config(spec, 0, lowest, spec.seed),
        rungs=rungs,
        reduction_factor=spec.scheduler.reduction_factor,
        space={
            parameter.name: (parameter.low, parameter.high, parameter.scale is Scale.LOG)
            for parameter in spec.parameters
        },
        num_trials=spec.ladder[0].trials,
        seed=spec.seed,
        token_set=token_set,
        validation_tokens=spec.text.validation_tokens,
        home=home,
    )


def alone_s(search: StockSearch) -> float:
    """Seconds of one whole trial of the stock side in a plain loop on one thread."""
    torch.set_num_threads(1)
    next(reports(search.config, search))  # reads the text into memory, and torch's kernels
    started_s = time.monotonic()
    for _ in reports(search.config, search):
        pass
    return time.monotonic() - started_s


def steps_of(seconds: float, token_set: TokenSet, home: Path) -> int:
    """Of a whole trial, in thirds, so that it takes about so long alone on one thread."""
    step_s = alone_s(stock_search(search_of(PROBED_STEPS), token_set, home)) / PROBED_STEPS
    return REDUCTION_FACTOR * max(1, round(seconds / step_s / REDUCTION_FACTOR))


def timed_s(arguments: tuple[str, ...], environment: Mapping[str, str]) -> float:
    """Wall time of a fresh Python process; what it says is shown only where it fails."""
    started_s = time.monotonic()
    done = subprocess.run(
        [sys.executable, *arguments],
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    wall_s = time.monotonic() - started_s
    if done.returncode:
        raise SystemExit(f"{done.stdout}\nexit code {done.returncode} of {' '.join(arguments)}")
    return wall_s


def run_hpsearch(spec: Spec, cache: Path, compiled: Path, home: Path) -> Side:
    """The search as a person starts it, with a folder of compiled code."""
    file = home / "search.yaml"
    file.write_text(yaml.safe_dump(spec.model_dump(mode="json", exclude_unset=True)))
    options = ("--quiet", "--home", str(home), "--cache", str(cache))
    wall_s = timed_s(("-m", "hpsearch", "run", str(file), *options), {"TORCHINDUCTOR_CACHE_DIR": str(compiled)})
    trials = read_state(SearchFolder(Home(home), spec.name).ledger).trials.values()
    states = [trial.state for trial in trials]
    flops = sum(m.flops + m.anneal_flops for trial in trials for m in trial.measurements)
    return Side(
        wall_s=wall_s,
        finished=states.count(TrialState.COMPLETE),
        pruned=states.count(TrialState.PRUNED),
        diverged=states.count(TrialState.DIVERGED),
        best_loss=min((trial.loss for trial in trials if trial.state is TrialState.COMPLETE), default=math.inf),
        trained_tokens=flops // architecture(spec, 0).training_flops_per_token,
    )


def run_stock(search: StockSearch) -> Side:
    """The search as a user's script."""
    file = search.home / "search.json"
    file.write_text(search.to_json())
    wall_s = timed_s((*STOCK_COMMAND, str(file)), STOCK_ENVIRONMENT)
    trials = json.loads(search.results.read_text())
    if errors := [trial["error"] for trial in trials if trial["error"] or not trial["tokens"]]:
        raise SystemExit(f"{len(errors)} trials of the stock side failed, the first with: {errors[0]}")
    finite = [trial for trial in trials if math.isfinite(trial["loss"])]
    finished = [trial["loss"] for trial in finite if trial["tokens"] == search.rungs[-1]]
    return Side(
        wall_s=wall_s,
        finished=len(finished),
        pruned=len(finite) - len(finished),
        diverged=len(trials) - len(finite),
        best_loss=min(finished, default=math.inf),
        trained_tokens=sum(trial["tokens"] for trial in trials),
    )


def compare(budget: str, cache: Path, scratch: Path) -> Comparison:
    """Both sides at one budget, one after the other."""
    probed = search_of(PROBED_STEPS)
    token_set = prepare(corpus_source(probed), probed.text.vocabulary, cache, lambda text: click.echo(text, err=True))
    steps = steps_of(SECONDS[budget], token_set, scratch)
    spec = search_of(steps)
    homes = [scratch / f"{side}-{budget}" for side in ("compiling", "hpsearch", "stock")]
    for home in homes:
        home.mkdir()
        MlflowClient(f"sqlite:///{home / 'mlflow.db'}").search_experiments()  # makes the store
    search = stock_search(spec, token_set, homes[2])
    alone = alone_s(search)
    compiling, later = (run_hpsearch(spec, cache, scratch / f"compiled-{budget}", home) for home in homes[:2])
    return Comparison(budget, steps, alone, compiling, later, run_stock(search))


def table(comparisons: list[Comparison]) -> Table:
    """A row a side and budget; fits 80 columns."""
    columns = ("alone", "side", "wall", "finished", "pruned", "diverged", "best loss", "tokens")
    shown = Table(*columns, title=f"{NUM_TRIALS} trials on {os.cpu_count()} CPUs; alone: one of them in a plain loop")
    for found in comparisons:
        sides = {"hpsearch, first": found.compiling, "hpsearch": found.hpsearch, "stock": found.stock}
        for name, side in sides.items():
            counts = (str(side.finished), str(side.pruned), str(side.diverged))
            trained = f"{side.trained_tokens / 1e6:.2f} M"
            shown.add_row(
                f"{found.alone_s:.1f} s", name, f"{side.wall_s:.0f} s", *counts, f"{side.best_loss:.3f}", trained
            )
        shown.add_row("", "ratio, first", f"{found.ratios['first']:.2f}")
        shown.add_row("", "ratio", f"{found.ratios['later']:.2f}", end_section=True)
    return shown


@click.command()
@click.option("--budget", type=click.Choice([*SECONDS, "both"]), default="both", help="Seconds of training a trial.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def main(budget: str, as_json: bool) -> None:
    """Compare hpsearch with the stock combination; needs some minutes and a machine with nothing else to do."""
    cache = Path(os.environ.get("HPSEARCH_CACHE", platformdirs.user_cache_path("hpsearch")))
    with tempfile.TemporaryDirectory() as scratch:
        comparisons = [compare(name, cache, Path(scratch)) for name in SECONDS if budget in (name, "both")]
    if as_json:
        budgets = [{**asdict(found), "ratios": found.ratios} for found in comparisons]
        print(json.dumps({"trials": NUM_TRIALS, "cpus": os.cpu_count(), "budgets": budgets}, indent=2))
    else:
        Console().print(table(comparisons))


if __name__ == "__main__":
    main()
