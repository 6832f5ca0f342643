"""SIGKILL of every part of a search at random moments: it goes on, and nothing of it is lost, done twice, or otherwise.

`make check` kills three parts once, on this machine alone; `make chaos` kills all six, each also twice in a row, with
a PostgreSQL and an MLflow server that are as mortal as the rest.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from hpsearch.folder import SearchFolder
from hpsearch.home import Home
from hpsearch.ledger import Entry
from tests.chaos import witnesses
from tests.chaos.harness import Kill, Part, Service, Survivor, draw_kills, hpsearch
from tests.hpsearch.mlflow_server import MlflowServer
from tests.postgres_server import postgres_server

Services = dict[Part, Service]
SEEDS = {part: 100 * number for number, part in enumerate(Part)}


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """A home without services."""
    return Home(tmp_path_factory.mktemp("alone"))


@pytest.fixture(scope="module")
def unbroken(alone: Home, cache: Path) -> list[Entry]:
    """The search with one slot that nothing happened to."""
    folder = SearchFolder(alone, "unbroken")
    survived(folder, cache, {}, [], slots=1)
    return witnesses.entries_of(folder)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Home, Services]]:
    """A home with a PostgreSQL and an MLflow server."""
    path = tmp_path_factory.mktemp("served")
    with postgres_server(path / "postgres") as postgres, MlflowServer(path / "mlflow") as mlflow:
        services = {
            Part.POSTGRES: Service(postgres.kill, postgres.start),
            Part.MLFLOW: Service(mlflow.kill, mlflow.start),
        }
        os.environ["PGPASSWORD"] = postgres.password
        yield Home(path / "home", ledger=postgres.url, mlflow=mlflow.uri), services
        del os.environ["PGPASSWORD"]


def survived(folder: SearchFolder, cache: Path, services: Services, kills: list[Kill], slots: int) -> None:
    """Runs a search through its kills, and asks every witness that needs no other search."""
    home = folder.home
    options = ["--home", str(home.path), "--ledger", home.ledger, "--mlflow", home.mlflow, "--cache", str(cache)]
    with Survivor(folder, options, services) as survivor:
        survivor.survive(kills, slots)
    print(*survivor.told, sep="\n")
    hpsearch("sync", folder.name, *options[:6])
    hpsearch("check", folder.name, *options[:4])
    entries = witnesses.entries_of(folder)
    witnesses.decisions_are_recomputed(entries)
    witnesses.nothing_is_lost(entries)
    witnesses.nothing_is_measured_twice(entries)
    witnesses.segments_start_at_their_rung(entries)
    witnesses.segments_are_saved_once(survivor.trail.seen, entries)
    witnesses.recorded_once(folder, entries)


@pytest.mark.slow
@pytest.mark.parametrize("part", [Part.DRIVER, Part.STACK_ACTOR, Part.WORKER], ids=lambda part: part.name.lower())
def test_a_kill_shows_nowhere(part: Part, alone: Home, cache: Path, unbroken: list[Entry]) -> None:
    folder = SearchFolder(alone, part.name.lower())
    survived(folder, cache, {}, draw_kills(part, SEEDS[part]), slots=1)
    witnesses.same_search(witnesses.entries_of(folder), unbroken)


@pytest.mark.chaos
@pytest.mark.parametrize("slots", [1, 4])
@pytest.mark.parametrize("count", [1, 2], ids=["once", "twice"])
@pytest.mark.parametrize("part", list(Part), ids=lambda part: part.name.lower())
def test_any_part_may_die(
    part: Part, count: int, slots: int, served: tuple[Home, Services], cache: Path, unbroken: list[Entry]
) -> None:
    home, services = served
    folder = SearchFolder(home, f"{part.name.lower()}-{count}-{slots}")
    survived(folder, cache, services, draw_kills(part, SEEDS[part] + 10 * count + slots, count), slots)
    if slots == 1:
        witnesses.same_search(witnesses.entries_of(folder), unbroken)
