"""The MLflow server: passwords, a list of Host headers, runs in PostgreSQL, artifacts served from the state folder."""

from __future__ import annotations

import sys

from deploy.local.part import Part
from deploy.local.state import LOOPBACK, State, machine_environment, write_private
from deploy.probe import probe_mlflow

# Every request would otherwise pay some 270 ms to hash the password again.
AUTH_CACHE_S = 60


def part(state: State) -> Part:
    """The server; passwords of databases come from PGPASSFILE, so that no command line shows one."""
    port, databases = state.ports["mlflow"], f"postgresql+psycopg://mlflow@{LOOPBACK}:{state.ports['postgres']}"
    users = state.folder / "mlflow-auth.ini"
    write_private(users, _auth_settings(f"{databases}/mlflow_auth"))
    options = {
        "--host": LOOPBACK,
        "--port": str(port),
        "--workers": "1",
        "--app-name": "basic-auth",
        "--allowed-hosts": f"{LOOPBACK}:{port},localhost:{port}",
        "--backend-store-uri": f"{databases}/mlflow",
        "--artifacts-destination": str(state.folder / "artifacts"),
    }
    command = [sys.executable, "-m", "mlflow", "server", "--serve-artifacts"]
    command += [word for pair in options.items() for word in pair]
    environment = {
        **machine_environment(),
        "PGPASSFILE": str(state.secret_file("pgpass-mlflow")),
        "MLFLOW_AUTH_CONFIG_PATH": str(users),
        "MLFLOW_AUTH_ADMIN_PASSWORD": state.secret("mlflow-admin"),
        "MLFLOW_FLASK_SERVER_SECRET_KEY": state.secret("mlflow-session-key"),
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # seven processes, 1.5 GB, and nothing here uses them
    }
    password = state.secret("mlflow-admin")
    return Part("mlflow", command, environment, lambda _: probe_mlflow(state.mlflow_url, "admin", password), 240)


def _auth_settings(database: str) -> str:
    return (
        "[mlflow]\n"
        "default_permission = READ\n"
        f"database_uri = {database}\n"
        "admin_username = admin\n"
        "authorization_function = mlflow.server.auth:authenticate_request_basic_auth\n"
        f"auth_cache_ttl_seconds = {AUTH_CACHE_S}\n"
    )
