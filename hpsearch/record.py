"""The ledger, told to MLflow: one sender with one cursor.

MLflow is for people. Live sending, catching up after an outage and `hpsearch sync` are the same function: send what
lies behind the cursor, then move the cursor, a tag of the search's own run. A replay changes nothing: a metric with the
same key, value, time and step is stored once, and runs are found by our trial id. Two searches of one name on one
server share an experiment and nothing else: every run carries the id of its search, and each search has its own run.

A call whose answer was lost may have arrived. So nothing is created that could be there already without looking, and
where a late "create" makes a second run of a trial after all, the older is kept and the other deleted.
"""

from __future__ import annotations

from collections import Counter, deque
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from functools import cached_property

import yaml
from mlflow.entities import Run, RunTag
from mlflow.tracking import MlflowClient

from hpsearch.events import Asked, Measured, TrialState
from hpsearch.folder import SearchFolder
from hpsearch.ledger import Entry, Ledger
from hpsearch.ledger_copy import LedgerCopy
from hpsearch.mlflow_address import is_server
from hpsearch.mlflow_store import (
    CURSOR_TAG,
    LEDGER_TAG,
    PARENT_TAG,
    SEARCH_ID_TAG,
    SEARCH_TAG,
    TRIAL_TAG,
    connect,
    experiment_of,
    runs_with,
)
from hpsearch.run_contents import metrics_of, note_of, params_of, search_metrics, tags_of
from hpsearch.state import SearchState, Trial, opening_state
from search_spaces.errors import UserError

ROUND_EVENTS = 500  # the cursor moves at least this often, so that a kill in a long catch-up loses little
THREADS = 4  # calls to a server at once; an SQLite store has one writer
MAX_METRICS, MAX_PARAMS = 800, 100  # in one call; MLflow takes 1,000 values of all kinds, 100 of them parameters
MLFLOW_STATUS = {
    TrialState.RUNNING: "RUNNING",
    TrialState.PAUSED: "RUNNING",
    TrialState.COMPLETE: "FINISHED",
    TrialState.PRUNED: "FINISHED",
    TrialState.DIVERGED: "FAILED",
    TrialState.FAIL: "FAILED",
    TrialState.STOPPED: "KILLED",
}


@dataclass
class KnownRun:
    """What MLflow is known to have."""

    run_id: str
    status: str


