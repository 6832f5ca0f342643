"""The ledger, told to MLflow: one sender with one cursor, which never raises into the search.

MLflow is for people. Live sending, catching up after an outage and `hpsearch sync` are the same function:
send what lies behind the cursor, then move the cursor, a tag of the parent run. A replay changes nothing, as
runs are found by our trial id and a metric with the same key, value, time and step is stored once.
"""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mlflow.entities import Experiment, Metric, Param, Run, RunTag
from mlflow.tracking import MlflowClient

from hpsearch.events import Event, Measured, TrialState
from hpsearch.folder import SearchFolder
from hpsearch.ledger import Entry, Ledger
from hpsearch.state import SearchState, Trial, fold
from trials.trial import Measurement, Outcome

log = logging.getLogger(__name__)

SEND_EVERY_S = 1.0
CURSOR_TAG = "hpsearch.cursor"  # the last sequence number sent
TRIAL_TAG = "hpsearch.trial"
SEARCH_TAG = "hpsearch.search"
MLFLOW_STATUS = {
    TrialState.RUNNING: "RUNNING",
    TrialState.PAUSED: "RUNNING",
    TrialState.COMPLETE: "FINISHED",
    TrialState.PRUNED: "FINISHED",
    TrialState.DIVERGED: "FAILED",
    TrialState.FAIL: "FAILED",
    TrialState.STOPPED: "KILLED",
}


class Sender:
    """Sends a search's events to MLflow, from the cursor on."""

    def __init__(self, folder: SearchFolder) -> None:
        self._folder = folder
        self._ledger = Ledger(folder.ledger)
        self._client = MlflowClient(folder.mlflow_uri)
        self._experiment = self._experiment_of(folder)
        self._run_ids = self._known_runs()

    @property
    def parent_id(self) -> str:
        """The search's own run; made on first use."""
        if "" not in self._run_ids:
            tags = {SEARCH_TAG: self._folder.name, "mlflow.runName": self._folder.name, CURSOR_TAG: "0"}
            self._run_ids[""] = self._client.create_run(self._experiment.experiment_id, tags=tags).info.run_id
        return self._run_ids[""]

    def send(self) -> int:
        """Sends everything behind the cursor; returns the new cursor."""
        cursor = int(self._client.get_run(self.parent_id).data.tags[CURSOR_TAG])
        entries = self._ledger.read()
        news = [entry for entry in entries if entry.seq > cursor]
        if not news:
            return cursor
        state = fold(((entry.seq, entry.event) for entry in entries), str(self._folder.ledger))
        touched = dict.fromkeys(trial_id for entry in news for trial_id in _concerned(entry.event, state))
        for trial_id in touched:
            self._send_trial(state, state.trials[trial_id], [entry for entry in news if _is_of(entry, trial_id)])
        self._send_search(state, news)
        return news[-1].seq

    def attach(self, files: Mapping[str, Path]) -> None:
        """Puts files beside the search's run; the values are paths, the keys say what they are."""
        for path in files.values():
            if path.is_file():
                self._client.log_artifact(self.parent_id, str(path))

    def _experiment_of(self, folder: SearchFolder) -> Experiment:
        found = self._client.get_experiment_by_name(folder.name)
        if found is None:
            where = (folder.mlflow_artifacts / folder.name).absolute().as_uri()
            return self._client.get_experiment(self._client.create_experiment(folder.name, artifact_location=where))
        return found

    def _known_runs(self) -> dict[str, str]:
        """Run ids by trial id; the parent's under the empty id."""
        runs: list[Run] = []
        token: str | None = None
        while token is None or token:
            page = self._client.search_runs([self._experiment.experiment_id], max_results=1000, page_token=token)
            runs += page
            token = page.token or ""
        return {run.data.tags.get(TRIAL_TAG, ""): run.info.run_id for run in runs}

    def _send_trial(self, state: SearchState, trial: Trial, news: list[Entry]) -> None:
        run_id = self._run_ids.get(trial.trial_id) or self._create(state, trial, news[0])
        self._run_ids[trial.trial_id] = run_id
        metrics = [metric for entry in news if isinstance(entry.event, Measured) for metric in _metrics(entry)]
        tags = [RunTag("state", trial.state), RunTag("rung", str(trial.rung))]
        tags += [RunTag("message", m.message) for m in trial.measurements[-1:] if m.message]
        self._client.log_batch(run_id, metrics=metrics, tags=tags)
        self._set_status(run_id, MLFLOW_STATUS[trial.state], news[-1])

    def _create(self, state: SearchState, trial: Trial, asked: Entry) -> str:
        tags = {
            TRIAL_TAG: trial.trial_id,
            "mlflow.parentRunId": self.parent_id,
            "mlflow.runName": trial.trial_id,
            "role": trial.asked.role,
            "repeat_of": trial.asked.repeat_of,
            "seed": str(trial.config.seed),
            "corpus": state.opened.corpus_id,
        }
        started_ms = round(asked.at_s * 1000)
        run = self._client.create_run(self._experiment.experiment_id, started_ms, tags)
        self._client.log_batch(run.info.run_id, params=[Param(k, str(v)) for k, v in _params(trial).items()])
        return str(run.info.run_id)

    def _set_status(self, run_id: str, status: str, last: Entry) -> None:
        if status == "RUNNING":
            self._client.update_run(run_id, status=status)
        else:
            self._client.set_terminated(run_id, status, round(last.at_s * 1000))

    def _send_search(self, state: SearchState, news: list[Entry]) -> None:
        """The parent's own numbers, and last of all the cursor."""
        last = news[-1]
        closed = state.closed
        status = "RUNNING" if closed is None else "FINISHED" if closed.complete else "KILLED"
        at_ms = round(last.at_s * 1000)
        metrics = [
            Metric("spent_flops", float(state.spent_flops), at_ms, last.seq),
            Metric("trials", float(len(state.trials)), at_ms, last.seq),
        ]
        metrics += [
            Metric(f"device_{k}", v, at_ms, last.seq) for k, v in (closed.device_seconds if closed else {}).items()
        ]
        tags = [
            RunTag("state", status),
            RunTag("corpus", state.opened.corpus_id),
            RunTag("mlflow.note.content", _note(state)),
        ]
        self._client.log_batch(self.parent_id, metrics=metrics, tags=tags)
        self._set_status(self.parent_id, status, last)
        self._client.set_tag(self.parent_id, CURSOR_TAG, str(last.seq))


