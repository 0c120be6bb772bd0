"""Moving what is damaged out of the way of backups, shipping and restores."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from hashlib import sha256

from goud_backup.codec.sealing import Opener
from goud_backup.errors import Damaged, LaterFormat, Missing, TargetError, WrongIdentity
from goud_backup.repository import layout, locks, segments
from goud_backup.repository.manifest import Manifest, load
from goud_backup.repository.records import MOST_LISTING
from goud_backup.repository.repository import Repository
from goud_backup.targets import Stat, whole
from goud_node.errors import WrongChain

_log = logging.getLogger(__name__)


def move(
    repository: Repository, keys: Iterable[str], opener: Opener | None, moved: list[str], *, wait: float = 0.0
) -> None:
    """Move those objects and segments that are damaged below `damaged/`, with the hash in the key as name.

    Each is added to `moved` as soon as it is. Raises Locked, LockLost, TargetError.
    """
    with (
        locks.Lock(repository.target, locks.BACKUP, "quarantine", wait=wait) as backup,
        locks.Lock(repository.target, locks.SHIP, "quarantine", wait=max(wait, 5.0)) as ship,
    ):
        for key in keys:
            name = _name(key)
            if name is None:
                continue
            _warn_of_size(repository, key)
            raw = content(repository, key)
            if raw is None or _is_sound(repository, key, name, raw, opener):
                continue
            for lock in (backup, ship):
                lock.check()
            _copy(repository, name, raw)
            repository.target.delete(key)
            moved.append(key)


def content(repository: Repository, key: str) -> bytes | bytearray | None:
    """All of an object; None where there is none that can be read, one that is larger than any, or another by now.

    Raises TargetError when a store sends something else than it says to have: then what it sends proves nothing.
    """
    stat = repository.target.stat(key)
    if stat is None or stat.archived or stat.size > layout.MOST_OBJECT:
        return None
    raw = repository.target.get(key, 0, layout.MOST_OBJECT)
    again = repository.target.stat(key)
    if again is None or again.version != stat.version:
        return None
    if len(raw) != stat.size:
        raise TargetError(
            f"{repository.url} sends {len(raw)} bytes of {key} and says that it has {stat.size}: a proxy or a server "
            "that cuts answers short. Nothing was noted as damaged. Ask the store itself."
        )
    return raw


def precious(repository: Repository, stat: Stat) -> bool:
    """Whether something below `damaged/` stays: what has the hash that is its name was moved for what it holds, and a
    release or a person that can read it may find the only copy of blocks in it; what has another name than `move` gives
    was moved by a person.
    """
    name = stat.key.removeprefix(layout.DAMAGED)
    try:
        return not layout.OBJECT_NAME.fullmatch(name) or _may_be_whole(repository, stat.key, name)
    except TargetError:
        return True  # what cannot be read now may be whole


def set_aside(repository: Repository, prefix: str) -> Iterator[tuple[str, Manifest | None]]:
    """The id of each backup whose manifest lies below `prefix` under its own name, as a person or a prune has moved it,
    and the manifest; None where that cannot be read. Raises TargetError.
    """
    for stat in repository.target.list(prefix):
        parts = layout.manifest_parts(f"{layout.MANIFESTS}{stat.key.rpartition('/')[2]}")
        if parts is None:
            continue
        try:
            raw = b"" if stat.archived else whole(repository.target, stat.key, MOST_LISTING)
            yield parts[1], load(raw, stat.key)
        except (Damaged, Missing):
            yield parts[1], None


def _may_be_whole(repository: Repository, key: str, name: str) -> bool:
    """Raises TargetError."""
    try:
        raw = content(repository, key)
    except Missing:
        return False
    return raw is None or sha256(raw).hexdigest() == name


def _copy(repository: Repository, name: str, raw: bytes | bytearray) -> None:
    """Rot replaces no copy that may be whole: somebody may have put that one back, and it has rotted since."""
    key = f"{layout.DAMAGED}{name}"
    if (
        repository.target.stat(key) is None
        or sha256(raw).hexdigest() == name
        or not _may_be_whole(repository, key, name)
    ):
        repository.target.put(key, raw)


def _warn_of_size(repository: Repository, key: str) -> None:
    """What is too large to be read, a later release may have written; a copy would be cut, and so it is not moved."""
    stat = repository.target.stat(key)
    if stat is not None and stat.size > layout.MOST_OBJECT:
        _log.warning(
            "%s has %d bytes, more than this release reads, and was not moved aside. If a later release wrote it, "
            "update goud-backup; if not, move it out of the repository by hand.",
            key,
            stat.size,
        )


def _name(key: str) -> str | None:
    """The hash in the key; None for what is neither an object nor a segment."""
    parts = layout.segment_parts(key)
    return layout.object_name(key) if parts is None else parts[2]


def _is_sound(repository: Repository, key: str, name: str, raw: bytes | bytearray, opener: Opener | None) -> bool:
    """By the same look that finds what is damaged. What a later release wrote, or another key opens, is sound."""
    if sha256(raw).hexdigest() != name:
        return False
    segment = segments.reference(Stat(key, len(raw), ""))
    try:
        if segment is not None:
            repository.check_segment(segment, opener, raw)
    except (LaterFormat, WrongIdentity):
        return True
    except (Damaged, WrongChain):
        return False  # whole, and yet it stops whoever reads it
    return True
