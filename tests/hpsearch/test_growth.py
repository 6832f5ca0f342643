"""What a decision costs does not grow with the number of trials."""

from __future__ import annotations

import sys
from math import inf
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

import hpsearch
from hpsearch.conductor import Conductor
from tests.hpsearch.simulation import World, begin, drive, scratch, spec_of

OURS = str(Path(hpsearch.__file__).parent)
TRANSACTIONS = 150  # of one look


class Instructions:
    """Counts the bytecode instructions of our own modules while it is entered: no clock, so no luck."""

    def __init__(self) -> None:
        self.count = 0

    def __enter__(self) -> Instructions:
        self._before = sys.gettrace()
        sys.settrace(self._trace)
        return self

    def __exit__(self, *_: object) -> None:
        sys.settrace(self._before)

    def _trace(self, frame: FrameType, event: str, _: Any) -> Any:
        if not frame.f_code.co_filename.startswith(OURS):
            return None
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        self.count += event == "opcode"
        return self._trace


def instructions_per_event(conductor: Conductor, world: World, num_trials: int) -> float:
    """Of the transactions that follow once so many trials were asked."""
    while len(conductor.state.trials) < num_trials:
        assert not drive(conductor, world, slots=3, transactions=50), "the search ended before"
    begun = conductor.state.seq
    with Instructions() as instructions:
        drive(conductor, world, slots=3, transactions=TRANSACTIONS)
    return instructions.count / (conductor.state.seq - begun)


@pytest.mark.parametrize("audit_share", [0.0, 0.3])
def test_a_decision_costs_the_same_whatever_came_before(audit_share: float) -> None:
    ladder = [{"width": width, "depth": 1, "heads": 2, "trials": trials} for width, trials in ((16, 1800), (32, 500))]
    rungs = {"name": "asha", "rung_ratios": [1.0, 3.0, 9.0], "audit_share": audit_share}
    with scratch() as folder:
        spec = spec_of(ladder=ladder, scheduler=rungs, sampler={"name": "random"}, budget_flops=1e18)
        conductor, world = begin(Path(folder), spec), World(cliff_octaves=inf)
        early = instructions_per_event(conductor, world, 300)
        late = instructions_per_event(conductor, world, 1500)
        assert late < 1.2 * early
