"""The tokens of a node that has none yet; where nodes find a text."""

from __future__ import annotations

import os
import random
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import ray

from hpsearch.halted import SearchHalted
from hpsearch.model_spec import DeviceSection
from hpsearch.nodes import Place, check_shared_storage, places
from hpsearch.runners import (
    MAX_DEATHS,
    DeviceSetup,
    RemoteStackActor,
    Shortfalls,
    StackActors,
    StackClient,
    StartGate,
    token_set_here,
)
from hpsearch.trainable import advance
from search_spaces.errors import UserError
from tests.trials.conftest import segment
from trials.corpus import CorpusSource
from trials.tokens import prepare


@pytest.fixture
def setup(tmp_path: Path) -> DeviceSetup:
    """What a driver sends, from a node whose cache the receiver has not."""
    words = random.Random(0).choices(["alpha", "beta", "gamma", "delta", "epsilon\n"], k=200_000)
    text = tmp_path / "text.txt"
    text.write_text(" ".join(words))
    source = CorpusSource("path", text)
    token_set = prepare(source, 300, tmp_path / "driver", lambda note: None)
    device = DeviceSection(compile=False, precision="float32")
    return DeviceSetup(token_set, source, 1, 1024, device, tmp_path / "node", 1.0)


def test_a_node_that_has_the_tokens_uses_them(setup: DeviceSetup) -> None:
    assert token_set_here(setup) == setup.token_set
    assert not setup.cache.exists()


def test_a_node_without_them_builds_the_same(setup: DeviceSetup) -> None:
    shutil.rmtree(setup.token_set.directory)
    found = token_set_here(setup)
    assert found == replace(setup.token_set, directory=found.directory)
    assert found.directory.is_relative_to(setup.cache)


def test_another_text_is_refused(setup: DeviceSetup) -> None:
    shutil.rmtree(setup.token_set.directory)
    setup.source.path.write_text(setup.source.path.read_text()[::-1])
    with pytest.raises(UserError, match="text: must be the same on every node, got corpus "):
        token_set_here(setup)


def test_a_gate_opens_when_the_last_worker_comes() -> None:
    gate = StartGate()
    assert [gate.arrive(worker) for worker in ("a", "b", "a")] == [0, 1, 0]
    gate.wait(2)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(gate.wait, 3)
        assert not waiting.done()
        gate.arrive("c")
        waiting.result(timeout=10)


def test_an_actor_tells_why_it_cannot_train(ray_session: None, setup: DeviceSetup) -> None:
    shutil.rmtree(setup.token_set.directory)
    setup.source.path.unlink()
    actor: Any = RemoteStackActor.options(num_cpus=0).remote(setup)
    try:
        assert str(setup.source.path) in ray.get(actor.fault.remote())
        with pytest.raises(SearchHalted, match=f"{setup.source.path}.*; then go on with resume"):
            ray.get(actor.advance.remote({}))
        here = [Place(ray.get_runtime_context().get_node_id(), 1, 0)]
        assert StackActors(("a",), (actor,), tuple(here)).device_seconds() == {}
    finally:
        ray.kill(actor)


@ray.remote
class DyingActor:
    """What the kernel makes of an actor that needs more memory than there is."""

    def advance(self, assignment: dict[str, Any]) -> None:
        os._exit(9)


def test_a_device_that_dies_again_and_again_halts_the_search(
    ray_session: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It had been started anew, with as much to do as before, for ever."""
    monkeypatch.setattr("hpsearch.trainable.RETRY_S", 0.1)
    name = f"dying-{tmp_path.name}"
    actor = DyingActor.options(name=name, num_cpus=0, max_restarts=-1).remote()  # type: ignore[attr-defined]  # of Ray
    try:
        with pytest.raises(SearchHalted, match=f"{name}: the device died {MAX_DEATHS} times .*lower slots"):
            advance(StackClient([name], 0, "", 1), segment(tmp_path, "a", 1))
    finally:
        ray.kill(actor)


def test_what_slows_a_device_is_said_once(ray_session: None, setup: DeviceSetup) -> None:
    """Two devices say the same; who asks does not wait for them."""
    wanted = replace(setup, device=DeviceSection(compile=True, precision="float32"))
    options = RemoteStackActor.options(num_cpus=0, runtime_env={"env_vars": {"CXX": "no-such-compiler"}})
    actors: list[Any] = [options.remote(wanted) for _ in range(2)]
    try:
        shortfalls, heard = Shortfalls(actors), list[str]()
        until_s = time.monotonic() + 120
        while not shortfalls.all_heard and time.monotonic() < until_s:
            heard += shortfalls.new()
        assert len(heard) == 1 and "no C++ compiler" in heard[0]
        assert shortfalls.new() == []
    finally:
        for actor in actors:
            ray.kill(actor)


@pytest.mark.parametrize(
    ("kind", "places_found"),
    [("auto", [Place("b", 4, 1), Place("b", 4, 1)]), ("cpu", [Place("a", 4, 0), Place("b", 8, 0)]), ("cuda", None)],
)
def test_places_are_of_the_kind_that_is_asked_for(
    monkeypatch: pytest.MonkeyPatch, kind: str, places_found: list[Place] | None
) -> None:
    resources = [{"CPU": 4.0}, {"CPU": 8.0, "GPU": 2.0}]
    nodes = [{"Alive": True, "NodeID": name, "Resources": has} for name, has in zip("ab", resources, strict=True)]
    monkeypatch.setattr("ray.nodes", lambda: nodes)
    if places_found is not None:
        assert [*places(kind)] == places_found
        return
    assert places(kind) == places("auto")
    monkeypatch.setattr("ray.nodes", lambda: nodes[:1])
    with pytest.raises(SearchHalted, match="device.kind: .*; say auto"):
        places(kind)


def test_a_single_node_shares_its_storage_with_itself(ray_session: None, tmp_path: Path) -> None:
    here = ray.get_runtime_context().get_node_id()
    check_shared_storage(str(tmp_path / "checkpoints"), [Place(here, 1, 0)])
    assert not (tmp_path / "checkpoints").exists(), "nothing is written where there is nobody to share with"
    with pytest.raises(SearchHalted, match="give --storage a folder that all nodes mount"):
        check_shared_storage("/dev/null/checkpoints", [Place("1" * 56, 1, 0)])
