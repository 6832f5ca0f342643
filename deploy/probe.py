"""What proves that a server serves its clients: a client's own calls. Standard library only; also a health check.

    python probe.py mlflow http://mlflow:5000      with MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD
    python probe.py jobs http://head:8265          with RAY_AUTH_TOKEN, or RAY_AUTH_TOKEN_PATH
    python probe.py node http://head:8265          whether this machine is among the cluster's live nodes

MLflow's /health answers whatever the Host header and without a password, and Ray's port is open before nodes can join:
neither proves that a client will be served.
"""

from __future__ import annotations

import base64
import json
import os
import socket
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

REQUEST_TIMEOUT_S = 10.0
MLFLOW_QUERY = "/api/2.0/mlflow/experiments/search?max_results=1"


class NotReady(Exception):
    """A server does not serve clients; says why."""


def probe_mlflow(url: str, user: str, password: str) -> None:
    """A query with the password is answered; without it, with another, or under a foreign name it is not."""
    query, login = url + MLFLOW_QUERY, _basic(user, password)
    _expect("a query with the password", get(query, login)[0], 200)
    _expect("a query without a password", get(query)[0], 401)
    _expect("a query with a wrong password", get(query, _basic(user, "wrong"))[0], 401)
    _expect("a query under a foreign Host header", get(query, login, host="example.org")[0], 403)


def probe_jobs(url: str, token: str) -> None:
    """The Jobs API answers to the token, and to the token only."""
    jobs = f"{url}/api/jobs/"
    _expect("the job list with the token", get(jobs, f"Bearer {token}")[0], 200)
    _expect("the job list without a token", get(jobs)[0], 401)
    _expect("the job list with a wrong token", get(jobs, "Bearer " + "0" * 64)[0], 403)


def live_nodes(url: str, token: str) -> list[dict[str, Any]]:
    """What the head says of its live nodes."""
    status, nodes = get(f"{url}/nodes?view=summary", f"Bearer {token}")
    _expect("the list of nodes", status, 200)
    return [node for node in nodes["data"]["summary"] if node.get("raylet", {}).get("state") == "ALIVE"]


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


def _expect(what: str, got: int, wanted: int) -> None:
    if got != wanted:
        raise NotReady(f"{what}: status {got} instead of {wanted}")


def _basic(user: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


def _token() -> str:
    return os.environ.get("RAY_AUTH_TOKEN") or Path(os.environ["RAY_AUTH_TOKEN_PATH"]).read_text().strip()


def main() -> None:
    what, url = sys.argv[1:]
    try:
        if what == "mlflow":
            probe_mlflow(url, os.environ["MLFLOW_TRACKING_USERNAME"], os.environ["MLFLOW_TRACKING_PASSWORD"])
        elif what == "jobs":
            probe_jobs(url, _token())
        elif not any(node["hostname"] == socket.gethostname() for node in live_nodes(url, _token())):
            raise NotReady("this machine is not among the cluster's live nodes")
    except NotReady as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
