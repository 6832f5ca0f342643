"""The command that takes in runs of other tools."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from hpsearch.cli_options import PATH, home_option, json_option
from hpsearch.home import Home

if TYPE_CHECKING:
    from hpsearch.imports.imported_search import ImportRecord


@click.command("import")
@click.argument("source")
@click.option("--name", required=True, help="Name of the search that comes of it.")
@click.option("--from", "tool", type=click.Choice(["csv", "wandb", "mlflow", "optuna"]), help="What SOURCE is.")
@click.option("--experiment", metavar="NAME", multiple=True, help="Experiment of MLflow; may be given again.")
@click.option("--study", metavar="NAME", multiple=True, help="Study of Optuna; may be given again.")
@click.option("--map", "mapping", metavar="FILE", type=PATH, help="YAML file: which column is what, in which unit.")
@click.option("--search-space", metavar="FILE", type=PATH, help="YAML file with low, high, scale of parameters.")
@click.option("--where", metavar="COLUMN=VALUE", multiple=True, help="Read only these rows.")
@json_option
@home_option
def import_runs(source: str, name: str, as_json: bool, home: Home, **options: Any) -> None:
    """Take in runs of your own past sweeps as a search, so that they answer `hpsearch recommend`.

    \b
    SOURCE is one of
        sweep.csv                                a CSV or Parquet file with a row for each run
        export.csv --from wandb                  what Weights & Biases exports from its table of runs
        sqlite:///mlflow.db --experiment NAME    an MLflow store, or a server: http://...
        sqlite:///study.db --study NAME          an Optuna storage, or the file of a journal
    Columns named params (N, without embeddings), tokens and loss are known; a mapping file says it of others:
        params: {column: model_size_M, times: 1e6}      # or one number for all runs
        tokens: {product: [steps, batch_size, 1024]}
        loss: eval/loss
        parameters: {learning_rate: lr, weight_decay: wd}
        seed: seed
        corpus: dataset
        rows: steps            # MLflow, Optuna: a row for each step that was logged, whose tokens are step x ...
        failed: diverged       # a run that ended in an error diverged; else it is left out
        duplicates: first      # of runs alike in all, loss included; or repeats; else they are refused

    Runs that were stopped early, are still running or recorded no loss are left out, and named. SOURCE is only read.
    """
    from hpsearch.folder import SearchFolder
    from hpsearch.import_command import ImportOptions
    from hpsearch.import_command import import_runs as import_from

    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")  # else a server that is not there costs minutes
    record = import_from(source, SearchFolder(home, name), ImportOptions(**options))
    if as_json:
        click.echo(record.model_dump_json(indent=2, exclude_none=True))
    for line in () if as_json else _lines(record):
        click.echo(line)


def _lines(record: ImportRecord) -> Iterator[str]:
    yield (
        f"{record.name}: {record.rows} runs of {record.sizes} sizes and {record.budgets} budgets, {record.diverged} "
        f"diverged; parameters: {', '.join(record.parameters)}"
    )
    yield from (f"{name} is {column}" for name, column in record.columns.items() if name != column)
    yield from record.left_out
    yield from (f"warning: {warning}" for warning in record.warnings)
    yield f"ask it with: hpsearch recommend {record.name} --target params=...,tokens=..."
