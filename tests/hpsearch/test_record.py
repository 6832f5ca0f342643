"""The sender: whatever is killed, at any call, MLflow ends with one run a trial and all that was measured."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from mlflow.entities import Run, ViewType
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from hpsearch import record
from hpsearch.events import Closed, Ended, Event, Extended, Resumed, TrialState
from hpsearch.folder import SearchFolder
from hpsearch.home import Home
from hpsearch.ledger import Ledger
from hpsearch.mlflow_store import CURSOR_TAG, SEARCH_ID_TAG, SEARCH_TAG, TRIAL_TAG
from hpsearch.record import MLFLOW_STATUS, Sender
from hpsearch.sync_command import sync
from hpsearch.trials_table import read_state
from tests.hpsearch.event_stream import stream

STORE_CALLS = ("create_experiment", "create_run", "log_batch", "set_terminated", "update_run", "set_tag", "delete_run")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A store for all tests of this module: making one takes seconds."""
    uri = f"sqlite:///{tmp_path_factory.mktemp('store') / 'mlflow.db'}"
    MlflowClient(uri).search_experiments()
    return uri


def search_of(home: Home, name: str, events: list[Event]) -> SearchFolder:
    """A folder whose ledger holds these events."""
    folder = SearchFolder(home, name)
    folder.path.mkdir(parents=True)
    ledger = Ledger(folder.ledger)
    ledger.create(*events)
    ledger.close()
    return folder


def append(folder: SearchFolder, *events: Event) -> None:
    ledger = Ledger(folder.ledger)
    ledger.append(*events)
    ledger.close()


def runs_of(folder: SearchFolder, search_id: str = "") -> list[Run]:
    """All runs of a search that are not deleted."""
    client = MlflowClient(folder.mlflow_uri)
    experiment = client.get_experiment_by_name(folder.name)
    assert experiment is not None
    runs = list(client.search_runs([experiment.experiment_id]))
    return [run for run in runs if not search_id or run.data.tags[SEARCH_ID_TAG] == search_id]


def deleted_runs(folder: SearchFolder) -> list[Run]:
    client = MlflowClient(folder.mlflow_uri)
    experiment = client.get_experiment_by_name(folder.name)
    assert experiment is not None
    return list(client.search_runs([experiment.experiment_id], run_view_type=ViewType.DELETED_ONLY))


def assert_recorded(folder: SearchFolder, search_id: str = "") -> None:
    """One run a trial, each with every measurement once, at its state; one parent, with the cursor at the end."""
    state, client, runs = read_state(folder.ledger), MlflowClient(folder.mlflow_uri), runs_of(folder, search_id)
    parents = [run for run in runs if SEARCH_TAG in run.data.tags]
    children = {run.data.tags[TRIAL_TAG]: run for run in runs if TRIAL_TAG in run.data.tags}
    assert len(parents) == 1 and parents[0].data.tags[CURSOR_TAG] == str(state.seq)
    assert len(runs) == 1 + len(children) and sorted(children) == sorted(state.trials)
    for trial in state.trials.values():
        run = children[trial.trial_id]
        assert run.info.status == MLFLOW_STATUS[trial.state]
        assert run.data.tags["state"] == trial.state
        assert run.data.tags["mlflow.parentRunId"] == parents[0].info.run_id
        assert float(run.data.params["learning_rate"]) == trial.config.learning_rate
        history = client.get_metric_history(run.info.run_id, "val_loss")
        sent = sorted((metric.step, metric.value) for metric in history)
        assert sent == [(measured.tokens, measured.loss) for measured in trial.measurements]


class Killed(Exception):
    """Stands for a call that failed, or for a process that was killed there."""


