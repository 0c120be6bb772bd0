"""Let the repository follow a chain that was restored to an earlier block and went on in another way."""

from __future__ import annotations

from datetime import UTC, datetime

from goud_backup.errors import NotVerified
from goud_backup.repository import forks, locks
from goud_backup.repository.forks import Fork
from goud_backup.repository.repository import Repository


def fork(repository: Repository, height: int, block_hash: str, *, wait: float = 0.0) -> Fork | None:
    """Abandon what is stored above block `height`; None when there is nothing above, so nothing to abandon.

    Raises Locked, Damaged, and NotVerified when the repository knows another block at that height.
    """
    with (
        locks.Lock(repository.target, locks.BACKUP, "fork", wait=wait) as backup,
        locks.Lock(repository.target, locks.SHIP, "fork", wait=max(wait, 5.0)) as ship,
    ):
        past = repository.abandoned_backups()
        manifests = [one for one in repository.manifests().good if one.id not in past]
        segments = repository.segments()
        _check_base(repository, height, block_hash)
        above = Fork(
            height,
            block_hash,
            datetime.now(UTC).isoformat(timespec="seconds"),
            tuple(one.key for one in segments if one.last > height),
            tuple(one.id for one in manifests if one.chain.height > height),
        )
        if not above.segments and not above.backups:
            return None
        key, raw = forks.dump(above)
        repository.put_under([backup, ship], key, raw)
    return above


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