class Sender:
    """Sends a search's events to MLflow, from the cursor on. After an error, call `send` again."""

    def __init__(self, folder: SearchFolder) -> None:
        self._folder = folder
        self._ledger = Ledger(folder.ledger)
        self._copy = LedgerCopy(folder.ledger_copy)
        self._copied_seq = 0
        self._waiting: deque[Entry] = deque()  # read, and not yet folded
        self._story = Story(str(folder.ledger))
        self._search_id = ""
        self._experiment_id = ""
        self._parent = KnownRun("", "")  # the search's own run; without an id where it has to be looked for
        self._runs: dict[str, KnownRun] = {}  # by trial
        self._news: dict[str, list[Entry]] = {}  # by trial: folded, and not yet sent
        self._attempted: set[str] = set()  # trials whose run we may have made, whether we know of it or not
        self._old_seq = 0  # a trial asked up to here may have a run of an earlier sender
        self._doubt = False  # whether a second run of anything may have come about
        self.cursor = -1  # the last event that MLflow has; -1 before it was asked

    @cached_property
    def _client(self) -> MlflowClient:
        return connect(self._folder.mlflow_uri)

    @property
    def seq(self) -> int:
        """The last event that was read from the ledger."""
        return self._copy.seq

    @property
    def state(self) -> SearchState:
        """The search as far as MLflow is told of it."""
        return self._story.state

    def last_seq(self) -> int:
        """The last event of the ledger, read or not."""
        try:
            return self.seq + len(self._ledger.read(self.seq))
        except UserError:  # it cannot be read now, which others will say
            return self.seq

    def close(self) -> None:
        """Releases the ledger."""
        self._ledger.close()

    def send(self) -> bool:
        """One round: what lies behind the cursor, about ROUND_EVENTS of it at most; then the cursor moves.

        Returns:
            Whether nothing is left to send.
        """
        try:
            self._round()
        except Exception:
            self._doubt, self._parent = True, KnownRun("", "")  # the next round looks before it makes anything
            raise
        return not self._waiting

    def send_copy(self) -> None:
        """Puts the ledger, as far as it was read, and the search file beside the search's run."""
        if self._parent.run_id and self._copied_seq < self.seq:
            self._copy.write()
            search = yaml.safe_dump(self.state.spec.model_dump(mode="json"), sort_keys=False)
            self._folder.search_file.write_text(search, encoding="utf-8")
            for path in (self._copy.path, self._folder.search_file):
                self._client.log_artifact(self._parent.run_id, str(path))
            self._client.set_tag(self._parent.run_id, LEDGER_TAG, str(self.seq))
            self._copied_seq = self.seq

    def mend(self) -> None:
        """Compares all runs with the ledger, one trial with one run, and sends again what is not as it should be."""
        runs: dict[str, list[Run]] = {}
        for run in runs_with(self._client, self._experiment_id, {SEARCH_ID_TAG: self._search_id}):
            runs.setdefault(run.data.tags.get(TRIAL_TAG, ""), []).append(run)
        trials = self._story.state.trials.values()
        wrong = {trial.trial_id for trial in trials if not self._is_right(trial, runs.get(trial.trial_id, []))}
        if wrong:
            self._attempted |= wrong
            for trial_id in wrong:
                self._runs.pop(trial_id, None)
            self._news |= self._histories(wrong)
            self._send_trials()
        self._doubt = False

    def _round(self) -> None:
        if not self.seq:
            self._read()
        if not self.seq:
            return
        if not self._parent.run_id:
            self._open()
        self._read()
        if not self._news:
            self._fold()
        if self._story.seq > self.cursor:
            self._send_trials()
            if self._doubt and self._story.state.closed is not None:
                self.mend()
            self._send_search()

    def _read(self) -> None:
        entries = self._ledger.read(self.seq)
        self._copy.take(entries)
        self._waiting += entries

    def _open(self) -> None:
        """Finds the search's own run and its cursor, or makes it; again after each failure."""
        is_first = not self._story.seq
        self._search_id = self._search_id or self._waiting[0].event.incarnation
        self._experiment_id = self._experiment_id or experiment_of(self._client, self._folder)
        tags = {SEARCH_TAG: self._folder.name, SEARCH_ID_TAG: self._search_id}
        runs = runs_with(self._client, self._experiment_id, tags)
        if not runs:
            self._doubt |= not is_first
            tags |= {CURSOR_TAG: "0", "mlflow.runName": self._folder.name}
            runs = [self._client.create_run(self._experiment_id, tags=tags)]
        elif is_first:
            self._doubt, self._old_seq = True, self.seq
        parent, *doubles = runs
        for double in doubles:
            self._client.delete_run(double.info.run_id)
        if is_first:
            self.cursor = 0 if doubles else int(parent.data.tags[CURSOR_TAG])
            self._copied_seq = int(parent.data.tags.get(LEDGER_TAG, "0"))
        self._parent = KnownRun(parent.info.run_id, parent.info.status)

    def _fold(self) -> None:
        """Takes the next events into the story; those that MLflow has are no news."""
        until_seq = max(self.cursor, self._story.seq) + ROUND_EVENTS
        while self._waiting and self._waiting[0].seq <= until_seq:
            entry = self._waiting.popleft()
            for trial_id in self._story.take(entry):
                if entry.seq > self.cursor:
                    self._news.setdefault(trial_id, []).append(entry)

    def _send_trials(self) -> None:
        """Sends the news of each trial. After a failure, what has not begun is left for the next round."""
        pool = ThreadPoolExecutor(THREADS if is_server(self._folder.mlflow_uri) else 1, "mlflow-call")
        try:
            futures = {pool.submit(self._send_trial, trial_id): trial_id for trial_id in self._news}
            for future in as_completed(futures):
                future.result()
                del self._news[futures[future]]
        finally:
            pool.shutdown(cancel_futures=True)

    def _send_trial(self, trial_id: str) -> None:
        trial, news = self._story.state.trials[trial_id], self._news[trial_id]
        doubles: list[Run] = []
        known = self._runs.pop(trial_id, None)  # it comes back when all went well: else the run is looked for again
        if known is None:
            found = self._find(trial_id, news[0])
            run, *doubles = found or [self._make(trial, news[0])]
            known = KnownRun(run.info.run_id, run.info.status)
            if doubles or not (found or isinstance(news[0].event, Asked)):
                news = self._histories({trial_id})[trial_id]  # what was sent before went to another run
        self._log(known.run_id, trial, news)
        self._set_status(known, MLFLOW_STATUS[trial.state], news[-1])
        for double in doubles:
            self._client.delete_run(double.info.run_id)
        self._runs[trial_id] = known

    def _find(self, trial_id: str, first: Entry) -> list[Run]:
        """The runs of a trial, oldest first. Not looked for where there can be none."""
        is_new = isinstance(first.event, Asked) and first.seq > self._old_seq and trial_id not in self._attempted
        tags = {SEARCH_ID_TAG: self._search_id, TRIAL_TAG: trial_id}
        return [] if is_new else runs_with(self._client, self._experiment_id, tags)

    def _make(self, trial: Trial, first: Entry) -> Run:
        self._attempted.add(trial.trial_id)
        tags = {
            SEARCH_ID_TAG: self._search_id,
            TRIAL_TAG: trial.trial_id,
            PARENT_TAG: self._parent.run_id,
            "mlflow.runName": trial.trial_id,
            "role": trial.asked.role,
            "repeat_of": trial.asked.repeat_of,
            "seed": str(trial.config.seed),
            "corpus": self._story.state.opened.corpus_id,
        }
        return self._client.create_run(self._experiment_id, round(first.at_s * 1000), tags)

    def _log(self, run_id: str, trial: Trial, news: list[Entry]) -> None:
        """One call a trial and round, unless there is more than a call takes."""
        metrics = [metric for entry in news if isinstance(entry.event, Measured) for metric in metrics_of(entry)]
        params, tags = [], tags_of(trial)
        if isinstance(news[0].event, Asked):
            params = params_of(trial)
            tags.append(RunTag(PARENT_TAG, self._parent.run_id))
        self._client.log_batch(run_id, metrics[:MAX_METRICS], params[:MAX_PARAMS], tags)
        for start in range(MAX_METRICS, len(metrics), MAX_METRICS):
            self._client.log_batch(run_id, metrics[start : start + MAX_METRICS])
        for start in range(MAX_PARAMS, len(params), MAX_PARAMS):
            self._client.log_batch(run_id, params=params[start : start + MAX_PARAMS])

    def _set_status(self, known: KnownRun, status: str, last: Entry) -> None:
        if status == known.status:
            return
        if status == "RUNNING":
            self._client.update_run(known.run_id, status)
        else:
            self._client.set_terminated(known.run_id, status, round(last.at_s * 1000))
        known.status = status

    def _send_search(self) -> None:
        """The search's own numbers, and last of all the cursor."""
        story, state = self._story, self._story.state
        status = "RUNNING" if state.closed is None else "FINISHED" if state.closed.complete else "KILLED"
        self._set_status(self._parent, status, story.last)
        tags = {
            "state": status,
            "corpus": state.opened.corpus_id,
            "mlflow.note.content": note_of(state, story.counts),
            CURSOR_TAG: str(state.seq),
        }
        metrics = search_metrics(state, round(story.last.at_s * 1000))
        self._client.log_batch(self._parent.run_id, metrics, tags=[RunTag(key, tag) for key, tag in tags.items()])
        self.cursor = state.seq

    def _is_right(self, trial: Trial, runs: list[Run]) -> bool:
        parent_id, status = self._parent.run_id, MLFLOW_STATUS[trial.state]
        return [(run.data.tags[PARENT_TAG], run.info.status) for run in runs] == [(parent_id, status)]

    def _histories(self, trial_ids: set[str]) -> dict[str, list[Entry]]:
        """All that is to be told of some trials, from the ledger."""
        histories: dict[str, list[Entry]] = {trial_id: [] for trial_id in trial_ids}
        for entry in self._ledger.read():
            trial_id = getattr(entry.event, "trial_id", "")
            if trial_id in histories and entry.seq <= self._story.seq:
                histories[trial_id].append(entry)
        return histories


