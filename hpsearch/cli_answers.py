"""The commands that answer from trials: recommend, export, replay, ask-tell."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from hpsearch.cli_options import PATH, home_option, json_option, open_search, target_of, target_option
from hpsearch.home import Home

if TYPE_CHECKING:
    from rich.console import RenderableType

    from hpsearch.transfer.recommend import Recommendation
    from hpsearch.transfer.table_recommendation import TableRecommendation

Shown = TypeVar("Shown", "Recommendation", "TableRecommendation")


@click.command()
@click.argument("search", required=False)
@click.option("--trials", metavar="TABLE", type=PATH, help="CSV or Parquet file of runs, in place of SEARCH.")
@target_option
@click.option("--search-space", metavar="FILE", type=PATH, help="YAML file with low, high, scale of TABLE's columns.")
@click.option("--priors", type=click.Choice(["neutral", "public"]), help="[default: neutral, which knows no law]")
@click.option("--fix", metavar="NAME=NUMBER", multiple=True, help="Hold a parameter; the others follow.")
@click.option("--compare", metavar="FILE", type=PATH, help="YAML or JSON file of parameters: what would they cost?")
@click.option("--where", metavar="COLUMN=VALUE", multiple=True, help="Read only these rows of TABLE.")
@click.option("--accept-reach", is_flag=True, help="Take a recommendation beyond what the trials support as it is.")
@click.option("--sheet", metavar="FILE", type=PATH, help="Of a SEARCH: write all of it as a Markdown page too.")
@json_option
@home_option
def recommend(
    search: str | None,
    target: str | None,
    accept_reach: bool,
    sheet: Path | None,
    as_json: bool,
    home: Home,
    **of_table: Any,
) -> None:
    """Print what SEARCH, or a table of runs, recommends for a target: values, intervals, reasons, warnings.

    \b
    TABLE has a row for each run and the columns
        params   non-embedding parameters
        tokens   of the run
        loss     empty where it diverged
        ...      a column for each hyperparameter
    and its target is --target params=1.07e9,tokens=2e10, or a preset.

    A target beyond the reach of the trials is marked as refused, with the reason; the exit code is 0.
    """
    from hpsearch.imports.imported_search import asked_as_table
    from hpsearch.recommend_command import (
        TableOptions,
        ask_of_search,
        check_no_sheet,
        check_source,
        recommend_for_table,
    )
    from hpsearch.transfer.recommend import recommend as recommend_for
    from hpsearch.view import proof_table, recommendation_table
    from hpsearch.view_table import table_recommendation_view

    search, of_table = asked_as_table(home, search, of_table)
    check_source("recommend", search, of_table)
    if search is None:
        check_no_sheet(sheet)
        _show(recommend_for_table(target, TableOptions(**of_table)), [table_recommendation_view], accept_reach, as_json)
        return
    _, state = open_search(search, home)
    ask = ask_of_search(state, of_table["priors"], of_table["fix"], of_table["compare"])
    resolved = target_of(target, state)
    found = recommend_for(state, resolved, ask)
    if sheet is not None:
        from hpsearch.export.sheet import sheet as sheet_of
        from hpsearch.folder import write_whole

        write_whole(sheet, sheet_of(state, resolved, found))
    _show(found, [recommendation_table, proof_table], accept_reach, as_json)


@click.command()
@click.argument("search", required=False)
@click.option("--trials", metavar="TABLE", type=PATH, help="CSV or Parquet file of runs, in place of SEARCH.")
@target_option
@click.option(
    "--search-space", metavar="FILE", type=PATH, help="YAML file with low, high, scale, freezable of columns."
)
@click.option("--where", metavar="COLUMN=VALUE", multiple=True, help="Read only these rows of TABLE.")
@click.option("--noise", metavar="FRACTION", type=click.FloatRange(0, 0.2, True), help="Relative sd of a run's loss.")
@click.option("--figure", metavar="FILE", type=PATH, help="Draw what each value costs, as an SVG.")
@json_option
@home_option
def sensitivity(
    search: str | None, target: str | None, figure: Path | None, as_json: bool, home: Home, **of_table: Any
) -> None:
    """Print which parameters may stay as they are at a target, and what each costs near its best value.

    \b
    TABLE has params, tokens, loss and a column for each hyperparameter, as for `hpsearch recommend`; or it is a
    one-at-a-time sweep around a base, with a row for each run and the columns
        params, tokens, loss
        hyperparameter   which one differs from the base; `baseline` for the base itself
        value            its value
        base_NAME        the base's own value of NAME

    A parameter is FROZEN where one value costs next to nothing at every size and budget, does not drift, and is
    far from every cliff; each reason is told in numbers.
    """
    from hpsearch.imports.imported_search import asked_as_table
    from hpsearch.recommend_command import check_source
    from hpsearch.sensitivity_command import SensitivityOptions, sensitivity_of_search, sensitivity_of_table
    from hpsearch.sensitivity_figure import check_figure, draw_sensitivity
    from hpsearch.view_sensitivity import sensitivity_view

    search, of_table = asked_as_table(home, search, of_table)
    check_source("sensitivity", search, of_table)
    if figure:
        check_figure(figure)
    if search is None:
        report = sensitivity_of_table(target, SensitivityOptions(**of_table))
    else:
        _, state = open_search(search, home)
        report = sensitivity_of_search(state, target_of(target, state))
    if figure:
        draw_sensitivity(report, figure)
    if as_json:
        click.echo(report.model_dump_json(indent=2))
        return
    from rich.console import Console

    Console().print(sensitivity_view(report))


@click.command()
@click.argument("search")
@target_option
@click.option(
    "-o", "--output", type=click.Path(dir_okay=False, path_type=Path), help="File to write.  [default: print]"
)
@click.option("--format", "form", type=click.Choice(["yaml", "json"]), default="yaml", show_default=True)
@click.option("--accept-reach", is_flag=True, help="Export a recommendation beyond what the trials support.")
@home_option
def export(search: str, target: str | None, output: Path | None, form: str, accept_reach: bool, home: Home) -> None:
    """Write the recipe for a target: one file with everything that a trainer must be told.

    The same search and target give the same bytes. A refused recommendation is not exported (exit code 2)
    unless its reach is accepted.
    """
    from hpsearch.export.recipe import export as export_recipe
    from hpsearch.folder import write_whole
    from hpsearch.transfer.recommend import recommend as recommend_for

    _, state = open_search(search, home)
    resolved = target_of(target, state)
    text = export_recipe(state, resolved, recommend_for(state, resolved), form, accept_reach)
    if output is None:
        click.echo(text, nl=False)
        return
    write_whole(output, text)
    click.echo(f"wrote {output}")


@click.command()
@click.argument("source", metavar="SEARCH|TABLE")
@click.option("--scheduler", type=click.Choice(["asha", "surface", "none"]), help="[default: all three, compared]")
@click.option("--metric", type=click.Choice(["loss", "raw_loss"]), default="loss", help="[default: loss]")
@click.option("--reduction-factor", type=click.IntRange(2, 1000), default=3, show_default=True)
@click.option("--tolerance", type=click.FloatRange(0, 1, True, True), default=0.003, show_default=True)
@click.option("--sampler", type=click.Choice(["recorded", "random"]), default="recorded", help="[default: recorded]")
@click.option("--seeds", type=click.IntRange(1, 1000), default=20, show_default=True, help="Random orders.")
@json_option
@home_option
def replay(source: str, as_json: bool, home: Home, **options: Any) -> None:
    """Replay recorded trials under other rules of pruning: compute saved, regret, false prunes.

    \b
    Only trials with a known outcome are replayed: measured at their proxy's last rung, or diverged before.
    TABLE (.csv, .parquet) has a row for each trial and rung and the columns
        trial    names the rows that belong together
        params, tokens, loss, and one for each hyperparameter, as for `hpsearch recommend`
        flops    of this row since the trial's row before  [default: 6 x params x tokens]
        raw_loss for --metric raw_loss

    Trials arrive in the recorded order, or in random ones (--sampler random), which give intervals.
    """
    from dataclasses import asdict

    from rich.console import Console

    from hpsearch.replay_command import ReplayOptions, is_table, recording_of_search, recording_of_table
    from hpsearch.replay_report import replay
    from hpsearch.view_replay import replay_view

    asked = ReplayOptions(**options)
    if is_table(source):
        recording = recording_of_table(Path(source), asked.metric)
    else:
        recording = recording_of_search(open_search(source, home)[1], asked.metric)
    report = replay(recording, asked.question)
    if as_json:
        click.echo(json.dumps(asdict(report), indent=2))
    else:
        Console().print(replay_view(report))


@click.command("ask-tell")
@click.option("--priors", type=click.Choice(["neutral", "public"]), default="neutral", show_default=True)
def ask_tell(priors: str) -> None:
    """Drive a search from your own scheduler: lines of JSON in on stdin, answers out on stdout.

    \b
        {"type": "start", "problem": P, "seed": 0}      -> {"type": "ready"}
        {"type": "ask", "remaining": FLOPS}             -> {"type": "config", "config": {...}} or {"type": "done"}
        {"type": "tell", "config": {...}, "loss": 2.9, "cost": FLOPS}
        {"type": "recommend", "target": {"N": 1e9, "D": 2e10}}
                                                        -> {"type": "recommendation", "config": {...},
                                                            "regret_bound90": 0.004}
        {"type": "stop"}
    P has a `box` {name: [low, high]}, `settings` [{"N": ..., "D": ..., "cost": FLOPS}, ...] at which a run is
    possible, and a `target`. A configuration carries its N and D; tell the one that really ran, with a loss of null
    where it diverged.
    """
    from hpsearch.ask_tell import converse

    for answer in converse(sys.stdin, "public" if priors == "public" else "neutral"):
        click.echo(json.dumps(answer, allow_nan=False))
        sys.stdout.flush()


def _show(
    recommendation: Shown, views: Sequence[Callable[[Shown], RenderableType]], accept_reach: bool, as_json: bool
) -> None:
    from rich.console import Console

    if accept_reach:
        recommendation = recommendation.model_copy(update={"refused": None})
    if as_json:
        click.echo(recommendation.model_dump_json(indent=2))
        return
    console = Console()
    for view in views:
        console.print(view(recommendation))
