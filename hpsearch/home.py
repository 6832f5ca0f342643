"""A home: where searches live. Its addresses are told by the command line; nothing below it reads the environment."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from search_spaces.errors import UserError


@dataclass(frozen=True)
class Home:
    """Where searches live: a folder of this machine, and the services that hold what a folder cannot.

    Without services the folder holds all. No address holds a password, as addresses are shown and logged.
    """

    path: Path
    ledger: str = ""  # of a PostgreSQL database; without one every search has a SQLite file
    mlflow: str = ""  # of a tracking server; without one a SQLite file serves all searches
    storage: str = ""  # of the checkpoints: a folder, or a URL that fsspec understands; without one they are at home
    ray: str = ""  # of a running cluster that trains, HOST:PORT or auto; without one a Ray of this machine is started
    is_persistent: bool = False  # said of the folder: a local disk that outlives the machine that a search runs on

    def check_for_cluster(self) -> None:
        """A driver on a cluster may be started again on another machine, which would not find a file of this one.

        Raises:
            UserError: the ledger is a file, and nobody says that its disk persists.
        """
        if self.ray and not self.ledger and not self.is_persistent:
            raise UserError(
                f"--ledger: a search on a cluster must not keep its ledger in a file ({self.path}), which is lost with "
                "the machine; give --ledger postgresql://..., or --persistent-home if that is a disk of this machine "
                "that persists"
            )
