"""Forks: a chain that was restored to an earlier block goes on in another way; what was stored above is the past.

Nothing is removed for that: a fork is one more object, written once, that names what no longer leads anywhere.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

from goud_backup.errors import Damaged
from goud_backup.repository.layout import FORMAT, fork_key
from goud_backup.repository.manifest import canonical


@dataclass(frozen=True)
class Fork:
    """`height` and `hash` (hex) of the last block that both histories share; names of what lies above it."""

    height: int
    hash: str
    created: str
    segments: tuple[str, ...]
    backups: tuple[str, ...]


def dump(fork: Fork) -> tuple[str, bytes]:
    """Key and bytes."""
    raw = canonical(
        {
            "format": FORMAT,
            "height": fork.height,
            "hash": fork.hash,
            "created": fork.created,
            "segments": sorted(fork.segments),
            "backups": sorted(fork.backups),
        }
    )
    return fork_key(fork.height, sha256(raw).hexdigest()), raw


def load(raw: bytes | bytearray, key: str) -> Fork:
    """Raises Damaged: without it, an abandoned history could be taken for the present one."""
    try:
        document: dict[str, Any] = json.loads(raw)
        document.pop("format")
        segments, backups = tuple(document.pop("segments")), tuple(document.pop("backups"))
        found = Fork(segments=segments, backups=backups, **document)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise Damaged(f"{key} is damaged: {error!r}. Copy it back from another copy of the repository.") from error
    if dump(found)[0] != key:
        raise Damaged(f"{key} is damaged: its bytes do not have the SHA-256 in its name.")
    return found


def abandoned_segments(forks: Iterable[Fork]) -> set[str]:
    """Keys of the segments that no longer lead anywhere."""
    return {key for fork in forks for key in fork.segments}


def abandoned_backups(forks: Iterable[Fork]) -> set[str]:
    """Ids of the backups of abandoned histories."""
    return {backup for fork in forks for backup in fork.backups}
