"""Commands about what stays in a repository."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from goud_backup import fork as forking
from goud_backup import prune as pruning
from goud_backup import shelf
from goud_backup.cli import options, output
from goud_backup.cli.measuring import measured
from goud_backup.cli.options import AsJson, Backup, IdentityFile, MetricsDir, Url, Wait
from goud_backup.errors import Locked
from goud_backup.repository import layout, locks
from goud_backup.repository.locks import is_gone, read_holder
from goud_backup.repository.retention import Policy

KeepDays = Annotated[int, typer.Option(min=0, help="Every one of the last so many days on which any was made.")]
KeepLast = Annotated[int, typer.Option(min=1, help="The newest so many.")]
KeepDaily = Annotated[int, typer.Option(min=0, help="The newest of each of so many days.")]
KeepWeekly = Annotated[int, typer.Option(min=0, help="The newest of each of so many weeks.")]
KeepMonthly = Annotated[int, typer.Option(min=0, help="The newest of each of so many months.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print what would be done, exactly.")]


def prune(
    url: Url,
    keep_days: KeepDays = 30,
    keep_last: KeepLast = 1,
    keep_daily: KeepDaily = 0,
    keep_weekly: KeepWeekly = 0,
    keep_monthly: KeepMonthly = 0,
    grace_hours: Annotated[float, typer.Option(min=0, help="How long what is not needed waits.")] = 24.0,
    announce_first: Annotated[
        bool, typer.Option("--announce-first", help="Only list when nothing was ever pruned here.")
    ] = False,
    dry_run: DryRun = False,
    wait: Wait = 0.0,
    metrics_dir: MetricsDir = None,
    as_json: AsJson = False,
) -> None:
    """Forget backups that no rule keeps, and remove what nothing has needed for the grace period.

    Never removed: the newest, the last good one, the highest, the last one proven by a deep verification, those marked
    keep, and those that shipped segments need.
    """
    policy = Policy(keep_days, keep_last, keep_daily, keep_weekly, keep_monthly)
    # A dry run is none of the runs that somebody waits for.
    with measured("prune", None if dry_run else metrics_dir) as run, options.repository(url) as repository:
        announced = announce_first and not dry_run and pruning.begin(repository, wait=wait)
        dry_run = dry_run or announced
        plan = pruning.prune(repository, policy, dry_run=dry_run, grace=grace_hours * 3600, wait=wait)
        run.set(removed=len(plan.forget) + len(plan.sweep), removed_bytes=plan.swept_bytes)
    if as_json or not sys.stdout.isatty():
        output.emit("prune", {"dry_run": dry_run, "announced": announced, **plan.document()}, as_json=as_json)
        return
    for line in plan.lines():
        output.say(line)
    if announced:
        output.say("This is the first run here: it only lists. The next one does it.")
    verb = "would be removed" if dry_run else "removed"
    output.say(f"{plan.swept_bytes} bytes {verb}, {plan.waiting} objects wait for the grace period")


def prune_archives(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Folder with goud-chain-backup-….tar.gz.")],
    keep_days: KeepDays = 30,
    keep_last: KeepLast = 1,
    keep_daily: KeepDaily = 0,
    keep_weekly: KeepWeekly = 0,
    keep_monthly: KeepMonthly = 0,
    kept: Annotated[
        list[str] | None, typer.Option(metavar="ID", help="Backups that are marked keep: their archives stay.")
    ] = None,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Remove archives that no rule keeps. The first run in a folder only lists.

    Never removed: the newest of each chain and environment, the newest one that its checksum proves, one with a file
    of its name and .keep beside it, and what this tool did not write.
    """
    policy = Policy(keep_days, keep_last, keep_daily, keep_weekly, keep_monthly)
    outcome = shelf.prune(folder, policy, protected=kept or (), dry_run=dry_run)
    output.emit("archives", {"dry_run": dry_run, **outcome.document()}, as_json=as_json)


def keep(
    url: Url,
    backup: Backup = "latest",
    remove: Annotated[bool, typer.Option("--remove", help="Take the mark away.")] = False,
    wait: Wait = 60.0,
    as_json: AsJson = False,
) -> None:
    """Mark a backup so that no prune ever removes it."""
    with options.repository(url) as repository:
        manifest = pruning.keep(repository, backup, mark=not remove, wait=wait)
    output.emit("keep", {"id": manifest.id, "kept": not remove}, as_json=as_json)


def fork(
    url: Url,
    height: Annotated[int, typer.Option(min=0, help="The last block that both histories share.")],
    block_hash: Annotated[str, typer.Option("--hash", help="Its hash, as the node serves it.")],
    identity: IdentityFile = None,
    wait: Wait = 60.0,
    as_json: AsJson = False,
) -> None:
    """Let the repository follow a chain that was restored to an earlier block and goes on in another way.

    Nothing is removed: backups and blocks above are kept as an abandoned history, restorable by a backup's id. The hash
    is compared with the stored block, inside encrypted segments with an identity only.
    """
    with options.repository(url) as repository:
        record = forking.fork(repository, height, block_hash, opener=options.opener(identity), wait=wait)
    abandoned = {"segments": len(record.segments), "backups": list(record.backups)} if record is not None else None
    output.emit("fork", {"height": height, "hash": block_hash, "abandoned": abandoned}, as_json=as_json)


def unlock(
    url: Url,
    force: Annotated[bool, typer.Option("--force", help="Even though its holder may be alive elsewhere.")] = False,
    as_json: AsJson = False,
) -> None:
    """Remove locks whose holder is gone. Locks expire by themselves: this is for the impatient."""
    removed, alive = [], []
    with options.repository(url) as repository:
        for name in (locks.BACKUP, locks.SHIP):
            key = f"{layout.LOCKS}{name}.json"
            holder, _ = read_holder(repository.target, key)
            if holder is None:
                continue
            if force or is_gone(holder):
                repository.target.delete(key)
                removed.append(str(holder))
            else:
                alive.append(str(holder))
    if alive:
        raise Locked(f"Not removed, because it may be alive: {'; '.join(alive)}. Make sure, then add --force.")
    output.emit("unlocked", {"removed": removed}, as_json=as_json)
