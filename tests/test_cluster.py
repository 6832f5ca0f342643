"""From a fresh shell to a cluster and back: submit, follow, stop, go on; and what is wrong is told within seconds."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from deploy.local import processes
from deploy.local.state import LOOPBACK, free_ports
from hpsearch.check import check_ledger
from hpsearch.events import Closed
from hpsearch.exit_codes import USER_ERROR
from hpsearch.folder import SearchFolder
from hpsearch.home import Home
from hpsearch.ledger import Ledger
from tests.conftest import REPOSITORY
from tests.local_deployment import LocalDeployment, local_deployment

pytestmark = pytest.mark.cluster

TIMEOUT_S = 240
TINY = REPOSITORY / "search_spaces" / "tiny.yaml"
# Two Python interpreters with different versions of hpsearch, as far as either can tell.
OTHER_VERSION = "Metadata-Version: 2.1\nName: hpsearch\nVersion: 99.0\n"


@pytest.fixture(scope="module")
def deployment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalDeployment]:
    with local_deployment(tmp_path_factory.mktemp("cluster")) as deployment:
        yield deployment


def hpsearch(*words: object, env: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    """A command as a user of a fresh shell gives it."""
    command = [sys.executable, "-m", "hpsearch", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, env=dict(env))


def answered(*words: object, env: Mapping[str, str]) -> Any:
    """What a command that must succeed prints, as JSON."""
    done = hpsearch(*words, "--json", env=env)
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout)


def refused(*words: object, env: Mapping[str, str]) -> str:
    """What a command says that must fail; it must be a message for a user."""
    done = hpsearch(*words, env=env)
    assert done.returncode == USER_ERROR and "Traceback" not in done.stderr, done.stdout + done.stderr
    return done.stderr


def long_search(folder: Path) -> Path:
    """A search whose second rung takes minutes."""
    data = yaml.safe_load(TINY.read_text())
    data["scheduler"]["rung_ratios"], data["budget_flops"] = [20.0, 4000.0], 2.0e14
    data["fixed"]["warmup_fraction"] = 0.003
    file = folder / "long.yaml"
    file.write_text(yaml.safe_dump({**data, "name": "long"}))
    return file


def ledger_of(deployment: LocalDeployment, name: str, monkeypatch: pytest.MonkeyPatch) -> Ledger:
    """A search's ledger, read from the database itself."""
    monkeypatch.setenv("PGPASSFILE", deployment.cluster_environment["PGPASSFILE"])
    return Ledger(SearchFolder(Home(Path("unused"), ledger=deployment.state.ledger_url), name).ledger)


