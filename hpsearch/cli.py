"""The commands: parse, call, print. Heavy libraries are imported by the command that needs them."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import click

from hpsearch.cli_answers import ask_tell, export, recommend, replay, sensitivity
from hpsearch.cli_big_run import recheck, watch_target
from hpsearch.cli_cluster import examine_cluster, logs, on_cluster, status, statuses_on, stop, submit
from hpsearch.cli_confirm import confirm
from hpsearch.cli_import import import_runs
from hpsearch.cli_lifetime import delete, extend
from hpsearch.cli_options import (
    cache_folder,
    cache_option,
    cluster_option,
    home_option,
    json_option,
    json_output_option,
    live_option,
    quiet_option,
    search_to_read,
    trains_option,
)
from hpsearch.exit_codes import OUR_FAULT, STOPPED, USER_ERROR
from hpsearch.halted import SearchHalted
from hpsearch.home import Home
from hpsearch.plan_command import plan
from search_spaces.errors import UserError

if TYPE_CHECKING:
    from hpsearch.spec import Spec
    from hpsearch.transfer.recommend import Recommendation
    from hpsearch.transfer.table_recommendation import TableRecommendation

Shown = TypeVar("Shown", "Recommendation", "TableRecommendation")
PATH = click.Path(path_type=Path)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="hpsearch")
def cli() -> None:
    """Tune small, train big: hyperparameters for a model that you can train only once.

    \b
    A first search, some minutes on two CPU cores:
        hpsearch run search_spaces/quickstart.yaml
    Look at every trial, then at what they say about your model:
        hpsearch ui quickstart
        hpsearch recommend quickstart --target width=256,depth=4,heads=8,tokens=3.2e6
    Take the recipe to your trainer:
        hpsearch export quickstart -o recommended.yaml

    Exit codes: 0 done, 2 something you gave is wrong, 3 stopped and resumable, 4 done, and you have to act,
    1 our fault.
    """


ANSWERS = (recommend, sensitivity, export, replay, ask_tell, plan, import_runs, confirm, watch_target, recheck)
LIFETIME = (submit, status, logs, stop, extend, delete)
for command in (*ANSWERS, *LIFETIME, on_cluster):
    cli.add_command(command)


@cli.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--name", help="Name of the search.  [default: the name in FILE]")
@click.option("--slots", type=click.IntRange(1, 512), help="Trials trained at once.  [default: slots in FILE]")
@click.option("--dry-run", is_flag=True, help="Check FILE and print the plan; nothing is started or written.")
@json_output_option
@quiet_option
@live_option
@trains_option
@cache_option
def run(
    file: Path, name: str | None, slots: int | None, dry_run: bool, output: str, home: Home, cache: Path | None
) -> None:
    """Run the search that FILE describes.

    Trials are trained on small proxies, judged at rungs by what their loss would be if training ended there,
    and recorded in MLflow. At the end the recommendation for the target is printed, and the recipe written
    beside the trials. Ctrl-C stops it so that `hpsearch resume` can go on.
    """
    from hpsearch.plan import check_budget
    from hpsearch.spec import load_spec, with_overrides
    from hpsearch.targets import resolve_target

    spec = with_overrides(load_spec(file), {"name": name, "slots": slots}, "command line")
    check_budget(spec, str(file))
    resolve_target(spec.target, spec)
    if dry_run:
        _print_plan(spec, output)
        return
    from hpsearch.session import run_shown  # with Ray and MLflow, which a dry run need not wait for

    sys.exit(run_shown(spec, home, cache_folder(cache), output))


@cli.command()
@click.argument("search")
@click.option("--text", type=PATH, help="Where the text of SEARCH is now, if it has moved.  [default: where it was]")
@json_output_option
@quiet_option
@live_option
@trains_option
@cache_option
def resume(search: str, text: Path | None, output: str, home: Home, cache: Path | None) -> None:
    """Go on with a search that was stopped or killed.

    The ledger and the checkpoints say what is done: nothing is trained again that a rung has saved, nothing is
    recorded twice.
    """
    from hpsearch.folder import find_search
    from hpsearch.session import resume_shown

    sys.exit(resume_shown(find_search(home, search), cache_folder(cache), output, str(text.absolute()) if text else ""))


@cli.command("list")
@cluster_option
@json_option
@home_option
def list_searches(cluster: str | None, as_json: bool, home: Home) -> None:
    """List the searches under --home, the imported ones, and those that only --mlflow has; or those of a cluster."""
    from hpsearch.folder import imports, searches
    from hpsearch.imports.imported_search import import_summary
    from hpsearch.trials_table import read_state
    from hpsearch.view import search_summary

    if cluster is not None:
        summaries = statuses_on(cluster)
    else:
        states = [(folder, read_state(folder.ledger)) for folder in searches(home)]
        summaries = [search_summary(state, folder) for folder, state in states]
        summaries += [import_summary(folder) for folder in imports(home)]
        if home.mlflow:
            from hpsearch.recorded_search import recorded_searches

            summaries += recorded_searches(home.mlflow, {state.opened.incarnation for _, state in states})
    if as_json:
        click.echo(json.dumps(summaries, indent=2))
    elif not summaries:
        where = home.path if cluster is None else "the cluster"
        click.echo(f"no searches in {where}; start one with `hpsearch run FILE`")
    for summary in [] if as_json else summaries:
        click.echo(f"{summary['name']:24} {summary['state']:12} {summary['trials']:4} trials  {summary['counts']}")


@cli.command()
@click.argument("search")
@json_option
@home_option
def check(search: str, as_json: bool, home: Home) -> None:
    """Recompute every decision of SEARCH from what came before it, and compare.

    Each ask, verdict, promotion and prediction must follow from the ledger's earlier events alone. Exit code 1
    where one does not.
    """
    from dataclasses import asdict

    from hpsearch.check import check_ledger
    from hpsearch.ledger import read_ledger

    checked = check_ledger(read_ledger(search_to_read(search, home).ledger))
    if as_json:
        click.echo(json.dumps(asdict(checked), indent=2))
    else:
        counts = ", ".join(f"{count} {kind}" for kind, count in checked.decisions.items())
        click.echo(
            f"{sum(checked.decisions.values())} decisions recomputed ({counts}), {len(checked.differences)} differ"
        )
    for difference in () if as_json else checked.differences:
        click.echo(
            f"event {difference.seq}:\n  recorded    {difference.recorded}\n  recomputed  {difference.recomputed}"
        )
    if checked.differences:
        sys.exit(OUR_FAULT)


@cli.command()
@click.argument("search")
@home_option
def sync(search: str, home: Home) -> None:
    """Send to MLflow what it has missed of SEARCH, and put right what is not as it should be.

    Changes nothing where nothing was missed.
    """
    from hpsearch.folder import find_search
    from hpsearch.sync_command import sync as send_all

    folder = find_search(home, search)
    click.echo(f"{folder.name}: MLflow has all {send_all(folder)} events")


@cli.command()
@click.argument("search", required=False)
@click.option("--port", type=click.IntRange(0, 65535), default=0, help="Port on loopback.  [default: a free one]")
@home_option
def ui(search: str | None, port: int, home: Home) -> None:
    """Open the MLflow UI on the searches under --home, at the page of SEARCH. Loopback only; Ctrl-C ends it."""
    from hpsearch.folder import SearchFolder, find_search
    from hpsearch.ui import serve

    folder = find_search(home, search) if search else SearchFolder(home, "")
    sys.exit(serve(folder, port, click.echo))


@cli.command()
@click.argument("file", type=click.Path(path_type=Path), required=False)
@cluster_option
@json_option
@home_option
@cache_option
def doctor(file: Path | None, cluster: str | None, as_json: bool, home: Home, cache: Path | None) -> None:
    """Check this machine: versions, threads, disk, text, ports, one measured step, and how long FILE will take.

    FILE is a search; without one, the quickstart is timed. With --cluster: whether a cluster is fit for FILE.
    """
    if cluster is not None:
        examine_cluster(cluster, file, as_json)
        return
    from hpsearch.doctor import examine

    findings = examine(file, home.path, cache_folder(cache))
    if as_json:
        click.echo(json.dumps([finding.__dict__ for finding in findings], indent=2))
    for finding in [] if as_json else findings:
        click.echo(f"{'ok  ' if finding.ok else 'BAD '} {finding.name:12} {finding.text}")
    if not all(finding.ok for finding in findings):
        sys.exit(USER_ERROR)


@cli.command("check-parametrization")
@click.option("--search", type=click.Path(path_type=Path), help="Search file to take rule, model and optimizer from.")
@click.option("--rule", type=click.Choice(["standard", "mup", "completep"]), help="[default: mup]")
@click.option("--kind", type=click.Choice(["gpt", "llama"]), help="[default: gpt]")
@click.option("--optimizer", type=click.Choice(["adamw", "muon"]), help="[default: adamw]")
@click.option("--widths", help="[default: 32,64,128,256]")
@click.option("--depths", help="[default: 2,4,8]")
@click.option("--steps", type=int, help="Training steps.  [default: 4]")
@click.option("--seeds", type=int, help="[default: 8]")
@click.option("--learning-rate", type=float, help="Of the base.  [default: 0.0039]")
@click.option(
    "-o", "--output", "picture", type=click.Path(dir_okay=False, path_type=Path), help="Picture to write, an SVG."
)
@json_output_option
@quiet_option
@live_option
def check_parametrization(
    search: Path | None, picture: Path | None, output: str, **options: str | float | None
) -> None:
    """The coordinate check: do activations keep their size as models grow in width and depth?

    Small models are trained for a few steps. Exit code 0 where every size that the rule promises to keep is
    kept, 2 where one is not: a rule that fails, or one that promises nothing, as `standard`.
    """
    from rich.console import Console

    from hpsearch.parametrization_check import check_parametrization as check_study
    from hpsearch.parametrization_check import check_table
    from hpsearch.parametrization_study import choose_study, study_of_search
    from hpsearch.spec import load_spec

    report = check_study(choose_study(study_of_search(load_spec(search)) if search else {}, options))
    if picture is not None:
        from hpsearch.parametrization_figure import draw_check

        draw_check(report, picture)
    if output == "json":
        click.echo(json.dumps(report.to_dict(), indent=2))
    elif output == "live":
        Console().print(check_table(report))
    if report.faults:
        sys.exit(USER_ERROR)


def main() -> None:
    """Runs the command line; turns errors into messages and exit codes."""
    # One thread for numpy's products: how many share one moves its last bits, and decisions must come out the same
    # wherever they are recomputed. Set before numpy is loaded; torch has a setting of its own.
    os.environ["OPENBLAS_NUM_THREADS"] = "1"
    os.environ.setdefault("MLFLOW_CONFIGURE_LOGGING", "0")  # else it writes to the terminal; a search's log has it
    try:
        cli(standalone_mode=False)
    except SearchHalted as error:
        click.echo(f"halted: {error}", err=True)
        sys.exit(STOPPED)
    except UserError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(USER_ERROR)
    except click.ClickException as error:
        error.show()
        sys.exit(USER_ERROR)
    except click.Abort:
        sys.exit(STOPPED)
    except Exception:  # the last resort: a fault of ours, told as one
        import traceback

        traceback.print_exc()
        click.echo("error: this is a fault of hpsearch, not yours; the lines above say where", err=True)
        sys.exit(OUR_FAULT)


def _print_plan(spec: Spec, output: str) -> None:
    from rich.console import Console

    from hpsearch.view import plan_table

    if output == "json":
        click.echo(spec.model_dump_json(indent=2))
    elif output == "live":
        Console().print(plan_table(spec))
