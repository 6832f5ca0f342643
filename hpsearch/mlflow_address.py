"""Where MLflow is: a server, or a local SQLite store. Imports no MLflow, so that a wrong address is told at once."""

from __future__ import annotations

from urllib.parse import urlsplit

from search_spaces.errors import UserError, one_line


def is_server(uri: str) -> bool:
    """Whether an address is an MLflow server's, and not a local store's."""
    return uri.startswith(("http://", "https://"))


def check_address(uri: str) -> None:
    """Refuses an address before anything is spent.

    Raises:
        UserError: it holds a password, which logs would show, or is none that a search can be recorded at.
    """
    if is_server(uri) and "@" in uri.partition("://")[2].partition("/")[0]:
        raise UserError(
            "--mlflow: the address must not hold a user or a password, as it is shown in logs; give it without, "
            "and set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
        )
    if not uri.startswith("sqlite:///") and not (is_server(uri) and _has_host(uri)):
        raise UserError(
            one_line(f"--mlflow: must be http://HOST:PORT, https://HOST or sqlite:///FILE, got {uri!r}")
            + "; give one of these"
        )


def _has_host(uri: str) -> bool:
    try:
        parts = urlsplit(uri)
        return bool(parts.hostname) and (parts.port is None or parts.port > 0) and not (parts.query or parts.fragment)
    except ValueError:  # a port that is no number, an unclosed bracket
        return False
