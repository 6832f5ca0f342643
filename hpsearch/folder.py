"""The files of a search: every path is a property of one class, and nothing else joins path strings.

HOME/mlflow.db                    what people look at, one store for all searches
HOME/NAME/ledger.sqlite           the search itself
HOME/NAME/checkpoints/TRIAL/      trunks with their measurements
HOME/NAME/search.log              one log
HOME/NAME/ledger.jsonl.gz         the ledger as MLflow was last given it
HOME/NAME/search.yaml             the search file, with every default written out, likewise
HOME/NAME/recommended.yaml ...    what came out

An imported search has instead of these
HOME/NAME/import.json             where its runs came from
HOME/NAME/trials.csv              the runs
HOME/NAME/space.yaml              what the user said of their parameters, if anything
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path

from hpsearch.home import Home
from hpsearch.ledger import Ledger
from hpsearch.ledger_store import LedgerAddress, PostgresAddress, names_in
from search_spaces.errors import UserError, one_line


@dataclass(frozen=True)
class SearchFolder:
    """Where a search lives."""

    home: Home
    name: str

    @property
    def path(self) -> Path:
        return self.home.path / self.name

    @property
    def ledger(self) -> LedgerAddress:
        return PostgresAddress(self.home.ledger, self.name) if self.home.ledger else self.path / "ledger.sqlite"

    @property
    def ledger_copy(self) -> Path:
        """The ledger as MLflow is given it, whatever database it is in."""
        return self.path / "ledger.jsonl.gz"

    @property
    def search_file(self) -> Path:
        return self.path / "search.yaml"

    @property
    def log(self) -> Path:
        return self.path / "search.log"

    @property
    def trials_table(self) -> Path:
        return self.path / "trials.parquet"

    @property
    def recommendation(self) -> Path:
        return self.path / "recommendation.json"

    @property
    def recipe(self) -> Path:
        return self.path / "recommended.yaml"

    @property
    def figure(self) -> Path:
        return self.path / "search.svg"

    @property
    def import_record(self) -> Path:
        return self.path / "import.json"

    @property
    def imported_table(self) -> Path:
        return self.path / "trials.csv"

    @property
    def imported_space(self) -> Path:
        return self.path / "space.yaml"

    @property
    def is_imported(self) -> bool:
        return os.path.isfile(self.import_record)  # unlike Path.is_file it takes any text for a path

    @property
    def outcome_files(self) -> dict[str, Path]:
        """What a finished search leaves for people, by what it is."""
        return {
            "trials": self.trials_table,
            "recommendation": self.recommendation,
            "recipe": self.recipe,
            "figure": self.figure,
        }

    @property
    def mlflow_uri(self) -> str:
        return self.home.mlflow or f"sqlite:///{self.home.path / 'mlflow.db'}"

    @property
    def mlflow_artifacts(self) -> Path:
        return self.home.path / "mlartifacts"

    @property
    def checkpoints(self) -> str:
        """Where the checkpoints are: a folder, or a URL."""
        return f"{self.home.storage.rstrip('/') or self.home.path}/{self.name}/checkpoints"

    def checkpoint(self, trial_id: str, rung_tokens: int, incarnation: str) -> str:
        """A trunk's file; the incarnation in its name fences off a writer that has been replaced."""
        return f"{self.checkpoints}/{trial_id}/{rung_tokens}-{incarnation}.safetensors"


def find_search(home: Home, name: str) -> SearchFolder:
    """The folder of an existing search, by name or by path.

    Raises:
        UserError: there is none, or it was imported and has no ledger.
    """
    folder = folder_named(home, name)
    if folder.is_imported:
        raise UserError(
            f"{name}: is an imported table of runs, without the ledger that this needs; it answers "
            f"`hpsearch recommend {name} --target params=...,tokens=...`"
        )
    if not Ledger(folder.ledger).exists():
        known = ", ".join(sorted(found.name for found in [*searches(folder.home), *imports(folder.home)])) or "none"
        where = folder.home.ledger or folder.home.path
        raise UserError(
            one_line(f"{name}: no such search in {where}")
            + f"; known: {known}. Give one of these, or {'--ledger' if folder.home.ledger else '--home'}"
        )
    return folder


def folder_named(home: Home, name: str) -> SearchFolder:
    """Where a search of this name is or would be; a name with a slash is a path."""
    path = Path(name)
    if path.name == name:
        return SearchFolder(home, name)
    return SearchFolder(replace(home, path=path.resolve().parent), path.name)


def searches(home: Home) -> list[SearchFolder]:
    """All searches of a home, by name."""
    if home.ledger:
        return [SearchFolder(home, name) for name in names_in(home.ledger)]
    return [SearchFolder(home, ledger.parent.name) for ledger in sorted(home.path.glob("*/ledger.sqlite"))]


def imports(home: Home) -> list[SearchFolder]:
    """All imported searches under a home, by name."""
    return [SearchFolder(home, record.parent.name) for record in sorted(home.path.glob("[!.]*/import.json"))]


def write_whole(path: Path, text: str) -> None:
    """Writes a file whole or not at all: beside it, then renamed.

    Raises:
        UserError: the folder is not there, or may not be written to.
    """
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        beside.write_text(text, encoding="utf-8")
        os.replace(beside, path)
    except (FileNotFoundError, NotADirectoryError, PermissionError) as error:
        raise UserError(f"{path}: cannot be written ({error.strerror}); give a file in a folder that exists") from error
