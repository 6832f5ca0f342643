"""A search is sent to a cluster: what is uploaded, what is run there, and what is refused."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import yaml

from hpsearch.cluster_jobs import Jobs
from hpsearch.cluster_preflight import Preflight, preflight
from hpsearch.spec import PYTHON_TEXT, Spec
from search_spaces.errors import UserError

SEARCH_FILE = "search.yaml"
TEXT_FOLDER = "text"
MAX_UPLOAD_BYTES = 200 * 2**20  # Ray keeps an upload in its head's memory


@contextmanager
def package(spec: Spec) -> Iterator[Path]:
    """A folder with what a job is given: the search file, and its text unless every node has that."""
    with tempfile.TemporaryDirectory(prefix="hpsearch-submit-") as made:
        folder = Path(made)
        data = spec.model_dump(mode="json", exclude_unset=True)
        if spec.text.source != PYTHON_TEXT:
            data["text"]["source"] = _copied(Path(spec.text.source), folder)
        (folder / SEARCH_FILE).write_text(yaml.safe_dump(data, sort_keys=False), encoding="utf-8")
        yield folder


def submit(jobs: Jobs, spec: Spec, resume: bool) -> tuple[str, Preflight]:
    """Sends a search; one that a cluster has begun and lost goes on.

    Args:
        jobs: of the cluster.
        spec: the search.
        resume: go on with the search of this name as the cluster's ledger has it, whatever the file says now.

    Returns:
        The id of the job, and what the preflight found.

    Raises:
        UserError: the cluster is not fit for it, or has a search of this name that this would disturb.
    """
    _refuse_live(jobs, spec.name)
    with package(spec) as folder:
        found = preflight(jobs, folder, spec.name)
        found.check(jobs.cluster.name)
        words = _words(spec, found, resume)
        attempt = max((job.attempt for job in jobs.of_search(spec.name)), default=0) + 1
        return jobs.start(words, spec.name, attempt, folder), found


def _refuse_live(jobs: Jobs, name: str) -> None:
    live = [job for job in jobs.of_search(name) if job.is_live]
    if live:
        raise UserError(
            f"{name}: {live[0].status} on {jobs.cluster.name} already, job {live[0].job_id}; follow it with "
            f"`hpsearch logs {name} -f --cluster {jobs.cluster.name}`, or choose another --name"
        )


def _words(spec: Spec, found: Preflight, resume: bool) -> list[str]:
    """The command of the driver."""
    name, state = spec.name, found.search_state
    if state == "absent":
        if resume:
            raise UserError(f"{name}: --resume: the cluster's ledger has no such search; submit it without --resume")
        return ["run", SEARCH_FILE, "--name", name]
    if state == "running":
        raise UserError(f"{name}: a driver runs it already, elsewhere than in a job; wait for it, or stop it")
    if state == "complete":
        raise UserError(f"{name}: is complete; choose another --name, or give it more to do with `hpsearch extend`")
    if not (found.is_same_search or resume):
        raise UserError(
            f"{name}: the cluster has an unfinished search of this name that the file does not describe; choose "
            "another --name, or --resume to go on with it as it is"
        )
    is_uploaded = spec.text.source != PYTHON_TEXT
    return ["resume", name, *(["--text", f"{TEXT_FOLDER}/{Path(spec.text.source).name}"] if is_uploaded else [])]


def _copied(source: Path, folder: Path) -> str:
    """Copies a text file or folder; returns its path inside the folder."""
    size = sum(file.stat().st_size for file in ([source] if source.is_file() else source.rglob("*")) if file.is_file())
    if size > MAX_UPLOAD_BYTES:
        raise UserError(
            f"{source}: text.source: must be at most {MAX_UPLOAD_BYTES // 2**20} MiB to be sent to a cluster, got "
            f"{size // 2**20}; run the search on the cluster, from a folder that all nodes mount"
        )
    copy = folder / TEXT_FOLDER / source.name
    copy.parent.mkdir()
    if source.is_dir():
        shutil.copytree(source, copy)
    else:
        shutil.copyfile(source, copy)
    return os.path.join(TEXT_FOLDER, source.name)
