"""Commands that bring data back."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import typer

from goud_backup import plan, swap
from goud_backup import restore as restoring
from goud_backup.cli import options, output
from goud_backup.cli.options import (
    DATA,
    AsJson,
    Backup,
    Confirm,
    DataDir,
    GenesisFile,
    IdentityFile,
    KeyFile,
    NodeName,
    NodeUrl,
    Reinitialize,
    Url,
    Workers,
)
from goud_backup.errors import BackupError
from goud_backup.settings import WORKERS
from goud_backup.ship import NodeBlocks
from goud_node.chain.genesis import Genesis
from goud_node.errors import ConfigurationError


def restore(
    url: Url,
    backup: Backup = "latest",
    data_dir: DataDir = DATA,
    to_height: Annotated[int | None, typer.Option(min=1, help="The block that is to be the tip.")] = None,
    to_time: Annotated[
        str | None, typer.Option(help="The last block not later than this (ISO 8601, UTC unless it says otherwise).")
    ] = None,
    exact: Annotated[bool, typer.Option("--exact", help="The backup alone, without blocks shipped after it.")] = False,
    reinitialize: Reinitialize = False,
    confirm: Confirm = False,
    secrets_to: Annotated[Path | None, typer.Option(help="Directory for the secrets that were backed up.")] = None,
    genesis: GenesisFile = None,
    identity: IdentityFile = None,
    node_url: NodeUrl = None,
    node: NodeName = None,
    key: KeyFile = None,
    workers: Workers = WORKERS,
    as_json: AsJson = False,
) -> None:
    """Bring a stopped node's data back: staged beside the live data, proven block by block, then swapped by rename.

    `latest` includes every block shipped since. What was live is kept: `goud-backup undo` puts it back,
    `goud-backup cleanup` removes it.
    """
    if to_height is not None and to_time is not None:
        raise ConfigurationError("Give --to-height or --to-time, not both.")
    wish = plan.Wish(backup, to_height, options.milliseconds(to_time), exact, reinitialize)
    opener = options.opener(identity)
    with ExitStack() as stack:
        repository = stack.enter_context(options.repository(url, genesis))
        progress = stack.enter_context(output.progress())
        restore_plan = plan.make(repository, wish, opener)
        if not confirm:
            live = _live_node(stack, node_url, node, key, repository.config.genesis)
            document = restoring.plan_document(repository, restore_plan, data_dir, opener, live)
            output.emit("plan (nothing was done; add --yes)", document, as_json=as_json)
            return
        tools = restoring.Tools(opener, workers, progress, secrets_to)
        result = restoring.restore(repository, restore_plan, data_dir, tools)
    output.emit("restored", result.document(), as_json=as_json)


def _live_node(
    stack: ExitStack, node_url: str | None, node: str | None, key: Path | None, genesis: Genesis
) -> NodeBlocks | None:
    """The live node, for the plan, when it runs: its volume is open. None when none is named."""
    if node_url is None:
        return None
    client = options.node_client(node_url, node, key, genesis, operator=False)
    stack.callback(client.close)
    return NodeBlocks(client)


def undo(data_dir: DataDir = DATA, as_json: AsJson = False) -> None:
    """Put back what was live before the last restore. The node must be stopped."""
    aside = swap.undo(data_dir)
    output.emit("undone", {"data_dir": str(data_dir), "restored_data_kept": str(aside)}, as_json=as_json)


def cleanup(data_dir: DataDir = DATA, as_json: AsJson = False) -> None:
    """Remove what restores have kept beside the live data. The node must be stopped."""
    removed = swap.cleanup(data_dir)
    if any((data_dir / name).exists() for name in removed):
        raise BackupError(f"Something kept in {data_dir} could not be removed: check its owner.")
    output.emit("cleaned", {"data_dir": str(data_dir), "removed": removed}, as_json=as_json)
