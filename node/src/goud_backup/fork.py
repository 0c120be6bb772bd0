"""Let the repository follow a chain that was restored to an earlier block and went on in another way."""

from __future__ import annotations

import logging
import time
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import Final

from goud_backup.codec.sealing import Opener
from goud_backup.errors import Damaged, NotVerified
from goud_backup.repository import forks, layout, locks
from goud_backup.repository.forks import Fork
from goud_backup.repository.layout import manifest_parts
from goud_backup.repository.manifest import Manifest
from goud_backup.repository.recording import follow, put_under
from goud_backup.repository.repository import Listing, Repository
from goud_backup.repository.segments import HEAD_BYTES, MAGIC, Reference, header_of
from goud_node.documents import Digest, Malformed, shaped
from goud_node.errors import ConfigurationError, WrongChain

_log = logging.getLogger(__name__)

_PATIENCE: Final = (0.5, 2.0)
"""Seconds between looks at what cannot be read."""
_SHIP_SECONDS: Final = 5.0
"""Least wait for a run that ships: it comes every half minute, and is short."""


def fork(
    repository: Repository, height: int, block_hash: str, *, opener: Opener | None = None, wait: float = 0.0
) -> Fork | None:
    """Abandon what is stored above block `height`; None when there is nothing above, so nothing to abandon.

    Raises ConfigurationError for what is no hash, Locked, Damaged, WrongIdentity, and NotVerified when the repository
    knows another block at that height; with an `opener` it knows those inside sealed segments, too.
    """
    try:
        shaped(block_hash, Digest)
    except Malformed as error:
        raise ConfigurationError(
            f"{block_hash[:200]!r} is not the hash of a block: that has 64 hexadecimal digits in lower case. Correct "
            "--hash: give it as the node serves it. Nothing was changed."
        ) from error
    with (
        locks.Lock(repository.target, locks.BACKUP, "fork", wait=wait) as backup,
        locks.Lock(repository.target, locks.SHIP, "fork", wait=max(wait, _SHIP_SECONDS)) as ship,
    ):
        past, listing = repository.abandoned_backups(), _manifests(repository)
        listing.require_known_formats()
        manifests = [manifest for manifest in listing.good if manifest.id not in past]
        unknown = _unreadable(listing, past)
        segments = repository.segments()
        _check_base(repository, height, block_hash, _hashes(repository, height, manifests, segments, opener))
        record = Fork(
            height,
            block_hash,
            _date(repository, listing.good, segments).isoformat(timespec="seconds"),
            tuple({segment.key for segment in segments if segment.last > height} | _quarantined(repository, height)),
            (*(manifest.id for manifest in manifests if manifest.chain.height > height), *unknown),
        )
        if not record.segments and len(record.backups) == len(unknown):
            # One that was cut off has not come to this.
            follow(repository, [backup, ship])
            return None
        key, raw = forks.dump(record)
        put_under(repository, [backup, ship], key, raw)
        follow(repository, [backup, ship])
    return record


def _manifests(repository: Repository) -> Listing:
    """What cannot be read is looked at again: a read that failed in passing must not cost the history a backup."""
    for pause in _PATIENCE:
        listing = repository.manifests()
        if not listing.bad:
            return listing
        time.sleep(pause)
    return repository.manifests()


def _unreadable(listing: Listing, past: Collection[str]) -> list[str]:
    """Backups whose height is not known now: when such a manifest is copied back, it must not become the present
    history's highest. It can be restored by its id.
    """
    unknown = [parts[1] for parts in map(manifest_parts, sorted(listing.bad)) if parts is not None]
    abandoned = [backup for backup in unknown if backup not in past]
    for backup in abandoned:
        _log.warning(
            "the manifest of %s cannot be read, so it is taken for one of the abandoned history: when it has been "
            "copied back, `goud-backup restore %s` restores it, and `goud-backup keep %s` keeps it from being pruned",
            backup,
            backup,
            backup,
        )
    return abandoned


def _quarantined(repository: Repository, height: int) -> set[str]:
    """The keys that segments above the base had before they were moved aside, as their headers tell: one that is copied
    back must not join the present history.
    """
    keys = set()
    for stat in repository.target.list(layout.DAMAGED):
        name = stat.key.removeprefix(layout.DAMAGED)
        if stat.archived or not layout.OBJECT_NAME.fullmatch(name):
            continue
        raw = repository.target.get(stat.key, 0, HEAD_BYTES)
        if bytes(raw[: len(MAGIC)]) != MAGIC:
            continue  # an object, most likely
        try:
            header, _ = header_of(raw, stat.key)
        except Damaged:
            _log.warning(
                "which blocks were in %s cannot be read: do not copy that segment back, as blocks above %d of the "
                "abandoned history would join the present one",
                stat.key,
                height,
            )
        else:
            keys |= {layout.segment_key(header.first, header.last, name)} if header.last > height else set()
    return keys - forks.abandoned_segments(repository.forks())


def _date(repository: Repository, manifests: Sequence[Manifest], segments: Sequence[Reference]) -> datetime:
    """Now, but no earlier than any backup or any block: the age of what is abandoned counts from here, and a clock that
    is behind must not make it old at once.
    """
    dates = [manifest.created_at for manifest in manifests]
    for milliseconds in [*(manifest.chain.tip_ms for manifest in manifests), _newest_ms(repository, segments)]:
        with suppress(ValueError, OverflowError, OSError):
            dates.append(datetime.fromtimestamp(milliseconds / 1000, UTC))
    return max([datetime.now(UTC), *dates])


def _newest_ms(repository: Repository, segments: Sequence[Reference]) -> int:
    """The time of the last block of the highest segment that can be read; 0 without any."""
    for segment in sorted(segments, key=lambda segment: segment.last, reverse=True):
        with suppress(Damaged, WrongChain):
            return repository.segment_header(segment).last_ms
    return 0


def _check_base(repository: Repository, height: int, block_hash: str, known: Mapping[str, str]) -> None:
    """What is `known` of the block, by where it stands: it must be the same one."""
    if known and block_hash not in known.values():
        thing, digest = next(iter(known.items()))
        raise NotVerified(
            f"Block {height} has the hash {digest[:16]}… in {thing}, not {block_hash[:16]}…: this chain was not "
            f"restored from {repository.url}. Begin a new repository for it (`goud-backup init`); nothing was changed."
        )


def _hashes(
    repository: Repository,
    height: int,
    manifests: Sequence[Manifest],
    segments: Sequence[Reference],
    opener: Opener | None,
) -> dict[str, str]:
    """The hash of the block by all of the present history that names or holds it and can be read here.

    Segments are read whole: rot in the header of one must not pass for another history.
    """
    known = {"the genesis document": repository.config.genesis.block().hash.hex()} if height == 0 else {}
    known |= {manifest.id: manifest.chain.tip_hash for manifest in manifests if manifest.chain.height == height}
    for segment in segments:
        if segment.first - 1 <= height <= segment.last:
            header, pairs = repository.check_segment(segment, opener)
            digests = {header.first - 1: header.previous_hash, header.last: header.last_hash}
            digests |= {block.height: block.hash.hex() for block, _ in pairs}
            if height in digests:
                known[segment.key] = digests[height]
    return known
