"""`hpsearch plan`: a large run planned, before anything is trained."""

from __future__ import annotations

import json
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hpsearch.cli_options import PATH, home_option, json_option
from hpsearch.home import Home
from search_spaces.errors import UserError

if TYPE_CHECKING:
    from hpsearch.surface import Surface
    from hpsearch.transfer.big_run import Ask
    from hpsearch.transfer.run_cost import Cluster

LIMITS = {
    "--flops": (1e17, 1e30),
    "--params": (1e6, 1e15),
    "--tokens": (1e6, 1e18),
    "--device-flops": (1e9, 1e19),
    "--price": (0.0, 1e9),
    "--noise": (1e-6, 0.1),
}
FIGURES = (".svg", ".png")
DEVICES = ("v100", "a100", "h100", "h200", "b200", "mi300x", "tpu-v4", "tpu-v5p")  # of `run_cost.PEAK_FLOPS`


@dataclass(frozen=True)
class PlanOptions:
    """The options as they were given."""

    flops: float | None
    target: str | None
    params: float | None
    tokens: float | None
    devices: int
    device: str
    device_flops: float | None
    mfu: float
    price: float | None
    noise: float
    shapes: Path | None
    search: str | None
    trials: Path | None


@click.command()
@click.option("--flops", type=float, help="Training compute of the run: how large a model, on how many tokens?")
@click.option("--target", metavar="PRESET|params=N,tokens=D", help="The model: a preset (gpt3-13b), or N and D.")
@click.option("--params", type=float, help="Non-embedding parameters of the model; with --tokens.")
@click.option("--tokens", type=float, help="Tokens of the run, with --params or in place of a preset's.")
@click.option("--devices", type=click.IntRange(1, 10**7), default=8, show_default=True, help="How many there are.")
@click.option("--device", type=click.Choice(DEVICES), default="h100", show_default=True, help="For its peak FLOP/s.")
@click.option("--device-flops", type=float, help="Peak FLOP/s of one device, in place of --device's.")
@click.option("--mfu", type=click.FloatRange(0, 1, min_open=True), default=0.4, show_default=True, help="Share of it.")
@click.option("--price", type=float, help="Of one device for one hour.  [default: money is not told]")
@click.option("--noise", type=float, default=0.0012, show_default=True, help="Relative sd of one run's loss.")
@click.option("--shapes", metavar="TABLE", type=PATH, help="Shape trials: width, depth, params, tokens, loss.")
@click.option("--search", metavar="SEARCH", help="A search, for what its own trials say at every N and D.")
@click.option("--trials", metavar="TABLE", type=PATH, help="A table of runs, in place of --search.")
@click.option("--figure", metavar="FILE", type=PATH, help="Picture to write: .svg or .png.")
@json_option
@home_option
def plan(figure: Path | None, as_json: bool, home: Home, **given: Any) -> None:
    """Plan a large run: model, tokens, shape, batch, steps, time, money, and what tuning it would take.

    \b
        hpsearch plan --flops 3.1e23
        hpsearch plan --target gpt3-13b --tokens 300e9 --devices 1024 --price 2.5

    What Kaplan et al., Hoffmann et al. and the refit of the latter call optimal stands side by side, with where
    each was measured. Then backwards from the target: ladders of small runs, and how well each tuning budget is
    expected to place the target's learning rate and batch. Nothing is trained.
    """
    options = PlanOptions(**given)
    _check(options, figure)
    ask = _ask(options)

    from rich.console import Console

    from hpsearch.transfer.big_run import Means, plan_big_run
    from hpsearch.transfer.shapes import PUBLISHED_PLATEAU, fit_shapes, read_shapes
    from hpsearch.view_plan import plan_view, to_dict

    shapes = options.shapes
    plateau = fit_shapes(read_shapes(shapes), f"the trials of {shapes}").plateau if shapes else PUBLISHED_PLATEAU
    planned = plan_big_run(ask, Means(_cluster(options), plateau, options.noise, _surface(options, home)))
    if figure is not None:
        from hpsearch.plan_figure import draw_plan

        draw_plan(planned, figure)
    if as_json:
        click.echo(json.dumps(to_dict(planned), indent=2, allow_nan=False))
        return
    Console().print(plan_view(planned))