class Saboteur:
    """Lets calls of MLflow's client through until one, which fails before or after it has taken effect."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.num_calls = 0
        self.fails_at = 0
        self.has_effect = False
        for name in STORE_CALLS:
            monkeypatch.setattr(MlflowClient, name, self._sabotaged(getattr(MlflowClient, name)))

    def arm(self, fails_at: int, has_effect: bool) -> None:
        self.num_calls, self.fails_at, self.has_effect = 0, fails_at, has_effect

    def _sabotaged(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def sabotaged(*arguments: Any, **keywords: Any) -> Any:
            self.num_calls += 1
            if self.num_calls != self.fails_at:
                return call(*arguments, **keywords)
            if self.has_effect:
                call(*arguments, **keywords)
            raise Killed(f"at call {self.num_calls}")

        return sabotaged


@pytest.mark.parametrize(
    ("has_effect", "is_new_sender", "first", "step"),
    [
        pytest.param(True, True, 1, 3, id="answer lost, killed, some calls"),
        pytest.param(True, False, 2, 3, id="answer lost, tried again, some calls"),
        pytest.param(True, True, 1, 1, id="answer lost, killed", marks=pytest.mark.slow),
        pytest.param(True, False, 1, 1, id="answer lost, tried again", marks=pytest.mark.slow),
        pytest.param(False, True, 1, 1, id="call lost, killed", marks=pytest.mark.slow),
        pytest.param(False, False, 1, 1, id="call lost, tried again", marks=pytest.mark.slow),
    ],
)
def test_a_kill_at_any_call_leaves_one_run_a_trial(
    store: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    has_effect: bool,
    is_new_sender: bool,
    first: int,
    step: int,
) -> None:
    saboteur = Saboteur(monkeypatch)
    for fails_at in range(first, 100, step):
        home = Home(tmp_path / str(fails_at), mlflow=store)
        name = f"kill-{has_effect:d}{is_new_sender:d}{step}-{fails_at}"
        folder = search_of(home, name, stream(2, "a"))
        monkeypatch.setattr(record, "ROUND_EVENTS", 6)  # several rounds, so that a run is also met again
        saboteur.arm(fails_at, has_effect)
        sender = Sender(folder)
        fate = send_all(sender)
        if fate == "sent":
            break
        saboteur.arm(fails_at // 2, has_effect)  # and once more, at another call
        again = sender
        for _ in (1, 2):
            if is_new_sender:
                again.close()
                again = Sender(folder)
            if send_all(again) == "sent":
                break
        again.close()
        assert_recorded(folder)
        assert deleted_runs(folder) == []  # none was made twice: what a lost call had made was found
    assert fails_at > 12  # create_experiment, a parent, two trials in several rounds
    sender.close()
    assert_recorded(folder)


def send_all(sender: Sender) -> str:
    try:
        while not sender.send():
            pass
    except Killed:
        return "killed"
    return "sent"


def test_a_create_that_arrives_late_leaves_one_run(store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A call that timed out takes effect after the sender has looked and made another run."""
    late: list[Callable[[], Run]] = []
    create = MlflowClient.create_run

    def create_later(client: MlflowClient, *arguments: Any) -> Run:
        if TRIAL_TAG in arguments[2] and not late:
            late.append(lambda: create(client, *arguments))
            raise MlflowException("timed out")
        return create(client, *arguments)

    folder = search_of(Home(tmp_path, mlflow=store), "late", stream(2, "a")[:-1])
    sender = Sender(folder)
    monkeypatch.setattr(MlflowClient, "create_run", lambda *a, **k: create(*a, **k) if k else create_later(*a))
    with pytest.raises(MlflowException):
        sender.send()
    assert sender.send()
    late[0]()
    assert len(runs_of(folder)) == 4  # the parent, two trials, and the one too many
    append(folder, Closed(complete=True, device_seconds={}))
    assert sender.send()
    sender.close()
    assert_recorded(folder)


def test_two_searches_of_a_name_share_an_experiment_and_nothing_else(store: str, tmp_path: Path) -> None:
    folders = [search_of(Home(tmp_path / id, mlflow=store), "twin", stream(2, id)) for id in ("one", "two")]
    for folder in folders:
        sync(folder)
    assert len(runs_of(folders[0])) == 6
    for folder, search_id in zip(folders, ("one", "two"), strict=True):
        assert_recorded(folder, search_id)


