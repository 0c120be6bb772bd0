"""Forks: a chain that was restored to an earlier block goes on in another way; what was stored above is the past.

Nothing is removed for that: a fork is one more object, written once, that names what no longer leads anywhere.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import sha256
from typing import Annotated, Literal

from msgspec import Meta

from goud_backup.errors import Damaged, SourceError
from goud_backup.repository.layout import FORMAT, fork_key, segment_parts
from goud_backup.repository.manifest import canonical, check_time
from goud_backup.repository.records import MOST_LISTING, parse
from goud_node.documents import Document, Line, Malformed, read


@dataclass(frozen=True)
class Fork:
    """`height` and `hash` (hex) of the last block that both histories share; names of what lies above it."""

    height: int
    hash: str
    created: str
    segments: tuple[str, ...]
    backups: tuple[str, ...]


class _Written(Document):
    format: Literal["goud-backup/1"]
    height: Annotated[int, Meta(ge=0, lt=10**12)]
    hash: Line
    created: Line
    segments: tuple[Line, ...]
    backups: tuple[Line, ...]

    def __post_init__(self) -> None:
        check_time(self.created)


def dump(fork: Fork) -> tuple[str, bytes]:
    """Key and bytes. Raises SourceError for what its reader would refuse: a fork that is damaged stops every verb."""
    raw = _encoded(fork)
    try:
        read(raw, _Written, MOST_LISTING)
    except Malformed as error:
        raise SourceError(
            f"The fork at block {fork.height} could not be read again: {error}. Make a backup with this history's "
            "segments pruned first, or begin a new repository with `goud-backup init`."
        ) from error
    return _key(fork, raw), raw


def _encoded(fork: Fork) -> bytes:
    return canonical(
        {
            "format": FORMAT,
            "height": fork.height,
            "hash": fork.hash,
            "created": fork.created,
            "segments": sorted(fork.segments),
            "backups": sorted(fork.backups),
        }
    )


def _key(fork: Fork, raw: bytes) -> str:
    return fork_key(fork.height, sha256(raw).hexdigest())


def load(raw: bytes | bytearray, key: str) -> Fork:
    """Raises Damaged: without it, an abandoned history could be taken for the present one."""
    written = parse(raw, key, _Written, "Copy it back from another copy of the repository.", MOST_LISTING)
    fork = Fork(written.height, written.hash, written.created, written.segments, written.backups)
    if _key(fork, _encoded(fork)) != key:
        raise Damaged(f"{key} is damaged: its bytes do not have the SHA-256 in its name.")
    return fork


def abandoned_segments(forks: Iterable[Fork]) -> set[str]:
    """Hashes of the segments that no longer lead anywhere: where one was damaged, its heights may have been misread."""
    named = (segment_parts(key) for fork in forks for key in fork.segments)
    return {parts[2] for parts in named if parts is not None}


def abandoned_backups(forks: Iterable[Fork]) -> set[str]:
    """Ids of the backups of abandoned histories."""
    return {backup for fork in forks for backup in fork.backups}
