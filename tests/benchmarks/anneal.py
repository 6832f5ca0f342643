"""What is an annealed rung worth? Three questions, answered by training on real text (width 64, depth 2).

1. Is the annealed loss at a rung that of a separate run whose budget ends there? To the bit.
2. How far is it from that of a cosine run of the same budget? Five paired seeds.
3. Does the loss at an early rung rank trials as their final losses will? Annealed against raw, over trials that
   differ in learning rate, warmup and weight decay.

    python -m tests.benchmarks.anneal [--json] [--output FILE.svg] [--tokens 600000]
"""

from __future__ import annotations

import json
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from rich.console import Console
from scipy import stats

from hpsearch.plan import run_config
from tests.benchmarks.harness import config_of, open_device, read_options, spec_of, train, whole_steps
from trials.device import Device
from trials.trial import Measurement, TrialConfig

SEEDS = range(5)
NUM_TRIALS = 24
RATE = 2**-8.0
SPACE = {
    "learning_rate": {"low": 2**-11, "high": 2**-5},
    "warmup_fraction": {"low": 0.005, "high": 0.05},
    "weight_decay": {"low": 0.01, "high": 0.64},
}


@dataclass(frozen=True)
class Answer:
    """What was found; losses in nats a token."""

    bitwise: bool
    annealed: list[float]  # WSD at the first rung, a seed each
    cosine: list[float]  # a cosine run of the same budget, the same seeds
    extra_share: float  # tokens of the branches over those of the trunks
    rank_annealed: list[float]  # Spearman's correlation with the final loss, at each earlier rung
    rank_raw: list[float]
    kept_annealed: list[float]  # share of the best third at the end that was in the best third at the rung
    kept_raw: list[float]


def same_as_a_run_of_its_own(device: Device, rungs: list[int], folder: Path) -> bool:
    """Whether each rung's loss is that of a fresh trial with this rung alone."""
    config = config_of(spec_of([64]), 0, rungs[-1], RATE, 0)
    (through,) = train(device, [(config, rungs)], folder / "through")
    alone = train(device, [(config, [rung]) for rung in rungs], folder / "alone")
    return [m.loss for m in through] == [measured[0].loss for measured in alone]


def against_cosine(device: Device, rung: int, last: int, folder: Path) -> tuple[list[float], list[float]]:
    """Losses at the rung, of a WSD trial on its way further and of a cosine to a tenth that ends there.

    The warmup of both is of the same tokens.
    """
    wsd = [config_of(spec_of([64]), 0, last, RATE, seed) for seed in SEEDS]
    fixed = {"batch_sequences": 8, "warmup_tokens": wsd[0].warmup_tokens, "decay_share": 1.0, "decay_floor": 0.1}
    cosine_spec = spec_of([64], fixed=fixed, schedule={"decay": "cosine"})
    cosine = [config_of(cosine_spec, 0, rung, RATE, seed) for seed in SEEDS]
    both = train(device, [(config, [rung]) for config in [*wsd, *cosine]], folder)
    losses = [measured[0].loss for measured in both]
    return losses[: len(SEEDS)], losses[len(SEEDS) :]


def sampled(last: int) -> list[TrialConfig]:
    """Trials spread over the space by a scrambled Sobol sequence."""
    spec = spec_of([64], space=SPACE, fixed={"batch_sequences": 8})
    points = stats.qmc.Sobol(len(SPACE), rng=np.random.default_rng(0)).random_base2(5)[:NUM_TRIALS]
    shape = spec.architecture(spec.ladder[0])
    configs = []
    for point in points:
        values = {
            name: d["low"] * (d["high"] / d["low"]) ** u for (name, d), u in zip(SPACE.items(), point, strict=True)
        }
        configs.append(run_config(spec, shape, last, values, 0))
    return configs


def spearman(losses: list[float], final: list[float]) -> float:
    """Spearman's rank correlation."""
    return float(stats.spearmanr(losses, final).statistic)


def kept(losses: list[float], final: list[float]) -> float:
    """Share of the best third at the end that is in the best third here."""
    third = len(final) // 3
    return len(set(np.argsort(losses)[:third]) & set(np.argsort(final)[:third])) / third


def answer(device: Device, tokens: int) -> tuple[Answer, list[list[Measurement]]]:
    """Trains, and answers all three questions; with the measurements of the last one."""
    rungs = [whole_steps(tokens / 9), whole_steps(tokens / 3), whole_steps(tokens)]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        bitwise = same_as_a_run_of_its_own(device, rungs, folder / "bitwise")
        annealed, cosine = against_cosine(device, rungs[1], rungs[2], folder / "cosine")
        every = train(device, [(config, rungs) for config in sampled(rungs[-1])], folder / "ranked")
    ended = [measured for measured in every if len(measured) == len(rungs) and measured[-1].checkpoint]
    final = [measured[-1].loss for measured in ended]
    at = [([m[rung].loss for m in ended], [m[rung].raw_loss for m in ended]) for rung in range(len(rungs) - 1)]
    flops = [sum(m.flops for measured in ended for m in measured), sum(m.anneal_flops for t in ended for m in t)]
    last_branches = sum(measured[-1].anneal_flops for measured in ended)
    found = Answer(
        bitwise=bitwise,
        annealed=annealed,
        cosine=cosine,
        extra_share=(flops[1] - last_branches) / (flops[0] + last_branches),
        rank_annealed=[spearman(losses, final) for losses, _ in at],
        rank_raw=[spearman(raw, final) for _, raw in at],
        kept_annealed=[kept(losses, final) for losses, _ in at],
        kept_raw=[kept(raw, final) for _, raw in at],
    )
    return found, ended


def draw(path: Path, found: Answer, ended: list[list[Measurement]]) -> None:
    """Losses at the first rung against final ones, raw and annealed."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.6), layout="constrained")
    final = [measured[-1].loss for measured in ended]
    panels = (
        ("raw", [m[0].raw_loss for m in ended], found.rank_raw),
        ("annealed", [m[0].loss for m in ended], found.rank_annealed),
    )
    for axes, (name, losses, ranks) in zip(figure.subplots(1, 2), panels, strict=True):
        axes.scatter(losses, final, s=18)
        axes.set(xlabel=f"{name} loss at a ninth of the tokens", ylabel="final loss")
        axes.set_title(f"{name}: rank correlation {ranks[0]:.2f}")
    figure.savefig(path)


def main() -> None:
    options = read_options(__doc__, "anneal.svg", tokens=600_000)
    device, _ = open_device()
    found, ended = answer(device, options.tokens)
    draw(options.output, found, ended)
    if options.json:
        print(json.dumps(asdict(found), indent=2))
        return
    difference = 100 * (np.array(found.cosine) / np.array(found.annealed) - 1)
    print_ = Console(width=120).print
    print_(f"a rung's annealed loss is that of a run of its own, to the bit: {found.bitwise}")
    print_(
        f"a cosine run of the same budget is {difference.mean():+.2f} % (sd {difference.std(ddof=1):.2f} %, 5 seeds)"
    )
    print_(f"branches at earlier rungs cost {found.extra_share:.1%} more tokens")
    for rung, share in enumerate(("a ninth", "a third")):
        print_(
            f"at {share} of the tokens: rank correlation with the final loss {found.rank_annealed[rung]:.2f} annealed, "
            f"{found.rank_raw[rung]:.2f} raw; of the best third {found.kept_annealed[rung]:.0%} and "
            f"{found.kept_raw[rung]:.0%} are found ({len(ended)} trials)"
        )


if __name__ == "__main__":
    main()
