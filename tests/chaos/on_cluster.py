"""A search driven from a node of a Ray cluster that runs already.

    python -m tests.chaos.on_cluster RAY_ADDRESS NODE_ADDRESS SEARCH_FILE HOME CACHE

Starts the search, or resumes it where it was begun. Exit code 0 where it is complete.
"""

from __future__ import annotations

import sys
from pathlib import Path

import ray

from hpsearch.exit_codes import DONE, STOPPED
from hpsearch.folder import SearchFolder
from hpsearch.home import Home
from hpsearch.ledger import Ledger
from hpsearch.search import resume_search, start_search
from hpsearch.spec import load_spec
from hpsearch.view import QuietView


def main() -> int:
    ray_address, node_address, *paths = sys.argv[1:]
    file, home, cache = map(Path, paths)
    ray.init(address=ray_address, _node_ip_address=node_address, namespace="hpsearch", log_to_driver=False)
    spec = load_spec(file)
    folder = SearchFolder(Home(home), spec.name)
    if Ledger(folder.ledger).exists():
        state = resume_search(folder, cache, QuietView())
    else:
        state = start_search(spec, folder, cache, QuietView())
    ray.shutdown()
    return DONE if state.closed is not None and state.closed.complete else STOPPED


if __name__ == "__main__":
    sys.exit(main())
