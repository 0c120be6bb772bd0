"""The guide's archive: one .tar.gz that plain tools read, with a tar of the volume, metadata and checksums."""

from __future__ import annotations

import json
import os
import tarfile
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from hashlib import sha256
from io import BytesIO
from pathlib import Path, PurePosixPath
from typing import IO, Annotated, Any, Final, cast

from isal import igzip_threaded
from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError

from goud_backup.codec.encoding import GZIP_ERROR, Bytes
from goud_backup.codec.sealing import Opener
from goud_backup.errors import Damaged, NotVerified, SourceError
from goud_backup.progress import Progress
from goud_backup.repository.layout import FORMAT
from goud_backup.repository.manifest import FileEntry, Manifest
from goud_backup.repository.repository import Repository
from goud_backup.settings import MIB
from goud_backup.staging import is_secret, require_space, writing
from goud_node.store import durable, marker

_BLOCK: Final = 512
_CHUNK: Final = 4 * MIB
_METADATA: Final = "metadata.json"
_SUMS: Final = "SHA256SUMS"
_BROKEN: Final = (tarfile.TarError, GZIP_ERROR, EOFError, OSError)
"""What a damaged archive makes the libraries raise, depending on where the damage is."""
_MOST_TEXT: Final = 16 * MIB


def _iso_8601(text: str) -> str:
    if datetime.fromisoformat(text).tzinfo is None:
        raise ValueError("a time without its offset from UTC")
    return text


class _Facts(BaseModel):
    """What is relied on of the metadata; other fields pass as they are, and those that an archive lacks stay away."""

    model_config = ConfigDict(extra="allow", strict=True)
    schema_version: int = 0
    height: int = 0
    chain_id: str = ""
    tip_hash: str = ""
    timestamp: Annotated[str, AfterValidator(_iso_8601)] = ""


@dataclass(frozen=True)
class Exported:
    """The archive and the checksum file beside it."""

    path: Path
    checksum: Path
    size: int
    sha256: str


def export(
    repository: Repository,
    manifest: Manifest,
    folder: Path,
    *,
    environment: str,
    volume: str,
    opener: Opener | None,
    workers: int,
    progress: Progress,
) -> Exported:
    """Write the archive of a backup into `folder`, whole or not at all. It is not encrypted, so it has no secrets."""
    files = [entry for entry in manifest.listing(opener) if not is_secret(entry)]
    name = f"goud-chain-backup-{environment}-{manifest.created_at:%Y%m%d-%H%M%S}"
    final, partial = folder / f"{name}.tar.gz", folder / f".{name}.partial"
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    require_space(folder, sum(entry.size for entry in files))
    progress.stage("bytes", sum(entry.size for entry in files))
    try:
        with writing(folder):
            stream = _gzip(partial, "wb", compresslevel=1, threads=workers)
            with stream as packed, tarfile.open(fileobj=packed, mode="w|", format=tarfile.GNU_FORMAT) as outer:
                _write(outer, name, volume, _Content(repository, manifest, files, opener, workers, progress))
            digest, size = _digest(partial)
            _make_durable(partial)
            partial.replace(final)
            checksum = folder / f"{name}.sha256"
            durable.replace(checksum, f"{digest}  {final.name}\n".encode())
    finally:
        partial.unlink(missing_ok=True)
    return Exported(final, checksum, size, digest)


@dataclass(frozen=True)
class _Content:
    repository: Repository
    manifest: Manifest
    files: list[FileEntry]
    opener: Opener | None
    workers: int
    progress: Progress

    def chunks(self, entry: FileEntry) -> Iterator[Bytes]:
        """The file's bytes in order; objects ahead are fetched meanwhile."""
        with ThreadPoolExecutor(self.workers) as executor:
            ahead: deque[Future[Bytes]] = deque()
            parts = iter(entry.parts)
            for part in parts:
                ahead.append(executor.submit(self._part, part))
                if len(ahead) > self.workers:
                    yield self._count(ahead.popleft().result())
            while ahead:
                yield self._count(ahead.popleft().result())

    def _part(self, part: Any) -> Bytes:
        entry = self.manifest.objects[part.object]
        plain = memoryview(self.repository.get_object(part.object, entry, self.opener))
        data = plain[part.offset : part.offset + part.length]
        if sha256(data).hexdigest() != part.sha256:
            raise Damaged(f"objects/{part.object[:2]}/{part.object} does not hold the bytes that the manifest names.")
        return data

    def _count(self, data: Bytes) -> Bytes:
        self.progress.advance(len(data))
        return data


