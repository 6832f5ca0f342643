"""What a container may have of its machine's memory, as the kernel tells it."""

from __future__ import annotations

import math
from pathlib import Path

import psutil
import pytest

from tests.trials.conftest import ENGINE
from trials import free_memory
from trials.free_memory import MEMORY_SHARE, free_bytes, free_under_limits


def group(folder: Path, limit: str, used: int, inactive: int = 0) -> None:
    """A control group as the kernel shows it."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "memory.max").write_text(f"{limit}\n")
    (folder / "memory.current").write_text(f"{used}\n")
    (folder / "memory.stat").write_text(f"anon 1\nfile 2\ninactive_file {inactive}\n")


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """The file that says where this process is."""
    file = tmp_path / "own"
    file.write_text("0::/pod/container\n")
    return file


def test_the_limit_less_what_is_used_and_would_not_be_dropped(tmp_path: Path, own: Path) -> None:
    group(tmp_path / "groups" / "pod" / "container", "4000", 1500, inactive=300)
    assert free_under_limits(tmp_path / "groups", own) == 4000 - 1500 + 300


@pytest.mark.parametrize(("outer", "free"), [("max", 2500), ("9000", 2500), ("3000", 1000)])
def test_the_narrowest_limit_on_the_way_up_counts(tmp_path: Path, own: Path, outer: str, free: int) -> None:
    group(tmp_path / "groups" / "pod", outer, 2000)
    group(tmp_path / "groups" / "pod" / "container", "4000", 1500)
    assert free_under_limits(tmp_path / "groups", own) == free


def test_more_in_use_than_is_allowed_leaves_nothing(tmp_path: Path, own: Path) -> None:
    group(tmp_path / "groups" / "pod" / "container", "1000", 1500)
    assert free_under_limits(tmp_path / "groups", own) == 0.0


def test_without_groups_there_is_no_limit(tmp_path: Path, own: Path) -> None:
    assert free_under_limits(tmp_path / "groups", own) == math.inf
    assert free_under_limits(tmp_path / "groups", tmp_path / "absent") == math.inf


def test_a_device_takes_its_share_of_the_less(tmp_path: Path, own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(free_memory, "CGROUPS", tmp_path / "groups")
    monkeypatch.setattr(free_memory, "OWN_CGROUP", own)
    assert free_bytes(ENGINE) == pytest.approx(MEMORY_SHARE * psutil.virtual_memory().available, rel=0.2)
    group(tmp_path / "groups" / "pod" / "container", str(10**6), 0)
    assert free_bytes(ENGINE) == MEMORY_SHARE * 10**6
