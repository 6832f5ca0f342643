"""The commands that lengthen and end the life of a search: extend, delete."""

from __future__ import annotations

import json

import click

from hpsearch.cli_options import home_option, json_option
from hpsearch.home import Home


@click.command()
@click.argument("search")
@click.option("--budget-flops", type=float, help="New total of FLOPs that SEARCH may spend.")
@click.option("--trials", multiple=True, metavar="[PROXY=]TOTAL", help="New total of trials, of each proxy or of one.")
@click.option("--widen", multiple=True, metavar="NAME=LOW:HIGH", help="New ends of a searched range.")
@click.option("--reason", required=True, help="Why, for whoever reads the results; it is kept in the ledger.")
@click.option("--dry-run", is_flag=True, help="Say what would change; nothing is written.")
@json_option
@home_option
def extend(
    search: str,
    budget_flops: float | None,
    trials: tuple[str, ...],
    widen: tuple[str, ...],
    reason: str,
    dry_run: bool,
    as_json: bool,
    home: Home,
) -> None:
    """Give SEARCH more to do: a larger budget, more trials, a wider range.

    Nothing that was measured is lost or trained again. Trials that were pruned wait for promotion again; a
    prediction that was made and tested stays as it is. `hpsearch resume SEARCH` then goes on.

    \b
        hpsearch extend quickstart --budget-flops 5e13 --trials 2=15 --reason "the largest proxy is noisy"
    """
    from hpsearch.extension import check_reason, extended_spec, parse_trials, parse_widen, told
    from hpsearch.folder import find_search
    from hpsearch.lifetime import extend_search
    from hpsearch.trials_table import read_state

    folder, said = find_search(home, search), check_reason(reason)
    state = read_state(folder.ledger)
    totals = parse_trials(trials, len(state.spec.ladder))
    new = extended_spec(state, budget_flops, totals, parse_widen(widen))
    changes = told(state.spec, new)
    if not dry_run:
        extend_search(folder, state.seq, new, said)
    if as_json:
        click.echo(json.dumps({"search": folder.name, "changes": changes, "reason": said, "written": not dry_run}))
        return
    click.echo("\n".join(changes))
    click.echo("nothing is written" if dry_run else f"go on with: hpsearch resume {folder.name}")


@click.command()
@click.argument("search")
@click.option("--yes", is_flag=True, help="Do not ask.")
@home_option
def delete(search: str, yes: bool, home: Home) -> None:
    """Delete SEARCH: its checkpoints, its ledger, its files. What MLflow has of it stays.

    Asks first, and says how much it is. A search that runs is refused.
    """
    from hpsearch.folder import find_search
    from hpsearch.lifetime import contents, delete_search

    folder = find_search(home, search)
    if not yes:
        click.confirm(f"{contents(folder)}\nDelete all of it? It cannot be brought back", abort=True, err=True)
    delete_search(folder)
    click.echo(f"{folder.name}: deleted; what MLflow has of it is at {folder.mlflow_uri}")
