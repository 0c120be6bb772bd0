"""The command that runs every minute: new blocks into the repository."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import typer

from goud_backup import ship as engine
from goud_backup.cli import choosing, options, output
from goud_backup.cli.measuring import measured, recovery_point
from goud_backup.cli.options import (
    CACHE,
    AsJson,
    CacheDir,
    Candidates,
    GenesisFile,
    KeyFile,
    MetricsDir,
    NodeName,
    NodeUrl,
    Operator,
    Recipients,
    Url,
    Wait,
)
from goud_backup.seen import Memory


def ship(
    url: Url,
    data_dir: Annotated[
        Path | None, typer.Option("--data-dir", help="Ship from the data directory of a stopped node instead.")
    ] = None,
    node_url: NodeUrl = None,
    node: NodeName = None,
    key: KeyFile = None,
    operator: Operator = False,
    candidate: Candidates = None,
    genesis: GenesisFile = None,
    recipient: Recipients = "",
    from_genesis: Annotated[
        bool, typer.Option(help="Begin at block 1, also with a backup: the first time, or after a quarantine.")
    ] = False,
    cache_dir: CacheDir = CACHE,
    wait: Wait = 20.0,
    metrics_dir: MetricsDir = None,
    as_json: AsJson = False,
) -> None:
    """Store the certified blocks that are not in the repository yet. Run it every minute; again is harmless."""
    with ExitStack() as stack:
        run = stack.enter_context(measured("ship", metrics_dir))
        run.chosen = choosing.is_chosen(candidate, node, as_json=as_json)
        if not run.chosen:
            return
        repository = stack.enter_context(options.repository(url, genesis))
        progress = stack.enter_context(output.progress())
        blocks: engine.Blocks
        if data_dir is not None:
            blocks = stack.enter_context(engine.DirectoryBlocks(data_dir, repository.config.genesis))
        else:
            client = options.node_client(node_url, node, key, repository.config.genesis, operator=operator)
            stack.callback(client.close)
            blocks = engine.NodeBlocks(client)
        result = engine.ship(
            repository,
            blocks,
            options.recipients(recipient),
            wait=wait,
            from_genesis=from_genesis,
            memory=Memory(cache_dir, repository.config.id),
            progress=progress,
        )
        run.set(new_bytes=result.stored_bytes, shipped_height=result.last)
        run.set(recovery_point_timestamp_seconds=recovery_point(result.recovery_point_ms))
    output.emit("shipped", result.document(), as_json=as_json)
