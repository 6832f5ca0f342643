"""A store behind an address: a server that is away fails a call at once, and is told of in a few words."""

from __future__ import annotations

import time

import pytest
from mlflow.exceptions import MlflowException

from hpsearch.mlflow_store import connect, reason_of
from hpsearch.ui import LOOPBACK, free_port


def test_a_server_that_is_away_fails_a_call_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "7")  # MLflow's default, which takes minutes
    client = connect(f"http://{LOOPBACK}:{free_port()}")
    began_s = time.monotonic()
    with pytest.raises(MlflowException) as caught:
        client.search_experiments()
    assert time.monotonic() - began_s < 10
    assert reason_of(caught.value) == "[Errno 111] Connection refused"


def test_what_mlflow_says_itself_is_told_as_it_is() -> None:
    assert reason_of(MlflowException("no such\nrun")) == "no such?run"
    assert reason_of(RuntimeError()) == "RuntimeError"
