"""The Jobs API of a Ray cluster, as a client sees it: every call has a limit, every fault is told with its remedy."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import re
import secrets
import shlex
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hpsearch.cluster_config import Cluster
from search_spaces.errors import UserError, one_line

CONNECT_S = 5.0
ANSWER_S = 30.0  # an upload may take so long
POLL_S = 0.25
ENDED = ("SUCCEEDED", "FAILED", "STOPPED")
SEARCH_KEY = "hpsearch.search"  # in a job's metadata: the search that it drives
ANSWER_MARK = "hpsearch-answer "  # before the one line that a job of ours answers by
OWN_JOB = re.compile(r"^(?P<search>[A-Za-z0-9][A-Za-z0-9_-]{0,63})(\.(?P<attempt>\d+))?$")


@dataclass(frozen=True)
class Job:
    """A driver of a search, as Ray knows it."""

    job_id: str
    search: str
    attempt: int  # 1 for the first driver
    status: str  # PENDING, RUNNING, or one of `ENDED`
    message: str
    started_s: float  # since the epoch

    @property
    def is_live(self) -> bool:
        return self.status not in ENDED


@dataclass(frozen=True)
class Node:
    """A live node."""

    name: str
    node_id: str
    is_head: bool
    cpus: int
    gpus: int
    memory_bytes: int


class _Printed:
    """How much of a log has been passed on: a log that is read again repeats nothing."""

    def __init__(self, write: Callable[[str], object]) -> None:
        self._write = write
        self._length = 0

    def take(self, text: str, start: int) -> None:
        """A piece of the log, which begins at a place of it."""
        fresh = text[max(0, self._length - start) :]
        if fresh:
            self._write(fresh)
            self._length = start + len(text)


class Jobs:
    """A cluster's jobs."""

    def __init__(self, cluster: Cluster) -> None:
        """Makes the first contact.

        Raises:
            UserError: the cluster does not answer, or not to this token.
        """
        self.cluster = cluster
        self.ray_version = str(self._get("/api/version").get("ray_version"))
        summary = self._get("/nodes?view=summary")["data"]["summary"]
        alive = [node for node in summary if node.get("raylet", {}).get("state") == "ALIVE"]
        self.nodes = tuple(sorted((_node(node) for node in alive), key=lambda node: not node.is_head))
        self.python = _python([node for node in alive if node["raylet"].get("isHeadNode")])
        self._client = self._make_client()

    def of_search(self, search: str) -> list[Job]:
        """The drivers of a search that Ray remembers, the first one first; none after a restart of its head."""
        return [job for job in self.all() if job.search == search]

    def all(self) -> list[Job]:
        """The drivers of all searches that Ray remembers."""
        with self._told():
            details = self._client.list_jobs()
        jobs = [_job(detail) for detail in details if (detail.metadata or {}).get(SEARCH_KEY)]
        return sorted(jobs, key=lambda job: (job.search, job.attempt))

    def start(self, words: Sequence[str], search: str, attempt: int, folder: Path | None) -> str:
        """Starts a driver of a search, in a copy of a folder if there is one; returns the id of its job.

        Raises:
            UserError: a job of this id exists, or Ray refuses it.
        """
        job_id = search if attempt == 1 else f"{search}.{attempt}"
        self._submit(words, job_id, folder, {SEARCH_KEY: search})
        return job_id

    def ask(self, words: Sequence[str], folder: Path | None, limit_s: float) -> Any:
        """Runs a command of ours to its end on the cluster; returns what it answers.

        Raises:
            UserError: what the command itself says is wrong, or it does not end in time.
        """
        job_id = f"hpsearch-ask-{secrets.token_hex(6)}"
        self._submit(words, job_id, folder, {})
        deadline_s = time.monotonic() + limit_s
        while (status := self.status(job_id)) not in ENDED:
            if time.monotonic() > deadline_s:
                self.stop(job_id)
                raise UserError(
                    f"cluster {self.cluster.name}: did not run a job within {limit_s:.0f} s, it is {status}; "
                    "look at its nodes"
                )
            time.sleep(POLL_S)
        said = self.logs(job_id)
        with self._told():
            self._client.delete_job(job_id)
        return self._answer(said)

    def status(self, job_id: str) -> str:
        """PENDING, RUNNING, or one of `ENDED`."""
        with self._told():
            return str(self._client.get_job_status(job_id))

    def logs(self, job_id: str) -> str:
        """All that a job has printed."""
        with self._told():
            return str(self._client.get_job_logs(job_id))

    def follow(self, job_id: str, write: Callable[[str], object]) -> str:
        """Passes on what a job prints until it ends, over broken connections too; returns how it ended."""
        printed = _Printed(write)
        while (status := self.status(job_id)) not in ENDED:
            try:
                asyncio.run(self._tail(job_id, printed))
            except (OSError, RuntimeError):
                time.sleep(1.0)  # the connection broke
        printed.take(self.logs(job_id), 0)
        return status

    def stop(self, job_id: str) -> None:
        """Asks a job to stop: SIGTERM, and after the cluster's patience SIGKILL."""
        with self._told():
            self._client.stop_job(job_id)

    async def _tail(self, job_id: str, printed: _Printed) -> None:
        start = 0
        async for text in self._client.tail_job_logs(job_id):
            printed.take(text, start)
            start += len(text)

    def _submit(self, words: Sequence[str], job_id: str, folder: Path | None, metadata: dict[str, str]) -> None:
        # `exec`, so that Ray's signal reaches the driver itself; -P, so that no uploaded file can pose as a module.
        entrypoint = "exec " + shlex.join([self.python, "-P", "-m", "hpsearch", *words])
        # Everybody who holds the token can read a runtime environment: nothing secret is in it.
        runtime_env = {} if folder is None else {"working_dir": str(folder)}
        with self._told():
            self._client.submit_job(
                entrypoint=entrypoint, submission_id=job_id, runtime_env=runtime_env, metadata=metadata
            )

    def _answer(self, said: str) -> Any:
        lines = [line for line in said.splitlines() if line.startswith(ANSWER_MARK)]
        if not lines:
            tail = " / ".join(line.strip() for line in said.splitlines()[-3:])
            raise UserError(
                one_line(f"cluster {self.cluster.name}: {self.python} cannot run hpsearch: {tail}")
                + "; install this hpsearch, with its extras cluster and postgres, in the cluster's Python"
            )
        answer = json.loads(lines[-1].removeprefix(ANSWER_MARK))
        if "error" in answer:
            raise UserError(str(answer["error"]))
        return answer["answer"]

    def _get(self, path: str) -> Any:
        """A page of the dashboard; the token goes to this address and to no other."""
        headers = {"Authorization": f"Bearer {self.cluster.token}"} if self.cluster.token else {}
        request = urllib.request.Request(self.cluster.address + path, headers=headers)
        try:
            with urllib.request.build_opener(_NoRedirect).open(request, timeout=CONNECT_S) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            error.close()
            raise self._refused(error.code) from error
        except (OSError, ValueError) as error:
            reason = getattr(error, "reason", error)
            raise UserError(
                one_line(f"cluster {self.cluster.name}: {self.cluster.address} does not answer as Ray does ({reason})")
                + "; start it, or correct the address"
            ) from error

    def _refused(self, code: int) -> UserError:
        where = f"cluster {self.cluster.name}: {self.cluster.address}"
        if code == 401:
            return UserError(f"{where}: wants a token, and there is none; give it by {self.cluster.token_from}")
        if code == 403:
            return UserError(
                f"{where}: refuses the token of {self.cluster.token_from}; put the token of this cluster there"
            )
        return UserError(f"{where}: answers {code}, which Ray's dashboard does not; correct the address")

    def _make_client(self) -> Any:
        from ray.job_submission import JobSubmissionClient

        logging.getLogger("ray").setLevel(logging.WARNING)  # else it tells of every upload
        for name in ("ray.dashboard.modules.job.sdk", "ray.dashboard.modules.dashboard_sdk"):
            logging.getLogger(name).setLevel(logging.WARNING)

        class Limited(JobSubmissionClient):
            """Ray's client waits for ever."""

            def _do_request(self, method: str, endpoint: str, **options: Any) -> Any:
                return super()._do_request(method, endpoint, timeout=(CONNECT_S, ANSWER_S), **options)

        # Ray prefers these to what it is given: another cluster's address, another cluster's token.
        os.environ["RAY_API_SERVER_ADDRESS"] = self.cluster.address
        os.environ["RAY_AUTH_MODE"] = "disabled"
        os.environ["RAY_RUNTIME_ENV_IGNORE_GITIGNORE"] = "1"  # what is uploaded is whole
        headers = {"Authorization": f"Bearer {self.cluster.token}"} if self.cluster.token else {}
        with self._told():
            return Limited(self.cluster.address, headers=headers)

    @contextmanager
    def _told(self) -> Iterator[None]:
        """Turns what Ray's client raises into an error for a person."""
        try:
            yield
        except (OSError, RuntimeError) as error:
            said = str(error).replace(self.cluster.token, "...") if self.cluster.token else str(error)
            raise UserError(one_line(f"cluster {self.cluster.name}: {said}") + "; look at its head") from error


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Python would take the token along to wherever a server points."""

    def redirect_request(self, *given: Any) -> None:
        return None


def _job(detail: Any) -> Job:
    match = OWN_JOB.match(detail.submission_id or "")
    attempt = int(match["attempt"] or 1) if match else 0
    return Job(
        detail.submission_id or "",
        str(detail.metadata[SEARCH_KEY]),
        attempt,
        str(detail.status.value),
        detail.message or "",
        (detail.start_time or 0) / 1000,
    )


def _node(summary: dict[str, Any]) -> Node:
    raylet = summary["raylet"]
    resources = raylet.get("resourcesTotal", {})
    return Node(
        name=str(summary.get("hostname") or raylet.get("nodeName")),
        node_id=str(raylet["nodeId"]),
        is_head=bool(raylet.get("isHeadNode")),
        cpus=int(resources.get("CPU", 0)),
        gpus=int(resources.get("GPU", 0)),
        memory_bytes=int(resources.get("memory", 0)),
    )


def _python(heads: Sequence[dict[str, Any]]) -> str:
    """The Python that the cluster's workers run in: a job's own PATH is that of the shell that started Ray."""
    words = [word for head in heads for word in head.get("cmdline", [])]
    commands = [word.partition("=")[2] for word in words if word.startswith("--python_worker_command=")]
    return commands[0].split()[0] if commands and commands[0] else "python3"
