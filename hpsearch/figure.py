"""One picture of a search: losses over the learning rate at every setting, and where the optimum goes."""

from __future__ import annotations

from pathlib import Path

import matplotlib

matplotlib.use("Agg")  # no screen
matplotlib.rcParams["svg.hashsalt"] = "hpsearch"  # the same search draws the same bytes

import numpy as np  # noqa: E402
from matplotlib import pyplot as plt  # noqa: E402
from matplotlib.axes import Axes  # noqa: E402

from hpsearch.state import SearchState  # noqa: E402
from hpsearch.surface import Surface  # noqa: E402
from hpsearch.targets import ResolvedTarget  # noqa: E402
from hpsearch.transfer.proof import fit_search, probed_parameter  # noqa: E402
from hpsearch.trials_table import trials_table  # noqa: E402

WORST_SHOWN = 1.25  # losses above this multiple of a setting's best are off the picture


def draw_search(state: SearchState, target: ResolvedTarget, path: Path) -> None:
    """Left: each measurement, a colour a setting, with the fitted bowls. Right: the optimum against N."""
    surface = fit_search(state, proof=True)
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.2), layout="constrained")
    _draw_bowls(left, state, surface)
    _draw_drift(right, state, surface, target)
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


def _draw_bowls(axes: Axes, state: SearchState, surface: Surface) -> None:
    name = probed_parameter(state.spec).name
    low, high = state.spec.space[name].ends
    table = trials_table(state).dropna(subset=["loss"])
    settings = sorted(map(tuple, table[["params", "tokens"]].drop_duplicates().to_numpy().tolist()))
    for i, (params, tokens) in enumerate(settings):
        color = plt.get_cmap("viridis")(i / max(1, len(settings) - 1) * 0.9)
        rows = table[(table["params"] == params) & (table["tokens"] == tokens)]
        rows = rows[rows["loss"] < WORST_SHOWN * rows["loss"].min()]
        axes.scatter(rows[name], rows["loss"], s=14, color=color, label=f"N {params:,.0f}, D {tokens:,.0f}")
        values = np.geomspace(low, high, 60)
        losses = np.array([surface.predict_loss(params, tokens, {name: float(value)}).median for value in values])
        shown = losses < WORST_SHOWN * rows["loss"].min()
        axes.plot(values[shown], losses[shown], color=color, linewidth=1)
    axes.set(xscale="log", xlabel=name.replace("_", " "), ylabel="annealed validation loss (nats a token)")
    axes.legend(fontsize=7)


def _draw_drift(axes: Axes, state: SearchState, surface: Surface, target: ResolvedTarget) -> None:
    name = probed_parameter(state.spec).name
    settings = [*map(tuple, surface.sweep.settings.tolist()), (target.architecture.params, target.tokens)]
    for params, tokens in settings:
        estimate = surface.optimum(params, tokens)[name]
        color = "tab:red" if params == target.architecture.params else "tab:blue"
        axes.plot([params, params], [estimate.low80, estimate.high80], color=color, linewidth=3, alpha=0.4)
        axes.plot([params], [estimate.value], "o", color=color, markersize=5)
    axes.set(
        xscale="log",
        yscale="log",
        xlabel="non-embedding parameters N",
        ylabel=f"best {name.replace('_', ' ')}",
    )
    axes.set_title("80 % intervals at every setting; red: the target", fontsize=9)
