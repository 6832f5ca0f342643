"""Every command of the README, run as a reader would, in the order in which they are printed."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY

pytestmark = pytest.mark.slow

README = (REPOSITORY / "README.md").read_text(encoding="utf-8")
COMMANDS = [line for block in re.findall(r"```sh\n(.*?)```", README, re.DOTALL) for line in block.splitlines() if line]
LIMIT_S = 2700.0  # generous: a loaded machine is no failure


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The reader's shell: our commands first in the path, searches and tokens in a folder of their own."""
    home = tmp_path_factory.mktemp("readme")
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return {**os.environ, "PATH": path, "HPSEARCH_HOME": str(home / "runs"), "HPSEARCH_CACHE": str(home / "cache")}


@pytest.mark.parametrize("command", COMMANDS)
def test_the_command_works(command: str, environment: dict[str, str], tmp_path: Path) -> None:
    if command == "make test":
        pytest.skip("this is the test run")
    if command.startswith("hpsearch ui"):
        assert_serves(command, environment)
        return
    where = REPOSITORY if "-o " not in command else tmp_path
    done = subprocess.run(
        command.split(), cwd=where, env=environment, capture_output=True, text=True, timeout=LIMIT_S, check=False
    )
    print(done.stdout)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert_said(command, done.stdout, Path(environment["HPSEARCH_HOME"]) / "quickstart")


def assert_said(command: str, printed: str, folder: Path) -> None:
    """What the README promises of a command."""
    if command == "make search":
        assert "learning_rate" in printed and "occupancy" in printed and "predicted" in printed
        assert (folder / "recommended.yaml").is_file() and (folder / "search.svg").is_file()
    if "gpt3" in command:
        assert "refused" in printed
    if command.startswith("hpsearch check"):
        assert " 0 differ" in printed


def assert_serves(command: str, environment: dict[str, str]) -> None:
    """The UI answers at the address that it prints."""
    server = subprocess.Popen(
        command.split(),
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )
    try:
        assert server.stdout is not None
        address = server.stdout.readline().strip()
        assert re.fullmatch(r"http://127\.0\.0\.1:\d+/#/experiments/\d+/runs", address)
        assert b"MLflow" in page(address.partition("#")[0])
    finally:
        os.killpg(server.pid, signal.SIGINT)
        server.communicate(timeout=60)


def page(address: str) -> bytes:
    """The page, once the server listens."""
    deadline_s = time.monotonic() + 120
    while True:
        try:
            with urllib.request.urlopen(address) as answer:
                content: bytes = answer.read()
                return content
        except OSError:
            if time.monotonic() > deadline_s:
                raise
            time.sleep(0.5)