@contextmanager
def recording(folder: SearchFolder) -> Iterator[None]:
    """Sends in the background while the block runs, and once more when it ends."""
    ended = threading.Event()
    thread = threading.Thread(target=_follow, args=(folder, ended), name="mlflow-sender", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def send_quietly(folder: SearchFolder, files: Mapping[str, Path]) -> None:
    """Catches up and attaches files; an MLflow that is down is a line in the log, not a failed search."""
    try:
        sender = Sender(folder)
        sender.send()
        sender.attach(files)
    except Exception:  # the boundary to a service that may fail in any way
        log.exception("MLflow could not be told; `hpsearch sync %s` sends what is missing", folder.name)


def _follow(folder: SearchFolder, ended: threading.Event) -> None:
    sender: Sender | None = None
    while True:
        last_round = ended.wait(SEND_EVERY_S)
        try:
            sender = sender or Sender(folder)
            sender.send()
        except Exception:  # the boundary to a service that may fail in any way
            log.exception("MLflow could not be told; the next round tries again")
            sender = None
        if last_round:
            return


def _concerned(event: Event, state: SearchState) -> list[str]:
    """The trials whose run an event changes; a resume puts the stopped ones back to running."""
    trial_id = getattr(event, "trial_id", "")
    if trial_id:
        return [trial_id]
    return list(state.running) if event.kind == "resumed" else []  # type: ignore[attr-defined]


def _is_of(entry: Entry, trial_id: str) -> bool:
    return getattr(entry.event, "trial_id", trial_id) == trial_id


def _metrics(entry: Entry) -> list[Metric]:
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


def _params(trial: Trial) -> dict[str, Any]:
    """The whole configuration, flat: the names of shape, parametrization and training do not meet."""
    config = trial.config.to_dict()
    shape, parametrization = config.pop("architecture"), config.pop("parametrization")
    return {
        "model": shape.pop("kind"),
        "parametrization": parametrization.pop("rule"),
        **shape,
        **parametrization,
        **config,
        "params": trial.config.architecture.params,
        "log10_learning_rate": round(math.log10(trial.config.learning_rate), 6),
    }


def _note(state: SearchState) -> str:
    """The description that the MLflow UI shows on the search's page."""
    states = [trial.state for trial in state.trials.values()]
    counts = ", ".join(f"{states.count(kind)} {kind}" for kind in TrialState if kind in states)
    sizes = ", ".join(f"{state.spec.architecture(proxy).params:,}" for proxy in state.spec.ladder)
    return (
        f"**{state.spec.name}**: proxies of {sizes} non-embedding parameters; {counts or 'no trials yet'}; "
        f"{state.spent_flops:.3g} of {state.budget_flops:.3g} FLOPs spent."
    )
