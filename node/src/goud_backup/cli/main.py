"""The root of the command line: the list of commands, and how errors end the process."""

from __future__ import annotations

import gc
import logging
import signal
import sys
from collections.abc import Callable
from importlib.metadata import version
from types import FrameType
from typing import Annotated, Final

import typer

from goud_backup.cli import choosing, drilling, exits, keeping, looking, making, output, restoring
from goud_node.errors import GoudError

app = typer.Typer(
    name="goud-backup",
    help="Backups of a Goud Chain node: incremental, verified, restorable to any block.\n\nOptions that a host always "
    "gives come from GOUD_BACKUP_ variables; each command's help names them.",
    epilog=exits.epilog(),
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
)
COMMANDS: Final[dict[str, Callable[..., None]]] = {
    "init": making.init,
    "choose": choosing.choose,
    "create": making.create,
    "ship": making.ship,
    "list": looking.listed,
    "show": looking.show,
    "status": looking.status,
    "verify": looking.verify,
    "drill": drilling.drill,
    "restore": restoring.restore,
    "restore-archive": restoring.restore_archive,
    "undo": restoring.undo,
    "cleanup": restoring.cleanup,
    "export": making.export,
    "import": making.import_archive,
    "prune": keeping.prune,
    "keep": keeping.keep,
    "fork": keeping.fork,
    "unlock": keeping.unlock,
}
for name, command in COMMANDS.items():
    app.command(name)(command)


def main() -> None:
    """Entry point: a known error is one sentence on stderr and its own exit code, never a traceback."""
    # Closing a database collects garbage: what was imported need not be looked at each time.
    gc.freeze()
    # A unit that is stopped releases its lock and its checkpoint like one that ends by itself.
    signal.signal(signal.SIGTERM, _terminated)
    logging.basicConfig(level=logging.WARNING, format="goud-backup: %(levelname)s: %(message)s", stream=sys.stderr)
    try:
        app()
    except GoudError as error:
        output.errors.print(f"goud-backup: {error.code}: {error}", markup=False, highlight=False)
        sys.exit(exits.code_of_end(error))
    except OSError as error:
        what = f"{error.strerror or error}: {error.filename or ''}".rstrip(": ")
        output.errors.print(f"goud-backup: {what}. Check the disk and the owner.", markup=False, highlight=False)
        sys.exit(exits.code_of_end(error))


def _terminated(number: int, _: FrameType | None) -> None:
    raise SystemExit(128 + number)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(version("goud-node"))
        raise typer.Exit


@app.callback()
def _root(
    shown: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Options of every command."""
