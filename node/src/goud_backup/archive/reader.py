"""Read an archive that anybody may have made: all of it is looked at before anything of it is written."""

from __future__ import annotations

import io
import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from hashlib import sha256
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Final, cast

from isal import igzip
from msgspec import UNSET, Meta, UnsetType

from goud_backup.archive.names import CHUNK, METADATA, SUMS, file_digest, gzip
from goud_backup.codec.encoding import GZIP_ERROR
from goud_backup.codec.tar import Member, Stream, Tar
from goud_backup.errors import Damaged, NotVerified, SourceError
from goud_backup.settings import MIB
from goud_backup.staging import require_space, writing
from goud_node.documents import Document, Malformed, Number, read, shaped
from goud_node.store import durable, marker

_log = logging.getLogger(__name__)

_BROKEN: Final = (GZIP_ERROR, EOFError, OSError)
"""What a damaged archive makes the library raise, depending on where the damage is."""
_MOST_TEXT: Final = MIB
_MOST_SUMS: Final = 64 * 1024
_RATIO: Final = 100
_ALWAYS: Final = 64 * MIB
"""An archive may unpack to so much, and beyond that to so many times its size: RocksDB has compressed its files."""
_TEXT: Final = re.compile(rf"{re.escape(METADATA)}|{SUMS}|[^/]+\.(txt|sha256)")
_LEFT_OUT: Final = re.compile(
    r"(jwt|session)_secret|restore\.json|rocksdb/LOCK|(\.restore|checkpoints|restore\.staging)/.*"
    r"|rocksdb\.(before|undone|schema|initializing)[^/]*/.*"
)
"""What a node's volume holds beside its data: an archive of the whole volume is read, but brings none of it back."""
_DATA: Final = re.compile(rf"{marker.MARKER}|{marker.DATABASE}/[^/]+")


class _Facts(Document):
    """What is relied on of the metadata; other fields pass as they are, and those that an archive lacks stay away."""

    schema_version: Annotated[int, Meta(ge=0, lt=1 << 31)] = 0
    height: Number = 0
    chain_id: str = ""
    tip_hash: str = ""
    backup_id: str = ""
    timestamp: str | UnsetType = UNSET

    def __post_init__(self) -> None:
        if isinstance(self.timestamp, str) and datetime.fromisoformat(self.timestamp).tzinfo is None:
            raise ValueError("its timestamp has no offset from UTC")


@dataclass(frozen=True)
class Unpacked:
    """A data directory out of an archive, and what the archive says of it (empty for one that says nothing)."""

    data_dir: Path
    volume: str
    metadata: dict[str, Any]


def check_checksum(archive: Path, *, required: bool = True) -> None:
    """Compare the archive with the .sha256 beside it. Raises Damaged, or SourceError when there is none."""
    if not archive.is_file():
        raise SourceError(f"The archive {archive} does not exist. Correct the path.")
    checksum = archive.with_name(archive.name.removesuffix(".tar.gz") + ".sha256")
    if not checksum.is_file():
        if required:
            raise SourceError(
                f"{checksum} is missing, so {archive.name} cannot be verified. Put it beside the archive."
            )
        return
    with checksum.open("rb") as file:
        stated = file.read(_MOST_SUMS).decode(errors="replace").split()[:1]
    digest, _ = file_digest(archive)
    if stated != [digest]:
        raise Damaged(
            f"{archive} is damaged: its SHA-256 is {digest}, {checksum.name} says {''.join(stated)[:100] or 'nothing'}."
        )


def unpack(archive: Path, folder: Path, volume: str | None) -> Unpacked:
    """Unpack one volume of the archive below `folder`: database and marker only. Nothing is written for an archive that
    is damaged, holds what no backup holds, or does not fit.

    Raises Damaged for an archive that is cut short or altered, SourceError when it holds no such volume, NoSpace.
    """
    look = _Reader(archive, volume, None)
    look.read()
    folder.mkdir(parents=True, exist_ok=True)
    require_space(folder, look.size)
    look.complain()
    reader = _Reader(archive, volume, folder)
    reader.read()
    if reader.digests != look.digests:
        raise Damaged(f"{archive} was changed while it was read. Try again.")
    return Unpacked(folder, reader.volume or "", _facts(reader.texts.get(METADATA, b"{}"), archive))


def metadata(archive: Path) -> dict[str, Any]:
    """What the archive says of itself: its first pages are enough. Raises Damaged; empty for one without metadata."""
    with _tar(archive) as tar:
        for member in tar.members():
            name = PurePosixPath(member.name).name
            if name == METADATA:
                return _facts(_text(tar, member), archive)
            if _is_volume(name):
                break
    return {}


def compare(unpacked: Unpacked, height: int, tip_hash: str) -> None:
    """Raises NotVerified unless the data is what the archive's metadata says; one without metadata says nothing."""
    for name, proven in (("height", height), ("tip_hash", tip_hash)):
        stated = unpacked.metadata.get(name, proven)
        if stated != proven:
            raise NotVerified(f"The archive says {name} is {stated}, but its data has {proven}. Use another backup.")


