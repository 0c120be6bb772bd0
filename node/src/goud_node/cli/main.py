"""The root of the command line: what does not fit into a group of its own, and how errors end the process."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from goud_node import __version__
from goud_node import settings as node_settings
from goud_node.api.app import openapi_document
from goud_node.chain import genesis as genesis_document
from goud_node.chain import inspect as inspection
from goud_node.chain.volume import initialize_volume
from goud_node.cli import admin, config, epoch, exits, keys, output
from goud_node.cli.output import AsJson
from goud_node.errors import ConfigurationError, GoudError
from goud_node.service import serve as run_service

app = typer.Typer(
    name="goud-node",
    help="The Goud Chain node: serve it, look into it, operate it.\n\nEvery setting comes from a GOUD_ variable; "
    "`goud-node settings` lists them all.",
    epilog=exits.epilog(),
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(keys.genesis_app, name="genesis")
app.add_typer(admin.app, name="admin")
app.add_typer(epoch.app, name="epoch")
app.command("keygen")(keys.keygen)

DataDir = Annotated[Path, typer.Option("--data-dir", envvar="GOUD_DATA_DIR", help="The data directory.")]
GenesisFile = Annotated[Path, typer.Option("--genesis", envvar="GOUD_GENESIS_FILE", help="The genesis document.")]
_DATA = Path("/data")
_GENESIS = Path("/etc/goud/genesis.json")


def main() -> None:
    """Entry point: a known error is one sentence on stderr and its own exit code, never a traceback."""
    try:
        app()
    except GoudError as error:
        output.errors.print(f"goud-node: {error.code}: {error}", markup=False, highlight=False)
        sys.exit(exits.code_of(error))


def _version(is_requested: bool) -> None:
    if is_requested:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Options of every command."""


@app.command()
def serve() -> None:
    """Run the node until SIGTERM.

    The public interface listens on GOUD_HTTP_PORT, the signed peer interface on GOUD_PEER_PORT. A node never creates
    data by itself: run `goud-node init` once on a new volume. SIGTERM drains, hands the lead over, finishes what is in
    flight and closes the database, within ten seconds.
    """
    run_service(config.load())


@app.command()
def init(data_dir: DataDir = _DATA, genesis: GenesisFile = _GENESIS, as_json: AsJson = False) -> None:
    """Make an empty data directory a volume of this chain: marker, database, genesis block.

    Harmless on a volume of the same chain, and refused on any other. This is the only command that creates a database.
    """
    chain = genesis_document.load(genesis)
    if _must_be_mount() and not data_dir.is_mount():
        raise ConfigurationError(
            f"{data_dir} is not a mount point, so the data would be lost with the container. Mount the volume, or set "
            "GOUD_DATA_MUST_BE_MOUNT=false if a plain directory is meant."
        )
    created = initialize_volume(data_dir, chain)
    if as_json:
        output.document({"data_dir": str(data_dir), "chain_id": chain.chain_id, "created": created})
    else:
        state = "is now" if created else "was already"
        output.console.print(f"{data_dir} {state} a volume of {chain.chain_id}", highlight=False)


def _must_be_mount() -> bool:
    """The one setting of the node that concerns `init`, which needs no others."""
    return config.data_directory().data_must_be_mount


@app.command()
def inspect(
    data_dir: DataDir = _DATA,
    genesis: GenesisFile = _GENESIS,
    as_json: AsJson = False,
) -> None:
    """Verify a data directory offline, block by block.

    Every block's hash, link, Merkle root and signature, every certificate, every index and every counter is checked
    from the genesis document alone. Stop the node first, or give a copy. Ends with 11 when something is wrong.
    """
    chain = genesis_document.load(genesis)
    with Progress(
        TextColumn("verifying blocks"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=output.errors,
        transient=True,
        disable=as_json or not output.errors.is_terminal,
    ) as progress:
        task = progress.add_task("blocks", total=None)
        report = inspection.inspect(
            data_dir,
            chain,
            lambda done, total: progress.update(task, completed=done, total=total),
            workers=os.cpu_count() or 1,
        )
    if as_json:
        output.document({"verified": report.ok, **report.as_dict()})
    else:
        output.table("inspection", report.rows())
    if not report.ok:
        raise typer.Exit(exits.CODES["not-verified"][0])


@app.command()
def settings() -> None:
    """Print every setting with its default and meaning, as a Markdown table."""
    typer.echo(node_settings.markdown(), nl=False)


@app.command()
def openapi() -> None:
    """Print the OpenAPI document of the public interface."""
    output.document(openapi_document())
