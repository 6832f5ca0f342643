"""One part of a deployment: how to start it, and what proves that a client can use it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass


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
