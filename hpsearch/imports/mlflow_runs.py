"""The runs of MLflow experiments."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import copysign, inf

from mlflow.entities import Experiment, Run
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from hpsearch.imports.addresses import check_database, without_password
from hpsearch.imports.recorded_runs import MLFLOW, RecordedRuns, as_table
from search_spaces.errors import UserError, one_line

PAGE_RUNS = 1000
STORED_INFINITY = 1.7e308  # MLflow stores an infinity as the largest number that there is
REMOTE = ("http://", "https://")


def read_mlflow(address: str, experiments: Sequence[str], step_metrics: Sequence[str]) -> RecordedRuns:
    """Reads every run that was not deleted.

    Args:
        address: a tracking server's, or that of a store's database.
        experiments: their names.
        step_metrics: names of metrics, the loss first, to read at each step above 0 at which a run logged the
            first; none for a row a run with each metric's last value.

    Raises:
        UserError: there is no such store or experiment, or no run in it.
    """
    if not address.startswith(REMOTE):
        check_database(address, "experiments", "an MLflow tracking server (http://...) or store")
    shown = f"{without_password(address)}: experiment {', '.join(experiments)}"
    try:
        client = MlflowClient(address)
        known = [_experiment(client, name, shown) for name in experiments]
        runs = list(_runs(client, known))
        cells = {run.info.run_id: _cells(run, known) for run in runs}
        if not step_metrics:
            return RecordedRuns(MLFLOW, as_table(list(cells.values()), list(cells), shown, "run"))
        rows = [row for run_id in cells for row in _steps(client, run_id, cells[run_id], step_metrics)]
    except MlflowException as error:
        raise UserError(one_line(f"{shown}: {error.message}") + "; correct the address or the store") from error
    places = [f"{row['run_id']} step {row['step']}" for row in rows]
    return RecordedRuns(MLFLOW, as_table(rows, places, f"{shown}: metric {step_metrics[0]}", "run"))


def _experiment(client: MlflowClient, name: str, shown: str) -> Experiment:
    found = client.get_experiment_by_name(name)
    if found is None:
        known = ", ".join(experiment.name for experiment in client.search_experiments(max_results=10))
        raise UserError(one_line(f"{shown}: no such experiment") + one_line(f"; use one of {known or 'none'}"))
    return found


def _runs(client: MlflowClient, experiments: Sequence[Experiment]) -> Iterator[Run]:
    token: str | None = None
    while token is None or token:
        page = client.search_runs([e.experiment_id for e in experiments], max_results=PAGE_RUNS, page_token=token)
        yield from page
        token = page.token or ""


def _cells(run: Run, experiments: Sequence[Experiment]) -> dict[str, str]:
    """A run's row; the tags that MLflow sets itself are left out."""
    names = {experiment.experiment_id: experiment.name for experiment in experiments}
    info = {"run_id": run.info.run_id, "experiment": names[run.info.experiment_id], "status": run.info.status}
    params = {f"params.{name}": value for name, value in run.data.params.items()}
    metrics = {f"metrics.{name}": _number(value) for name, value in run.data.metrics.items()}
    tags = {f"tags.{name}": value for name, value in run.data.tags.items() if not name.startswith("mlflow.")}
    return {**info, **params, **metrics, **tags}


def _number(value: float) -> str:
    return repr(copysign(inf, value) if abs(value) >= STORED_INFINITY else float(value))


def _steps(
    client: MlflowClient, run_id: str, cells: dict[str, str], metrics: Sequence[str]
) -> Iterator[dict[str, str]]:
    """A row for each step; of a metric that was logged twice at a step, as after a restart, the later value."""
    logged = {
        name: {
            metric.step: _number(metric.value)
            for metric in sorted(client.get_metric_history(run_id, name), key=lambda metric: metric.timestamp)
        }
        for name in metrics
        if f"metrics.{name}" in cells
    }
    for step in sorted(step for step in logged.get(metrics[0], {}) if step > 0):
        measured = {f"metrics.{name}": values.get(step, "") for name, values in logged.items()}
        yield {**cells, **measured, "step": str(step)}
