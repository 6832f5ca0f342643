"""The commands around the run that can be made only once: watch-target, recheck."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from hpsearch.cli_options import PATH, home_option, json_option, target_option
from hpsearch.exit_codes import ACTION_NEEDED
from hpsearch.home import Home

trials_option = click.option("--trials", metavar="TABLE", type=PATH, help="CSV or Parquet file of runs, for a search.")
space_option = click.option(
    "--search-space", metavar="FILE", type=PATH, help="YAML file with low, high, scale of TABLE's columns."
)
where_option = click.option("--where", metavar="COLUMN=VALUE", multiple=True, help="Read only these rows of TABLE.")


@click.command("watch-target")
@click.argument("losses", type=PATH)
@click.option("--search", metavar="SEARCH", help="The search that the run was tuned by.")
@trials_option
@space_option
@where_option
@target_option
@click.option(
    "--learning-rate",
    type=click.FloatRange(0, 1e30, True),
    help="Peak rate of the run.  [default: the recommended one]",
)
@click.option("--config", metavar="FILE", type=PATH, help="YAML or JSON file of what the run has otherwise.")
@click.option("--batch-tokens", type=click.FloatRange(0, 1e30, True), help="Tokens of a step: LOSSES has a step.")
@click.option("--warmup-tokens", type=click.FloatRange(0, 1e30), help="[default: by LOSSES' rates, or the search]")
@click.option("--training", is_flag=True, help="LOSSES are of the training text, not held out: a wider band.")
@click.option("--figure", metavar="FILE", type=click.Path(dir_okay=False, path_type=Path), help="Picture, an SVG.")
@json_option
@home_option
def watch_target(
    losses: Path,
    figure: Path | None,
    as_json: bool,
    search: str | None,
    home: Home,
    trials: Path | None,
    search_space: Path | None,
    where: tuple[str, ...],
    target: str | None,
    training: bool,
    **of_run: Any,
) -> None:
    """Is the big run on track? Compare its losses so far with what SEARCH, or a table of runs, predicts.

    \b
    LOSSES has a row for each loss and the columns
        tokens         trained on so far; or step, with --batch-tokens
        loss           held-out, as of the trials, or --training; empty where none was measured
        gradient_norm  before the clip, if you have it
        learning_rate  if you have it; says where the warmup ends and the decay begins
    TABLE may have a raw_loss, that of the run before its rate decayed: it makes the band narrower.

    Exit code 0: on track, better, or too early to tell. 4: something is to be done; what, is printed.
    """
    from rich.console import Console

    from hpsearch.big_run_source import SourceOptions
    from hpsearch.view_watch import watched_view
    from hpsearch.watch_command import WatchOptions, watch

    source = SourceOptions(search, home, trials, search_space, where, target, training)
    watched = watch(WatchOptions(losses, **of_run), source)
    if figure is not None:
        from hpsearch.watch_figure import draw_watch

        draw_watch(watched, figure)
    if as_json:
        click.echo(watched.answer.model_dump_json(indent=2))
    else:
        Console().print(watched_view(watched.answer))
    if watched.answer.verdict.needs_action:
        sys.exit(ACTION_NEEDED)


@click.command()
@click.argument("search", required=False)
@trials_option
@space_option
@where_option
@target_option
@click.option("--changed", metavar="NAME=VALUE", multiple=True, help="What is no longer as in the trials.")
@click.option("--results", metavar="TABLE", type=PATH, help="The runs after the change.  [default: print which to run]")
@json_option
@home_option
def recheck(
    search: str | None,
    changed: tuple[str, ...],
    results: Path | None,
    as_json: bool,
    home: Home,
    trials: Path | None,
    search_space: Path | None,
    where: tuple[str, ...],
    target: str | None,
) -> None:
    """After a change of data, sequence length or architecture: which findings of SEARCH, or a table, still stand?

    Prints three trials to run under the changed conditions, at the cheapest setting that tells. With their --results
    (columns params, tokens, loss and the parameters) each finding stands, has moved, or is not told: where the best
    learning rate lies, what an octave costs, the level of the loss, the edge of stability, and every other value
    that one more run tries.

    Exit code 4: a finding other than the level has moved.
    """
    from rich.console import Console

    from hpsearch.big_run_source import SourceOptions
    from hpsearch.recheck_command import RecheckOptions, answer_recheck
    from hpsearch.transfer.recheck import RecheckPlan
    from hpsearch.view_recheck import plan_view, recheck_view

    source = SourceOptions(search, home, trials, search_space, where, target)
    answer = answer_recheck(RecheckOptions(changed, results), source)
    if as_json:
        click.echo(answer.model_dump_json(indent=2))
    else:
        Console().print(plan_view(answer, changed) if isinstance(answer, RecheckPlan) else recheck_view(answer))
    if not isinstance(answer, RecheckPlan) and answer.needs_action:
        sys.exit(ACTION_NEEDED)
