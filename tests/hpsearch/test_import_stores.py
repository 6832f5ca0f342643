"""MLflow experiments and Optuna studies as searches, from real stores."""

from __future__ import annotations

import csv
import json
import sqlite3
from dataclasses import replace
from math import inf, nan
from pathlib import Path

import optuna
import pytest
from click.testing import CliRunner, Result
from mlflow.entities import Metric, Param, RunTag
from mlflow.tracking import MlflowClient
from optuna.distributions import FloatDistribution
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState, create_trial

from hpsearch.cli import cli
from hpsearch.imports.addresses import without_password
from search_spaces.errors import UserError
from tests.hpsearch.sweeps import PastRun, past_runs, sweep_csv

MAPPING = "params: {column: size_M, times: 1e6}\ntokens: {column: steps, times: 1000}\nloss: %s\n"
OF_STEPS = "params: {column: size_M, times: 1e6}\ntokens: {column: step, times: 1000}\nloss: %s\nrows: steps\n"
TARGET = ("--target", "params=6.4e7,tokens=1.28e9", "--json")


def command(*arguments: object) -> Result:
    return CliRunner().invoke(cli, [str(argument) for argument in arguments])


def imported(folder: Path, *arguments: object) -> tuple[str, list[dict[str, str]]]:
    """What an import printed, and its rows."""
    result = command("import", *arguments, "--name", "past", "--home", folder / "home")
    assert result.exit_code == 0, result.exception
    with open(folder / "home" / "past" / "trials.csv", encoding="utf-8", newline="") as file:
        return result.output, list(csv.DictReader(file))


def refused(folder: Path, *arguments: object) -> str:
    """Why an import was refused."""
    result = command("import", *arguments, "--name", "past", "--home", folder / "home")
    assert isinstance(result.exception, UserError), result.exception
    assert not (folder / "home").exists() and str(result.exception).isprintable()
    return str(result.exception)


def mapping(folder: Path, text: str) -> Path:
    path = folder / "map.yaml"
    path.write_text(text)
    return path


def answer(*arguments: object) -> object:
    result = command("recommend", *arguments, *TARGET)
    assert result.exit_code == 0, result.exception
    return json.loads(result.output)["parameters"]["lr"]


def half_way(run: PastRun) -> tuple[int, int]:
    """The steps, of 1000 tokens, at which a run measured its loss."""
    return round(run.tokens / 2e3), round(run.tokens / 1e3)