def _check(options: PlanOptions, figure: Path | None) -> None:
    """What can be said to be wrong before anything is loaded.

    Raises:
        UserError: an option breaks a rule.
    """
    for name, (low, high) in LIMITS.items():
        value = getattr(options, name.removeprefix("--").replace("-", "_"))
        if value is not None and not (isfinite(value) and low <= value <= high):
            raise UserError(f"{name}: must be from {low:g} to {high:g}, got {value:g}; correct it")
    given = [name for name in ("flops", "target", "params") if getattr(options, name) is not None]
    if len(given) != 1:
        got = " and ".join(f"--{name}" for name in given) or "none"
        raise UserError(f"plan: needs one of --flops, --target and --params, got {got}; give one")
    if options.flops is not None and options.tokens is not None:
        raise UserError("--tokens: goes with --target or --params, got it with --flops; leave it out, or give --params")
    if options.params is not None and options.tokens is None:
        raise UserError("--params: needs --tokens, got none; give the tokens of the run, or --flops in place of both")
    if options.search is not None and options.trials is not None:
        raise UserError("--search: goes without --trials, got both; give one of them")
    if figure is not None and figure.suffix not in FIGURES:
        raise UserError(f"--figure: must end in {' or '.join(FIGURES)}, got {figure}; rename it")
    if figure is not None and not figure.absolute().parent.is_dir():
        raise UserError(f"--figure: {figure}: must lie in a folder that exists, got none; make it first")


def _ask(options: PlanOptions) -> Ask:
    from hpsearch.laws import FLOPS_PER_PARAMETER_TOKEN
    from hpsearch.presets import PRESETS
    from hpsearch.transfer.big_run import Ask

    if options.flops is not None:
        return Ask("a budget", options.flops)
    if options.target is not None:
        from hpsearch.recommend_command import parse_setting

        told = parse_setting(options.target)
        params, tokens = told.params, options.tokens or told.tokens
        _within("--target: params", params, LIMITS["--params"])
        _within("--target: tokens", tokens, LIMITS["--tokens"])
    else:
        assert options.params is not None and options.tokens is not None
        params, tokens = options.params, options.tokens
    flops = FLOPS_PER_PARAMETER_TOKEN * params * tokens
    preset = PRESETS.get(options.target or "")
    if preset is None:
        return Ask(f"N = {params:.4g}, D = {tokens:.4g} tokens", flops, (params, tokens))
    name = f"{options.target}, {tokens:.4g} tokens"
    return Ask(name, flops, (params, tokens), preset.architecture, preset.batch_tokens)


def _within(name: str, value: float, limits: tuple[float, float]) -> None:
    low, high = limits
    if not low <= value <= high:
        raise UserError(f"{name}: must be from {low:g} to {high:g}, got {value:g}; correct it")


def _cluster(options: PlanOptions) -> Cluster:
    from hpsearch.transfer.run_cost import PEAK_FLOPS, Cluster

    peak = options.device_flops or PEAK_FLOPS[options.device]
    device = "device" if options.device_flops else options.device
    return Cluster(options.devices, device, peak, options.mfu, options.price)


def _surface(options: PlanOptions, home: Home) -> Surface | None:
    """What the search's own trials, or a table's, say.

    Raises:
        UserError: there are too few, or the table breaks a rule.
    """
    if options.trials is not None:
        from hpsearch.imported_table import read_table
        from hpsearch.surface import fit_surface

        table = read_table(options.trials)
        return fit_surface(table.observations, table.parameters, seed=0)
    if options.search is not None:
        from hpsearch.cli_options import open_search
        from hpsearch.transfer.proof import can_predict, fit_search

        _, state = open_search(options.search, home)
        if not can_predict(state):
            raise UserError(
                f"--search: {options.search}: must have some finished measurements, got too few; resume or widen it"
            )
        return fit_search(state, proof=True)
    return None
