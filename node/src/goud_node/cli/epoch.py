"""The agreement epoch of a stopped node: looked at, and begun anew after a restore."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from goud_node.cli import config, output
from goud_node.cli.output import AsJson
from goud_node.service import epochs

app = typer.Typer(
    help="The agreement epoch, with the node stopped.\n\nThe settings are those of `serve`. The database is opened, so "
    "a running node is refused (9); of that, `goud-node admin status` tells the epoch.",
    no_args_is_help=True,
)


@app.command()
def show(as_json: AsJson = False) -> None:
    """Say what the log holds, and how this node's chain relates to it.

    `relation` is one of: **empty**, the log holds nothing; **continues**, the node can join and take what it lacks
    from the log; **gap**, the log goes on above, but blocks in between are trimmed; **ahead**, the log has nothing
    that this node lacks, but lost blocks that it holds; **conflict**, they contradict each other.
    """
    _print("epoch", epochs.show(config.load()), as_json=as_json)


@app.command()
def start(
    confirm: Annotated[
        bool, typer.Option("--yes", help="Do it without asking.", prompt="Begin a new epoch from this node's tip?")
    ],
    if_needed: Annotated[
        bool,
        typer.Option("--if-needed", help="Keep the log when it continues this chain; refuse when they contradict."),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Begin a new agreement epoch from this node's tip, after a restore, before any node is started.

    Run it once, on the restored node with the longest chain. The log drops what it ordered above the tip, for good;
    nodes that hold more than the tip will not take part. With `--if-needed` nothing is lost that the log can still
    give: a log that continues this chain is kept (`continued`), and a new epoch begins only when no node could join
    (`started`).
    """
    if not confirm:
        raise typer.Abort
    _print("epoch", epochs.start(config.load(), if_needed=if_needed), as_json=as_json)


def _print(title: str, answer: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        output.document(answer)
    else:
        output.table(title, [(name.replace("_", " "), output.word(value)) for name, value in answer.items()])
