"""Options that several commands have, and what they stand for."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from hpsearch.folder import SearchFolder
    from hpsearch.state import SearchState
    from hpsearch.targets import ResolvedTarget

PATH = click.Path(path_type=Path)
home_option = click.option(
    "--home",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("runs"),
    envvar="HPSEARCH_HOME",
    show_default=True,
    help="Folder that holds the searches and the MLflow store.",
)
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
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")
live_option = click.option("--live", "output", flag_value="live", default="live", hidden=True)
json_output_option = click.option(
    "--json", "output", flag_value="json", help="Print the outcome as JSON, for programs."
)
quiet_option = click.option("--quiet", "output", flag_value="quiet", help="Print nothing but errors.")


def open_search(search: str, home: Path) -> tuple[SearchFolder, SearchState]:
    """A search by its name, as its ledger tells it."""
    from hpsearch.folder import find_search
    from hpsearch.trials_table import read_state

    folder = find_search(home.absolute(), search)
    return folder, read_state(folder.ledger)


def target_of(text: str | None, state: SearchState) -> ResolvedTarget:
    """What --target names, or the search's own."""
    from hpsearch.targets import parse_target, resolve_target

    return resolve_target(parse_target(text) if text else state.spec.target, state.spec)


def cache_folder(cache: Path | None) -> Path:
    """What --cache names, or the user's own."""
    import platformdirs

    return cache.absolute() if cache else platformdirs.user_cache_path("hpsearch")
