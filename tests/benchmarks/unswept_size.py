"""Is the recommended learning rate right at a size that the search never swept?

A real sweep there, of 7 learning rates with 3 paired seeds, judges the prediction by a smooth fit, not by the
luckiest run. Run after a quickstart (about 10 minutes on two cores):

    python -m tests.benchmarks.unswept_size [SEARCH] [HOME]
"""

from __future__ import annotations

import os
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import numpy.typing as npt
import platformdirs
from scipy import stats

from hpsearch.corpus_source import corpus_source
from hpsearch.folder import find_search
from hpsearch.home import Home
from hpsearch.plan import PROOF, rung_tokens, trial_config
from hpsearch.state import SearchState
from hpsearch.transfer.proof import fit_search
from hpsearch.trials_table import read_state
from trials.device import Device
from trials.engine import choose_engine
from trials.free_memory import free_bytes
from trials.tokens import prepare
from trials.trial import Assignment

NUM_RATES, SEEDS, SLOTS = 7, (0, 1, 2), 4
WINDOW = 0.12  # a smooth curve is fitted to losses this near the best
Floats = npt.NDArray[np.float64]


def sweep(state: SearchState, rates: Floats, folder: Path) -> Floats:
    """Losses `(seeds, rates)` at the proof's size, the other parameters as predicted."""
    spec = state.spec
    cache = Path(os.environ.get("HPSEARCH_CACHE", platformdirs.user_cache_path("hpsearch")))
    tokens = prepare(corpus_source(spec), spec.text.vocabulary, cache, print)
    engine = choose_engine(spec.device.precision, spec.device.compile, SLOTS, os.cpu_count() or 1)
    device = Device(tokens, SLOTS, spec.text.validation_tokens, engine, free_bytes(engine))
    assert state.prediction is not None

    def loss(seed: int, rate: float) -> float:
        assert state.prediction is not None
        config = trial_config(spec, PROOF, {**state.prediction.values, "learning_rate": rate}, seed)
        rung = rung_tokens(spec, PROOF, config.batch_sequences)[-1]
        name = f"{seed}-{rate:.6g}"
        measured = device.advance(Assignment(name, config, rung, (), str(folder / f"{name}.safetensors")))
        print(f"seed {seed} learning rate {rate:.3e}: {measured.outcome} {measured.loss:.4f}", flush=True)
        return measured.loss or float("inf")

    pairs = [(seed, float(rate)) for rate in rates for seed in SEEDS]
    with ThreadPoolExecutor(SLOTS + 1) as pool:
        losses = list(pool.map(lambda pair: loss(*pair), pairs))
    return np.array(losses).reshape(len(rates), len(SEEDS)).T


def smooth(octaves: Floats, losses: Floats) -> np.poly1d:
    """A cubic through the ln losses near the best: a bowl with one steeper side."""
    near = losses < (1 + WINDOW) * losses.min()
    return np.poly1d(np.polyfit(octaves[near], np.log(losses[near]), 3 if near.sum() > 4 else 2))


def judge(octaves: Floats, losses: Floats, predicted: float) -> tuple[float, float]:
    """Where one seed's smooth curve is least (octaves), and what the predicted value costs against it."""
    curve = smooth(octaves, losses)
    near = octaves[losses < (1 + WINDOW) * losses.min()]
    fine = np.linspace(near.min(), near.max(), 2001)
    best = float(fine[np.argmin(curve(fine))])
    return best, float(np.exp(curve(predicted) - curve(best)) - 1)


def main() -> None:
    name = sys.argv[1] if len(sys.argv) > 1 else "quickstart"
    folder = find_search(Home(Path(sys.argv[2] if len(sys.argv) > 2 else "runs").absolute()), name)
    state = read_state(folder.ledger)
    assert state.prediction is not None, "the search held no proof"
    low, high = state.spec.space["learning_rate"].ends
    rates = np.geomspace(low, high, NUM_RATES)
    with tempfile.TemporaryDirectory() as scratch:
        losses = sweep(state, rates, Path(scratch))
    octaves, predicted = np.log2(rates), float(np.log2(state.prediction.values["learning_rate"]))
    judged = np.array([judge(octaves, row, predicted) for row in losses])
    best, regret = judged.mean(axis=0)
    sd = judged.std(axis=0, ddof=1) / np.sqrt(len(SEEDS))
    reach = stats.t.ppf(0.9, len(SEEDS) - 1) * sd[0]
    noise = fit_search(state, proof=False).noise_fraction
    allowed = max(0.005, 2 * sd[1])
    print("\n| learning rate | " + " | ".join(f"{rate:.2e}" for rate in rates) + " |")
    print("|---" * (NUM_RATES + 1) + "|")
    for seed, row in zip(SEEDS, losses, strict=True):
        print(f"| seed {seed} | " + " | ".join(f"{loss:.3f}" for loss in row) + " |")
    print(
        f"\npredicted {2**predicted:.3g} [{state.prediction.low80['learning_rate']:.3g}, "
        f"{state.prediction.high80['learning_rate']:.3g}], measured {2**best:.3g} "
        f"[{2 ** (best - reach):.3g}, {2 ** (best + reach):.3g}]; regret {regret:.2%} (sd {sd[1]:.2%}, "
        f"allowed {allowed:.2%}), noise of one run {noise:.2%}"
    )


if __name__ == "__main__":
    main()
