"""Commands for archives: one file that plain tools read, out of a repository, into one, or straight to a node."""

from __future__ import annotations

import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from goud_backup import archive, plan, swap, walk
from goud_backup import create as creating
from goud_backup import restore as restoring
from goud_backup.cli import options, output
from goud_backup.cli.making import summary
from goud_backup.cli.options import (
    CACHE,
    DATA,
    AsJson,
    Backup,
    CacheDir,
    Confirm,
    DataDir,
    IdentityFile,
    Recipients,
    Reinitialize,
    Url,
    Wait,
    Workers,
)
from goud_backup.errors import NotVerified
from goud_backup.repository import signed
from goud_backup.settings import WORKERS
from goud_backup.source import DirectorySource
from goud_node.chain import genesis as genesis_document
from goud_node.chain.genesis import Genesis
from goud_node.errors import SchemaMismatch, WrongChain
from goud_node.store import marker


def export(
    url: Url,
    backup: Backup = "latest",
    to: Annotated[Path, typer.Option(help="Directory for the archive.")] = Path("backups"),
    environment: Annotated[str, typer.Option("--environment", "-e", help="The word in the name.")] = "local",
    volume: Annotated[str, typer.Option(help="Name of the volume inside.")] = "node1_data",
    identity: IdentityFile = None,
    workers: Workers = WORKERS,
    as_json: AsJson = False,
) -> None:
    """Write a backup as one archive that `tar -xzf` and `sha256sum -c` read. It is not encrypted and has no secrets."""
    with options.repository(url) as repository, output.progress() as progress:
        result = archive.export(
            repository,
            repository.find(backup),
            to,
            environment=environment,
            volume=volume,
            opener=options.opener(identity),
            workers=workers,
            progress=progress,
        )
    document = {
        "archive": str(result.path),
        "checksum": str(result.checksum),
        "bytes": result.size,
        "sha256": result.sha256,
    }
    output.emit("exported", document, as_json=as_json)


def import_archive(
    url: Url,
    path: Annotated[Path, typer.Argument(metavar="ARCHIVE", help="goud-chain-backup-….tar.gz, its .sha256 beside it.")],
    volume: Annotated[str | None, typer.Option(help="Which volume, when it holds several.")] = None,
    scratch: Annotated[Path | None, typer.Option(help="Directory with room for the unpacked data.")] = None,
    recipient: Recipients = "",
    cache_dir: CacheDir = CACHE,
    workers: Workers = WORKERS,
    wait: Wait = 0.0,
    as_json: AsJson = False,
) -> None:
    """Take an archive into the repository as a backup, after every block and certificate in it is verified."""
    archive.check_checksum(path)
    with (
        options.repository(url) as repository,
        output.progress() as progress,
        tempfile.TemporaryDirectory(prefix="goud-backup-import-", dir=scratch) as folder,
    ):
        unpacked = archive.unpack(path, Path(folder), volume)
        database, trust = marker.database_path(unpacked.data_dir), signed.Trust(repository)
        proven = walk.prove(database, repository.config.genesis, workers, progress, trust)
        archive.compare(unpacked, proven.height, proven.tip_hash.hex())
        choices = creating.Options(options.recipients(recipient), (), cache_dir, workers, wait, passing=True)
        source = DirectorySource(unpacked.data_dir, node=unpacked.volume)
        manifest = creating.create(repository, source, choices, progress)
    if manifest.chain.height != proven.height:
        raise NotVerified(f"Backup {manifest.id} ends at {manifest.chain.height}, the archive at {proven.height}.")
    output.emit("imported", summary(manifest), as_json=as_json)


def restore_archive(
    path: Annotated[Path, typer.Argument(metavar="ARCHIVE", help="goud-chain-backup-….tar.gz, its .sha256 beside it.")],
    genesis: Annotated[
        Path, typer.Option("--genesis", envvar="GOUD_GENESIS_FILE", help="Genesis document of the chain.")
    ],
    data_dir: DataDir = DATA,
    volume: Annotated[str | None, typer.Option(help="Which volume, when it holds several.")] = None,
    reinitialize: Reinitialize = False,
    confirm: Confirm = False,
    workers: Workers = WORKERS,
    as_json: AsJson = False,
) -> None:
    """Bring a stopped node's data back out of an archive, proven like any other restore."""
    archive.check_checksum(path)
    chain = genesis_document.load(genesis)
    swap.require_chain(data_dir, chain.chain_id)
    document = _plan(path, chain, data_dir, reinitialize=reinitialize)
    if not confirm:
        output.emit("plan (nothing was done; add --yes)", document, as_json=as_json)
        return
    with output.progress() as progress, swap.exclusive(data_dir) as folder:
        tools = restoring.Tools(None, workers, progress)
        if document["how"] == plan.How.REINITIALIZE:
            restored = restoring.begin_again(folder, chain, tools)
        else:
            restored = _prepare(path, volume, folder, chain, tools)
        result = restoring.put_in_place(data_dir, folder, chain, restored, tools)
    output.emit("restored", result.document(), as_json=as_json)


def _prepare(
    path: Path, volume: str | None, folder: Path, genesis: Genesis, tools: restoring.Tools
) -> restoring.Restored:
    unpacked = archive.unpack(path, folder, volume)
    proven = restoring.make_ready(marker.database_path(folder), genesis, tools, None)
    archive.compare(unpacked, proven.height, proven.tip_hash.hex())
    return restoring.described(proven, plan.How.ARCHIVE, unpacked.metadata.get("backup_id"))


def _plan(path: Path, genesis: Genesis, data_dir: Path, *, reinitialize: bool) -> dict[str, Any]:
    """As far as the archive's metadata tells; in the words of a repository's plan."""
    metadata = archive.metadata(path)
    if metadata.get("chain_id", genesis.chain_id) != genesis.chain_id:
        raise WrongChain(f"{path} is a backup of chain {metadata['chain_id']}, this node's is {genesis.chain_id}.")
    how, height = plan.How.ARCHIVE, metadata.get("height")
    if "schema_version" in metadata:
        try:
            plan.check_schema(metadata["schema_version"], path.name, metadata.get("goud-node_version", "unknown"))
        except SchemaMismatch:
            if not reinitialize:
                raise
            how, height = plan.How.REINITIALIZE, 0
    creation = datetime.fromisoformat(metadata["timestamp"]) if "timestamp" in metadata else None
    return {
        "archive": str(path),
        "chain": genesis.chain_id,
        "data_dir": str(data_dir),
        "how": how.value,
        "backup": None,
        "created": metadata.get("timestamp"),
        "age_seconds": None if creation is None else int((datetime.now(UTC) - creation).total_seconds()),
        "schema": metadata.get("schema_version"),
        "to_height": height,
        "fetch_bytes": path.stat().st_size,
        **restoring.live_document(data_dir, genesis, height),
    }
