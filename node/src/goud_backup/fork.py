"""Let the repository follow a chain that was restored to an earlier block and went on in another way."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from typing import Final

from goud_backup.codec.sealing import Opener
from goud_backup.errors import Damaged, Missing, NotVerified
from goud_backup.quarantine import precious, set_aside
from goud_backup.repository import forks, layout, locks
from goud_backup.repository.forks import Fork
from goud_backup.repository.history import anchors_of
from goud_backup.repository.layout import manifest_parts
from goud_backup.repository.manifest import Manifest
from goud_backup.repository.recording import follow, put_under
from goud_backup.repository.repository import Listing, Repository
from goud_backup.repository.segments import HEAD_BYTES, MAGIC, Reference, header_of
from goud_backup.targets import Stat
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
        unreadable = _unreadable(repository, listing, height, past)
        segments = repository.segments()
        _check_base(repository, height, block_hash, _hashes(repository, height, manifests, segments, opener))
        known = partial(_known, repository, (height, block_hash), manifests, segments)
        above = {segment.key for segment in segments if segment.last > height} | _quarantined(repository, height, known)
        record = Fork(
            height,
            block_hash,
            _date(repository, listing.good, segments).isoformat(timespec="seconds"),
            tuple(above - _shared(repository, height, segments, above)),
            (*(manifest.id for manifest in manifests if manifest.chain.height > height), *unreadable),
        )
        if not record.segments and not record.backups:
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


def _unreadable(repository: Repository, listing: Listing, height: int, past: Collection[str]) -> list[str]:
    """Backups whose manifest cannot be read now, or lies below damaged/ or trash/, and that are not known to end at the
    base: when it is copied back, it must not become the present history's highest. It can be restored by its id.
    """
    known = {*past, *(manifest.id for manifest in listing.good)}
    in_place = ((parts[1], None) for parts in map(manifest_parts, sorted(listing.bad)) if parts is not None)
    hidden: dict[str, int | None] = {}
    for backup, manifest in [*in_place, *set_aside(repository, layout.DAMAGED), *set_aside(repository, layout.TRASH)]:
        if backup not in known:
            hidden[backup] = hidden.get(backup) if manifest is None else manifest.chain.height
    for backup in [backup for backup, top in hidden.items() if top is None]:
        _log.warning(
            "the manifest of %s cannot be read, so it is taken for one of the abandoned history: when it has been "
            "copied back, `goud-backup restore %s` restores it, and `goud-backup keep %s` keeps it from being pruned",
            backup,
            backup,
            backup,
        )
    return sorted(backup for backup, top in hidden.items() if top is None or top > height)


def _quarantined(repository: Repository, height: int, known: Callable[[], Collection[tuple[int, str]]]) -> set[str]:
    """The keys that segments above the base had before they were moved aside: one that is copied back must not join the
    present history. `known` tells blocks, by height and hash.
    """
    aside = list(repository.target.list(layout.DAMAGED))
    past, blocks = forks.abandoned_segments(repository.forks()), known() if aside else ()
    keys = set()
    for stat in aside:
        own_key = f"{layout.SEGMENTS}{stat.key.rpartition('/')[2]}"
        parts = layout.segment_parts(own_key)
        if parts is None:
            own_key = _own_key(repository, stat, height, blocks) or ""
            parts = layout.segment_parts(own_key)
        if parts is not None and parts[1] > height and parts[2] not in past:
            keys.add(own_key)
    return keys


def _shared(repository: Repository, height: int, segments: Sequence[Reference], above: Collection[str]) -> set[str]:
    """Of the keys `above` the base those of a segment that is stored, whole, at or below it, too: it was shipped again
    when rot had moved it above, or copied there under another name. A fork names segments by their hash, so it would
    abandon blocks that both histories have.
    """
    names = {key: parts[2] for key in above if (parts := layout.segment_parts(key)) is not None}
    whole = set()
    for segment in segments:
        if segment.last <= height and segment.name in names.values():
            with suppress(Damaged, Missing):
                repository.check_segment(segment, None)
                whole.add(segment.name)
    return {key for key, name in names.items() if name in whole}


def _own_key(repository: Repository, stat: Stat, height: int, known: Collection[tuple[int, str]]) -> str | None:
    """The key of a quarantined segment, as its header tells; one above the base where rot may have changed what it
    tells, or nobody can read it now. None for an object, and with a warning for a header that cannot be parsed.
    """
    name = stat.key.removeprefix(layout.DAMAGED)
    if not layout.OBJECT_NAME.fullmatch(name):
        return None
    try:
        if stat.archived:
            # Nobody can tell what it is. A fork names segments by their hash, so of an object this says nothing.
            return layout.segment_key(height + 1, height + 1, name)
        raw = repository.target.get(stat.key, 0, HEAD_BYTES)
        if bytes(raw[: len(MAGIC)]) != MAGIC:
            return None  # an object, most likely
        header, _ = header_of(raw, stat.key)
    except Damaged:
        _log.warning(
            "which blocks were in %s cannot be read: do not copy that segment back, as blocks above %d of the "
            "abandoned history would join the present one",
            stat.key,
            height,
        )
        return None
    if header.last <= height and (header.last, header.last_hash) not in known and not precious(repository, stat):
        # Blocks that were in fact below the base are shipped again; in the present history they might do harm.
        _log.warning("the header of %s may be damaged, so it is taken for one of the abandoned history", stat.key)
        return layout.segment_key(header.first, height + 1, name)
    return layout.segment_key(header.first, header.last, name)


def _known(
    repository: Repository, base: tuple[int, str], manifests: Sequence[Manifest], segments: Sequence[Reference]
) -> set[tuple[int, str]]:
    """Blocks of the present history that the repository names, by height and hash."""
    known = {base}
    for manifest in manifests:
        known |= {(anchor.height, anchor.digest) for anchor in anchors_of(manifest)}
    for segment in segments:
        with suppress(Damaged, WrongChain):
            header = repository.segment_header(segment)
            known |= {(header.first - 1, header.previous_hash), (header.last, header.last_hash)}
    return known


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
