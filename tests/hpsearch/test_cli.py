"""The commands as a person types them: what they print, and with which exit code they end."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from hpsearch import cli
from hpsearch.folder import SearchFolder
from tests.conftest import REPOSITORY

QUICKSTART = REPOSITORY / "search_spaces" / "quickstart.yaml"


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    """Runs the command line in this process; returns its exit code."""
    monkeypatch.setattr(sys, "argv", ["hpsearch", *arguments])
    try:
        cli.main()
    except SystemExit as exit:
        return int(exit.code or 0)
    return 0


@pytest.mark.parametrize("command", sorted(cli.cli.commands))
def test_every_command_teaches(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, command, "--help") == 0
    assert len(capsys.readouterr().out.splitlines()) >= 6


def test_a_dry_run_starts_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert run(monkeypatch, "run", str(QUICKSTART), "--dry-run", "--home", str(tmp_path)) == 0
    assert "quickstart" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"spce": {}}, "spce: unknown key"),
        ({"space": {"learning_rate": {"low": 0.1, "high": 0.001}}}, "low must be below high"),
        ({"space": {"learning_rate": {"low": 0.0, "high": 0.001}}}, "a log scale needs low above 0"),
        ({"ladder": [{"width": 32, "depth": 2, "heads": 3, "trials": 4}]}, "must divide the width 32, got 3"),
        ({"text": {"source": "/nowhere/text.txt"}}, "/nowhere/text.txt"),
        ({"target": {"width": 8, "depth": 1, "heads": 1, "tokens": 1e6}}, "must not be smaller than the ladder's"),
        ({"budget_flops": 1e6}, "raise it to at least"),
    ],
)
def test_a_mistake_costs_nothing(
    change: dict[str, object],
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    file = tmp_path / "search.yaml"
    file.write_text(yaml.safe_dump({**yaml.safe_load(QUICKSTART.read_text()), **change}))
    home = tmp_path / "home"
    assert run(monkeypatch, "run", str(file), "--home", str(home), "--cache", str(tmp_path / "cache")) == 2
    error = capsys.readouterr().err
    assert said in error and "Traceback" not in error
    assert len(error.splitlines()) <= 24
    assert not home.exists()


def test_unknown_searches_are_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tiny: SearchFolder
) -> None:
    assert run(monkeypatch, "recommend", "tinny", "--home", str(tiny.home.path)) == 2
    assert "known: tiny" in capsys.readouterr().err


def test_list_and_check(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tiny: SearchFolder
) -> None:
    assert run(monkeypatch, "list", "--json", "--home", str(tiny.home.path)) == 0
    assert [row["state"] for row in json.loads(capsys.readouterr().out) if row["name"] == "tiny"] == ["complete"]
    assert run(monkeypatch, "check", "tiny", "--home", str(tiny.home.path)) == 0
    assert "0 differ" in capsys.readouterr().out


def test_export_reproduces_the_recipe_to_the_byte(
    monkeypatch: pytest.MonkeyPatch, tiny: SearchFolder, tmp_path: Path
) -> None:
    first, output = tmp_path / "first.yaml", tmp_path / "recipe.yaml"
    for path in (first, output):
        assert run(monkeypatch, "export", "tiny", "-o", str(path), "--accept-reach", "--home", str(tiny.home.path)) == 0
    assert output.read_bytes() == first.read_bytes()
    if tiny.recipe.exists():  # so small a search may find that its own target is out of reach
        assert output.read_bytes() == tiny.recipe.read_bytes()


def test_a_target_out_of_reach_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tiny: SearchFolder, tmp_path: Path
) -> None:
    target = ["tiny", "--target", "gpt3-1.3b", "--home", str(tiny.home.path)]
    assert run(monkeypatch, "recommend", *target, "--json") == 0
    assert "reach" in json.loads(capsys.readouterr().out)["refused"]
    output = tmp_path / "recipe.yaml"
    assert run(monkeypatch, "export", *target, "-o", str(output)) == 2
    assert "--accept-reach" in capsys.readouterr().err and not output.exists()
    assert run(monkeypatch, "export", *target, "-o", str(output), "--accept-reach") == 0
    assert yaml.safe_load(output.read_text())["architecture"]["width"] == 2048


def test_a_target_by_keys_and_by_file_is_the_same(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tiny: SearchFolder, tmp_path: Path
) -> None:
    file = tmp_path / "target.yaml"
    file.write_text("width: 64\ndepth: 3\nheads: 4\ntokens: 4.0e+5\n")
    printed = []
    for target in ("width=64,depth=3,heads=4,tokens=4.0e5", str(file)):
        options = ["--target", target, "--format", "json", "--accept-reach", "--home", str(tiny.home.path)]
        assert run(monkeypatch, "export", "tiny", *options) == 0
        printed.append(json.loads(capsys.readouterr().out))
    assert printed[0] == printed[1]


def test_numpy_has_one_thread_so_that_decisions_come_out_alike_on_any_machine() -> None:
    """The last bits of a product depend on how many threads share it."""
    script = (
        "import sys; sys.argv = ['hpsearch', '--version']\n"
        "from hpsearch.cli import main; main()\n"
        "import numpy, threadpoolctl\n"
        "print([pool['num_threads'] for pool in threadpoolctl.threadpool_info() if pool['user_api'] == 'blas'])"
    )
    environment = {**os.environ, "OMP_NUM_THREADS": "2", "OPENBLAS_NUM_THREADS": "2"}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[1]"
