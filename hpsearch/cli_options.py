"""Options that several commands have, and what they stand for."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

import click

from hpsearch.home import Home, storage_location
from hpsearch.mlflow_address import check_address

if TYPE_CHECKING:
    from hpsearch.folder import SearchFolder
    from hpsearch.state import SearchState
    from hpsearch.targets import ResolvedTarget

Command = TypeVar("Command", bound=Callable[..., Any])
PATH = click.Path(path_type=Path)
cache_option = click.option(
    "--cache",
    type=click.Path(file_okay=False, path_type=Path),
    envvar="HPSEARCH_CACHE",
    help="Folder for tokenized text.  [default: the user's cache folder]",
)
target_option = click.option(
    "--target",
    metavar="PRESET|FILE|KEY=VALUE,...",
    help="A preset (gpt3-1.3b), a YAML file, or width=256,depth=4,heads=8,tokens=3.2e6.  [default: the search's own]",
)
cluster_option = click.option(
    "--cluster",
    is_flag=False,
    flag_value="",
    metavar="[NAME|URL]",
    help="On a cluster: of the config file, or at its Ray dashboard's address; without a value the file's default.",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")
live_option = click.option("--live", "output", flag_value="live", default="live", hidden=True)
json_output_option = click.option(
    "--json", "output", flag_value="json", help="Print the outcome as JSON, for programs."
)
quiet_option = click.option("--quiet", "output", flag_value="quiet", help="Print nothing but errors.")


def home_option(command: Command) -> Command:
    """Adds the options that say where searches live; the command is given them as one, `home`."""

    @click.option(
        "--home",
        "home_path",
        type=click.Path(file_okay=False, path_type=Path),
        default=Path("runs"),
        envvar="HPSEARCH_HOME",
        show_default=True,
        help="Folder that holds the searches and the MLflow store.",
    )
    @click.option(
        "--ledger",
        default="",
        envvar="HPSEARCH_LEDGER",
        help="PostgreSQL database of the ledgers, postgresql://USER@HOST/DATABASE.  [default: a file in --home]",
    )
    @click.option(
        "--mlflow",
        default="",
        envvar="HPSEARCH_MLFLOW",
        help="Address of the MLflow server.  [default: a file in --home]",
    )
    @click.option(
        "--storage",
        default="",
        envvar="HPSEARCH_STORAGE",
        help="Folder or URL of the checkpoints, s3://BUCKET/PREFIX.  [default: --home]",
    )
    @functools.wraps(command)
    def with_home(home_path: Path, ledger: str, mlflow: str, storage: str, **given: Any) -> Any:
        if mlflow:
            check_address(mlflow)
        return command(home=Home(home_path.absolute(), ledger, mlflow, storage_location(storage)), **given)

    return cast(Command, with_home)


def trains_option(command: Command) -> Command:
    """`home_option`, and the options of commands that train: on which Ray."""

    @click.option(
        "--ray",
        default="",
        envvar="RAY_ADDRESS",
        metavar="auto|HOST:PORT",
        help="A running Ray cluster to train on.  [default: a Ray on this machine, started and ended]",
    )
    @click.option(
        "--persistent-home",
        is_flag=True,
        envvar="HPSEARCH_PERSISTENT_HOME",
        help="--home is on a local disk that persists: a search on a cluster may keep its ledger there.",
    )
    @functools.wraps(command)
    def with_ray(home: Home, ray: str, persistent_home: bool, **given: Any) -> Any:
        return command(home=replace(home, ray=ray, is_persistent=persistent_home), **given)

    return home_option(cast(Command, with_ray))


def open_search(search: str, home: Home) -> tuple[SearchFolder, SearchState]:
    """A search by its name, as its ledger tells it, or the copy of its ledger in MLflow."""
    from hpsearch.trials_table import read_state

    folder = search_to_read(search, home)
    return folder, read_state(folder.ledger)


def search_to_read(search: str, home: Home) -> SearchFolder:
    """The folder of a search; where only MLflow has it, one with its copy, which goes when the command ends."""
    from hpsearch.folder import find_search, folder_named
    from hpsearch.ledger import Ledger

    folder = folder_named(home, search)
    if not home.mlflow or folder.is_imported or Ledger(folder.ledger).exists():
        return find_search(home, search)
    from hpsearch.recorded_search import fetched  # with MLflow, which a search at hand need not wait for

    folder, freshness = click.get_current_context().with_resource(fetched(home.mlflow, search))
    click.echo(str(freshness), err=True)
    return folder


def target_of(text: str | None, state: SearchState) -> ResolvedTarget:
    """What --target names, or the search's own."""
    from hpsearch.targets import parse_target, resolve_target

    return resolve_target(parse_target(text) if text else state.spec.target, state.spec)


def cache_folder(cache: Path | None) -> Path:
    """What --cache names, or the user's own."""
    import platformdirs

    return cache.absolute() if cache else platformdirs.user_cache_path("hpsearch")
