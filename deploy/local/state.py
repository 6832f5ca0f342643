"""What a local deployment is: a folder with its ports, secrets, data and logs.

STATE/state.json      which ports, how many CPUs; the random name that its processes are known by
STATE/env             for the shell of a client
STATE/config.yaml     the cluster for `hpsearch --cluster`
STATE/secrets/        0600 each
STATE/logs/           one log a part
STATE/postgres/       databases: ledgers, MLflow, MLflow's users
STATE/artifacts/      of MLflow
STATE/storage/        checkpoints of searches
STATE/searches/       logs and reports of searches
"""

from __future__ import annotations

import json
import os
import secrets
import shlex
import socket
import sys
import tempfile
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path

import yaml

LOOPBACK = "127.0.0.1"
RAY_ENV = Path(__file__).parents[1] / "ray.env"
PORTS = (
    "postgres",
    "mlflow",
    "jobs",  # Ray's dashboard, which serves the Jobs API
    "gcs",
    "ray-client",
    "autoscaler-metrics",
    "dashboard-metrics",
    "worker-1",
    "worker-2",
)
PASSWORDS = ("ray-token", "postgres", "hpsearch", "mlflow", "mlflow-admin", "mlflow-session-key")


@dataclass(frozen=True)
class State:
    """One local deployment; ports and names stay the same as long as its folder exists."""

    folder: Path
    name: str
    ports: dict[str, int]
    cpus_per_node: int
    ray_temp: Path  # short: Ray's sockets must fit in 107 characters

    @property
    def jobs_url(self) -> str:
        return f"http://{LOOPBACK}:{self.ports['jobs']}"

    @property
    def mlflow_url(self) -> str:
        return f"http://{LOOPBACK}:{self.ports['mlflow']}"

    @property
    def ledger_url(self) -> str:
        """Without the password, which is in the file of PGPASSFILE."""
        return f"postgresql://hpsearch@{LOOPBACK}:{self.ports['postgres']}/hpsearch"

    def secret_file(self, name: str) -> Path:
        return self.folder / "secrets" / name

    def secret(self, name: str) -> str:
        return self.secret_file(name).read_text()

    def log(self, role: str) -> Path:
        return self.folder / "logs" / f"{role}.log"

    def client_environment(self) -> dict[str, str]:
        """What a client's shell needs."""
        return {
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(self.secret_file("ray-token")),
            "HPSEARCH_CONFIG": str(self.folder / "config.yaml"),
            **self._mlflow_login(),
        }

    def cluster_environment(self) -> dict[str, str]:
        """What the Ray nodes are started in: the searches on them find ledger, MLflow and storage there."""
        return {
            **read_env_file(RAY_ENV),
            "RAY_AUTH_TOKEN_PATH": str(self.secret_file("ray-token")),
            "HPSEARCH_HOME": str(self.folder / "searches"),
            "HPSEARCH_LEDGER": self.ledger_url,
            "HPSEARCH_MLFLOW": self.mlflow_url,
            "HPSEARCH_STORAGE": str(self.folder / "storage"),
            "PGPASSFILE": str(self.secret_file("pgpass-hpsearch")),
            **self._mlflow_login(),
        }

    def _mlflow_login(self) -> dict[str, str]:
        return {"MLFLOW_TRACKING_USERNAME": "admin", "MLFLOW_TRACKING_PASSWORD": self.secret("mlflow-admin")}


def machine_environment() -> dict[str, str]:
    """The environment of `up`, less what would lead a part elsewhere; this interpreter's commands come first."""
    kept = {name: value for name, value in os.environ.items() if name not in ("RAY_ADDRESS", "MLFLOW_TRACKING_URI")}
    return {**kept, "PATH": os.pathsep.join((str(Path(sys.executable).parent), kept.get("PATH", os.defpath)))}


def read_env_file(path: Path) -> dict[str, str]:
    """NAME=VALUE lines -> a dictionary; comments and empty lines are skipped."""
    lines = (line.strip() for line in path.read_text().splitlines())
    pairs = (line.split("=", 1) for line in lines if line and not line.startswith("#"))
    return {name: value for name, value in pairs}


def load(folder: Path) -> State | None:
    """The deployment whose folder this is, or None."""
    try:
        told = json.loads((folder / "state.json").read_text())
    except FileNotFoundError:
        return None
    return State(folder, told["name"], told["ports"], told["cpus_per_node"], Path(told["ray_temp"]))


def create(folder: Path, cpus_per_node: int, ports: dict[str, int]) -> State:
    """A new deployment's folder with its ports (those not given are free ones) and fresh secrets."""
    for part in ("", "secrets", "logs"):
        (folder / part).mkdir(mode=0o700, parents=True, exist_ok=True)
    for part in ("postgres", "artifacts", "storage", "searches"):
        (folder / part).mkdir(mode=0o700, exist_ok=True)
    free = free_ports([name for name in PORTS if name not in ports])
    ray_temp = Path(tempfile.mkdtemp(prefix="hpsearch-ray-"))
    state = State(folder, secrets.token_hex(8), {**free, **ports}, cpus_per_node, ray_temp)
    _write_secrets(state)
    write_private(folder / "env", _exports(state.client_environment()))
    write_private(folder / "config.yaml", _config(state))
    told = {**asdict(state), "ray_temp": str(ray_temp)}
    del told["folder"]
    write_private(folder / "state.json", json.dumps(told, indent=1))
    return state


def free_ports(names: list[str]) -> dict[str, int]:
    """A different port for each name, which nobody listens on now."""
    with ExitStack() as held:
        sockets = {name: held.enter_context(socket.socket()) for name in names}
        for probe in sockets.values():
            probe.bind((LOOPBACK, 0))
        return {name: probe.getsockname()[1] for name, probe in sockets.items()}


def write_private(path: Path, text: str) -> None:
    """Writes a file that only its owner may read, from its first byte on."""
    path.unlink(missing_ok=True)
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)


def _write_secrets(state: State) -> None:
    for name in PASSWORDS:
        write_private(state.secret_file(name), secrets.token_hex(32))
    for user in ("postgres", "hpsearch", "mlflow"):
        entry = f"{LOOPBACK}:{state.ports['postgres']}:*:{user}:{state.secret(user)}\n"
        write_private(state.secret_file(f"pgpass-{user}"), entry)


def _exports(environment: dict[str, str]) -> str:
    return "".join(f"export {name}={shlex.quote(value)}\n" for name, value in environment.items())


def _config(state: State) -> str:
    cluster = {
        "address": state.jobs_url,
        "token_file": str(state.secret_file("ray-token")),
        "mlflow": state.mlflow_url,
    }
    return yaml.safe_dump({"clusters": {"local": cluster}, "default_cluster": "local"}, sort_keys=False)