def test_a_search_runs_on_both_nodes_and_its_log_streams(
    deployment: LocalDeployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    env = deployment.client_environment
    followed = hpsearch("submit", TINY, "--name", "both", "--follow", env=env)
    assert followed.returncode == 0, followed.stdout + followed.stderr
    assert "both: submitted, job both" in followed.stdout and "recommended for" in followed.stdout
    entries = ledger_of(deployment, "both", monkeypatch).read()
    closed = entries[-1].event
    assert isinstance(closed, Closed) and closed.complete and closed.device_seconds["devices"] == 2
    assert check_ledger(entries).differences == ()
    [listed] = [one for one in answered("list", "--cluster", env=env) if one["name"] == "both"]
    assert listed["state"] == "complete" and listed["job"] == "both SUCCEEDED"
    # The whole of what any holder of the token can read of a job holds none of the secrets.
    jobs = deployment_page(deployment, "/api/jobs/")
    assert not [name for name in SECRETS if deployment.state.secret(name) in jobs]
    assert "is complete; choose another --name" in refused("submit", TINY, "--name", "both", env=env)


SECRETS = ("ray-token", "postgres", "hpsearch", "mlflow", "mlflow-admin")


def deployment_page(deployment: LocalDeployment, path: str) -> str:
    import urllib.request

    headers = {"Authorization": f"Bearer {deployment.state.secret('ray-token')}"}
    with urllib.request.urlopen(
        urllib.request.Request(deployment.state.jobs_url + path, headers=headers), timeout=30
    ) as page:
        return str(page.read().decode())


def test_a_search_is_stopped_and_goes_on_after_its_head_was_lost(
    deployment: LocalDeployment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    env, file = deployment.client_environment, long_search(tmp_path)
    assert answered("submit", file, env=env)["job"] == "long"
    assert "already, job long; follow it with `hpsearch logs long -f" in refused("submit", file, env=env)
    ledger = ledger_of(deployment, "long", monkeypatch)
    wait_for(lambda: ledger.exists() and any(entry.event.kind == "measured" for entry in ledger.read()))
    status = answered("status", "long", "--cluster", env=env)
    assert status["state"] == "running" and status["running"] and status["job"] == "long RUNNING"
    stopped = answered("stop", "long", "--cluster", env=env)
    assert stopped["state"] == "stopped" and "STOPPED" in stopped["counts"] and stopped["driver"] == ""
    assert "stopped; go on with" in hpsearch("logs", "long", "--cluster", env=env).stdout
    measured = [entry.event for entry in ledger.read() if entry.event.kind == "measured"]
    saved = [event.measurement["checkpoint"] for event in measured if event.measurement["checkpoint"]]
    assert saved and all(Path(file).is_file() for file in saved)

    deployment.kill("head")
    deployment.restart("head")
    assert "has no job of it since its head was started" in refused("logs", "long", "--cluster", env=env)
    assert answered("status", "long", "--cluster", env=env)["state"] == "stopped"
    other = tmp_path / "other.yaml"
    other.write_text(file.read_text() + "seed: 7\n")
    assert "that the file does not describe; choose another --name" in refused("submit", other, env=env).replace(
        "\n", " "
    )
    assert answered("submit", file, env=env)["resumed"]
    wait_for(lambda: ledger.read()[-1].event.kind in ("promoted", "asked", "resumed"))
    assert answered("stop", "long", "--cluster", env=env)["drivers_so_far"] == 2
    assert check_ledger(ledger.read()).differences == ()


def wait_for(is_true: Any) -> None:
    deadline_s = time.monotonic() + TIMEOUT_S
    while not is_true():
        assert time.monotonic() < deadline_s
        time.sleep(0.3)


def test_what_a_client_has_wrong_is_told(deployment: LocalDeployment, tmp_path: Path) -> None:
    env = {name: value for name, value in deployment.client_environment.items() if not name.startswith("RAY_AUTH")}
    address = deployment.state.jobs_url
    assert "wants a token, and there is none" in refused("submit", TINY, "--cluster", address, env=env)
    wrong = {**env, "RAY_AUTH_TOKEN": "0" * 64}
    assert "refuses the token of RAY_AUTH_TOKEN" in refused("submit", TINY, "--cluster", address, env=wrong)
    nobody = f"http://{LOOPBACK}:{free_ports(['nobody'])['nobody']}"
    assert "does not answer as Ray does" in refused("submit", TINY, "--cluster", nobody, env=env)
    (tmp_path / "hpsearch-99.0.dist-info").mkdir()
    (tmp_path / "hpsearch-99.0.dist-info" / "METADATA").write_text(OTHER_VERSION)
    other = {**env, "PYTHONPATH": os.pathsep.join([str(tmp_path), env.get("PYTHONPATH", "")])}
    assert "hpsearch 99.0 here, " in refused("submit", TINY, "--cluster", "local", env=other)


@contextmanager
def unfit_cluster(deployment: LocalDeployment, folder: Path) -> Iterator[str]:
    """A cluster of one node, whose environment names MLflow by a foreign host and storage that is not there."""
    ports = free_ports(["gcs", "jobs", "ray-client"])
    environment = {
        **deployment.cluster_environment,
        "HPSEARCH_MLFLOW": deployment.state.mlflow_url.replace(LOOPBACK, "127.1"),
        "HPSEARCH_STORAGE": str(folder / "absent"),
        "HPSEARCH_LEDGER": deployment.state.ledger_url.replace("/hpsearch", "/absent"),
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        "RAY_TMPDIR": str(deployment.state.ray_temp / "unfit"),
    }
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", "--disable-usage-stats"]
    options = {
        "--port": ports["gcs"],
        "--dashboard-host": LOOPBACK,
        "--dashboard-port": ports["jobs"],
        "--ray-client-server-port": ports["ray-client"],
        "--temp-dir": deployment.state.ray_temp / "unfit",
        "--node-ip-address": LOOPBACK,
        "--num-cpus": 1,
        "--object-store-memory": 2**27,
        "--dashboard-agent-listen-port": 0,
    }
    words = [word for name, value in options.items() for word in (name, str(value))]
    mark = f"unfit-{os.getpid()}"
    processes.start([*command, *words], mark, environment, folder / "ray.log")
    try:
        yield f"http://{LOOPBACK}:{ports['jobs']}"
    finally:
        processes.end(mark)


def test_what_a_cluster_has_wrong_is_told_all_at_once(deployment: LocalDeployment, tmp_path: Path) -> None:
    env = deployment.client_environment
    with unfit_cluster(deployment, tmp_path) as address:
        wait_for(lambda: hpsearch("list", "--cluster", address, env=env).returncode in (0, USER_ERROR))
        wait_for(lambda: "mlflow" in hpsearch("doctor", TINY, "--cluster", address, env=env).stdout)
        said = refused("submit", TINY, "--cluster", address, "--name", "unfit", env=env)
    assert "mlflow: " in said and "answers 403" in said and "--allowed-hosts" in said
    assert f"storage: {tmp_path / 'absent'}: no such folder; mount or make it, or correct HPSEARCH_STORAGE" in said
    assert "ledger: " in said and "absent" in said
    assert not [process for process in psutil.process_iter() if "unfit" in " ".join(process_words(process))]


def process_words(process: psutil.Process) -> list[str]:
    try:
        return list(process.cmdline())
    except psutil.Error:
        return []
