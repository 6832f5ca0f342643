"""The commands that look after running searches, here or on a cluster: submit, status, logs, stop."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hpsearch.cli_options import cache_folder, cache_option, cluster_option, home_option, json_option, trains_option
from hpsearch.exit_codes import USER_ERROR
from hpsearch.home import Home
from search_spaces.errors import UserError

if TYPE_CHECKING:
    from hpsearch.cluster_jobs import Jobs
    from hpsearch.finding import Finding
    from hpsearch.spec import Spec


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@cluster_option
@click.option("--name", help="Name of the search.  [default: the name in FILE]")
@click.option("--slots", type=click.IntRange(1, 512), help="Trials trained at once.  [default: slots in FILE]")
@click.option("--resume", is_flag=True, help="Go on with the search of this name as the cluster has it.")
@click.option("--follow", is_flag=True, help="Print its log until it ends; Ctrl-C ends the printing only.")
@json_option
def submit(
    file: Path,
    cluster: str | None,
    name: str | None,
    slots: int | None,
    resume: bool,
    follow: bool,
    as_json: bool,
) -> None:
    """Send the search that FILE describes to a Ray cluster.

    First the cluster is examined: token, versions, resources; and from its own nodes the ledger, the tracking server
    and the storage, which are written to, and the text. A search that the cluster has begun and lost, by a stop or a
    restart of its head, goes on when it is submitted again.
    """
    from hpsearch.cluster_submit import submit as send

    jobs = _jobs(cluster)
    spec = _spec(file, name, slots)
    job_id, found = send(jobs, spec, resume)
    goes_on = found.search_state != "absent"
    if as_json:
        answer = {"search": spec.name, "job": job_id, "cluster": jobs.cluster.name, "resumed": goes_on}
        click.echo(json.dumps({**answer, "preflight": [finding.__dict__ for finding in found.findings]}, indent=2))
    else:
        _print_findings(found.findings)
        where = f"--cluster {jobs.cluster.name}"
        click.echo(f"{spec.name}: {'goes on' if goes_on else 'submitted'}, job {job_id}")
        click.echo(f"  hpsearch logs {spec.name} -f {where}\n  hpsearch stop {spec.name} {where}")
    if follow:
        _follow(jobs, job_id)


@click.command()
@click.argument("search", required=False)
@click.option("--all", "is_all", is_flag=True, help="Of all searches.")
@cluster_option
@json_option
@home_option
def status(search: str | None, is_all: bool, cluster: str | None, as_json: bool, home: Home) -> None:
    """Say how SEARCH stands: state, trials, budget, what runs, and who drives it."""
    from hpsearch.status_command import search_status, status_lines

    if (search is None) != is_all:
        raise UserError("status: must be of one SEARCH or of --all; give one of the two")
    if cluster is not None:
        from hpsearch.cluster_command import statuses

        found = statuses(_jobs(cluster), (search,) if search else ())
    else:
        from hpsearch.folder import find_search, searches

        found = [search_status(folder) for folder in ([find_search(home, search)] if search else searches(home))]
    if as_json:
        click.echo(json.dumps(found[0] if search else found, indent=2))
    for one in [] if as_json else found:
        click.echo("\n".join(status_lines(one)))


@click.command()
@click.argument("search")
@click.option("-f", "--follow", is_flag=True, help="Go on until the driver ends; Ctrl-C ends the printing only.")
@cluster_option
@home_option
def logs(search: str, follow: bool, cluster: str | None, home: Home) -> None:
    """Print the log of SEARCH: of its last driver on a cluster, or the search.log of this machine."""
    if cluster is None:
        from hpsearch.folder import find_search
        from hpsearch.status_command import follow_log

        follow_log(find_search(home, search), _write, follow)
        return
    from hpsearch.cluster_command import newest_job

    jobs = _jobs(cluster)
    job_id = newest_job(jobs, search).job_id
    if follow:
        _follow(jobs, job_id)
    else:
        _write(jobs.logs(job_id))


@click.command()
@click.argument("search")
@cluster_option
@json_option
@home_option
def stop(search: str, cluster: str | None, as_json: bool, home: Home) -> None:
    """Stop SEARCH so that it can go on: what its rungs have saved is kept.

    Waits until the driver has ended. Then `hpsearch resume SEARCH` goes on, on a cluster `hpsearch submit FILE`.
    """
    from hpsearch.status_command import status_lines, stop_search

    if cluster is not None:
        from hpsearch.cluster_command import stop as stop_there

        ended = stop_there(_jobs(cluster), search)
    else:
        from hpsearch.folder import find_search

        ended = stop_search(find_search(home, search))
    click.echo(json.dumps(ended, indent=2) if as_json else "\n".join(status_lines(ended)))


@click.group("on-cluster", hidden=True)
def on_cluster() -> None:
    """What a client's commands run on the cluster, in its environment; each prints one line for the client."""