def test_a_round_touches_only_the_trials_that_its_events_are_of(
    store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events = stream(6, "a")
    folder = search_of(Home(tmp_path, mlflow=store), "rounds", events[:-12])
    sender = Sender(folder)
    assert sender.send()
    saboteur = Saboteur(monkeypatch)
    append(folder, *events[-12:-2])  # the end of the fifth trial, and most of the sixth
    assert sender.send()
    sender.close()
    # The fifth: a batch and its status. The sixth: a run and a batch. The search: its batch with the cursor.
    assert saboteur.num_calls == 5


def test_nothing_new_is_no_call(store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = search_of(Home(tmp_path, mlflow=store), "idle", stream(1, "a"))
    sender = Sender(folder)
    assert sender.send()
    saboteur = Saboteur(monkeypatch)
    monkeypatch.setattr(MlflowClient, "search_runs", None)
    assert sender.send()
    assert saboteur.num_calls == 0
    sender.close()


def test_a_stopped_search_that_goes_on_runs_again_in_mlflow(store: str, tmp_path: Path) -> None:
    events = stream(1, "a")
    stopped = Ended(trial_id="trial-00000", state=TrialState.STOPPED)
    folder = search_of(
        Home(tmp_path, mlflow=store), "stopped", [*events[:2], stopped, Closed(complete=False, device_seconds={})]
    )
    sync(folder)
    assert {run.info.status for run in runs_of(folder)} == {"KILLED"}
    append(folder, Resumed(incarnation="b", versions={}))
    sync(folder)
    assert {run.info.status for run in runs_of(folder)} == {"RUNNING"}
    append(folder, *events[2:])
    sync(folder)
    assert_recorded(folder)


def test_runs_deleted_by_hand_come_back_whole(store: str, tmp_path: Path) -> None:
    folder = search_of(Home(tmp_path, mlflow=store), "deleted", stream(2, "a"))
    sync(folder)
    client = MlflowClient(store)
    for run in runs_of(folder)[:2]:
        client.delete_run(run.info.run_id)
    sync(folder)
    assert_recorded(folder)


def test_batches_stay_below_the_limit_of_a_call(store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(record, "MAX_METRICS", 7)
    monkeypatch.setattr(record, "MAX_PARAMS", 5)
    sizes: list[tuple[int, int]] = []
    log_batch = MlflowClient.log_batch

    def measured(client: MlflowClient, run_id: str, metrics: Any = (), params: Any = (), tags: Any = ()) -> None:
        sizes.append((len(metrics), len(params)))
        log_batch(client, run_id, metrics, params, tags)

    monkeypatch.setattr(MlflowClient, "log_batch", measured)
    folder = search_of(Home(tmp_path, mlflow=store), "batches", stream(1, "a"))
    sync(folder)
    assert max(metrics for metrics, _ in sizes) == 7 and max(params for _, params in sizes) == 5
    assert_recorded(folder)


def test_what_an_extension_revives_runs_again_in_mlflow(store: str, tmp_path: Path) -> None:
    events = stream(2, "a")
    pruned = Ended(trial_id="trial-00000", state=TrialState.PRUNED)  # after its first rung
    folder = search_of(
        Home(tmp_path, mlflow=store), "extended", [*events[:4], pruned, Closed(complete=True, device_seconds={})]
    )
    sync(folder)
    assert {run.info.status for run in runs_of(folder)} == {"FINISHED"}
    spec = read_state(folder.ledger).spec
    more = spec.model_copy(update={"budget_flops": 2 * spec.budget_flops})
    append(folder, Extended(spec=more.model_dump(mode="json"), reason="more"))
    sync(folder)
    assert {(run.info.status, run.data.tags["state"]) for run in runs_of(folder)} >= {("RUNNING", "PAUSED")}
    append(folder, *events[4:])
    sync(folder)
    assert_recorded(folder)
