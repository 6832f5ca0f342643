"""What nodes try out at once: none is in another's way."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest
from mlflow import MlflowClient

from hpsearch.cluster_probe import EXPERIMENT, write_mlflow
from search_spaces.errors import UserError
from tests.hpsearch.mlflow_server import MlflowServer

NODES = 8


def test_nodes_write_to_one_server_at_once(tmp_path: Path) -> None:
    """For the first time, when there is no experiment, and again."""
    with MlflowServer(tmp_path / "server") as server, ThreadPoolExecutor(NODES) as pool:
        for _ in range(2):
            list(pool.map(partial(write_mlflow, server.uri), range(NODES)))
        experiment = MlflowClient(server.uri).get_experiment_by_name(EXPERIMENT)
    assert experiment is not None
    assert {f"hpsearch.preflight.{number}" for number in range(NODES)} <= set(experiment.tags)
    with pytest.raises(UserError, match="does not answer as MLflow does"):
        write_mlflow(server.uri, 0)