@on_cluster.command()
@click.argument("search")
@trains_option
def probe(search: str, home: Home) -> None:
    """What a search needs, tried out."""

    def answer() -> Any:
        from hpsearch.cluster_package import decoded
        from hpsearch.cluster_probe import probe as examine

        return examine(decoded(search), home)

    _answer(answer)


@on_cluster.command("run")
@click.argument("search")
@trains_option
@cache_option
def run_there(search: str, home: Home, cache: Path | None) -> None:
    """Runs a new search, as `hpsearch run` does."""
    from hpsearch.cluster_package import decoded
    from hpsearch.session import run_shown

    sys.exit(run_shown(decoded(search), home, cache_folder(cache), "live"))


@on_cluster.command("status")
@click.argument("names", nargs=-1)
@home_option
def status_there(names: tuple[str, ...], home: Home) -> None:
    """How searches stand; all for none named."""

    def answer() -> Any:
        from hpsearch.folder import find_search, searches
        from hpsearch.status_command import search_status

        found = [find_search(home, name) for name in names] if names else searches(home)
        return [search_status(folder) for folder in found]

    _answer(answer)


def examine_cluster(cluster: str, file: Path | None, as_json: bool) -> None:
    """The preflight of a search, printed; of the quickstart where no file is given. Exits where something is amiss."""
    from hpsearch.cluster_package import job_folder
    from hpsearch.cluster_preflight import preflight
    from hpsearch.doctor import quickstart

    jobs = _jobs(cluster)
    spec = _spec(file, None, None) if file else quickstart()
    with job_folder(spec) as folder:
        found = preflight(jobs, spec, folder)
    if as_json:
        click.echo(json.dumps([finding.__dict__ for finding in found.findings], indent=2))
    else:
        _print_findings(found.findings)
    if not all(finding.ok for finding in found.findings):
        sys.exit(USER_ERROR)


def statuses_on(cluster: str) -> list[dict[str, Any]]:
    """How all searches of a cluster stand."""
    from hpsearch.cluster_command import statuses

    return statuses(_jobs(cluster), ())


def _jobs(cluster: str | None) -> Jobs:
    """First contact with the cluster that the user names, or with the default of the config file."""
    from hpsearch.cluster_config import find_cluster
    from hpsearch.cluster_jobs import Jobs

    return Jobs(find_cluster(cluster or "", os.environ))


def _spec(file: Path, name: str | None, slots: int | None) -> Spec:
    from hpsearch.plan import check_budget
    from hpsearch.spec import load_spec, with_overrides
    from hpsearch.targets import resolve_target

    spec = with_overrides(load_spec(file), {"name": name, "slots": slots}, "command line")
    check_budget(spec, str(file))
    resolve_target(spec.target, spec)
    return spec


def _answer(act: Callable[[], Any]) -> None:
    """The line that the client reads; what is wrong is told to the user there."""
    from hpsearch.cluster_jobs import ANSWER_MARK

    try:
        answer = {"answer": act()}
    except UserError as error:
        answer = {"error": str(error)}
    click.echo(ANSWER_MARK + json.dumps(answer))


def _print_findings(findings: list[Finding]) -> None:
    for finding in findings:
        click.echo(f"{'ok  ' if finding.ok else 'BAD '} {finding.name:12} {finding.text}")


def _follow(jobs: Jobs, job_id: str) -> None:
    try:
        jobs.follow(job_id, _write)
    except KeyboardInterrupt:
        click.echo(f"\n{job_id} goes on", err=True)


def _write(text: str) -> None:
    click.echo(text, nl=False)
