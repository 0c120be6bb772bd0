"""Commands that bring data back."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from goud_backup import archive, plan, swap
from goud_backup import restore as restoring
from goud_backup.cli import options, output
from goud_backup.cli.options import DATA, AsJson, Backup, DataDir, GenesisFile, IdentityFile, Url, Workers
from goud_backup.errors import BackupError
from goud_backup.settings import WORKERS
from goud_node.chain import genesis as genesis_document
from goud_node.chain.genesis import Genesis
from goud_node.errors import ConfigurationError, WrongChain

Confirm = Annotated[bool, typer.Option("--yes", help="Do it; without this the plan is printed and nothing happens.")]


def restore(
    url: Url,
    backup: Backup = "latest",
    data_dir: DataDir = DATA,
    to_height: Annotated[int | None, typer.Option(min=1, help="The block that is to be the tip.")] = None,
    to_time: Annotated[
        str | None, typer.Option(help="The last block not later than this (ISO 8601, UTC unless it says otherwise).")
    ] = None,
    exact: Annotated[bool, typer.Option("--exact", help="The backup alone, without blocks shipped after it.")] = False,
    reinitialize: Annotated[
        bool,
        typer.Option(
            "--reinitialize",
            help="Begin again at the genesis block when this version can not read the backup's schema.",
        ),
    ] = False,
    confirm: Confirm = False,
    secrets_to: Annotated[Path | None, typer.Option(help="Directory for the secrets that were backed up.")] = None,
    genesis: GenesisFile = None,
    identity: IdentityFile = None,
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
    with options.repository(url, genesis) as repository, output.progress() as progress:
        made = plan.make(repository, wish, opener)
        if not confirm:
            document = restoring.plan_document(repository, made, data_dir)
            output.emit("plan (nothing was done; add --yes)", document, as_json=as_json)
            return
        tools = restoring.Tools(opener, workers, progress, secrets_to)
        done = restoring.restore(repository, made, data_dir, tools)
    output.emit("restored", done.document(), as_json=as_json)


def restore_archive(
    path: Annotated[Path, typer.Argument(metavar="ARCHIVE", help="goud-chain-backup-….tar.gz, its .sha256 beside it.")],
    genesis: Annotated[
        Path, typer.Option("--genesis", envvar="GOUD_GENESIS_FILE", help="Genesis document of the chain.")
    ],
    data_dir: DataDir = DATA,
    volume: Annotated[str | None, typer.Option(help="Which volume, when it holds several.")] = None,
    confirm: Confirm = False,
    workers: Workers = WORKERS,
    as_json: AsJson = False,
) -> None:
    """Bring a stopped node's data back out of an archive, proven like any other restore."""
    archive.check_checksum(path)
    chain = genesis_document.load(genesis)
    swap.require_chain(data_dir, chain.chain_id)
    document = _archive_plan(path, chain, data_dir)
    if not confirm:
        output.emit("plan (nothing was done; add --yes)", document, as_json=as_json)
        return
    with output.progress() as progress, swap.exclusive(data_dir) as folder:
        tools = restoring.Tools(None, workers, progress)
        unpacked = archive.unpack(path, folder, volume)
        height, tip = restoring.make_ready(folder / "rocksdb", chain, tools, None)
        archive.compare(unpacked, height, tip)
        restored = restoring.Restored(height, tip, "archive", str(unpacked.metadata.get("backup_id")), None)
        done = restoring.put_in_place(data_dir, folder, chain, restored, tools)
    output.emit("restored", done.document(), as_json=as_json)


def _archive_plan(path: Path, genesis: Genesis, data_dir: Path) -> dict[str, Any]:
    """As far as the archive's metadata tells; in the words of a repository's plan."""
    told = archive.metadata(path)
    if told.get("chain_id", genesis.chain_id) != genesis.chain_id:
        raise WrongChain(f"{path} is a backup of chain {told['chain_id']}, this node's is {genesis.chain_id}.")
    if "schema_version" in told:
        plan.check_schema(int(told["schema_version"]), path.name, told.get("goud-node_version", "unknown"))
    made = datetime.fromisoformat(told["timestamp"]) if "timestamp" in told else None
    return {
        "archive": str(path),
        "chain": genesis.chain_id,
        "data_dir": str(data_dir),
        "how": "archive",
        "backup": None,
        "created": told.get("timestamp"),
        "age_seconds": None if made is None else int((datetime.now(UTC) - made).total_seconds()),
        "schema": told.get("schema_version"),
        "to_height": told.get("height"),
        "fetch_bytes": path.stat().st_size,
        **restoring.live_document(data_dir, genesis, told.get("height")),
    }


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
