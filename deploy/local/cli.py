"""The commands `up` and `down`: parse, call, print."""

from __future__ import annotations

from pathlib import Path

import click

from deploy.local import deployment
from deploy.local.state import PORTS
from search_spaces.errors import UserError

state_option = click.option(
    "--state",
    "folder",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path(".deploy"),
    show_default=True,
    help="Folder of the deployment: secrets, data, logs.",
)


@click.command()
@state_option
@click.option("--cpus-per-node", type=click.IntRange(1), default=1, show_default=True, help="CPUs of a Ray worker.")
@click.option(
    "--port",
    "ports",
    type=(click.Choice(PORTS), click.IntRange(1, 65535)),
    multiple=True,
    help="PART and its port; parts that are not named get free ports.",
)
def up(folder: Path, cpus_per_node: int, ports: tuple[tuple[str, int], ...]) -> None:
    """Brings up PostgreSQL, MLflow, a Ray head and two workers on loopback, or what of them is missing.

    Each part is up when it serves a client with the password and refuses one without. --cpus-per-node and --port
    count when the folder is new; later it keeps its ports.
    """
    try:
        state = deployment.up(folder, cpus_per_node, dict(ports), click.echo)
    except UserError as error:
        raise click.ClickException(str(error)) from error
    click.echo(f"next: . {state.folder / 'env'}   (the token and passwords of a client, for your shell)")


@click.command()
@state_option
def down(folder: Path) -> None:
    """Ends every process of the deployment; its data stays for the next `up`. Delete the folder to be rid of it."""
    try:
        deployment.down(folder, click.echo)
    except RuntimeError as error:
        raise click.ClickException(str(error)) from error
