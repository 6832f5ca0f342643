"""One log a search, for what we and the libraries say of themselves; the search and its recorder add to it."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def logging_to(path: Path) -> Iterator[None]:
    """Logs to a file, at its end, while the block runs.

    What Ray Tune says of a lost worker goes there alone: its pages of traceback, on a terminal, hide that the search
    goes on.
    """
    handler = logging.FileHandler(path)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s %(message)s"))
    root, tune = logging.getLogger(), logging.getLogger("ray.tune")  # Ray's own do not reach the root
    heard = tune.propagate
    root.addHandler(handler)
    tune.addHandler(handler)
    tune.propagate = False
    try:
        yield
    finally:
        tune.propagate = heard
        tune.removeHandler(handler)
        root.removeHandler(handler)
        handler.close()
