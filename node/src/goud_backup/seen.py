"""What earlier runs saw in a repository, so that the next one asks for little. Hints, never the truth."""

from __future__ import annotations

import logging
from hashlib import sha256
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from goud_backup.repository.history import Anchors
from goud_backup.repository.manifest import canonical
from goud_node.documents import (
    MOST_LISTING,
    Document,
    Line,
    Malformed,
    Milliseconds,
    Number,
    Seconds,
    read_file,
    shaped,
)
from goud_node.errors import StoreError
from goud_node.store import durable

_log = logging.getLogger(__name__)
T = TypeVar("T")


class Seen(Document):
    """The newest segment of the present history (`digest` is of its last block), after a look at everything since the
    newest backup at Unix time `looked`; `forks` are the keys of all forks then.
    """

    forks: tuple[Line, ...]
    key: Line
    first: Number
    last: Number
    size: Number
    digest: Line
    recovery_ms: Milliseconds | None
    looked: Seconds


class Memory:
    """Two small files in the directory for hints. Without a directory nothing is remembered: all is read every time."""

    def __init__(self, folder: Path | None = None, repository_id: str = "") -> None:
        self._shipped = None if folder is None else folder / f"{repository_id}-ship.json"
        self._backups = None if folder is None else folder / f"{repository_id}-backups.json"

    def shipped(self) -> Seen | None:
        """What `ship` saw last. None when nothing is remembered, or not as it was written."""
        return _load(self._shipped, Seen)

    def keep_shipped(self, seen: Seen | None) -> None:
        """Harmless when it fails: the next run looks at more."""
        if seen is not None:
            _save(self._shipped, seen)

    def backups(self) -> Anchors:
        """The blocks that each manifest names, by its key: a manifest is written once."""
        return _load(self._backups, Anchors) or {}

    def keep_backups(self, anchors: Anchors) -> None:
        """Harmless when it fails: the next run reads more manifests."""
        if anchors != self.backups():
            _save(self._backups, anchors)


def _load(path: Path | None, shape: type[T]) -> T | None:
    if path is None:
        return None
    try:
        document = read_file(path, dict[str, Any], MOST_LISTING)
        if document.pop("sha256", None) != sha256(canonical(document)).hexdigest():
            return None
        return shaped(document.get("seen"), shape)
    except FileNotFoundError:
        return None
    except (OSError, Malformed) as error:
        _log.debug("%s says nothing: %s", path, error)
        return None


def _save(path: Path | None, seen: object) -> None:
    if path is None:
        return
    document = {"seen": msgspec.to_builtins(seen)}
    body = canonical({**document, "sha256": sha256(canonical(document)).hexdigest()})
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        durable.replace(path, body, 0o600)
    except (OSError, StoreError) as error:
        _log.debug("%s was not written: %s", path, error)