def _write(outer: tarfile.TarFile, name: str, volume: str, content: _Content) -> None:
    sums = {}
    for text_name, text in _texts(content.manifest, volume).items():
        sums[text_name] = sha256(text).hexdigest()
        _add(outer, f"{name}/{text_name}", text, content.manifest)
    inner = f"{volume}.tar"
    sums[inner] = _volume(outer, f"{name}/{inner}", content)
    listing = "".join(f"{digest}  {path}\n" for path, digest in sorted(sums.items()))
    _add(outer, f"{name}/{_SUMS}", listing.encode(), content.manifest)


def _volume(outer: tarfile.TarFile, name: str, content: _Content) -> str:
    """A tar within the tar, written as it is read: its size follows from those of its files."""
    size = 2 * _BLOCK + sum(_BLOCK + _padded(entry.size) for entry in content.files)
    stream = cast(IO[bytes], outer.fileobj)
    digest = sha256()

    def write(data: Bytes) -> None:
        digest.update(data)
        stream.write(data)

    header = _info(name, size, 0o600, content.manifest).tobuf(tarfile.GNU_FORMAT)
    stream.write(header)
    for entry in content.files:
        write(_info(entry.path, entry.size, entry.mode, content.manifest).tobuf(tarfile.GNU_FORMAT))
        for chunk in content.chunks(entry):
            write(chunk)
        write(bytes(_padded(entry.size) - entry.size))
    write(bytes(2 * _BLOCK))
    padding = _padded(size) - size
    stream.write(bytes(padding))
    outer.offset += len(header) + size + padding
    return digest.hexdigest()


def _texts(manifest: Manifest, volume: str) -> dict[str, bytes]:
    chain = manifest.chain
    facts = {
        "format": FORMAT,
        "timestamp": manifest.created,
        "chain_id": chain.id,
        "chain_length": chain.height + 1,
        "height": chain.height,
        "tip_hash": chain.tip_hash,
        "certified_height": chain.certified_height,
        "schema_version": chain.schema,
        "backup_id": manifest.id,
        "volume": volume,
        **{f"{name}_version": text for name, text in manifest.versions.items()},
    }
    lines = "".join(f"{name}={value}\n" for name, value in facts.items())
    document = {**facts, "keys": dict(manifest.keys)}
    return {"metadata.txt": lines.encode(), _METADATA: json.dumps(document, indent=2).encode() + b"\n"}


def _add(outer: tarfile.TarFile, name: str, data: bytes, manifest: Manifest) -> None:
    outer.addfile(_info(name, len(data), 0o644, manifest), BytesIO(data))


def _info(name: str, size: int, mode: int, manifest: Manifest) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.size, info.mode, info.mtime = size, mode, int(manifest.created_at.timestamp())
    return info


def _gzip(path: Path, mode: str, **options: int) -> IO[bytes]:
    opened: Any = igzip_threaded.open
    return cast(IO[bytes], opened(path, mode, **options))


