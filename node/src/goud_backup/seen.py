"""What `ship` saw last in a repository, so that a run with nothing to do asks for little. A hint, never the truth."""

from __future__ import annotations

import logging
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import Annotated, Any, Final

from pydantic import TypeAdapter

from goud_backup.repository.history import Anchor, Anchors
from goud_backup.repository.manifest import canonical
from goud_node.documents import (
    FIRST,
    MOST_LISTING,
    Digest,
    Document,
    Line,
    Malformed,
    Number,
    Seconds,
    read_file,
    shaped,
)
from goud_node.errors import StoreError
from goud_node.store import durable

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Seen:
    """The newest segment of the present history (`digest` is of its last block), after a look at everything since the
    newest backup at Unix time `looked`; `forks` are the keys of all forks then. `backups` has the blocks that each
    manifest names, by its key.
    """

    forks: tuple[str, ...]
    key: str
    first: int
    last: int
    size: int
    digest: str
    recovery_ms: int | None
    looked: float
    backups: Anchors


class _Anchor(Document):
    height: Number
    digest: Digest
    origin: Line


class _Written(Document):
    forks: Annotated[list[Line], FIRST]
    key: Line
    first: Number
    last: Number
    size: Number
    digest: Line
    recovery_ms: Number | None
    looked: Seconds
    backups: dict[Line, list[_Anchor]]


_ANY: Final[TypeAdapter[dict[str, Any]]] = TypeAdapter(dict[str, Any])
_WRITTEN: Final = TypeAdapter(_Written)


class Memory:
    """A small file, or none: then every run looks at everything since the newest backup."""

    def __init__(self, path: Path | None) -> None:
        self._path = path

    @classmethod
    def of(cls, folder: Path, repository_id: str) -> Memory:
        """The one of a repository, in the directory that hints are kept in."""
        return cls(folder / f"{repository_id}-ship.json")

    def load(self) -> Seen | None:
        """None when there is none, or not one that was written whole."""
        if self._path is None:
            return None
        try:
            document = read_file(self._path, _ANY, MOST_LISTING)
            check = document.pop("sha256", None)
            if sha256(canonical(document)).hexdigest() != check:
                return None
            written = shaped(document, _WRITTEN)
            backups = {
                key: tuple(Anchor(one.height, one.digest, one.origin) for one in anchors)
                for key, anchors in written.backups.items()
            }
            return Seen(**{**written.model_dump(), "forks": tuple(written.forks), "backups": backups})
        except FileNotFoundError:
            return None
        except (OSError, Malformed) as error:
            _log.debug("%s says nothing: %s", self._path, error)
            return None

    def save(self, seen: Seen | None) -> None:
        """Harmless when it fails: the next run looks at more."""
        if self._path is None or seen is None:
            return
        document = asdict(seen)
        body = canonical({**document, "sha256": sha256(canonical(document)).hexdigest()})
        try:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            durable.replace(self._path, body, 0o600)
        except (OSError, StoreError) as error:
            _log.debug("%s was not written: %s", self._path, error)
