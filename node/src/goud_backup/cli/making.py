"""Commands that make a repository and the backups in it."""

from __future__ import annotations

import time
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any

import typer

from goud_backup import create as creating
from goud_backup.cli import choosing, options, output
from goud_backup.cli.measuring import measured, recovery_point
from goud_backup.cli.options import (
    CACHE,
    DATA,
    AsJson,
    CacheDir,
    Candidates,
    DataDir,
    GenesisFile,
    KeyFile,
    MetricsDir,
    NodeName,
    NodeUrl,
    Operator,
    Recipients,
    Url,
    Wait,
    Workers,
)
from goud_backup.codec.sealing import check_recipients
from goud_backup.repository.manifest import Manifest
from goud_backup.repository.repository import initialize
from goud_backup.settings import WORKERS
from goud_backup.source import DirectorySource, NodeSource, Source
from goud_backup.targets import open_target
from goud_node.chain import genesis as genesis_document


def init(
    url: Url,
    genesis: Annotated[
        Path, typer.Option("--genesis", envvar="GOUD_GENESIS_FILE", help="Genesis document of the chain.")
    ],
    recipient: Recipients = "",
    as_json: AsJson = False,
) -> None:
    """Make an empty repository for one chain; encrypted when recipients are given."""
    keys = check_recipients(options.recipients(recipient))
    repository = initialize(open_target(url), genesis_document.load(genesis), encrypted=bool(keys), recipients=keys)
    document = {"repository": repository.url, "id": repository.config.id, "chain": repository.config.chain_id}
    output.emit("initialised", {**document, "encryption": repository.config.encryption}, as_json=as_json)


def create(
    url: Url,
    data_dir: DataDir = DATA,
    node_url: NodeUrl = None,
    node: NodeName = None,
    key: KeyFile = None,
    operator: Operator = False,
    candidate: Candidates = None,
    genesis: GenesisFile = None,
    recipient: Recipients = "",
    secret: Annotated[
        list[Path] | None, typer.Option(help="A secret file that goes along; only into an encrypted repository.")
    ] = None,
    must_be_mount: Annotated[bool, typer.Option(help="Refuse a data directory that is not a mount point.")] = False,
    cache_dir: CacheDir = CACHE,
    workers: Workers = WORKERS,
    wait: Wait = 0.0,
    metrics_dir: MetricsDir = None,
    as_json: AsJson = False,
) -> None:
    """Back up a running node (by a checkpoint it makes; nothing stops), or the data directory of a stopped one.

    With --node-url, --node and --key the node makes the checkpoint, and --data-dir is its volume as mounted here. With
    candidates every host may run the same command at the same time: it backs up on one, and ends with 0 on the others.
    """
    began = time.monotonic()
    with ExitStack() as stack:
        run = stack.enter_context(measured("create", metrics_dir))
        run.chosen = choosing.is_chosen(candidate, node, as_json=as_json)
        if not run.chosen:
            return
        repository = stack.enter_context(options.repository(url, genesis))
        progress = stack.enter_context(output.progress())
        source: Source = DirectorySource(data_dir, node=node or "", must_be_mount=must_be_mount)
        if node_url is not None:
            client = options.node_client(node_url, node, key, repository.config.genesis, operator=operator)
            stack.callback(client.close)
            source = NodeSource(client, data_dir)
        choices = creating.Options(options.recipients(recipient), tuple(secret or ()), cache_dir, workers, wait)
        manifest = creating.create(repository, source, choices, progress)
        run.set(bytes=manifest.totals["bytes"], new_bytes=manifest.totals["new_bytes"], height=manifest.chain.height)
        run.set(recovery_point_timestamp_seconds=recovery_point(manifest.chain.tip_ms))
    output.emit("backup", summary(manifest, seconds=round(time.monotonic() - began, 3)), as_json=as_json)


def summary(manifest: Manifest, **more: Any) -> dict[str, Any]:
    """A backup in one row."""
    return {
        "id": manifest.id,
        "sequence": manifest.sequence,
        "created": manifest.created,
        "height": manifest.chain.height,
        "tip_hash": manifest.chain.tip_hash,
        "node": manifest.source.get("node", ""),
        "encrypted": manifest.encrypted,
        **manifest.totals,
        **more,
    }
