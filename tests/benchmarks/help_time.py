"""How long `hpsearch --help` takes, beside a Python that does nothing. Run: python -m tests.benchmarks.help_time"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time

RUNS = 9


def median_s(*arguments: str) -> float:
    """Median wall time of a Python process."""
    seconds = []
    for _ in range(RUNS):
        started_s = time.monotonic()
        subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)
        seconds.append(time.monotonic() - started_s)
    return statistics.median(seconds)


if __name__ == "__main__":
    help_s, nothing_s = median_s("-m", "hpsearch", "--help"), median_s("-c", "pass")
    print(f"hpsearch --help {help_s:.2f} s, an empty Python {nothing_s:.2f} s, ratio {help_s / nothing_s:.1f}")