@dataclass
class _Reader:
    """Reads the whole archive once; what belongs to the volume goes below `folder`, nowhere if that is None."""

    archive: Path
    request: str | None
    folder: Path | None
    volume: str | None = None
    size: int = 0
    texts: dict[str, bytes] = field(default_factory=dict)
    digests: dict[str, str] = field(default_factory=dict)
    _volumes: list[str] = field(default_factory=list)
    _left_out: list[str] = field(default_factory=list)

    def read(self) -> None:
        """Raises Damaged, SourceError."""
        with _tar(self.archive) as tar:
            for member in tar.members():
                if not member.folder:
                    self._take(tar, member)
        self._check()

    def complain(self) -> None:
        """Say what is in the volume and does not come back."""
        if self._left_out:
            shown = ", ".join(self._left_out[:5]) + (" …" if len(self._left_out) > 5 else "")
            _log.warning("%d files of the volume are not part of a backup and stay out: %s", len(self._left_out), shown)

    def _take(self, tar: Tar, member: Member) -> None:
        name = PurePosixPath(member.name).name
        if name in self.digests:
            raise tar.refused(f"holds {name!r} twice")
        if _is_volume(name):
            self._volumes.append(name.removesuffix(".gz").removesuffix(".tar"))
            self.digests[name] = self._volume_of(name, tar)
            return
        if not _TEXT.fullmatch(name):
            raise tar.refused(f"holds {member.name!r}, which no backup has")
        text = _text(tar, member)
        self.digests[name] = sha256(text).hexdigest()
        if name in {METADATA, SUMS}:
            self.texts[name] = text

    def _volume_of(self, name: str, tar: Tar) -> str:
        stream = _Hashed(tar)
        if self.volume is None and self.request in {None, self._volumes[-1]}:
            self.volume = self._volumes[-1]
            plain = cast(Stream, stream)
            if name.endswith(".gz"):
                plain = _Bounded(cast(Stream, igzip.IGzipFile(fileobj=cast(Any, stream), mode="rb")), self.archive)
            self._data_of(Tar(plain, f"{name} in {self.archive}"))
        while stream.read(CHUNK):
            pass
        return stream.digest.hexdigest()

    def _data_of(self, tar: Tar) -> None:
        paths: set[str] = set()
        for member in tar.members():
            path = str(PurePosixPath(member.name.lstrip("/")))
            if ".." in path.split("/"):
                raise tar.refused(f"holds {member.name!r}, which leads out of the volume")
            if member.folder:
                continue
            if _LEFT_OUT.fullmatch(path):
                self._left_out.append(path)
                continue
            if not _DATA.fullmatch(path) or not path.isprintable() or path in paths:
                reason = "twice" if path in paths else "which no node's volume has"
                raise tar.refused(f"holds {member.name!r}, {reason}")
            paths.add(path)
            self.size += member.size
            if self.folder is not None:
                _write(tar, self.folder / path)

    def _check(self) -> None:
        _facts(self.texts.get(METADATA, b"{}"), self.archive)
        if self.volume is None:
            names = ", ".join(self._volumes[:20]) or "none"
            raise SourceError(
                f"{self.archive} holds no volume {self.request or ''} (it has: {names}). Choose one of those."
            )
        for line in self.texts.get(SUMS, b"").decode(errors="replace").splitlines():
            stated, _, name = line.partition("  ")
            if name in self.digests and self.digests[name] != stated:
                raise Damaged(f"{name} in {self.archive} is damaged: it does not have the SHA-256 in {SUMS}.")


@contextmanager
def _tar(archive: Path) -> Iterator[Tar]:
    try:
        with gzip(archive, "rb", threads=1) as plain:
            yield Tar(_Bounded(cast(Stream, plain), archive), str(archive))
    except _BROKEN as error:
        raise Damaged(f"{archive} is damaged or cut short: {error}.") from error


def _is_volume(name: str) -> bool:
    return name.endswith((".tar", ".tar.gz"))


def _text(tar: Tar, member: Member) -> bytes:
    if member.size > _MOST_TEXT:
        raise tar.refused(f"holds {member.name!r} of {member.size} bytes, where a short text belongs")
    return b"".join(tar.chunks())


def _facts(text: bytes, archive: Path) -> dict[str, Any]:
    """Raises Damaged unless everything that is relied on is of its kind."""
    try:
        facts = read(text, dict[str, Any], _MOST_TEXT)
        shaped(facts, _Facts)
    except Malformed as error:
        raise Damaged(f"{METADATA} in {archive} is damaged: {error}.") from error
    return facts


class _Bounded:
    """A stream that ends in an error where a backup would have ended long before."""

    def __init__(self, stream: Stream, archive: Path) -> None:
        self._stream = stream
        self._archive = archive
        self._allowance = _ALWAYS + _RATIO * archive.stat().st_size

    def read(self, size: int, /) -> bytes:
        data = self._stream.read(size)
        self._allowance -= len(data)
        if self._allowance < 0:
            raise Damaged(
                f"{self._archive} unpacks to more than {_RATIO} times its size, which no backup does: it was made to "
                "fill a disk. Nothing was taken from it."
            )
        return data


class _Hashed(io.RawIOBase):
    """A stream that hashes what passes; the compressor wants more of a file than `read`."""

    def __init__(self, stream: Stream) -> None:
        super().__init__()
        self._stream = stream
        self.digest = sha256()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int:
        data = self._stream.read(len(buffer))
        self.digest.update(data)
        buffer[: len(data)] = data
        return len(data)


def _write(tar: Tar, path: Path) -> None:
    with writing(path.parent):
        durable.make_folder(path.parent)
        with path.open("xb") as file:
            for data in tar.chunks():
                file.write(data)
