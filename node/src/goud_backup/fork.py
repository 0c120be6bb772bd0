"""Let the repository follow a chain that was restored to an earlier block and went on in another way."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime

from goud_backup.errors import NotVerified
from goud_backup.repository import forks, locks
from goud_backup.repository.forks import Fork
from goud_backup.repository.manifest import Manifest
from goud_backup.repository.repository import Repository


def fork(repository: Repository, height: int, block_hash: str, *, wait: float = 0.0) -> Fork | None:
    """Abandon what is stored above block `height`; None when there is nothing above, so nothing to abandon.

    Raises Locked, Damaged, and NotVerified when the repository knows another block at that height.
    """
    with (
        locks.Lock(repository.target, locks.BACKUP, "fork", wait=wait) as backup,
        locks.Lock(repository.target, locks.SHIP, "fork", wait=max(wait, 5.0)) as ship,
    ):
        past, every = repository.abandoned_backups(), repository.manifests().good
        manifests = [one for one in every if one.id not in past]
        segments = repository.segments()
        _check_base(repository, height, block_hash)
        above = Fork(
            height,
            block_hash,
            _date(every).isoformat(timespec="seconds"),
            tuple(one.key for one in segments if one.last > height),
            tuple(one.id for one in manifests if one.chain.height > height),
        )
        if not above.segments and not above.backups:
            return None
        key, raw = forks.dump(above)
        repository.put_under([backup, ship], key, raw)
    return above


def _date(manifests: Sequence[Manifest]) -> datetime:
    """Now, but no earlier than any backup or its blocks: the age of what is abandoned counts from here, and a clock
    that is behind must not make it old at once.
    """
    dates = [one.created_at for one in manifests]
    for one in manifests:
        with suppress(ValueError, OverflowError, OSError):
            dates.append(datetime.fromtimestamp(one.chain.tip_ms / 1000, UTC))
    return max([datetime.now(UTC), *dates])


def _check_base(repository: Repository, height: int, block_hash: str) -> None:
    """Where the repository knows the block without a key, it must be the same one."""
    known = {one.id: one.chain.tip_hash for one in repository.manifests().good if one.chain.height == height} | {
        one.key: repository.segment_header(one).last_hash for one in repository.segments() if one.last == height
    }
    if known and block_hash not in known.values():
        thing, found = next(iter(known.items()))
        raise NotVerified(
            f"Block {height} has the hash {found[:16]}… in {thing}, not {block_hash[:16]}…: this chain was not "
            f"restored from {repository.url}. Begin a new repository for it (`goud-backup init`); nothing was changed."
        )
