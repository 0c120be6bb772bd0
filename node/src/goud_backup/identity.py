"""Recognising a file that is stored already, so that it is never read again. See docs/decisions/0012.

SST files are written once. RocksDB puts into each of them the id of the session that wrote it and a file number, near
the end: together they have belonged to no other file, ever. A file counts as known when its name, size, inode and
modification time are those remembered, and its last bytes, with that identity inside, hash to the same value.
"""

from __future__ import annotations

import errno
import logging
import os
import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from io import FileIO
from pathlib import Path
from threading import Lock
from types import TracebackType
from typing import Final, Self

from goud_backup.repository.manifest import Part, StoredObject, canonical
from goud_backup.settings import PACK_BELOW
from goud_node.documents import MOST_LISTING, Digest, Document, Malformed, Number, Text, read

_log = logging.getLogger(__name__)

TAIL_BYTES: Final = 16 * 1024
# Names of properties share their beginnings in the file, so only the end of this one stands there in full.
_SESSION: Final = re.compile(rb"session\.identity[0-9A-Z]{20}")


@dataclass(frozen=True)
class Identity:
    """`tail` is the SHA-256 of the file's last bytes, in hex."""

    name: str
    size: int
    inode: int
    modified_ns: int
    tail: str


@dataclass(frozen=True)
class Known:
    """Where the content of a file is in the repository, and whether the file was read through when it was stored."""

    parts: tuple[Part, ...]
    objects: dict[str, StoredObject]
    read: bool = False


def identify(path: Path) -> Identity | None:
    """None for a file that is read every time: a large one that carries no identity of RocksDB's.

    A small file is known by its whole content: an encrypted repository could not tell otherwise that it has it.
    """
    with path.open("rb", buffering=0) as file:
        status = os.fstat(file.fileno())
        if path.suffix != ".sst":
            content = os.pread(file.fileno(), PACK_BELOW, 0)
            whole = len(content) == status.st_size < PACK_BELOW
            return Identity(path.name, status.st_size, 0, 0, sha256(content).hexdigest()) if whole else None
        tail = os.pread(file.fileno(), TAIL_BYTES, max(0, status.st_size - TAIL_BYTES))
    if _SESSION.search(tail) is None:
        return None
    return Identity(path.name, status.st_size, status.st_ino, status.st_mtime_ns, sha256(tail).hexdigest())


class Cache:
    """What this host has stored before. A hint, never the truth: every object is seen in the store before it counts.

    Lines are appended as files are stored, so that a run that was killed is resumed; each line carries its own hash,
    so that a damaged one is forgotten instead of believed.
    """

    def __init__(self, folder: Path | None, repository_id: str, data_dir: Path, recipients: Sequence[str] = ()) -> None:
        """Who is to open a new backup must be able to open all of it: a cache holds for the same recipients only.

        Without a folder nothing outlives the run.
        """
        readers = b"".join(b"\0" + recipient.encode() for recipient in sorted(set(recipients)))
        label = sha256(os.fsencode(data_dir.resolve()) + readers).hexdigest()[:16]
        self._path = None if folder is None else folder / f"{repository_id}-{label}.jsonl"
        self._known: dict[Identity, Known] = {}
        self._file: FileIO | None = None
        self._lock = Lock()

    def __enter__(self) -> Self:
        if self._path is None:
            return self
        try:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._known = dict(_entries(self._path))
            self._file = self._path.open("ab", buffering=0)
        except OSError as error:
            self._go_on_without(error)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is not None:
            self._file.close()

    def _go_on_without(self, error: OSError) -> None:
        """A backup must not wait for a disk that only hints are kept on."""
        _log.warning(
            "the cache %s cannot be kept (%s): the backup goes on without it, and the next one reads again what this "
            "one has read, and where it is encrypted stores it again. Make room, or give a writable directory by "
            "--cache-dir or GOUD_BACKUP_CACHE_DIR",
            self._path,
            error.strerror,
        )
        if self._file is not None:
            self._file.close()
            self._file = None

    def get(self, identity: Identity) -> Known | None:
        return self._known.get(identity)

    def put(self, identity: Identity, known: Known) -> None:
        with self._lock:
            self._known[identity] = known
            if self._file is not None:
                try:
                    self._append(self._file, _line(identity, known))
                except OSError as error:
                    self._go_on_without(error)

    def _append(self, file: FileIO, line: bytes) -> None:
        # What was cut short is forgotten when it is read; nothing may follow on the same line.
        if file.write(line) != len(line):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def keep_only(self, identities: set[Identity]) -> None:
        """Forget files that are gone, so that the cache does not grow."""
        with self._lock:
            self._known = {identity: known for identity, known in self._known.items() if identity in identities}
            if self._file is None or self._path is None:
                return
            temporary = self._path.with_suffix(".tmp")
            try:
                temporary.write_bytes(b"".join(_line(identity, known) for identity, known in self._known.items()))
                temporary.replace(self._path)
            except OSError as error:
                with suppress(OSError):
                    temporary.unlink(missing_ok=True)
                self._go_on_without(error)


class _Line(Document):
    file: tuple[Text, Number, int, int, Text]
    parts: list[tuple[Digest, Number, Number, Digest]]
    objects: dict[Digest, tuple[Number, Number, Text]]
    read: bool = False


def _line(identity: Identity, known: Known) -> bytes:
    document = {
        "file": [identity.name, identity.size, identity.inode, identity.modified_ns, identity.tail],
        "parts": [[part.object, part.offset, part.length, part.sha256] for part in known.parts],
        "objects": {name: [entry.stored, entry.size, entry.encoding] for name, entry in known.objects.items()},
        "read": known.read,
    }
    body = canonical(document)
    return sha256(body).hexdigest()[:16].encode() + b" " + body + b"\n"


def _entries(path: Path) -> list[tuple[Identity, Known]]:
    if not path.exists():
        return []
    entries = []
    for line in path.read_bytes().splitlines():
        check, _, body = line.partition(b" ")
        if sha256(body).hexdigest()[:16].encode() != check:
            continue  # torn by a crash, or damaged: the file is read again
        try:
            written = read(body, _Line, MOST_LISTING)
        except Malformed:
            continue  # no release wrote it: the file is read again
        parts = tuple(Part(*part) for part in written.parts)
        objects = {name: StoredObject(*entry) for name, entry in written.objects.items()}
        # A release that did not read files through says nothing of it.
        entries.append((Identity(*written.file), Known(parts, objects, written.read)))
    return entries
