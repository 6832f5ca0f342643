"""The scripts of deploy/ that can run without containers, Kubernetes or Slurm, run."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
import yaml

from deploy.local import postgres, processes
from deploy.local.state import LOOPBACK, State, create, free_ports
from deploy.probe import NotReady, probe_mlflow

DEPLOY = Path(__file__).parents[2] / "deploy"
BIN = Path(sys.executable).parent
PATIENCE_S = 120.0


@pytest.fixture
def database(tmp_path: Path) -> Iterator[State]:
    """A PostgreSQL with nothing in it but what postgres-init.sh makes."""
    state = create(tmp_path / "state", 1, {})
    for user in ("hpsearch", "mlflow"):
        shutil.copy(state.secret_file(user), tmp_path / f"{user}_password")
    part = postgres.part(state)
    processes.start(part.command, f"{state.name}/postgres", part.environment, state.log("postgres"))
    try:
        await_login(state)
        variables = {
            "PATH": f"{postgres.find_binaries()}:/usr/bin:/bin",
            "SECRETS": str(tmp_path),
            "PGHOST": LOOPBACK,
            "PGPORT": str(state.ports["postgres"]),
            "PGPASSWORD": state.secret("postgres"),
        }
        script = [DEPLOY / "postgres-init.sh"]
        done = subprocess.run(script, env=variables, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr
        yield state
    finally:
        processes.end(state.name)
        state.ray_temp.rmdir()


def await_login(state: State) -> None:
    for _ in range(100):
        try:
            postgres.connect(state, "postgres", state.secret("postgres"), "postgres").close()
            return
        except psycopg.OperationalError:
            time.sleep(0.1)
    raise AssertionError(state.log("postgres").read_text())


def test_the_init_script_makes_databases_that_only_their_owners_open(database: State) -> None:
    for name, user in postgres.OWNERS.items():
        with postgres.connect(database, user, database.secret(user), name) as session:
            session.execute("CREATE TABLE mine ()")
    with pytest.raises(psycopg.OperationalError, match="permission denied"):
        postgres.connect(database, "hpsearch", database.secret("hpsearch"), "mlflow_auth")


@pytest.mark.slow
def test_the_images_mlflow_server_serves_whom_it_should(database: State, tmp_path: Path) -> None:
    port = database.ports["mlflow"]
    url = f"http://{LOOPBACK}:{port}"
    environment = {
        "PATH": f"{BIN}:/usr/bin:/bin",
        "TMPDIR": str(tmp_path),
        "HOST": LOOPBACK,
        "PORT": str(port),
        "DATABASES": f"postgresql+psycopg://mlflow@{LOOPBACK}:{database.ports['postgres']}",
        "ARTIFACTS": str(tmp_path),
        "ALLOWED_HOSTS": f"{LOOPBACK}:{port}",
        "PGPASSWORD_FILE": str(database.secret_file("mlflow")),
        "MLFLOW_AUTH_ADMIN_PASSWORD_FILE": str(database.secret_file("mlflow-admin")),
        "MLFLOW_FLASK_SERVER_SECRET_KEY_FILE": str(database.secret_file("mlflow-session-key")),
    }
    command = [str(DEPLOY / "docker" / "entrypoint"), str(DEPLOY / "docker" / "mlflow-server")]
    processes.start(command, f"{database.name}/mlflow", environment, database.log("mlflow"))
    deadline = time.monotonic() + PATIENCE_S
    while True:
        try:
            return probe_mlflow(url, "admin", database.secret("mlflow-admin"))
        except NotReady as error:
            assert time.monotonic() < deadline, f"{error}\n{database.log('mlflow').read_text()}"
        time.sleep(0.5)


SRUN = """#!/bin/bash
# Slurm's, for one machine: its options are skipped.
while [[ $1 == --* ]]; do shift; done
exec "$@"
"""
SCONTROL = """#!/bin/sh
echo here
"""
HPSEARCH = f"""#!{sys.executable}
import os, ray, sys
ray.init()
print("searching", sys.argv[1:], len(ray.nodes()), "node", ray.cluster_resources()["CPU"], "CPUs")
print("mode of the token", oct(os.stat(os.environ["RAY_AUTH_TOKEN_PATH"]).st_mode & 0o777), os.environ["RAY_AUTH_MODE"])
sys.exit(3)
"""


@pytest.mark.slow
def test_the_slurm_script_starts_ray_runs_the_search_and_leaves_nothing(tmp_path: Path) -> None:
    for name, text in {"srun": SRUN, "scontrol": SCONTROL, "hpsearch": HPSEARCH}.items():
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    for folder in ("deploy/slurm", "home"):
        (tmp_path / folder).mkdir(parents=True)
    shutil.copy(DEPLOY / "ray.env", tmp_path / "deploy")
    site = f"export HPSEARCH_HOME={tmp_path}/home HPSEARCH_LEDGER=ledger HPSEARCH_MLFLOW=mlflow\n"
    (tmp_path / "deploy/slurm/site.env").write_text(site)
    environment = {
        "PATH": f"{tmp_path}:{BIN}:/usr/bin:/bin",
        "SLURM_SUBMIT_DIR": str(tmp_path),
        "SLURM_JOB_ID": str(free_ports(["gcs"])["gcs"] - 20000),
        "SLURM_JOB_NODELIST": "here",
        "SLURM_CPUS_PER_TASK": "1",
        processes.MARK: "test-of-slurm",
    }
    script = ["bash", str(DEPLOY / "slurm" / "hpsearch.sbatch"), "search.yaml"]
    try:
        done = subprocess.run(
            script, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=150, check=False
        )
        shown = done.stdout + done.stderr
        assert done.returncode == 3, shown  # that of the search
        assert f"searching ['run', '{tmp_path}/search.yaml'] 1 node 1.0 CPUs" in done.stdout, shown
        assert "mode of the token 0o600 token" in done.stdout
        assert list((tmp_path / "home").iterdir()) == []  # the token is gone
        assert processes.find("test-of-slurm") == []
    finally:
        processes.end("test-of-slurm")
        shutil.rmtree(f"/tmp/ray-{environment['SLURM_JOB_ID']}", ignore_errors=True)


def test_secrets_are_made_once_and_closed(tmp_path: Path) -> None:
    script = Path(shutil.copy(DEPLOY / "docker" / "make-secrets", tmp_path))
    subprocess.run([script], check=True)
    made = {file.name: file.read_text() for file in (tmp_path / "secrets").iterdir()}
    compose = yaml.safe_load((DEPLOY / "docker" / "compose.yaml").read_text())
    assert set(made) == set(compose["secrets"]) and all(len(secret) == 64 for secret in made.values())
    assert (tmp_path / "secrets").stat().st_mode & 0o077 == 0
    subprocess.run([script], check=True)
    assert {file.name: file.read_text() for file in (tmp_path / "secrets").iterdir()} == made


def test_entrypoint_turns_files_into_variables(tmp_path: Path) -> None:
    (tmp_path / "password").write_text("s3cret\n")
    command = [str(DEPLOY / "docker" / "entrypoint"), "sh", "-c", 'echo "$PGPASSWORD"']
    environment = {"PATH": "/usr/bin:/bin", "PGPASSWORD_FILE": str(tmp_path / "password")}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == "s3cret\n"
