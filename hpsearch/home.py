"""A home: where searches live. Its addresses are told by the command line; nothing below it reads the environment."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

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


def storage_location(given: str) -> str:
    """What --storage names; a folder by its whole path, as workers have another working folder.

    Raises:
        UserError: it is a URL with a password in it.
    """
    if not given or "://" not in given:
        return os.path.abspath(given) if given else ""
    if ":" in urlsplit(given).netloc.rpartition("@")[0]:
        raise UserError(
            "--storage: must not hold a password, which would be shown and logged; put it where the store's own client "
            "looks for it, as AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
        )
    return given
