"""The picture of a plan: optimal N and D against compute with published runs, and regret against the tuning budget."""

from __future__ import annotations

from pathlib import Path

import matplotlib

matplotlib.use("Agg")  # no screen
matplotlib.rcParams["svg.hashsalt"] = "hpsearch"  # the same plan draws the same bytes

import numpy as np  # noqa: E402
from matplotlib import pyplot as plt  # noqa: E402
from matplotlib.axes import Axes  # noqa: E402

from hpsearch.transfer.big_run import BigRunPlan  # noqa: E402
from hpsearch.transfer.scaling_laws import SCALING_LAWS  # noqa: E402
from hpsearch.transfer.tuning_plan import ANSWER_BOUND  # noqa: E402

AXES = (("params", "params_total", "parameters N"), ("tokens", "tokens", "tokens D"))
COLORS = ("tab:blue", "tab:orange", "tab:green")


def draw_plan(plan: BigRunPlan, path: Path) -> None:
    """Three panels, written to a file whose name says the format."""
    figure, panels = plt.subplots(1, 3, figsize=(14, 4.4), layout="constrained")
    for axes, (name, published_name, label) in zip(panels[:2], AXES, strict=True):
        _draw_optimum(axes, plan, name, published_name)
        axes.set(xscale="log", yscale="log", xlabel="training compute C (FLOPs)", ylabel=f"best {label}")
    panels[0].legend(fontsize=7)
    _draw_tuning(panels[2], plan)
    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else {})
    plt.close(figure)


def _draw_optimum(axes: Axes, plan: BigRunPlan, name: str, published_name: str) -> None:
    low = min(plan.flops, *(run.flops for run in plan.published)) / 3
    compute = np.geomspace(low, max(plan.flops, 1e24) * 3, 60)
    for law, color in zip(SCALING_LAWS, COLORS, strict=True):
        values = [getattr(law.optimum(float(flops)), name) for flops in compute]
        axes.plot(compute, values, color=color, linewidth=1.2, label=law.name)
        axes.plot([plan.flops], [getattr(law.optimum(plan.flops), name)], "o", color=color, markersize=5)
    for run in plan.published:
        value = getattr(run, published_name)
        axes.plot([run.flops], [value], "k+", markersize=7)
        turned = 45 if name == "tokens" else 0  # GPT-3's sizes all had the same tokens
        axes.annotate(
            run.name, (run.flops, value), fontsize=6, xytext=(3, 3), textcoords="offset points", rotation=turned
        )
    for row in plan.rows:
        if row.law == "asked":
            axes.plot([row.flops], [getattr(row, name)], "r*", markersize=10, label="asked")
    axes.axvline(plan.flops, color="tab:red", linewidth=0.8, linestyle=":", label="asked budget")


def _draw_tuning(axes: Axes, plan: BigRunPlan) -> None:
    budgets = [(100 * budget.share, budget.expected) for budget in plan.tuning.budgets]
    share = [each for each, _ in budgets]
    axes.plot(share, [100 * each.regret_bound90 for _, each in budgets], "o-", color="tab:red", label="bound (90 %)")
    axes.plot(share, [100 * each.expected_regret for _, each in budgets], "o-", color="tab:blue", label="expected")
    for at, each in budgets:
        place = at, 100 * each.regret_bound90
        axes.annotate(f"{each.num_runs} runs", place, fontsize=7, xytext=(0, 6), textcoords="offset points")
    axes.axhline(100 * ANSWER_BOUND, color="gray", linewidth=0.8, linestyle=":", label="an answer")
    axes.set(
        xscale="log",
        yscale="log",
        xlabel="tuning budget (% of one run of the target)",
        ylabel="regret at the target (% of the loss)",
    )
    axes.legend(fontsize=7)
