"""The command that puts a recommendation to the test."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from hpsearch.cli_options import (
    cache_folder,
    cache_option,
    json_output_option,
    live_option,
    open_search,
    quiet_option,
    target_option,
    trains_option,
)
from hpsearch.home import Home


@click.command()
@click.argument("search")
@target_option
@click.option(
    "--flops",
    type=click.FloatRange(0, min_open=True),
    help="What all trials may cost together.  [default: a tenth of what SEARCH has spent]",
)
@click.option("--size", metavar="KEY=VALUE,...", help="In place of --flops: width=128,depth=4,heads=4,tokens=4e5.")
@click.option("--trials", type=click.IntRange(1, 3), default=3, show_default=True, help="How many.")
@click.option("--dry-run", is_flag=True, help="Print the plan; nothing is started or written.")
@json_output_option
@quiet_option
@live_option
@trains_option
@cache_option
def confirm(search: str, dry_run: bool, output: str, home: Home, cache: Path | None, **options: Any) -> None:
    """Test what SEARCH recommends for a target, by a few trials at the largest affordable size on the way to it.

    The learning rate that is best there is predicted from everything measured, and written down; then up to three
    trials are trained: at the predicted value, half an octave below and half an octave above. Printed are predicted
    and measured values, and the recommendation for the target before and after. The trials stay in SEARCH, and what
    they cost is added to its budget.

    SEARCH must be complete. Ctrl-C stops it so that `hpsearch resume SEARCH` can go on.
    """
    from hpsearch.confirm_command import ConfirmOptions, plan_confirm

    folder, state = open_search(search, home)
    plan = plan_confirm(state, ConfirmOptions(**options))
    if output == "live":
        from rich.console import Console

        from hpsearch.view_confirm import confirm_plan_view

        Console().print(confirm_plan_view(state, plan), soft_wrap=True)
    elif dry_run and output == "json":
        click.echo(plan.model_dump_json(indent=2))
    if dry_run:
        return
    from hpsearch.session import confirm_shown  # with Ray and MLflow, which a dry run need not wait for

    sys.exit(confirm_shown(folder, state.seq, plan, cache_folder(cache), output))
