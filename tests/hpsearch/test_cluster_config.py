"""The user's clusters: found by name or address, with the token that belongs to them, and no secret is ever told."""

from __future__ import annotations

from pathlib import Path

import pytest

from hpsearch.cluster_config import find_cluster
from search_spaces.errors import UserError

SECRET = "5ecret5ecret"


def config(folder: Path, text: str) -> dict[str, str]:
    """An environment whose config file says this; beside it a token file."""
    (folder / "config.yaml").write_text(text)
    token = folder / "lab.token"
    token.write_text(f"{SECRET}\n")
    token.chmod(0o600)
    return {"HPSEARCH_CONFIG": str(folder / "config.yaml")}


def test_a_cluster_is_found_by_name_and_by_default(tmp_path: Path) -> None:
    environment = config(
        tmp_path,
        "clusters:\n"
        "  lab: {address: 'http://lab:8265/', token_file: lab.token, mlflow: 'http://lab:5000'}\n"
        "  bare: {address: 'https://bare'}\n"
        "default_cluster: lab\n",
    )
    lab = find_cluster("", environment)
    assert (lab.name, lab.address, lab.token, lab.mlflow) == ("lab", "http://lab:8265", SECRET, "http://lab:5000")
    assert SECRET not in repr(lab)
    # Another cluster's token stays with that cluster.
    assert find_cluster("lab", {**environment, "RAY_AUTH_TOKEN": "other"}).token == SECRET
    assert find_cluster("bare", {**environment, "RAY_AUTH_TOKEN": "other"}).token == "other"
    assert find_cluster("bare", environment).token == ""


def test_a_cluster_is_found_by_its_address_without_a_config(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text(SECRET)
    token.chmod(0o600)
    found = find_cluster("http://127.0.0.1:8265", {"RAY_AUTH_TOKEN_PATH": str(token)})
    assert (found.address, found.token, found.token_from) == ("http://127.0.0.1:8265", SECRET, str(token))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("clusters: {lab: {address: lab}}", "clusters.lab.address: must be an address such as"),
        ("clusters: {lab: {address: 'http://lab:99999'}}", "clusters.lab.address: must be an address such as"),
        (f"clusters: {{lab: {{address: 'http://u:{SECRET}@lab'}}}}", "must hold no user or password"),
        (f"clusters: {{lab: {{address: 'http://lab', token: {SECRET}}}}}", "token: a config holds no secrets"),
        (f"password: {SECRET}", "password: a config holds no secrets"),
        ("clusters: {lab: {address: 'http://lab', tokenfile: x}}", "clusters.lab.tokenfile: unknown key"),
        ("clusters: {lab: {}}", "clusters.lab.address: required; add it"),
        ("clusters: {'a b': {address: 'http://lab'}}", "clusters.a b"),
        ("clusters: {lab: {address: 'http://lab'}}", "must be named, as there is no default_cluster; known: lab"),
        ("default_cluster: lab", "default_cluster: must be one of none, got 'lab'"),
        ("clusters: [lab", "not readable as YAML"),
    ],
)
def test_a_wrong_config_is_told_with_its_file_and_without_secrets(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(UserError) as told:
        find_cluster("", config(tmp_path, text))
    assert said in str(told.value) and SECRET not in str(told.value)
    assert str(tmp_path / "config.yaml") in str(told.value)


def test_an_unknown_cluster_is_told_with_the_known_ones(tmp_path: Path) -> None:
    environment = config(tmp_path, "clusters: {lab: {address: 'http://lab'}}")
    with pytest.raises(UserError, match="no such cluster, got 'lib'; known: lab"):
        find_cluster("lib", environment)
    with pytest.raises(UserError, match="give --cluster http://HOST:8265"):
        find_cluster("", {"HPSEARCH_CONFIG": str(tmp_path / "absent.yaml")})


def test_a_token_that_others_can_read_is_refused(tmp_path: Path) -> None:
    environment = config(tmp_path, "clusters: {lab: {address: 'http://lab', token_file: lab.token}}")
    (tmp_path / "lab.token").chmod(0o640)
    with pytest.raises(UserError, match="readable by you alone, got mode 0640; chmod 600"):
        find_cluster("lab", environment)


@pytest.mark.parametrize("token", ["", "two words", "a\nb", "\xe9", "x" * 5000])
def test_what_is_no_token_is_refused_and_not_shown(tmp_path: Path, token: str) -> None:
    environment = config(tmp_path, "clusters: {lab: {address: 'http://lab', token_file: lab.token}}")
    (tmp_path / "lab.token").write_text(token, encoding="utf-8")
    with pytest.raises(UserError, match="lab.token: token: ") as told:
        find_cluster("lab", environment)
    assert not token or token not in str(told.value)


def test_a_token_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    environment = config(tmp_path, "clusters: {lab: {address: 'http://lab', token_file: absent}}")
    with pytest.raises(UserError, match="absent: token: cannot be read .*; put the cluster's token there"):
        find_cluster("lab", environment)
