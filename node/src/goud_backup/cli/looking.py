"""Commands that look, and change nothing but the record of a verification."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from goud_backup import plan as plans
from goud_backup import restore as restoring
from goud_backup import verify as verifying
from goud_backup.cli import exits, options, output
from goud_backup.cli.making import summary
from goud_backup.cli.measuring import measured
from goud_backup.cli.options import AsJson, Backup, IdentityFile, MetricsDir, RecordKey, Url, Wait, Workers
from goud_backup.errors import Damaged, NoSuchBackup
from goud_backup.repository import layout, locks, rot
from goud_backup.repository.locks import read_holder
from goud_backup.repository.manifest import Manifest
from goud_backup.repository.records import Check
from goud_backup.repository.repository import ARCHIVED, Repository
from goud_backup.repository.segments import runs
from goud_backup.settings import WORKERS
from goud_node.errors import GoudError

_COLUMNS = ("id", "height", "bytes", "new_bytes", "node", "kept", "verified", "abandoned")


def listed(url: Url, as_json: AsJson = False) -> None:
    """List the backups, oldest first. Ends with 10 when a manifest is damaged."""
    with options.repository(url) as repository:
        listing = repository.manifests()
        keeps, checks, past = repository.kept(), repository.checks(), repository.abandoned_backups()
    rows = [
        summary(
            manifest,
            kept=manifest.id in keeps,
            verified=_verdict(checks.get(manifest.id)),
            abandoned=manifest.id in past,
        )
        for manifest in listing.good
    ]
    output.rows("backups", _COLUMNS, rows, as_json=as_json)
    for key, problem in listing.bad.items():
        output.complain(f"goud-backup: damaged: {key}: {problem}")
    if listing.bad:
        raise typer.Exit(exits.CODES["damaged"][0])


def show(url: Url, backup: Backup = "latest", identity: IdentityFile = None, as_json: AsJson = False) -> None:
    """Show one backup: its chain, what made it, and its files (when they can be read)."""
    with options.repository(url) as repository:
        manifest = repository.find(backup)
        check = repository.checks().get(manifest.id)
        is_kept = manifest.id in repository.kept()
    opener = options.opener(identity)
    files: list[dict[str, Any]] | None = None
    if manifest.files is not None or opener is not None:
        files = [{"path": entry.path, "size": entry.size} for entry in manifest.listing(opener)]
    document = {
        **summary(manifest),
        "previous": None if manifest.previous is None else manifest.previous[0],
        "chain": manifest.chain.id,
        "certified_height": manifest.chain.certified_height,
        "schema": manifest.chain.schema,
        "keys": dict(manifest.keys),
        "source": dict(manifest.source),
        "versions": dict(manifest.versions),
        "sha256": manifest.sha256,
        "objects": len(manifest.objects),
        "kept": is_kept,
        "verified": _verdict(check),
        "files": files,
    }
    output.emit("backup", document, as_json=as_json)


def status(url: Url, as_json: AsJson = False) -> None:
    """Show how recent the repository is: last backup, last shipped block, size, locks.

    Ends with 10 when a restore of the latest would not bring all that is stored, with 16 when nothing that is stored is
    of the present history (after `fork`, until the next backup).
    """
    with options.repository(url) as repository:
        sizes = repository.object_sizes()
        document = _status(repository, sizes)
        problem: Damaged | NoSuchBackup | None = None
        try:
            plans.require_restorable(repository, rot.present_objects(repository, sizes))
        except (Damaged, NoSuchBackup) as error:
            problem = error
            document["problem"] = str(error)
    output.emit("repository", document, as_json=as_json)
    if problem is not None:
        output.complain(f"goud-backup: {problem.code}: {problem}")
        raise typer.Exit(exits.code_of(problem))


def _status(repository: Repository, sizes: dict[str, int]) -> dict[str, Any]:
    listing = repository.manifests()
    past = repository.abandoned_backups()
    newest = next((manifest for manifest in reversed(listing.good) if manifest.id not in past), None)
    references = repository.segments()
    last = max(references, key=lambda segment: segment.last) if references else None
    header = None if last is None else repository.segment_header(last)
    unfinished = list(repository.target.unfinished())
    holders = {name: _holder(repository, name) for name in (locks.BACKUP, locks.SHIP)}
    tip_ms = max([0 if newest is None else newest.chain.tip_ms, 0 if header is None else header.last_ms])
    return {
        "repository": repository.url,
        "id": repository.config.id,
        "chain": repository.config.chain_id,
        "encryption": repository.config.encryption,
        "backups": len(listing.good),
        "damaged_manifests": sorted(listing.bad),
        "last_backup": None if newest is None else newest.id,
        "last_backup_node": None if newest is None else newest.source.get("node", ""),
        "last_backup_height": None if newest is None else newest.chain.height,
        "last_backup_age_seconds": None if newest is None else _age(newest),
        "shipped_height": None if last is None else last.last,
        "shipped_ranges": runs(references),
        "recovery_height": max(0 if newest is None else newest.chain.height, 0 if last is None else last.last),
        "recovery_point_ms": tip_ms or None,
        "objects": len(sizes),
        "segments": len(references),
        "archived_objects": sum(size == ARCHIVED for size in sizes.values()),
        "bytes": sum(max(0, size) for size in sizes.values()) + sum(segment.size for segment in references),
        "unfinished_files": len(unfinished),
        "unfinished_bytes": sum(stat.size for stat in unfinished),
        "verified": _verdict(repository.checks().get(newest.id)) if newest is not None else None,
        "locks": holders,
        "problem": None,
    }


def verify(
    url: Url,
    deep: Annotated[bool, typer.Option("--deep", help="Restore to scratch and verify the chain itself.")] = False,
    quick: Annotated[bool, typer.Option("--quick", help="Only what the store lists, no content.")] = False,
    backup: Annotated[str, typer.Option(help="The backup that --deep restores.")] = "latest",
    scratch: Annotated[Path | None, typer.Option(help="Directory with room for the restored data.")] = None,
    quarantine: Annotated[
        bool, typer.Option("--quarantine", help="Move damaged objects and segments aside: they are stored anew.")
    ] = False,
    record: Annotated[bool, typer.Option(help="Note the result in the repository.")] = True,
    identity: IdentityFile = None,
    key: RecordKey = None,
    workers: Workers = WORKERS,
    wait: Wait = 0.0,
    metrics_dir: MetricsDir = None,
    as_json: AsJson = False,
) -> None:
    """Verify every manifest, object and segment by its hash. Ends with 11, naming each thing that is wrong.

    It ends with 16 when all is whole, but nothing is of the present history (after `fork`, until the next backup).
    What only keeps it from looking (a credential, a full disk, a missing identity) has its own exit code and is noted
    of no backup.
    """
    depth = verifying.Depth(not quick, deep, backup, scratch, record)
    with (
        measured("verify", metrics_dir) as run,
        options.repository(url) as repository,
        output.progress() as progress,
    ):
        signer = options.signing_key(key if deep and record else None)
        tools = restoring.Tools(options.opener(identity), workers, progress, key=signer)
        report = verifying.verify(repository, depth, tools)
        run.set(problems=len(report.problems), bytes=report.bytes)
        try:
            if quarantine and not report.ok:
                verifying.quarantine(repository, report, opener=tools.opener, wait=wait)
        except GoudError as error:
            # The damage is still there: its exit code says more than what kept it from being moved.
            output.complain(f"goud-backup: {error.code}: {error}")
        finally:
            _tell(report, as_json=as_json)
        if not report.ok:
            codes = {problem.code for problem in report.problems}
            raise typer.Exit(exits.CODES[codes.pop() if len(codes) == 1 else "not-verified"][0])


def _tell(report: verifying.Report, *, as_json: bool) -> None:
    output.emit("verification", report.document(), as_json=as_json)
    for problem in report.problems:
        output.complain(f"goud-backup: {problem.code}: {problem.thing}: {problem.message}")


def _holder(repository: Repository, name: str) -> str | None:
    holder, _ = read_holder(repository.target, f"{layout.LOCKS}{name}.json")
    return None if holder is None else str(holder)


def _verdict(check: Check | None) -> str | None:
    if check is None:
        return None
    return f"{'ok' if check['ok'] else 'DAMAGED'} ({check['level']}, {check['at']})"


def _age(manifest: Manifest) -> int:
    return int((datetime.now(UTC) - manifest.created_at).total_seconds())
