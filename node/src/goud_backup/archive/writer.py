"""Write a backup as one .tar.gz that plain tools read: a tar of the volume, metadata and checksums."""

from __future__ import annotations

import fcntl
import json
import os
import re
import secrets
import tarfile
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from hashlib import sha256
from io import BytesIO
from pathlib import Path
from typing import IO, Any, Final, cast

from goud_backup.archive.names import METADATA, SUMS, file_digest, gzip
from goud_backup.codec.encoding import Bytes
from goud_backup.codec.sealing import Opener
from goud_backup.errors import Damaged, TargetError
from goud_backup.progress import Progress
from goud_backup.repository.layout import FORMAT
from goud_backup.repository.manifest import FileEntry, Manifest
from goud_backup.repository.repository import Repository
from goud_backup.staging import is_secret, objects_of, require_space, writing
from goud_node.errors import ConfigurationError
from goud_node.store import durable

_BLOCK: Final = 512
_WORD: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,31}")
"""Names of environments and volumes: they become names of members, which have room for 100 characters."""
_PARTIAL: Final = ".goud-chain-backup-*.partial"
"""What runs that are under way, or were killed, have not finished."""


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
    """Write the archive of a backup into `folder`, whole or not at all. It is not encrypted, so it has no secrets.

    Raises ConfigurationError where there is an archive of that name, which stays as it is.
    """
    for option, word in (("environment", environment), ("volume", volume)):
        if not _WORD.fullmatch(word):
            raise ConfigurationError(
                f"The {option} {word!r} cannot be part of an archive's name: give at most 32 letters, digits, dots, "
                "dashes and underscores."
            )
    files = [entry for entry in manifest.listing(opener) if not is_secret(entry)]
    objects_of(manifest, files, folder)
    name = f"goud-chain-backup-{environment}-{manifest.created_at:%Y%m%d-%H%M%S}"
    _require_free(folder, name)
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        _sweep(folder)
    require_space(folder, sum(entry.size for entry in files))
    progress.stage("bytes", sum(entry.size for entry in files))
    with writing(folder), _unfinished(folder, name) as partial:
        stream = gzip(partial, "wb", compresslevel=1, threads=workers)
        with stream as packed, tarfile.open(fileobj=packed, mode="w|", format=tarfile.GNU_FORMAT) as outer:
            _write(outer, name, volume, _Content(repository, manifest, files, opener, workers, progress))
        digest, size = file_digest(partial)
        _make_durable(partial)
        return Exported(*_publish(partial, folder, name, digest), size, digest)


def _require_free(folder: Path, name: str) -> None:
    archive, checksum = folder / f"{name}.tar.gz", folder / f"{name}.sha256"
    if os.path.lexists(archive):
        raise ConfigurationError(
            f"{archive} exists already, of this backup or of another one of the same second: nothing was written. Use "
            "it, move it away, or give another folder (--to) or --environment."
        )
    if os.path.lexists(checksum):
        raise ConfigurationError(
            f"{checksum} is there without its archive: another export is about to end, or was killed just then. Try "
            "again; if it stays so, remove that file."
        )


@contextmanager
def _unfinished(folder: Path, name: str) -> Iterator[Path]:
    """A file of this run's own, locked as long as it is written, so that no other run sweeps it."""
    path = folder / f".{name}-{secrets.token_hex(8)}.partial"
    with path.open("xb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        try:
            if not path.exists():
                raise TargetError(f"{path} was taken away by another export as it began. Try again.")
            yield path
        finally:
            path.unlink(missing_ok=True)


def _sweep(folder: Path) -> None:
    """Remove what killed runs have left: nobody holds it."""
    for path in folder.glob(_PARTIAL):
        with suppress(OSError), path.open("rb+") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink()


def _publish(partial: Path, folder: Path, name: str, digest: str) -> tuple[Path, Path]:
    """The names of the archive and of its checksum, which comes first: it takes the name for this run, and an archive
    that is there has its own beside it whenever the run is killed.
    """
    archive, checksum = folder / f"{name}.tar.gz", folder / f"{name}.sha256"
    _require_free(folder, name)
    try:
        with checksum.open("xb") as file:
            file.write(f"{digest}  {archive.name}\n".encode())
            file.flush()
            os.fsync(file.fileno())
    except FileExistsError:
        _require_free(folder, name)
        raise
    durable.adopt(checksum)
    try:
        durable.sync_directory(folder)
        partial.rename(archive)
    except OSError:
        checksum.unlink()
        raise
    durable.sync_directory(folder)
    return archive, checksum


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
    _add(outer, f"{name}/{SUMS}", listing.encode(), content.manifest)


def _volume(outer: tarfile.TarFile, name: str, content: _Content) -> str:
    """A tar within the tar, written as it is read: its size follows from those of its headers and files."""
    headers = [
        _info(entry.path, entry.size, entry.mode, content.manifest).tobuf(tarfile.GNU_FORMAT) for entry in content.files
    ]
    size = 2 * _BLOCK + sum(map(len, headers)) + sum(_padded_size(entry.size) for entry in content.files)
    stream = cast(IO[bytes], outer.fileobj)
    digest = sha256()

    def write(data: Bytes) -> None:
        digest.update(data)
        stream.write(data)

    outer_header = _info(name, size, 0o600, content.manifest).tobuf(tarfile.GNU_FORMAT)
    stream.write(outer_header)
    for entry, header in zip(content.files, headers, strict=True):
        write(header)
        for chunk in content.chunks(entry):
            write(chunk)
        write(bytes(_padded_size(entry.size) - entry.size))
    write(bytes(2 * _BLOCK))
    padding = _padded_size(size) - size
    stream.write(bytes(padding))
    outer.offset += len(outer_header) + size + padding
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
    }
    # What the manifest names freely does not stand in the place of what it says itself.
    facts = {**facts, **{f"{name}_version": text for name, text in manifest.versions.items()}, **facts}
    lines = "".join(f"{name}={value}\n" for name, value in facts.items())
    document = {**facts, "keys": dict(manifest.keys)}
    return {"metadata.txt": lines.encode(), METADATA: json.dumps(document, indent=2).encode() + b"\n"}


def _add(outer: tarfile.TarFile, name: str, data: bytes, manifest: Manifest) -> None:
    outer.addfile(_info(name, len(data), 0o644, manifest), BytesIO(data))


def _info(name: str, size: int, mode: int, manifest: Manifest) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.size, info.mode, info.mtime = size, mode, int(manifest.created_at.timestamp())
    return info


def _padded_size(size: int) -> int:
    return -(-size // _BLOCK) * _BLOCK


def _make_durable(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())
