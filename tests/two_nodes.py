"""A search over a Ray cluster of two nodes of one CPU each, one of whose stack actors is killed in mid-search.

    python -m tests.two_nodes SEARCH_FILE HOME CACHE

Prints JSON: how many devices there were, and the actor that was killed.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from pathlib import Path
from typing import Any

import ray
from ray.cluster_utils import Cluster

from hpsearch.folder import SearchFolder
from hpsearch.home import Home
from hpsearch.ray_session import EMBEDDED_ENVIRONMENT
from hpsearch.search import start_search
from hpsearch.spec import load_spec
from hpsearch.trials_table import read_state
from hpsearch.view import QuietView
from search_spaces.errors import UserError

POLL_S = 0.2


def kill_one(folder: SearchFolder, killed: list[str]) -> None:
    """Kills the second node's stack actor once a trial has been measured; Ray starts it again."""
    while True:
        time.sleep(POLL_S)
        try:
            state = read_state(folder.ledger)
        except UserError:  # not there yet
            continue
        if any(trial.measurements for trial in state.trials.values()):
            break
    name = f"stack-{state.spec.name}-{state.incarnations[-1]}-1"
    ray.kill(ray.get_actor(name, namespace="hpsearch"), no_restart=False)
    killed.append(name)


def main() -> None:
    file, home, cache = (Path(argument) for argument in sys.argv[1:])
    os.environ.update(EMBEDDED_ENVIRONMENT)
    cluster: Any = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    cluster.add_node(num_cpus=1)
    cluster.wait_for_nodes()
    ray.init(address=cluster.address, namespace="hpsearch", log_to_driver=False)
    spec = load_spec(file)
    folder, killed = SearchFolder(Home(home), spec.name), list[str]()
    threading.Thread(target=kill_one, args=(folder, killed), daemon=True).start()
    state = start_search(spec, folder, cache, QuietView())
    assert state.closed is not None
    print(json.dumps({"devices": state.closed.device_seconds["devices"], "killed": killed}))
    ray.shutdown()
    cluster.shutdown()


if __name__ == "__main__":
    main()
