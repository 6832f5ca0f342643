"""The local deployment: up, used, killed, mended, down."""

from __future__ import annotations

import os
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import psutil
import psycopg
import pytest

from deploy.local import processes
from deploy.local.deployment import ROLES, down, up
from deploy.local.postgres import connect
from deploy.local.state import LOOPBACK, PORTS, create, free_ports, load
from deploy.probe import NotReady, probe_jobs, probe_mlflow
from search_spaces.errors import UserError
from tests.local_deployment import LocalDeployment, local_deployment

JOB = "import os, ray; ray.init(); print('CPUs', ray.cluster_resources()['CPU'], os.environ['HPSEARCH_LEDGER'])"


@pytest.fixture(scope="module")
def deployment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalDeployment]:
    with local_deployment(tmp_path_factory.mktemp("local")) as deployment:
        yield deployment


def listening(deployment: LocalDeployment) -> dict[int, str]:
    """Port -> address, of all processes of a deployment."""
    started = [process for role in ROLES for process in deployment.processes(role)]
    return addresses([connection for process in started for connection in process.net_connections("inet")])


def addresses(connections: Sequence[Any]) -> dict[int, str]:
    """Port -> address, of those that listen."""
    return {each.laddr.port: each.laddr.ip for each in connections if each.status == psutil.CONN_LISTEN}


@pytest.mark.slow
def test_it_listens_on_loopback_only(deployment: LocalDeployment) -> None:
    ports = listening(deployment)
    assert {deployment.state.ports[name] for name in ("postgres", "mlflow", "jobs", "gcs")} <= set(ports)
    assert {address.removeprefix("::ffff:") for address in ports.values()} == {LOOPBACK}


@pytest.mark.slow
def test_each_part_refuses_a_stranger(deployment: LocalDeployment) -> None:
    state = deployment.state
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        connect(state, "hpsearch", state.secret("mlflow"), "hpsearch")
    with pytest.raises(
        psycopg.OperationalError, match="permission denied"
    ):  # what searches know opens no other database
        connect(state, "hpsearch", state.secret("hpsearch"), "mlflow_auth")
    probe_mlflow(state.mlflow_url, "admin", state.secret("mlflow-admin"))  # which tries to get in without it too
    with pytest.raises(NotReady, match="with the password: status 401"):
        probe_mlflow(state.mlflow_url, "admin", state.secret("mlflow"))
    probe_jobs(state.jobs_url, state.secret("ray-token"))
    with pytest.raises(NotReady, match="with the token: status 403"):
        probe_jobs(state.jobs_url, state.secret("mlflow"))


@pytest.mark.slow
def test_secrets_are_in_no_command_line_and_for_the_owner_only(deployment: LocalDeployment) -> None:
    state = deployment.state
    files = [*(state.folder / "secrets").iterdir(), state.folder / "env"]
    assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}
    shown = "\n".join(" ".join(process.cmdline()) for role in ROLES for process in deployment.processes(role))
    shown += "\n".join(state.log(role).read_text(errors="replace") for role in ROLES)
    for file in (state.folder / "secrets").iterdir():
        assert file.read_text().strip().split(":")[-1] not in shown


@pytest.mark.slow
def test_a_job_runs_on_both_workers_and_sees_the_clusters_environment(deployment: LocalDeployment) -> None:
    submit = [sys.executable, "-m", "ray.scripts.scripts", "job", "submit", "--address", deployment.state.jobs_url]
    done = subprocess.run(
        [*submit, "--", "python", "-c", JOB],
        env=deployment.client_environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert f"CPUs 2.0 {deployment.state.ledger_url}" in done.stdout, done.stdout + done.stderr


@pytest.mark.slow
def test_a_second_up_changes_nothing(deployment: LocalDeployment) -> None:
    before, told = {role: deployment.pid(role) for role in ROLES}, list[str]()
    up(deployment.state.folder, 1, {}, told.append)
    assert {role: deployment.pid(role) for role in ROLES} == before
    assert len(told) == len(ROLES) and all("is up already" in line for line in told)


@pytest.mark.slow
@pytest.mark.parametrize("role", ["postgres", "worker-2"])
def test_a_killed_part_comes_back_on_its_port_with_its_data(deployment: LocalDeployment, role: str) -> None:
    state, others = deployment.state, [other for other in ROLES if other != role]
    before = {other: deployment.pid(other) for other in others}
    with connect(state, "hpsearch", state.secret("hpsearch"), "hpsearch") as session:
        session.execute(f'CREATE TABLE "kept {role}" ()')
    deployment.kill(role)
    with pytest.raises(LookupError, match=role):
        deployment.pid(role)
    deployment.restart(role)
    assert {other: deployment.pid(other) for other in others} == before
    with connect(state, "hpsearch", state.secret("hpsearch"), "hpsearch") as session:
        session.execute(f'SELECT * FROM "kept {role}"')


@pytest.mark.slow
def test_down_ends_what_it_started_and_only_that(deployment: LocalDeployment) -> None:
    stranger = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    try:
        ports = listening(deployment)
        down(deployment.state.folder, print)
        down(deployment.state.folder, print)  # once more is no harm
        assert processes.find(deployment.state.name) == []
        assert not set(addresses(psutil.net_connections("inet"))) & set(ports)
        assert not deployment.state.ray_temp.exists()
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


def test_a_part_that_does_not_come_up_is_told_with_its_log_and_nothing_is_left(tmp_path: Path) -> None:
    folder, (name, port) = tmp_path / "state", next(iter(free_ports(["postgres"]).items()))
    with socket.socket() as taken:
        taken.bind((LOOPBACK, port))
        taken.listen()
        with pytest.raises(UserError, match=r"(?s)postgres ended.*postgres\.log ends with.*Address already in use"):
            up(folder, 1, {name: port}, print)
    state = load(folder)
    assert state is not None and processes.find(state.name) == []
    down(folder, print)  # after half an `up`


def test_down_of_a_folder_that_is_none_does_nothing(tmp_path: Path) -> None:
    down(tmp_path / "absent", print)
    down(tmp_path, print)
    assert list(tmp_path.iterdir()) == [tmp_path / "lock"]


def test_two_deployments_share_no_port_and_no_secret(tmp_path: Path) -> None:
    one, two = create(tmp_path / "one", 1, {}), create(tmp_path / "two", 1, {"mlflow": 5000})
    assert two.ports["mlflow"] == 5000 and set(one.ports) == set(PORTS)
    assert len({*one.ports.values(), *two.ports.values()}) == 2 * len(PORTS)
    assert one.name != two.name and one.secret("ray-token") != two.secret("ray-token")
    assert load(tmp_path / "two") == two
    for state in (one, two):
        os.rmdir(state.ray_temp)


def test_only_marked_processes_and_their_children_are_found_and_ended(tmp_path: Path) -> None:
    child = "import subprocess; subprocess.run(['sleep', '600'], env={}, start_new_session=True)"
    environment = dict(os.environ)
    first = processes.start([sys.executable, "-c", child], "mark-of-test/one", environment, tmp_path / "one.log")
    other = processes.start(["sleep", "600"], "mark-of-test-2/one", environment, tmp_path / "two.log")
    while len(processes.find("mark-of-test")) < 2:  # its child, whose environment is empty
        assert psutil.pid_exists(first)
    processes.end("mark-of-test/one")
    assert processes.find("mark-of-test") == [] and [each.pid for each in processes.find("mark-of-test-2/one")] == [
        other
    ]
    processes.end("mark-of-test-2")
    assert processes.find("mark-of-test-2") == []