class Story:
    """The state of a search as far as MLflow is told of it, with what an event changed in it."""

    def __init__(self, where: str) -> None:
        self._where = where
        self._state: SearchState | None = None
        self._told: dict[str, TrialState] = {}
        self.counts: Counter[TrialState] = Counter()
        self.last: Entry  # of those taken

    @property
    def state(self) -> SearchState:
        assert self._state is not None, "no event was taken"
        return self._state

    @property
    def seq(self) -> int:
        return self._state.seq if self._state is not None else 0

    def take(self, entry: Entry) -> list[str]:
        """Takes the next event in; returns the trials whose run it changes."""
        self._state = self._state or opening_state(entry.event, self._where)
        self._state.apply(entry.seq, entry.event)
        self.last = entry
        trial_id = getattr(entry.event, "trial_id", "")
        # An event of the whole search may change any trial; there are a handful of them.
        trials = [self._state.trials[trial_id]] if trial_id else list(self._state.trials.values())
        changed = [trial for trial in trials if trial_id or self._told.get(trial.trial_id) is not trial.state]
        for trial in changed:
            self.counts[self._told.get(trial.trial_id, trial.state)] -= trial.trial_id in self._told
            self.counts[trial.state] += 1
            self._told[trial.trial_id] = trial.state
        return [trial.trial_id for trial in changed]
