"""Lanes work items off side by side, and trials in lanes are what they are alone."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.trials.conftest import CONFIG, ENGINE, VALIDATION_TOKENS, segment
from trials.device import Device
from trials.lanes import Lanes
from trials.tokens import TokenSet

TIMEOUT_S = 60


@given(st.lists(st.integers(1, 5), max_size=12), st.integers(1, 4))
def test_every_item_is_worked_off_to_its_end(items: list[int], count: int) -> None:
    done, lock = list[int](), threading.Lock()

    def work(item: int) -> int | None:
        with lock:
            done.append(item)
        return item - 1 or None

    Lanes(count, threads=1).work_off(items, work)
    assert sorted(done) == sorted(step for item in items for step in range(1, item + 1))


def test_lanes_work_side_by_side_with_their_share_of_threads() -> None:
    meeting = threading.Barrier(3, timeout=TIMEOUT_S)  # broken where items are worked off one after the other
    threads = list[int]()

    def work(item: int) -> None:
        threads.append(torch.get_num_threads())
        meeting.wait()

    Lanes(3, threads=1).work_off(range(3), work)
    assert threads == [1, 1, 1]


def test_error_is_raised_once_the_others_have_ended() -> None:
    failed, ended = threading.Event(), list[int]()

    def work(item: int) -> None:
        if item == 0:
            failed.set()
            raise MemoryError
        assert failed.wait(TIMEOUT_S)
        ended.append(item)

    with pytest.raises(MemoryError):
        Lanes(2, threads=1).work_off(range(3), work)
    assert ended == [1, 2]


def test_trials_in_lanes_are_bitwise_those_alone(token_set: TokenSet, tmp_path: Path) -> None:
    """Six trials of two shapes in three lanes: no lane takes a neighbour's update for its own."""
    wide = replace(CONFIG.architecture, feed_forward_width=96)
    trials = [
        replace(CONFIG, seed=seed, architecture=shape) for seed in range(3) for shape in (CONFIG.architecture, wide)
    ]

    def losses(name: str, slots: int, lanes: int) -> list[tuple[float, float]]:
        device = Device(token_set, slots, VALIDATION_TOKENS, replace(ENGINE, lanes=lanes), float("inf"))
        asked = [segment(tmp_path / name, str(number), 40, trial) for number, trial in enumerate(trials)]
        with ThreadPoolExecutor(len(asked)) as pool:
            return [(m.loss, m.train_loss) for m in pool.map(device.advance, asked)]

    assert losses("side by side", slots=6, lanes=3) == losses("alone", slots=1, lanes=1)
