"""Addresses of MLflow: what is refused, and that a refusal does not tell the secret."""

from __future__ import annotations

import pytest
from click.testing import CliRunner

from hpsearch.cli import cli
from hpsearch.mlflow_address import check_address, is_server
from search_spaces.errors import UserError


@pytest.mark.parametrize(
    "uri",
    ["http://127.0.0.1:5000", "https://mlflow.example/team", "http://[::1]:5000", "sqlite:////home/me/mlflow.db"],
)
def test_an_address_is_taken(uri: str) -> None:
    check_address(uri)
    assert is_server(uri) == uri.startswith("http")


@pytest.mark.parametrize(
    "uri", ["ftp://host", "host:5000", "file:///runs", "http://", "http://host:port", "http://host:0", "http://[::1"]
)
def test_another_is_refused(uri: str) -> None:
    with pytest.raises(UserError, match=r"--mlflow: must be http://HOST:PORT.*give one of these"):
        check_address(uri)


@pytest.mark.parametrize("uri", ["http://me:hunter2@host:5000", "https://hunter2@host", "http://a:hunter2@[::1"])
def test_a_password_is_refused_and_not_repeated(uri: str) -> None:
    error = CliRunner().invoke(cli, ["list", "--mlflow", uri]).exception
    assert isinstance(error, UserError)
    assert "MLFLOW_TRACKING_PASSWORD" in str(error) and "hunter2" not in str(error)
