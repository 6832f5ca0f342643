"""`hpsearch ask-tell` as a tuner of the simulator: a process of its own, spoken to in lines of JSON."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from typing import Any

from tests.benchmarks.published import NAMES, Setting
from tests.benchmarks.tuning_problem import Config, Run, TuningProblem, flops

STOP_S = 30  # a process that was told to stop is given so long


class OurTuner:
    """One process, for one problem."""

    def __init__(self, problem: TuningProblem, budget_flops: float, priors: str, resume: bool) -> None:
        """Starts the process and tells it the problem.

        Args:
            budget_flops: What all runs together may cost.
            priors: `neutral` or `public`.
            resume: Whether a run that goes on from an earlier one costs only the difference.
        """
        self.problem = problem
        command = [sys.executable, "-m", "hpsearch", "ask-tell", "--priors", priors]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        start = {"type": "start", "problem": told_problem(problem, budget_flops, resume), "seed": problem.seed}
        self._expect(start, "ready")

    def ask(self, remaining_flops: float) -> Run | None:
        """The next run, clipped to the box and to a setting that may be run."""
        answer = self._answer({"type": "ask", "remaining": remaining_flops})
        if answer["type"] == "done":
            return None
        asked = answer["config"]
        setting = self.problem.nearest(asked["N"], asked["D"])
        return Run(self.problem.clip(named(asked)), setting, asked.get("parent"))

    def tell(self, run: Run, loss: float, cost_flops: float) -> None:
        """What really ran, and its loss."""
        parent = {} if run.parent is None else {"parent": run.parent}
        config = {**run.config, "N": run.setting.params, "D": run.setting.tokens, **parent}
        told = loss if math.isfinite(loss) else None
        self._send({"type": "tell", "config": config, "loss": told, "cost": cost_flops})

    def recommend(self) -> Config | None:
        """What it would run at the target."""
        target = told_setting(self.problem.target, self.problem)
        config = self._expect({"type": "recommend", "target": target}, "recommendation")["config"]
        return None if config is None else named(config)

    def close(self) -> None:
        """Ends the process."""
        if self.process.poll() is None:
            self._send({"type": "stop"})
        try:
            self.process.communicate(timeout=STOP_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.communicate()

    def _send(self, message: dict[str, Any]) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(message, allow_nan=False) + "\n")
        self.process.stdin.flush()

    def _answer(self, message: dict[str, Any]) -> dict[str, Any]:
        self._send(message)
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"ask-tell ended instead of an answer to {message['type']!r}: see its messages above")
        return dict(json.loads(line))

    def _expect(self, message: dict[str, Any], kind: str) -> dict[str, Any]:
        answer = self._answer(message)
        if answer["type"] != kind:
            raise RuntimeError(f"ask-tell answered {answer} to {message['type']!r}: {kind!r} was due")
        return answer


def told_problem(problem: TuningProblem, budget_flops: float, resume: bool) -> dict[str, Any]:
    """The problem as the protocol has it."""
    corners = zip(NAMES, 2**problem.low, 2**problem.high, strict=True)
    return {
        "name": f"{problem.track}-{problem.seed}",
        "track": problem.track,
        "box": {name: [float(low), float(high)] for name, low, high in corners},
        "settings": [told_setting(setting, problem) for setting in problem.settings],
        "target": told_setting(problem.target, problem),
        "budget": budget_flops,
        "full_cost": problem.full_cost,
        "resume": resume,
    }


def told_setting(setting: Setting, problem: TuningProblem) -> dict[str, float]:
    """A setting as the protocol has it; the sweep does not tell the size with its embedding."""
    budgets = sorted({s.tokens for s in (*problem.settings, problem.target) if s.params == setting.params})
    return {
        "N": setting.params,
        "N_total": setting.params,
        "D": setting.tokens,
        "width": setting.width,
        "depth": setting.depth,
        "cost": flops(setting),
        "rung": budgets.index(setting.tokens),
    }


def named(config: dict[str, Any]) -> Config:
    """The parameters alone."""
    return {name: float(config[name]) for name in NAMES}
