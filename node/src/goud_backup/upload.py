"""From files to objects: read once, hash, compress where it helps, seal, store. All cores, bounded memory."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from goud_backup import pool
from goud_backup.codec.encoding import RAW, Bytes, encode
from goud_backup.codec.sealing import Sealer
from goud_backup.errors import AccessRefused, Damaged, SourceError
from goud_backup.progress import Progress
from goud_backup.repository import layout, rot
from goud_backup.repository.manifest import Part, StoredObject
from goud_backup.repository.repository import Repository
from goud_backup.settings import PACK_BELOW, PART_BYTES


@dataclass(frozen=True)
class Piece:
    """`length` bytes at `offset` of a file."""

    path: Path
    offset: int
    length: int


Unit = tuple[Piece, ...]
"""Pieces that become one object, one after the other."""


@dataclass(frozen=True)
class Upload:
    """An object, and where in it each piece is. `fresh` is False when the store had it already."""

    unit: Unit
    name: str
    entry: StoredObject
    parts: tuple[Part, ...]
    fresh: bool


def units(files: Iterable[tuple[Path, int]], *, part: int = PART_BYTES, pack: int = PACK_BELOW) -> Iterator[Unit]:
    """Large files in equal pieces of at most `part` bytes, small ones packed together up to that size."""
    packed: list[Piece] = []
    size = 0
    for path, length in files:
        if length >= pack:
            yield from ((piece,) for piece in _pieces(path, length, part))
        elif length:
            if size + length > part:
                yield tuple(packed)
                packed, size = [], 0
            packed.append(Piece(path, 0, length))
            size += length
    if packed:
        yield tuple(packed)


def _pieces(path: Path, length: int, part: int) -> Iterator[Piece]:
    count = -(-length // part)
    step = -(-length // count)
    for offset in range(0, length, step):
        yield Piece(path, offset, min(step, length - offset))


class Uploader:
    """Turns units into objects of a repository."""

    def __init__(
        self, repository: Repository, sealer: Sealer | None, present: dict[str, int], progress: Progress
    ) -> None:
        """`present` is what the store has; objects that are made are added to it."""
        self._repository = repository
        self._sealer = sealer
        self._present = present
        self._progress = progress
        self._lock = threading.Lock()
        self._buffers = threading.local()

    def run(self, work: Sequence[Unit], workers: int) -> list[Upload]:
        return pool.run(self._make, work, workers)

    def _make(self, unit: Unit) -> Upload:
        plain = self._read(unit)
        encoded = encode(plain, self._sealer)
        name = sha256(encoded.data).hexdigest()
        fresh = self._present.get(name) != len(encoded.data)
        if fresh:
            self._put(name, encoded.data)
            with self._lock:
                self._present[name] = len(encoded.data)
        self._progress.advance(len(plain))
        entry = StoredObject(len(encoded.data), len(plain), encoded.encoding)
        return Upload(unit, name, entry, tuple(self._parts(unit, plain, name, encoded.encoding)), fresh)

    def _put(self, name: str, data: Bytes) -> None:
        if self._present.get(name) != rot.DAMAGED:
            self._repository.put_object(name, data)
            return
        # What is stored under that name is left alone otherwise, and its size is right.
        key = layout.object_key(name)
        try:
            self._repository.target.put(key, data)
        except AccessRefused as error:
            raise Damaged(
                f"{key} in {self._repository.url} is damaged, and this host may not replace it, so no backup was "
                "recorded. Run `goud-backup verify --quarantine` with a credential that may remove objects, then "
                f"`goud-backup create` again. ({error})"
            ) from error

    def _parts(self, unit: Unit, plain: memoryview, name: str, encoding: str) -> Iterator[Part]:
        at = 0
        for piece in unit:
            # An object stored as it is has its content's hash for a name: no need to hash twice.
            whole = encoding == RAW and len(unit) == 1
            digest = name if whole else sha256(plain[at : at + piece.length]).hexdigest()
            yield Part(name, at, piece.length, digest)
            at += piece.length

    def _read(self, unit: Unit) -> memoryview:
        size = sum(piece.length for piece in unit)
        view = self._buffer(size)
        at = 0
        for piece in unit:
            _read_into(piece, view[at : at + piece.length])
            at += piece.length
        return view

    def _buffer(self, size: int) -> memoryview:
        # One buffer a thread for the whole run: memory does not depend on the size of the source.
        buffer: bytearray | None = getattr(self._buffers, "data", None)
        if buffer is None or len(buffer) < size:
            buffer = self._buffers.data = bytearray(max(size, PART_BYTES))
        return memoryview(buffer)[:size]


def _read_into(piece: Piece, view: memoryview) -> None:
    try:
        descriptor = os.open(piece.path, os.O_RDONLY)
        try:
            at = piece.offset
            while view:
                count = os.preadv(descriptor, [view], at)
                if not count:
                    raise SourceError(f"{piece.path} became shorter while it was read: the source is not a snapshot.")
                view, at = view[count:], at + count
        finally:
            os.close(descriptor)
    except OSError as error:
        raise SourceError(
            f"Cannot read {piece.path}: {error.strerror}. Check the disk of the source, or back up another node."
        ) from error
