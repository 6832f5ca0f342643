"""What a search needs of a cluster, tried out on the cluster: by the driver's node, and by every node that would train.

Everything is written, read and removed again, except for the tag of one MLflow experiment. What fails is an answer,
not an error: a preflight tells all that is wrong at once.
"""

from __future__ import annotations

import base64
import importlib.metadata
import json
import os
import platform
import secrets
import socket
import threading
import urllib.error
import urllib.request
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from hpsearch.corpus_source import corpus_source
from hpsearch.folder import SearchFolder
from hpsearch.home import Home
from hpsearch.ledger import Ledger
from hpsearch.ledger_store import postgres_engine
from hpsearch.nodes import places, text_on_nodes
from hpsearch.ray_session import connected_ray
from hpsearch.spec import Spec
from hpsearch.trials_table import read_state
from hpsearch.view import QuietView
from search_spaces.errors import UserError, one_line
from trials import storage
from trials.corpus import CorpusSource, collect

CHECK_S = 5.0  # a service that takes longer does not answer
VERSIONS = ("hpsearch", "ray", "torch", "numpy", "optuna", "tokenizers")  # what decisions and losses depend on
EXPERIMENT = "hpsearch-preflight"
MLFLOW_REMEDIES = {
    401: "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD where Ray is started",
    403: "list the host of HPSEARCH_MLFLOW in the server's --allowed-hosts, or let this user write",
}
Result = TypeVar("Result")


@dataclass(frozen=True)
class NodeAnswer:
    """What a node that would train found; a fault is empty where there is none."""

    name: str
    versions: dict[str, str]
    mlflow_fault: str
    storage_fault: str
    corpus_id: str
    corpus_fault: str


@dataclass(frozen=True)
class Answer:
    """What the driver's node found, and the nodes that would train."""

    versions: dict[str, str]
    ledger_fault: str
    search_state: str  # absent, running, complete, or resumable
    is_same_search: bool  # whether the ledger has the search of the file
    storage_fault: str
    nodes: list[NodeAnswer] = field(default_factory=list)


def probe(spec: Spec, home: Home) -> dict[str, Any]:
    """Tries everything out; `home` is what the environment of the cluster says."""
    folder = SearchFolder(home, spec.name)
    (state, same), ledger_fault = tried(lambda: _ledger(folder, spec), ("absent", False))
    probes = f"{home.storage.rstrip('/') or home.path}/probe-{secrets.token_hex(8)}"
    with connected_ray(home.ray, QuietView()):
        nodes = _ask_nodes(home, probes, text_on_nodes(corpus_source(spec)))
    written = sum(not node.storage_fault for node in nodes)
    _, storage_fault = tried(lambda: _collect_probes(probes, written), None)
    return asdict(Answer(versions(), ledger_fault, state, same, storage_fault, nodes))


def versions() -> dict[str, str]:
    """Of Python and of what decisions and losses depend on."""
    installed = {name: importlib.metadata.version(name) for name in VERSIONS}
    return {"python": platform.python_version(), **installed}


def _ask_nodes(home: Home, probes: str, source: CorpusSource) -> list[NodeAnswer]:
    node_ids = sorted({place.node_id for place in places()})
    asked = [
        _node_answer.options(
            num_cpus=0, scheduling_strategy=NodeAffinitySchedulingStrategy(node_id, soft=False)
        ).remote(home.mlflow, probes, number, source)
        for number, node_id in enumerate(node_ids)
    ]
    answers: list[NodeAnswer] = ray.get(asked)
    return answers


@ray.remote
def _node_answer(mlflow_uri: str, probes: str, number: int, source: CorpusSource) -> NodeAnswer:
    with ThreadPoolExecutor() as pool:  # so that the slowest of them is all the time it takes
        mlflow = pool.submit(tried, lambda: write_mlflow(mlflow_uri, number), None)
        file = pool.submit(tried, lambda: _write_file(f"{probes}-{number}"), None)
        corpus_id, corpus_fault = tried(lambda: collect(source).id, "")
    return NodeAnswer(socket.gethostname(), versions(), mlflow.result()[1], file.result()[1], corpus_id, corpus_fault)


