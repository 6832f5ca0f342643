"""One part of a deployment: how to start it, and what proves that a client can use it."""

from __future__ import annotations

import base64
import json
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

REQUEST_TIMEOUT_S = 10.0


class NotReady(Exception):
    """A part does not serve clients yet; says why."""


@dataclass(frozen=True)
class Part:
    """A server: its command and environment, and `ready`, which acts as a client and raises NotReady.

    `ready` is given the time at which the part was started, in seconds since the epoch.
    """

    role: str
    command: list[str]
    environment: Mapping[str, str]
    ready: Callable[[float], None]
    patience_s: float  # how long it may take to come up on a busy machine


def get(url: str, authorization: str = "", host: str = "") -> tuple[int, Any]:
    """The status and the JSON (or None) of a GET, straight and through no proxy.

    Raises:
        NotReady: nobody answers.
    """
    headers = {"Authorization": authorization, "Host": host}
    request = urllib.request.Request(url, headers={name: value for name, value in headers.items() if value})
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=REQUEST_TIMEOUT_S) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, None
    except (OSError, ValueError) as error:
        raise NotReady(f"{url} does not answer ({error})") from error


def expect(what: str, got: int, wanted: int) -> None:
    """Raises NotReady unless a status is the one wanted."""
    if got != wanted:
        raise NotReady(f"{what}: status {got} instead of {wanted}")


def basic(user: str, password: str) -> str:
    """The Authorization header of a name and a password."""
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()
