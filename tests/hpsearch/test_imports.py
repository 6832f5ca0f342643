"""Heavy libraries stay where they belong: each has its few files."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY

ALLOWED = {
    "torch": {"trials"},
    "ray": {
        "hpsearch/scheduler",
        "hpsearch/search",
        "hpsearch/trainable",
        "hpsearch/runners",
        "hpsearch/node_watch",
        "hpsearch/nodes",
        "hpsearch/ray_session",
        "hpsearch/cluster_jobs",
        "hpsearch/cluster_probe",
    },
    "mlflow": {
        "hpsearch/mlflow_store",
        "hpsearch/record",
        "hpsearch/recorded_search",
        "hpsearch/recorder",
        "hpsearch/run_contents",
        "hpsearch/sync_command",
        "hpsearch/imports/mlflow_runs",
    },
    "optuna": {
        "hpsearch/sampler",
        "hpsearch/imports/optuna_trials",
        "hpsearch/transfer/importance",
        "hpsearch/optuna_sampler",
    },
    "matplotlib": {
        "hpsearch/figure",
        "hpsearch/parametrization_figure",
        "hpsearch/plan_figure",
        "hpsearch/sensitivity_figure",
        "hpsearch/watch_figure",
        "hpsearch/svg",
    },
    "fsspec": {"trials/storage"},
    "trials": {"hpsearch", "trials"},
    "hpsearch": {"hpsearch"},
}
FILES = sorted(
    file for package in ("hpsearch", "search_spaces", "trials") for file in (REPOSITORY / package).rglob("*.py")
)


def imported(file: Path) -> Iterator[str]:
    """Top-level names of everything that a file imports, wherever in it."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield (node.module or "").partition(".")[0]


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(REPOSITORY)))
def test_imports_are_where_they_belong(file: Path) -> None:
    place = file.relative_to(REPOSITORY).with_suffix("").as_posix()
    for name in set(imported(file)) & set(ALLOWED):
        assert any(place == home or place.startswith(f"{home}/") for home in ALLOWED[name]), f"{place} imports {name}"


@pytest.mark.parametrize(
    ("module", "absent"),
    [
        ("hpsearch.cli", {"ray", "torch", "mlflow", "optuna", "pandas", "scipy", "sqlalchemy", "pydantic", "rich"}),
        ("hpsearch.trainable", {"torch", "mlflow", "optuna"}),
        ("hpsearch.runners", {"torch", "mlflow", "optuna"}),
        ("hpsearch.search", {"torch", "mlflow"}),
    ],
)
def test_a_light_module_stays_light(module: str, absent: set[str]) -> None:
    code = f"import sys, {module}; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert absent.isdisjoint(loaded)
