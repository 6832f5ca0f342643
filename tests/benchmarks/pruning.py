"""What pruning saves and what it loses, on a real search on real text in which nothing was pruned.

The quickstart's ladder is explored with quasi-random trials that all run to their last rung (each one audited), so
every outcome is known; then the rules are replayed on them in random orders: plain ASHA on raw losses, ASHA on annealed
losses, and the surface. About ten minutes on two cores:

    python -m tests.benchmarks.pruning [--seed 0] [--home FOLDER] [--json]
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import yaml

QUICKSTART = Path(__file__).parents[2] / "search_spaces" / "quickstart.yaml"
NAME = "unpruned"
NUM_ORDERS = 40
RULES = (("asha", "raw_loss"), ("asha", "loss"), ("surface", "loss"))


def unpruned_search(seed: int) -> dict[str, Any]:
    """The quickstart with every trial audited, no proof and no repeats."""
    spec = yaml.safe_load(QUICKSTART.read_text())
    del spec["proof"]
    spec["scheduler"]["audit_share"] = 1.0
    return {**spec, "name": NAME, "sampler": {"name": "qmc"}, "repeats": 0, "seed": seed, "budget_flops": 1e14}


def hpsearch(*arguments: str) -> str:
    """The output of a command."""
    command = [sys.executable, "-m", "hpsearch", *arguments]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def replayed(home: Path, scheduler: str, metric: str) -> dict[str, Any]:
    """One rule on the recorded trials."""
    rule = ["--scheduler", scheduler, "--metric", metric, "--sampler", "random", "--seeds", str(NUM_ORDERS)]
    return dict(json.loads(hpsearch("replay", NAME, "--home", str(home), *rule, "--json")))


def main() -> None:
    """Runs the search where it is not there yet, and replays the rules."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--home", type=Path, help="where the search is kept; a second run takes it from there")
    parser.add_argument("--json", action="store_true", dest="as_json")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        home = options.home or Path(folder)
        if not (home / NAME).exists():
            file = Path(folder) / f"{NAME}.yaml"
            file.write_text(yaml.safe_dump(unpruned_search(options.seed)))
            hpsearch("run", str(file), "--home", str(home), "--quiet")
        results = {f"{scheduler} on {metric}": replayed(home, scheduler, metric) for scheduler, metric in RULES}
    print(json.dumps(results, indent=2) if options.as_json else table(results))


def table(results: dict[str, dict[str, Any]]) -> str:
    """A line a rule: means over the orders with 80 % intervals."""
    lines = ["| rule | compute saved | regret of the best kept | false prunes |", "|---|---|---|---|"]
    for rule, report in results.items():
        (outcome,) = (scheduler["in_all"] for scheduler in report["schedulers"].values())
        cells = [cell(outcome[key]) for key in ("saved", "regret")]
        lines.append(f"| {rule} | {' | '.join(cells)} | {cell(outcome['false_prune_rate'])} of the pruned |")
    return "\n".join(lines)


def cell(estimate: dict[str, Any]) -> str:
    """A share with its interval."""
    low, high = estimate["interval80"]
    return f"{estimate['value']:.1%} ({low:.1%} to {high:.1%})"


if __name__ == "__main__":
    main()
