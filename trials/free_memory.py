"""How much memory there is for stacks."""

from __future__ import annotations

import math
from pathlib import Path

import psutil
import torch

from trials.engine import Engine

MEMORY_SHARE = 0.8  # of what is free when the device is taken; the rest is for everybody else
CGROUPS = Path("/sys/fs/cgroup")
OWN_CGROUP = Path("/proc/self/cgroup")


def free_bytes(engine: Engine) -> float:
    """Memory that the stacks of a device may take, unless a search says so itself."""
    if engine.device != "cpu":
        return MEMORY_SHARE * torch.cuda.mem_get_info()[0]
    return MEMORY_SHARE * min(psutil.virtual_memory().available, free_under_limits(CGROUPS, OWN_CGROUP))


def free_under_limits(cgroups: Path, own: Path) -> float:
    """Bytes that the limits of this process's container still allow; infinite where there are none.

    A container sees the memory of its whole machine; what it may have of it is in its control group, or in one above.
    Files that the kernel keeps in memory count as used there, but those it would drop are free.

    Args:
        cgroups: where the control groups (version 2) are mounted.
        own: the file that says in which one the process is, in a line `0::/path`.

    Source: Linux, Documentation/admin-guide/cgroup-v2.rst, "Memory Interface Files".
    """
    try:
        lines = own.read_text(encoding="utf-8").splitlines()
    except OSError:
        return math.inf
    path = next((line.removeprefix("0::/") for line in lines if line.startswith("0::/")), "")
    group = cgroups / path
    return min(_free_in(folder) for folder in (group, *group.parents) if folder.is_relative_to(cgroups))


def _free_in(group: Path) -> float:
    try:
        limit = (group / "memory.max").read_text(encoding="utf-8").strip()
        used = int((group / "memory.current").read_text(encoding="utf-8"))
        kept = dict(line.split() for line in (group / "memory.stat").read_text(encoding="utf-8").splitlines())
    except (OSError, ValueError):  # the root has none; outside of Linux there are no groups
        return math.inf
    return math.inf if limit == "max" else max(0.0, int(limit) - used + int(kept.get("inactive_file", 0)))
