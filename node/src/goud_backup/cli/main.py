"""The root of the command line: the list of commands, and how errors end the process."""

from __future__ import annotations

import gc
import logging
import signal
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from types import FrameType
from typing import Annotated, Final

import typer

from goud_backup.cli import exits, output
from goud_node import __version__
from goud_node.errors import GoudError

COMMANDS: Final[dict[str, str]] = {
    "init": "making:init",
    "choose": "choosing:choose",
    "create": "making:create",
    "ship": "shipping:ship",
    "list": "looking:listed",
    "show": "looking:show",
    "status": "looking:status",
    "verify": "looking:verify",
    "drill": "drilling:drill",
    "restore": "restoring:restore",
    "restore-archive": "archiving:restore_archive",
    "undo": "restoring:undo",
    "cleanup": "restoring:cleanup",
    "export": "archiving:export",
    "import": "archiving:import_archive",
    "prune": "keeping:prune",
    "prune-archives": "keeping:prune_archives",
    "keep": "keeping:keep",
    "fork": "keeping:fork",
    "unlock": "keeping:unlock",
}
"""By name, the module of this package and the function in it, in the order of the help."""


def command_line(arguments: Sequence[str]) -> typer.Typer:
    """The command that `arguments` begin with, or all of them when it is none.

    Importing every command took longer than a backup that finds nothing new, and `ship` runs every minute.
    """
    app = typer.Typer(
        name="goud-backup",
        help="Backups of a Goud Chain node: incremental, verified, restorable to any block.\n\nOptions that a host "
        "always gives come from GOUD_BACKUP_ variables; each command's help names them.",
        epilog=exits.epilog(),
        callback=_root,
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode="markdown",
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    for name in [word for word in arguments[:1] if word in COMMANDS] or COMMANDS:
        app.command(name)(command(name))
    return app


def command(name: str) -> Callable[..., None]:
    """The function behind a command."""
    module, _, function = COMMANDS[name].partition(":")
    entry_point: Callable[..., None] = getattr(import_module(f"goud_backup.cli.{module}"), function)
    return entry_point


def main() -> None:
    """Entry point: a known error is one sentence on stderr and its own exit code, never a traceback."""
    # A unit that is stopped releases its lock and its checkpoint like one that ends by itself.
    signal.signal(signal.SIGTERM, _terminate)
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(output.LogLines("goud-backup: %(levelname)s: %(message)s"))
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    try:
        app = command_line(sys.argv[1:])
        # Closing a database collects garbage: what was imported need not be looked at each time.
        gc.freeze()
        app()
    except GoudError as error:
        output.complain(f"goud-backup: {error.code}: {error}")
        sys.exit(exits.code_of_end(error))
    except OSError as error:
        text = f"{error.strerror or error}: {error.filename or ''}".rstrip(": ")
        output.complain(f"goud-backup: {text}. Check the disk and the owner.")
        sys.exit(exits.code_of_end(error))


def _terminate(number: int, _: FrameType | None) -> None:
    raise SystemExit(128 + number)


def _version(flag: bool) -> None:
    if flag:
        typer.echo(__version__)
        raise typer.Exit


def _root(
    shown: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Options of every command."""