def _padded(size: int) -> int:
    return -(-size // _BLOCK) * _BLOCK


def _make_durable(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _digest(path: Path) -> tuple[str, int]:
    digest, size = sha256(), 0
    with path.open("rb", buffering=0) as file:
        while data := file.read(_CHUNK):
            digest.update(data)
            size += len(data)
    return digest.hexdigest(), size


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
    beside = archive.with_name(archive.name.removesuffix(".tar.gz") + ".sha256")
    if not beside.is_file():
        if required:
            raise SourceError(f"{beside} is missing, so {archive.name} can not be verified. Put it beside the archive.")
        return
    told = beside.read_text(encoding="utf-8").split()[:1]
    found, _ = _digest(archive)
    if told != [found]:
        raise Damaged(f"{archive} is damaged: its SHA-256 is {found}, {beside.name} says {''.join(told) or 'nothing'}.")


def unpack(archive: Path, folder: Path, volume: str | None) -> Unpacked:
    """Unpack one volume of the archive below `folder`: database and marker only, whatever else it may hold.

    Raises Damaged for an archive that is cut short or altered, SourceError when it holds no such volume.
    """
    reader = _Reader(folder, volume)
    try:
        with _gzip(archive, "rb", threads=1) as plain, tarfile.open(fileobj=plain, mode="r|") as outer:
            for member in outer:
                reader.take(outer, member)
            # The end of the tar is not that of the stream: its checksum comes last.
            while plain.read(_CHUNK):
                pass
    except _BROKEN as error:
        with writing(folder):
            raise Damaged(f"{archive} is damaged or cut short: {error}.") from error
    return reader.result(archive)


def metadata(archive: Path) -> dict[str, Any]:
    """What the archive says of itself: its first pages are enough. Raises Damaged; empty for one without metadata."""
    try:
        with _gzip(archive, "rb", threads=1) as plain, tarfile.open(fileobj=plain, mode="r|") as outer:
            for member in outer:
                name = PurePosixPath(member.name).name
                content = outer.extractfile(member) if name == _METADATA and member.size <= _MOST_TEXT else None
                if content is not None:
                    return _facts(content.read(), archive)
                if name.endswith((".tar", ".tar.gz")):
                    break
    except _BROKEN as error:
        raise Damaged(f"{archive} is damaged or cut short: {error}.") from error
    return {}


def _facts(text: bytes, archive: Path) -> dict[str, Any]:
    """Raises Damaged unless everything that is relied on is of its kind."""
    try:
        return _Facts.model_validate_json(text).model_dump(exclude_unset=True)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the document"
        raise Damaged(f"{_METADATA} in {archive} is damaged: {where}: {first['msg']}.") from error


def compare(unpacked: Unpacked, height: int, tip_hash: str) -> None:
    """Raises NotVerified unless the data is what the archive's metadata says; one without metadata says nothing."""
    for name, found in (("height", height), ("tip_hash", tip_hash)):
        told = unpacked.metadata.get(name, found)
        if told != found:
            raise NotVerified(f"The archive says {name} is {told}, but its data has {found}. Use another backup.")


class _Reader:
    def __init__(self, folder: Path, volume: str | None) -> None:
        self._folder = folder
        self._wanted = volume
        self._volume: str | None = None
        self._found: list[str] = []
        self._texts: dict[str, bytes] = {}
        self._digests: dict[str, str] = {}

    def take(self, outer: tarfile.TarFile, member: tarfile.TarInfo) -> None:
        content = outer.extractfile(member) if member.isreg() else None
        if content is None:
            return
        name = PurePosixPath(member.name).name
        if name.endswith((".tar", ".tar.gz")):
            self._volume_of(name, content)
        elif member.size <= _MOST_TEXT:
            self._texts[name] = content.read()
            self._digests[name] = sha256(self._texts[name]).hexdigest()

    def _volume_of(self, name: str, content: IO[bytes]) -> None:
        volume = name.removesuffix(".gz").removesuffix(".tar")
        self._found.append(volume)
        if self._wanted not in {None, volume} or self._volume is not None:
            return
        self._volume = volume
        hashed = _Hashed(content)
        with tarfile.open(fileobj=cast(Any, hashed), mode="r|*") as inner:
            for member in inner:
                data = inner.extractfile(member) if member.isreg() else None
                if data is not None and (path := _inside(member.name)) is not None:
                    _copy(data, self._folder / path)
        hashed.drain()
        self._digests[name] = hashed.digest.hexdigest()

    def result(self, archive: Path) -> Unpacked:
        if self._volume is None:
            held = ", ".join(self._found) or "none"
            raise SourceError(f"{archive} holds no volume {self._wanted or ''} (it has: {held}). Choose one of those.")
        for line in self._texts.get(_SUMS, b"").decode(errors="replace").splitlines():
            told, _, name = line.partition("  ")
            if name in self._digests and self._digests[name] != told:
                raise Damaged(f"{name} in {archive} is damaged: it does not have the SHA-256 in {_SUMS}.")
        return Unpacked(self._folder, self._volume, _facts(self._texts.get(_METADATA, b"{}"), archive))


class _Hashed:
    """A reader that hashes what passes."""

    def __init__(self, content: IO[bytes]) -> None:
        self._content = content
        self.digest = sha256()

    def read(self, size: int = -1) -> bytes:
        data = self._content.read(size)
        self.digest.update(data)
        return data

    def drain(self) -> None:
        while self.read(_CHUNK):
            pass


def _inside(name: str) -> str | None:
    """The path below the data directory; None for what is no part of a backup, secrets above all."""
    parts = [part for part in PurePosixPath(name).parts if part not in {".", "/"}]
    if parts == [marker.MARKER]:
        return marker.MARKER
    if len(parts) == 2 and parts[0] == marker.DATABASE and parts[1] not in {"..", "LOCK"}:
        return "/".join(parts)
    return None


def _copy(source: IO[bytes], path: Path) -> None:
    with writing(path.parent):
        durable.make_folder(path.parent)
        with path.open("xb") as file:
            while data := source.read(_CHUNK):
                file.write(data)
