"""Searches on a cluster, as seen from a client: the ledger there tells how they stand, Ray's job list who drives them.

Ray forgets its jobs when its head starts again; the ledger does not.
"""

from __future__ import annotations

from typing import Any

from hpsearch.cluster_jobs import ENDED, Job, Jobs
from hpsearch.status_command import wait_until
from search_spaces.errors import UserError

ASK_S = 60.0


def statuses(jobs: Jobs, searches: tuple[str, ...]) -> list[dict[str, Any]]:
    """How searches stand, all for none named; with the job of a driver that Ray remembers."""
    found: list[dict[str, Any]] = jobs.ask(["on-cluster", "status", *searches], None, ASK_S)
    newest = {job.search: job for job in jobs.all()}
    return [{**status, "job": _told(newest.get(status["name"]))} for status in found]


def stop(jobs: Jobs, search: str) -> dict[str, Any]:
    """Stops the driver of a search, and waits until it has; returns how the search stands then.

    Raises:
        UserError: no job drives it.
    """
    job = newest_job(jobs, search)
    if not job.is_live:
        raise UserError(f"{search}: no job drives it, the last one ended as {job.status}; submit it again to go on")
    jobs.stop(job.job_id)
    wait_until(lambda: jobs.status(job.job_id) in ENDED, f"{search}: job {job.job_id} did not stop")
    return statuses(jobs, (search,))[0]


def newest_job(jobs: Jobs, search: str) -> Job:
    """The last driver of a search.

    Raises:
        UserError: Ray remembers none.
    """
    found = jobs.of_search(search)
    if not found:
        raise UserError(
            f"{search}: cluster {jobs.cluster.name} has no job of it since its head was started; "
            f"`hpsearch status {search} --cluster {jobs.cluster.name}` tells how it stands, `hpsearch submit` goes on"
        )
    return found[-1]


def _told(job: Job | None) -> str:
    return f"{job.job_id} {job.status}" if job else ""