def write_mlflow(address: str, number: int) -> None:
    """Writes a tag as a search would, with the password of this node's environment.

    By MLflow's REST interface: its client takes seconds to load, and minutes to give up. All nodes do it at once, so
    each has a tag of its own, by its number.

    Raises:
        UserError: the server does not answer, or refuses.
    """
    if not address:
        raise UserError("HPSEARCH_MLFLOW is not set where Ray was started; set it to the server's address")
    with suppress(FileExistsError):
        _mlflow(address, "create", {"name": EXPERIMENT})
    found = _mlflow(address, f"get-by-name?experiment_name={EXPERIMENT}", None)["experiment"]
    tag = {
        "experiment_id": found["experiment_id"],
        "key": f"hpsearch.preflight.{number}",
        "value": secrets.token_hex(8),
    }
    _mlflow(address, "set-experiment-tag", tag)


def _mlflow(address: str, call: str, body: dict[str, str] | None) -> Any:
    """A call about experiments; raises FileExistsError where there is one of the name."""
    request = urllib.request.Request(
        f"{address.rstrip('/')}/api/2.0/mlflow/experiments/{call}",
        data=None if body is None else json.dumps(body).encode(),
        headers={"Content-Type": "application/json", **_mlflow_login()},
    )
    try:
        with urllib.request.urlopen(request, timeout=CHECK_S) as answer:
            return json.load(answer)
    except urllib.error.HTTPError as error:
        with error:
            said = error.read(300).decode(errors="replace").strip()
        if error.code == 400 and "RESOURCE_ALREADY_EXISTS" in said:
            raise FileExistsError(call) from error
        raise UserError(f"{address}: answers {error.code} ({said}); {MLFLOW_REMEDIES.get(error.code, '')}") from error
    except (OSError, ValueError) as error:
        raise UserError(
            f"{address}: does not answer as MLflow does ({error}); start it, or correct HPSEARCH_MLFLOW"
        ) from error


def _mlflow_login() -> dict[str, str]:
    """By the names that MLflow has for them."""
    token, user = os.environ.get("MLFLOW_TRACKING_TOKEN"), os.environ.get("MLFLOW_TRACKING_USERNAME")
    if user:
        login = f"{user}:{os.environ.get('MLFLOW_TRACKING_PASSWORD', '')}"
        return {"Authorization": f"Basic {base64.b64encode(login.encode()).decode()}"}
    return {"Authorization": f"Bearer {token}"} if token else {}


def _write_file(location: str) -> None:
    folder = Path(location).parent
    if "://" not in location and not folder.is_dir():  # a mount that is not there must not become a folder
        raise UserError(f"{folder}: no such folder; mount or make it, or correct HPSEARCH_STORAGE")
    storage.write(location, location.encode())


def _collect_probes(probes: str, written: int) -> None:
    """Reads and removes what the nodes have written, from the driver's node."""
    for location in [f"{probes}-{number}" for number in range(written)]:
        try:
            found = storage.read(location)
        except FileNotFoundError:
            found = b""
        if found != location.encode():
            raise UserError("the driver's node does not see what a worker has written; all nodes must mount one folder")
        storage.delete([location])


def _ledger(folder: SearchFolder, spec: Spec) -> tuple[str, bool]:
    """Writes to the database and takes it back; returns what there is of a search of this name."""
    folder.home.check_for_cluster()
    if folder.home.ledger:
        with postgres_engine(folder.home.ledger).connect() as connection:
            connection.exec_driver_sql(f"CREATE SCHEMA hpsearch_probe_{secrets.token_hex(8)}")
            connection.rollback()
    return _search_state(folder, spec)


def _search_state(folder: SearchFolder, spec: Spec) -> tuple[str, bool]:
    ledger = Ledger(folder.ledger)
    if not ledger.exists():
        return "absent", False
    state = read_state(folder.ledger)
    same = _without_place(state.spec) == _without_place(spec)
    if ledger.holder:
        return "running", same
    return ("complete" if state.closed is not None and state.closed.complete else "resumable"), same


def _without_place(spec: Spec) -> dict[str, Any]:
    """The search apart from where its text lies; what text that is, its corpus id says."""
    data = spec.model_dump(mode="json")
    data["text"].pop("source")
    return data


def tried(act: Callable[[], Result], otherwise: Result) -> tuple[Result, str]:
    """What it returns and an empty text; or `otherwise` and what went wrong.

    Whatever it is that goes wrong is the answer, so everything is caught; what hangs is left behind.
    """
    outcome: list[tuple[Result, str]] = []

    def attempt() -> None:
        try:
            outcome.append((act(), ""))
        except Exception as error:
            outcome.append((otherwise, one_line(str(error).strip() or type(error).__name__)))

    thread = threading.Thread(target=attempt, daemon=True)
    thread.start()
    thread.join(CHECK_S)
    return outcome[0] if outcome else (otherwise, f"does not answer within {CHECK_S:.0f} s")
