"""A search end to end: real Ray, real MLflow, real text, real training."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import pytest
import yaml
from mlflow.entities import Run
from mlflow.tracking import MlflowClient

from hpsearch import recording, search
from hpsearch.check import check_ledger
from hpsearch.events import Asked, Judged, Measured, Promoted, Role, TrialState
from hpsearch.export.recipe import export
from hpsearch.folder import SearchFolder
from hpsearch.home import Home
from hpsearch.ledger import Entry, Ledger
from hpsearch.mlflow_store import SEARCH_TAG, TRIAL_TAG
from hpsearch.record import MLFLOW_STATUS
from hpsearch.search import resume_search, start_search
from hpsearch.spec import Spec, with_overrides
from hpsearch.state import SearchState
from hpsearch.sync_command import sync
from hpsearch.targets import resolve_target
from hpsearch.transfer.recommend import recommend
from hpsearch.trials_table import read_state, trials_table
from hpsearch.view import QuietView
from search_spaces.errors import UserError
from tests.hpsearch.simulation import World, begin, drive, spec_of


@pytest.fixture(scope="module")
def entries(tiny: SearchFolder) -> list[Entry]:
    return Ledger(tiny.ledger).read()


@pytest.fixture(scope="module")
def runs(tiny: SearchFolder) -> list[Run]:
    client = MlflowClient(tiny.mlflow_uri)
    experiment = client.get_experiment_by_name(tiny.name)
    assert experiment is not None
    return list(client.search_runs([experiment.experiment_id]))


def test_every_trial_has_an_end(tiny: SearchFolder, tiny_spec: Spec) -> None:
    state = read_state(tiny.ledger)
    assert state.closed is not None and state.closed.complete
    assert {trial.state for trial in state.trials.values()} <= set(TrialState) - {TrialState.RUNNING, TrialState.PAUSED}
    explored = [trial for trial in state.trials.values() if trial.asked.role is Role.EXPLORE]
    assert len(explored) == sum(proxy.trials for proxy in tiny_spec.ladder)
    assert sum(trial.state is TrialState.PRUNED for trial in explored) >= len(explored) / 3


def test_what_was_trained_is_what_was_decided(entries: list[Entry], tiny_spec: Spec) -> None:
    asked = [entry.event for entry in entries if isinstance(entry.event, Asked)]
    promoted = [entry.event for entry in entries if isinstance(entry.event, Promoted)]
    measured = [(entry.event.trial_id, entry.event.rung) for entry in entries if isinstance(entry.event, Measured)]
    assert len(measured) == len(set(measured)) == len(asked) + len(promoted)
    assert sum(isinstance(entry.event, Judged) for entry in entries) == len(measured)


def test_every_decision_follows_from_its_prefix(entries: list[Entry]) -> None:
    checked = check_ledger(entries)
    assert checked.differences == ()
    assert set(checked.decisions) >= {"asked", "judged", "promoted", "predicted", "ended"}


def test_training_learns(tiny: SearchFolder) -> None:
    table = trials_table(read_state(tiny.ledger)).dropna(subset=["loss"])
    assert table["loss"].min() < 5.5 < 6.24  # the logarithm of the vocabulary of 512
    assert (table["loss"] > 0).all() and (table["far_loss"] > table["loss"]).any()


def test_mlflow_has_one_parent_and_each_trial_once(tiny: SearchFolder, runs: list[Run]) -> None:
    state = read_state(tiny.ledger)
    parents = [run for run in runs if SEARCH_TAG in run.data.tags]
    children = [run for run in runs if TRIAL_TAG in run.data.tags]
    assert len(parents) == 1 and len(runs) == 1 + len(children)
    assert sorted(run.data.tags[TRIAL_TAG] for run in children) == sorted(state.trials)
    assert {run.data.tags["mlflow.parentRunId"] for run in children} == {parents[0].info.run_id}
    for run in children:
        trial = state.trials[run.data.tags[TRIAL_TAG]]
        assert run.data.tags["state"] == trial.state
        assert run.info.status == MLFLOW_STATUS[trial.state] != "RUNNING"
        assert float(run.data.params["learning_rate"]) == trial.config.learning_rate


def test_mlflow_has_each_rung_by_its_tokens(tiny: SearchFolder, runs: list[Run]) -> None:
    state, client = read_state(tiny.ledger), MlflowClient(tiny.mlflow_uri)
    for run in (run for run in runs if TRIAL_TAG in run.data.tags):
        trial = state.trials[run.data.tags[TRIAL_TAG]]
        sent = {metric.step: metric.value for metric in client.get_metric_history(run.info.run_id, "val_loss")}
        assert sent == {measured.tokens: measured.loss for measured in trial.measurements if measured.loss}


def test_sending_again_changes_nothing(tiny: SearchFolder, runs: list[Run]) -> None:
    sync(tiny)
    client = MlflowClient(tiny.mlflow_uri)
    again = list(client.search_runs([runs[0].info.experiment_id]))
    assert {run.info.run_id: run.data.metrics for run in again} == {run.info.run_id: run.data.metrics for run in runs}


def test_a_recipe_is_left_where_it_is_not_refused_and_names_its_search(tiny: SearchFolder, tiny_spec: Spec) -> None:
    state = read_state(tiny.ledger)
    target = resolve_target(state.spec.target, state.spec)
    recommendation = recommend(state, target)
    assert tiny.recipe.exists() == (recommendation.refused is None)
    recipe = yaml.safe_load(export(state, target, recommendation, "yaml", accept_reach=True))
    assert recipe["search"] == tiny_spec.name
    assert isinstance(recipe["optimizer"]["learning_rate"], float)
    assert recipe["evidence"]["ledger_events"] == read_state(tiny.ledger).seq


def test_a_name_is_used_once(tiny: SearchFolder, tiny_spec: Spec, cache: Path) -> None:
    with pytest.raises(UserError, match="hpsearch resume tiny"):
        start_search(tiny_spec, tiny, cache, QuietView())


def test_resuming_what_is_complete_changes_nothing(tiny: SearchFolder, cache: Path, entries: list[Entry]) -> None:
    state = resume_search(tiny, cache, QuietView())
    assert state.closed is not None and state.closed.complete
    assert Ledger(tiny.ledger).read() == entries


def test_one_slot_gives_the_same_search_twice(ray_session: None, tiny_spec: Spec, tmp_path: Path, cache: Path) -> None:
    small = with_overrides(
        tiny_spec, {"slots": 1, "proof": None, "ladder": [{**tiny_spec.ladder[0].model_dump(), "trials": 4}]}, "test"
    )
    tables = [
        trials_table(start_search(small, SearchFolder(Home(tmp_path / home), "twin"), cache, QuietView()))
        for home in ("one", "two")
    ]
    first, second = (table.drop(columns="seconds") for table in tables)
    assert first.equals(second)


def test_the_sender_takes_the_outcome_and_ends_before_ray(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, cache: Path
) -> None:
    order: list[str] = []

    @contextmanager
    def noted(name: str) -> Iterator[None]:
        order.append(f"{name} begins")
        yield
        order.append(f"{name} ends")

    monkeypatch.setattr(search, "connected_ray", lambda address, view: noted("ray"))
    monkeypatch.setattr(recording, "in_background", lambda folder, told: noted("sender"))
    conductor = begin(tmp_path / "simulated", spec_of())
    drive(conductor, World())
    monkeypatch.setattr(conductor, "folder", SearchFolder(Home(tmp_path), "simulated"))
    no_text = cast(Any, None)  # all is measured
    search._conduct(conductor, no_text, cache, QuietView(), lambda state: order.append("outcome"))
    assert order == ["ray begins", "sender begins", "outcome", "sender ends", "ray ends"]


class InterruptingView(QuietView):
    """Ctrl-C at the first decision: its trial has been asked for and not yet been placed."""

    def __init__(self) -> None:
        self._sent = False

    def update(self, state: SearchState) -> None:
        if not self._sent:
            self._sent = True
            signal.raise_signal(signal.SIGINT)


def test_an_interrupt_before_the_first_trial_is_placed_leaves_a_search_to_resume(
    ray_session: None, tiny_spec: Spec, tmp_path: Path, cache: Path
) -> None:
    ladder = [{**tiny_spec.ladder[0].model_dump(), "trials": 2}]
    small = with_overrides(tiny_spec, {"ladder": ladder}, "test").model_copy(update={"proof": None})
    folder = SearchFolder(Home(tmp_path), "interrupted")
    stopped = start_search(small, folder, cache, InterruptingView())
    assert stopped.closed is not None and not stopped.closed.complete
    assert [trial.state for trial in stopped.trials.values()] == [TrialState.STOPPED]
    resumed = resume_search(folder, cache, QuietView())
    assert resumed.closed is not None and resumed.closed.complete
    assert len(resumed.trials) == 2 and check_ledger(Ledger(folder.ledger).read()).differences == ()
