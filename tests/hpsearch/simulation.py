"""The real conductor over trials that are not trained: a loss with a known optimum stands for the models."""

from __future__ import annotations

import math
import tempfile
import weakref
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hpsearch.conductor import Conductor
from hpsearch.decisions import Idle
from hpsearch.events import ConfirmOpened, ConfirmPlan, Opened, Predicted, Resumed
from hpsearch.folder import SearchFolder
from hpsearch.home import Home
from hpsearch.ledger import Ledger
from hpsearch.spec import Size, Spec, check_spec
from hpsearch.state import fold
from trials.trial import Assignment, Measurement, Outcome

SPEC: dict[str, Any] = {
    "name": "simulated",
    "context_tokens": 32,
    "ladder": [{"width": width, "depth": 1, "heads": 2, "trials": 9} for width in (16, 32)],
    "space": {"learning_rate": {"low": 1e-3, "high": 6.4e-2}, "weight_decay": {"low": 0.01, "high": 0.64}},
    "fixed": {"batch_sequences": 4, "warmup_fraction": 0.05},
    "sampler": {"name": "tpe"},  # the surface is fitted again and again: too slow for thousands of simulated searches
    "scheduler": {"name": "asha", "rung_ratios": [1.0, 3.0, 9.0]},
    "slots": 1,
    "budget_flops": 1e12,
    "repeats": 2,
    "target": {"width": 64, "depth": 2, "heads": 2, "tokens": 5e5},
}
# Every section that a search may have, with a value that is not its default.
EVERYTHING: dict[str, Any] = {
    **SPEC,
    "ladder": [{**proxy, "heads": proxy["width"] // 8} for proxy in SPEC["ladder"]],
    "model": {"kind": "llama", "head_size": 8, "heads_per_kv": 2, "feed_forward_ratio": 3.0},
    "parametrization": {"rule": "mup", "base_width": 8, "base_depth": 2, "base_head_size": 4},
    "optimizer": "muon",
    "weight_decay_convention": "independent",
    "schedule": {"decay": "cosine"},
    "batch_ramp": {"start_sequences": 1, "ramp_fraction": 0.05},
    "device": {"kind": "cpu", "precision": "bfloat16", "compile": False, "memory_bytes": 2**30},
    "space": {
        "learning_rate": {"low": 1e-3, "high": 6.4e-2},
        "timescale": {"low": 0.05, "high": 1.0},
        "qk_norm": {"values": [0, 1]},
        "z_loss": {"values": [1e-5, 1e-4], "when": {"qk_norm": 0}},
        "muon_momentum": {"low": 0.9, "high": 0.98},
    },
    "fixed": {
        "batch_size": 4,
        "warmup_steps": 5,
        "decay_floor": 0.1,
        "hidden_rate_ratio": 2.0,
        "embedding_rate_ratio": 4.0,
        "unembedding_rate_ratio": 0.5,
        "vector_rate_ratio": 3.0,
        "init_std": 0.03,
        "embedding_multiplier": 2.0,
        "output_multiplier": 0.25,
        "logit_softcap": 30.0,
        "eps": 1e-9,
    },
}
SIZE = Size(width=48, depth=1, heads=2, tokens=2e5)  # between ladder and target
PROOF_SHAPE: dict[str, Any] = {"width": 48, "depth": 1, "heads": 6, "tokens_per_parameter": 3.0, "trials": 5}


@dataclass(frozen=True)
class World:
    """What a configuration loses: a bowl around an optimum that drifts with N and D, and a cliff above it."""

    cliff_octaves: float = 2.5  # above the optimum, where every trial diverges
    noise: float = 0.003  # relative sd over seeds

    def best_log2_rate(self, params: float, tokens: float) -> float:
        """log2 of the best learning rate."""
        return -6.0 - 0.3 * math.log2(params / 4000) - 0.1 * math.log2(tokens / 12000)

    def measure(self, assignment: Assignment) -> Measurement:
        """What the trial reports at the rung of its assignment."""
        config, tokens = assignment.config, assignment.rung_tokens
        params = config.architecture.params
        octaves = math.log2(config.learning_rate) - self.best_log2_rate(params, tokens)
        if octaves > self.cliff_octaves:
            return report(assignment, math.inf)
        floor = 2.0 + 30.0 * params**-0.4 + 40.0 * tokens**-0.45
        bowl = 0.02 * octaves**2 + 0.002 * math.log2(max(config.weight_decay, 1e-3) / 0.1) ** 2
        seed = [config.seed, tokens, zlib.crc32(repr(config).encode())]
        return report(assignment, floor * (1 + bowl + self.noise * np.random.default_rng(seed).standard_normal()))


def report(assignment: Assignment, loss: float) -> Measurement:
    """A measurement of a given loss; infinite stands for a trial that diverged."""
    config, tokens = assignment.config, assignment.rung_tokens
    start = int(assignment.resume_from[0].split("@")[1]) if assignment.resume_from else 0
    branch = config.branch_tokens(tokens)
    measured = math.isfinite(loss)
    seen = loss if measured else 0.0
    return Measurement(
        trial_id=assignment.trial_id,
        tokens=tokens,
        outcome=Outcome.MEASURED if measured else Outcome.DIVERGED,
        message="" if measured else "diverged",
        loss=seen,
        raw_loss=seen,
        far_loss=seen,
        train_loss=seen,
        gradient_norm=1.0,
        update_ratio=0.01,
        max_attention_logit=5.0,
        spikes=0,
        unique_tokens=tokens,
        flops=config.segment_flops(start, branch),
        anneal_flops=config.segment_flops(branch, tokens),
        checkpoint=f"{assignment.save_to}@{branch}" if measured else "",
        slots=1,
        group=1,
        precision="float32",
        compiled=False,
        device="simulated",
        threads=1,
        seconds=0.0,
    )


def scratch() -> tempfile.TemporaryDirectory[str]:
    """A folder for one of many searches: in memory where there is such a place, as a commit syncs to disk."""
    return tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None)


def spec_of(**changes: Any) -> Spec:
    """The simulated search with some keys replaced."""
    return check_spec({**SPEC, **changes}, "simulation")


def begin(folder: Path, spec: Spec) -> Conductor:
    """A new search."""
    folder.mkdir(exist_ok=True)
    ledger = Ledger(folder / "ledger.sqlite")
    opened = Opened(
        spec=spec.model_dump(mode="json"), corpus_id="corpus", tokenizer_id="tokens", versions={}, incarnation="a"
    )
    ledger.create(opened)
    return _conductor(ledger)


def resume(folder: Path, incarnation: str) -> Conductor:
    """The search as a new driver finds it."""
    ledger = Ledger(folder / "ledger.sqlite")
    ledger.append(Resumed(incarnation=incarnation, versions={}))
    return _conductor(ledger)


def confirm(folder: Path, plan: ConfirmPlan, incarnation: str = "confirm") -> Conductor:
    """A confirm of the complete search in a folder."""
    ledger = Ledger(folder / "ledger.sqlite")
    ledger.append(ConfirmOpened(plan=plan, incarnation=incarnation, versions={}))
    return _conductor(ledger)


def drive(conductor: Conductor, world: World, slots: int = 1, seed: int = 0, transactions: float = math.inf) -> bool:
    """Searches until nothing is left to decide or enough was written; trials arrive in a seeded random order.

    Returns:
        Whether nothing is left.
    """
    arrivals = np.random.default_rng(seed)
    while transactions > 0:
        transactions -= 1
        decision = conductor.decide()
        running = list(conductor.state.running.values())
        if isinstance(decision, Predicted):
            conductor.predict(decision)
        elif not isinstance(decision, Idle) and len(running) < slots:
            conductor.start(decision)
        elif running:
            trial = running[int(arrivals.integers(len(running)))]
            conductor.measured(world.measure(conductor.assignment(trial)))
        else:
            assert decision is Idle.FINISHED, "a search that waits for nothing"
            return True
    return False


def _conductor(ledger: Ledger) -> Conductor:
    state = fold(((entry.seq, entry.event) for entry in ledger.read()), "simulation")
    assert isinstance(ledger.address, Path)
    conductor = Conductor(ledger, state, SearchFolder(Home(ledger.address.parent), state.spec.name))
    weakref.finalize(conductor, ledger.close)  # a test drops its conductor as a kill does
    return conductor
