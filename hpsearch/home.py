"""A home: where searches live. Its addresses are told by the command line; nothing below it reads the environment."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Home:
    """Where searches live: a folder of this machine, and the services that hold what a folder cannot.

    Without services the folder holds all. No address holds a password, as addresses are shown and logged.
    """

    path: Path
    ledger: str = ""  # of a PostgreSQL database; without one every search has a SQLite file
    mlflow: str = ""  # of a tracking server; without one a SQLite file serves all searches
    storage: str = ""  # of the checkpoints: a folder, or a URL that fsspec understands; without one they are at home
