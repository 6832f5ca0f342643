"""The user's clusters: a small YAML file of addresses, and the token that each of them wants.

    clusters:
      lab: {address: "http://127.0.0.1:8265", token_file: ~/.config/hpsearch/lab.token, mlflow: "http://127.0.0.1:5000"}
    default_cluster: lab

No secret is in the file: a token is in a file of its own, or in the environment.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Self
from urllib.parse import urlsplit

import platformdirs
from pydantic import AfterValidator, Field, ValidationError, model_validator

from hpsearch.checked import Checked, explain
from hpsearch.strict_yaml import read_mapping
from search_spaces.errors import UserError, one_line

MAX_TOKEN_BYTES = 4096


def _plain_url(text: str) -> str:
    """A pydantic validator: an http(s) address of a server, without anything secret."""
    try:
        url = urlsplit(text)
        port_is_valid = url.port != 0
    except ValueError as error:
        raise ValueError("must be an address such as http://127.0.0.1:8265; correct it") from error
    if url.username or url.password:
        raise ValueError("must hold no user or password, which would be shown and logged; remove them")
    if url.scheme not in ("http", "https") or not url.hostname or not port_is_valid or url.query or url.fragment:
        raise ValueError("must be an address such as http://127.0.0.1:8265; correct it")
    return text.rstrip("/")


Url = Annotated[str, Field(max_length=500), AfterValidator(_plain_url)]
ClusterName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")]


class ClusterSection(Checked):
    """One cluster as the file has it."""

    address: Url  # of the Ray dashboard, which serves the Jobs API
    token_file: Path | None = None  # relative to the file that names it
    mlflow: Url | None = None  # for `recommend` and `export` from this machine


class ClusterFile(Checked):
    """The whole file."""

    clusters: dict[ClusterName, ClusterSection] = {}
    default_cluster: str = ""

    @model_validator(mode="after")
    def _default_exists(self) -> Self:
        if self.default_cluster and self.default_cluster not in self.clusters:
            known = ", ".join(self.clusters) or "none"
            raise ValueError(f"default_cluster: must be one of {known}, got {self.default_cluster!r}; correct it")
        return self


@dataclass(frozen=True)
class Cluster:
    """A cluster to talk to."""

    name: str  # as the user calls it: its name, or its address
    address: str
    token: str  # empty for none
    token_from: str  # where a token is, or would have to be; for messages
    mlflow: str = ""

    def __repr__(self) -> str:
        return f"Cluster({self.name})"  # never its token


def find_cluster(named: str, environment: Mapping[str, str]) -> Cluster:
    """The cluster that a user names.

    Args:
        named: its name in the config file, its address, or nothing for the file's default.
        environment: of the process; HPSEARCH_CONFIG, RAY_AUTH_TOKEN and RAY_AUTH_TOKEN_PATH are read.

    Raises:
        UserError: there is none, or the file or its token cannot be used.
    """
    if "://" in named:
        return _addressed(named, environment)
    path = config_path(environment)
    if not named and not path.exists():
        raise UserError(f"--cluster: no cluster was named, and there is no {path}; give --cluster http://HOST:8265")
    config = load_config(path)
    name = named or config.default_cluster
    if name not in config.clusters:
        known = ", ".join(config.clusters) or "none"
        wanted = f"no such cluster, got {name!r}" if name else "must be named, as there is no default_cluster"
        raise UserError(one_line(f"{path}: --cluster: {wanted}") + f"; known: {known}. Add it, or give its address")
    section = config.clusters[name]
    if section.token_file is None:
        token, token_from = _token_of(environment)
        return Cluster(name, section.address, token, token_from, section.mlflow or "")
    file = path.parent / section.token_file.expanduser()
    return Cluster(name, section.address, read_token(file), str(file), section.mlflow or "")


def config_path(environment: Mapping[str, str]) -> Path:
    """Where the user's config is."""
    given = environment.get("HPSEARCH_CONFIG")
    return Path(given) if given else platformdirs.user_config_path("hpsearch") / "config.yaml"


def load_config(path: Path) -> ClusterFile:
    """Reads and checks the file.

    Raises:
        UserError: it is absent, not YAML, or breaks a rule.
    """
    data = read_mapping(path, "config file")
    _refuse_secrets(path, data)
    try:
        return ClusterFile.model_validate(data)
    except ValidationError as error:
        raise UserError(explain(str(path), error)) from error


def read_token(file: Path) -> str:
    """A token out of its file.

    Raises:
        UserError: there is none, others can read it, or it holds something else.
    """
    try:
        with open(file, encoding="ascii") as opened:
            mode = os.fstat(opened.fileno()).st_mode
            if mode & (stat.S_IRWXG | stat.S_IRWXO):
                raise UserError(
                    f"{file}: token: must be readable by you alone, got mode {stat.S_IMODE(mode):04o}; chmod 600 it"
                )
            token = opened.read(MAX_TOKEN_BYTES + 1).strip()
    except (OSError, UnicodeError) as error:
        said = getattr(error, "strerror", None) or "it is not text"
        raise UserError(
            one_line(f"{file}: token: cannot be read ({said})") + "; put the cluster's token there"
        ) from error
    return _checked_token(token, str(file))


def _addressed(address: str, environment: Mapping[str, str]) -> Cluster:
    try:
        checked = _plain_url(address)
    except ValueError as error:
        raise UserError(f"--cluster: {error}") from error
    token, token_from = _token_of(environment)
    return Cluster(checked, checked, token, token_from)


def _token_of(environment: Mapping[str, str]) -> tuple[str, str]:
    """A token out of the environment, by the names that Ray has for it, and where it was."""
    if environment.get("RAY_AUTH_TOKEN"):
        return _checked_token(environment["RAY_AUTH_TOKEN"].strip(), "RAY_AUTH_TOKEN"), "RAY_AUTH_TOKEN"
    if environment.get("RAY_AUTH_TOKEN_PATH"):
        file = Path(environment["RAY_AUTH_TOKEN_PATH"])
        return read_token(file), str(file)
    return "", "token_file of the config, RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH"


def _checked_token(token: str, where: str) -> str:
    if not token or len(token) > MAX_TOKEN_BYTES or not token.isascii() or not token.isprintable() or " " in token:
        raise UserError(f"{where}: token: must be one printable word; copy it from the cluster again")
    return token


def _refuse_secrets(path: Path, data: Mapping[str, object]) -> None:
    """An unknown key is told with its value: that of a secret must not be."""
    clusters = data.get("clusters")
    sections = (
        [section for section in clusters.values() if isinstance(section, dict)] if isinstance(clusters, dict) else []
    )
    for key in [key for section in [data, *sections] for key in section]:
        if str(key).lower() in ("token", "password", "secret", "user", "username", "auth"):
            raise UserError(
                f"{path}: {key}: a config holds no secrets; write the token into a file of its own, chmod 600 it, and "
                "name it by token_file"
            )
