"""A search is sent to a cluster: what is run there, and what is refused."""

from __future__ import annotations

from hpsearch.cluster_jobs import Jobs
from hpsearch.cluster_package import encoded, job_folder, text_path
from hpsearch.cluster_preflight import Preflight, preflight
from hpsearch.spec import Spec
from search_spaces.errors import UserError


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
    with job_folder(spec) as folder:
        found = preflight(jobs, spec, folder)
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
        return ["on-cluster", "run", encoded(spec)]
    if state == "running":
        raise UserError(f"{name}: a driver runs it already, elsewhere than in a job; wait for it, or stop it")
    if state == "complete":
        raise UserError(f"{name}: is complete; choose another --name, or give it more to do with `hpsearch extend`")
    if not (found.is_same_search or resume):
        raise UserError(
            f"{name}: the cluster has an unfinished search of this name that the file does not describe; choose "
            "another --name, or --resume to go on with it as it is"
        )
    text = text_path(spec)
    return ["resume", name, *(["--text", text] if text else [])]
