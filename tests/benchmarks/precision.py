"""Does a loss with bfloat16 products agree with one in float32? Paired trials of width 64, depth 2, on real text.

python -m tests.benchmarks.precision [--json] [--tokens 200000]
"""

from __future__ import annotations

import argparse
import json
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from tests.benchmarks.harness import config_of, open_device, spec_of, train, whole_steps

OCTAVES = (-11.0, -10.0, -9.0, -8.0, -7.0)  # learning rates, as powers of two
SEEDS = (0, 1, 2)


@dataclass(frozen=True)
class Agreement:
    """Percent of the loss."""

    mean_difference: float  # bfloat16 over float32
    largest_difference: float
    seed_noise: float  # sd over seeds at one rate, in float32
    same_best_rate: bool


def losses(precision: str, tokens: int) -> np.ndarray:
    """`(rates, seeds)`, compiled."""
    device, _ = open_device(precision)
    run_tokens, spec = whole_steps(tokens), spec_of([64])
    trials = [(config_of(spec, 0, run_tokens, 2**octave, seed), [run_tokens]) for octave in OCTAVES for seed in SEEDS]
    with tempfile.TemporaryDirectory() as folder:
        measured = [rungs[-1].loss for rungs in train(device, trials, Path(folder))]
    return np.array(measured).reshape(len(OCTAVES), len(SEEDS))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--tokens", type=int, default=200_000)
    options = parser.parse_args()
    exact, fast = losses("float32", options.tokens), losses("bfloat16", options.tokens)
    difference = 100 * (fast / exact - 1)
    found = Agreement(
        mean_difference=float(difference.mean()),
        largest_difference=float(np.abs(difference).max()),
        seed_noise=float(100 * np.sqrt((exact.std(1, ddof=1) ** 2).mean()) / exact.mean()),
        same_best_rate=bool(exact.mean(1).argmin() == fast.mean(1).argmin()),
    )
    if options.json:
        print(json.dumps(asdict(found), indent=2))
        return
    print(f"bfloat16 over float32: {found.mean_difference:+.3f} %, at most {found.largest_difference:.3f} % apart;")
    print(f"one run's noise over seeds {found.seed_noise:.2f} %; the same best rate: {found.same_best_rate}")


if __name__ == "__main__":
    main()