@pytest.fixture(scope="module")
def mlflow_store(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A store with a sweep, under a parent run as sweeps have it, and runs that went wrong."""
    folder = tmp_path_factory.mktemp("mlflow")
    client = MlflowClient(f"sqlite:///{folder / 'mlflow.db'}")
    experiment = client.create_experiment("a sweep", artifact_location=str(folder / "artifacts"))
    client.create_experiment("empty", artifact_location=str(folder / "artifacts"))
    client.set_terminated(client.create_run(experiment, tags={"mlflow.runName": "parent"}).info.run_id)
    for run in past_runs():
        half, whole = half_way(run)
        losses = [(0, 11.0), (half, run.loss + 0.1), (whole, run.loss)]
        log_run(client, experiment, run, losses, "FINISHED")
    bad = PastRun(1e6, 1e7, 0.5, nan)
    log_run(client, experiment, bad, [(1000, 9.0)], "FAILED")
    log_run(client, experiment, bad, [(1000, 9.1)], "KILLED")
    log_run(client, experiment, bad, [(1000, 9.2)], "")
    experiment = client.create_experiment("too fast", artifact_location=str(folder / "artifacts"))
    log_run(client, experiment, bad, [(1000, nan)], "FINISHED")
    log_run(client, experiment, bad, [(1000, inf)], "FINISHED")
    return f"sqlite:///{folder / 'mlflow.db'}"


def log_run(client: MlflowClient, experiment: str, run: PastRun, losses: list[tuple[int, float]], status: str) -> None:
    run_id = client.create_run(experiment, tags={"dataset": "web"}).info.run_id
    params = {"size_M": run.params / 1e6, "steps": run.tokens / 1e3, "lr": run.lr, "optimizer": "adamw"}
    client.log_batch(
        run_id,
        metrics=[Metric("eval/loss", loss, 1, step) for step, loss in losses],
        params=[Param(name, str(value)) for name, value in params.items()],
        tags=[RunTag("owner", "me")],
    )
    if status:
        client.set_terminated(run_id, status)


def test_an_experiment_is_read_and_left_as_it_is(mlflow_store: str, tmp_path: Path) -> None:
    before = Path(mlflow_store.removeprefix("sqlite:///")).read_bytes()
    path = mapping(tmp_path, MAPPING % "eval/loss")
    said, rows = imported(tmp_path, mlflow_store, "--experiment", "a sweep", "--map", path)
    assert Path(mlflow_store.removeprefix("sqlite:///")).read_bytes() == before
    assert "45 runs of 3 sizes and 9 budgets, 0 diverged; parameters: lr\n" in said
    for left_out in ("state FAILED", "state KILLED", "state RUNNING", "recorded no loss"):
        assert f"1 left out ({left_out}): run " in said  # the last is the parent of the sweep
    assert {row["corpus"] for row in rows} == {"web"} and len({row["run"] for row in rows}) == 45
    found = sorted(tuple(float(row[name]) for name in ("params", "tokens", "loss", "lr")) for row in rows)
    assert found == [pytest.approx(cells) for cells in sorted(run.cells for run in past_runs())]


def test_runs_that_diverged_are_told_by_their_loss(mlflow_store: str, tmp_path: Path) -> None:
    path = mapping(tmp_path, MAPPING % "eval/loss")
    both = ("--experiment", "a sweep", "--experiment", "too fast")
    said, _ = imported(tmp_path, mlflow_store, *both, "--map", path, "--where", "owner=me")
    assert "47 runs of 3 sizes and 9 budgets, 2 diverged" in said and "no loss" not in said


def test_the_same_runs_give_the_same_answer_from_every_tool(
    mlflow_store: str, optuna_store: str, tmp_path: Path
) -> None:
    table = answer("--trials", sweep_csv(tmp_path))
    imported(tmp_path / "a", optuna_store, "--study", "a sweep")
    assert answer("past", "--home", tmp_path / "a" / "home") == table
    path = mapping(tmp_path, MAPPING % "eval/loss")
    imported(tmp_path / "b", mlflow_store, "--experiment", "a sweep", "--map", path)
    assert answer("past", "--home", tmp_path / "b" / "home") == table


def test_failed_runs_may_be_said_to_have_diverged(mlflow_store: str, tmp_path: Path) -> None:
    path = mapping(tmp_path, MAPPING % "eval/loss" + "failed: diverged\n")
    said, _ = imported(tmp_path, mlflow_store, "--experiment", "a sweep", "--map", path)
    assert "46 runs" in said and "1 diverged" in said and "state FAILED" not in said


def test_each_step_of_a_run_is_a_row_where_asked(mlflow_store: str, tmp_path: Path) -> None:
    path = mapping(tmp_path, OF_STEPS % "eval/loss")
    said, rows = imported(tmp_path, mlflow_store, "--experiment", "a sweep", "--map", path)
    assert len(rows) == 2 * 45 + 3 and "losses at steps in mid-run" in said
    assert len({row["trial"] for row in rows}) == 48
    assert rows[0]["run"].endswith(f" step {int(float(rows[0]['tokens']) / 1000)}")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--experiment", "b"), "experiment b: no such experiment; use one of "),
        (("--experiment", "empty"), "experiment empty: must hold runs, got none"),
        (("--experiment", "a sweep"), "params, tokens, loss: no such column, got run_id, experiment, "),
        (("--study", "a sweep"), "must be an Optuna storage, got a database without the table studies"),
    ],
)
def test_what_a_store_does_not_hold_is_told(
    mlflow_store: str, arguments: tuple[str, str], said: str, tmp_path: Path
) -> None:
    assert said in refused(tmp_path, mlflow_store, *arguments)


@pytest.fixture(scope="module")
def optuna_store(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A storage with the sweep in one study, again in one for each size, and trials that went wrong."""
    address = f"sqlite:///{tmp_path_factory.mktemp('optuna') / 'study.db'}"
    study = optuna.create_study(storage=address, study_name="a sweep")
    study.add_trials([trial_of(run) for run in past_runs()])
    study.enqueue_trial({"lr": 0.1})
    pruned = PastRun(1e6, 1e7, 0.25, 9.0)
    study.add_trial(trial_of(pruned, TrialState.PRUNED))
    study.add_trial(trial_of(replace(pruned, loss=9.1), TrialState.FAIL))
    study.add_trial(trial_of(replace(pruned, loss=9.2), TrialState.RUNNING))
    for size in (1e6, 4e6):
        study = optuna.create_study(storage=address, study_name=f"{size:g}")
        study.set_user_attr("params", size)
        study.add_trials([trial_of(run, attributes=False) for run in past_runs() if run.params == size])
    optuna.create_study(storage=address, study_name="score", direction="maximize").add_trial(trial_of(pruned))
    optuna.create_study(storage=address, study_name="empty")
    return address


def trial_of(
    run: PastRun, state: TrialState = TrialState.COMPLETE, attributes: bool = True
) -> optuna.trial.FrozenTrial:
    half, whole = half_way(run)
    ended = state is TrialState.COMPLETE
    return create_trial(
        state=state,
        value=run.loss if ended else None,
        params={"lr": run.lr},
        distributions={"lr": FloatDistribution(1e-4, 1.0, log=True)},
        user_attrs={"tokens": run.tokens, "size_M": run.params / 1e6} | ({"params": run.params} if attributes else {}),
        intermediate_values={0: 11.0, half: run.loss + 0.1, **({whole: run.loss} if ended else {})},
    )


def test_a_study_needs_no_mapping_where_trials_say_params_and_tokens(optuna_store: str, tmp_path: Path) -> None:
    path = Path(optuna_store.removeprefix("sqlite:///"))
    before = path.read_bytes()
    said, rows = imported(tmp_path, optuna_store, "--study", "a sweep")
    assert path.read_bytes() == before
    assert "45 runs of 3 sizes and 9 budgets, 0 diverged; parameters: lr\n" in said and "loss is value" in said
    for place, state in enumerate(("PRUNED", "FAIL", "RUNNING"), 46):
        assert f"1 left out (state {state}): trial {place}" in said
    assert [float(row["loss"]) for row in rows] == [run.loss for run in past_runs()]


def test_reports_of_pruned_trials_are_rows_where_asked(optuna_store: str, tmp_path: Path) -> None:
    path = mapping(tmp_path, OF_STEPS % "value")
    _, rows = imported(tmp_path, optuna_store, "--study", "a sweep", "--map", path)
    assert len(rows) == 2 * 45 + 3 and rows[0]["run"] == "0 step 5000" and rows[0]["trial"] == "0"
    assert float(rows[0]["loss"]) == pytest.approx(past_runs()[0].loss + 0.1)


def test_studies_of_several_sizes_make_one_search(optuna_store: str, tmp_path: Path) -> None:
    said, rows = imported(tmp_path, optuna_store, "--study", "1e+06", "--study", "4e+06")
    assert "30 runs of 2 sizes and 6 budgets" in said and "params is study_attrs.params" in said
    assert rows[0]["run"] == "0 of 1e+06" and rows[-1]["run"] == "14 of 4e+06"


@pytest.mark.parametrize(
    ("study", "said"),
    [
        ("b", "no study b; use one of a sweep, 1e+06, 4e+06, score, empty"),
        ("empty", "must hold runs, got none"),
        ("score", "the value of score must be a loss, which is minimized, got one that is maximized"),
    ],
)
def test_what_a_storage_does_not_hold_is_told(optuna_store: str, study: str, said: str, tmp_path: Path) -> None:
    assert said in refused(tmp_path, optuna_store, "--study", study)


def test_a_journal_is_read(tmp_path: Path) -> None:
    path = str(tmp_path / "journal.log")
    study = optuna.create_study(storage=JournalStorage(JournalFileBackend(path)), study_name="a")
    study.add_trials([trial_of(run) for run in past_runs()])
    _, rows = imported(tmp_path, path, "--study", "a")
    assert len(rows) == 45


@pytest.mark.parametrize("content", [b"not a store\n", b"{}\n", b"[1]\n", b"\x80\x04\x95", b'{"op_code": 99}\n'])
@pytest.mark.parametrize("option", ["--study", "--experiment"])
@pytest.mark.parametrize("prefix", ["", "sqlite:///"])
def test_a_file_that_is_no_store_is_told(content: bytes, option: str, prefix: str, tmp_path: Path) -> None:
    path = tmp_path / "store"
    path.write_bytes(content)
    refused(tmp_path, f"{prefix}{path}", option, "a")
    assert path.read_bytes() == content


@pytest.mark.parametrize("option", ["--study", "--experiment"])
@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("sqlite:///nowhere.db", "sqlite:///nowhere.db: no such file"),
        ("sqlite://", "no such file"),
        ("mongo://host/x", "must be the address of"),
        ("./mlruns", "must be the address of"),
        ("redis://host", "must be the address of"),
        ("postgresql+nodriver://me:secret@host/x", "postgresql+nodriver://me:***@host/x"),
    ],
)
def test_an_address_of_nothing_makes_nothing(
    option: str, address: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    message = refused(tmp_path, address, option, "a")
    assert said in message and "secret" not in message
    assert not list(tmp_path.iterdir())


def test_a_database_of_something_else_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "other.db"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE experiments_of_others (x)")
    connection.close()
    before = path.read_bytes()
    for option in ("--study", "--experiment"):
        assert "got a database without the table" in refused(tmp_path, f"sqlite:///{path}", option, "a")
    assert path.read_bytes() == before


def test_a_password_is_not_kept() -> None:
    assert without_password("postgresql://me:secret@host:5432/x") == "postgresql://me:***@host:5432/x"
    assert without_password("https://me:secret@host/path") == "https://me:***@host/path"
