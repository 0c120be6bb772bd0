"""Put a backup's files into a directory: every part checked by the hash of its content, all of it durable."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path

from goud_backup import pool
from goud_backup.codec.encoding import Bytes
from goud_backup.codec.sealing import Opener
from goud_backup.errors import Damaged, NoSpace, TargetError
from goud_backup.progress import Progress, Silent
from goud_backup.repository.layout import object_key
from goud_backup.repository.manifest import FileEntry, Manifest, Part, StoredObject
from goud_backup.repository.repository import Repository
from goud_backup.settings import MIB, SECRETS_FOLDER
from goud_node.store import durable

RESERVE_BYTES = 256 * MIB
"""Free space that a restore leaves: a database on a full disk can not even be opened."""
_FULL = {28, 122}  # ENOSPC, EDQUOT


@dataclass
class _Object:
    """An object and where its content goes: (file, offset in the file, part)."""

    name: str
    entry: StoredObject
    targets: list[tuple[Path, int, Part]] = field(default_factory=list)


def stage(
    repository: Repository,
    manifest: Manifest,
    directory: Path,
    opener: Opener | None,
    *,
    workers: int,
    progress: Progress | None = None,
    secrets: bool = False,
) -> None:
    """Write the files of `manifest` below the empty `directory`; secrets only when asked for, and for the owner only.

    Raises Missing, Damaged or WrongIdentity naming the object; NoSpace before anything is written if it does not fit.
    """
    files = [entry for entry in manifest.listing(opener) if secrets or not is_secret(entry)]
    require_space(directory, sum(entry.size for entry in files))
    shown = progress or Silent()
    shown.stage("bytes", sum(entry.size for entry in files))
    objects = objects_of(manifest, files, directory)
    with writing(directory):
        for entry in files:
            _make(directory / entry.path)

    def fetch(blob: _Object) -> None:
        plain = repository.get_object(blob.name, blob.entry, opener)
        with writing(directory):
            _spread(blob, plain)
        shown.advance(sum(part.length for _, _, part in blob.targets))

    pool.run(fetch, objects, workers)
    make_durable(directory, workers)


def check_secrets(repository: Repository, manifest: Manifest, opener: Opener | None) -> None:
    """Read the secrets of a backup and compare them with its manifest, in memory: they are written nowhere.

    Raises what `stage` raises.
    """
    files = [entry for entry in manifest.listing(opener) if is_secret(entry)]
    for blob in objects_of(manifest, files, Path()):
        plain = memoryview(repository.get_object(blob.name, blob.entry, opener))
        for path, _, part in blob.targets:
            _part_data(blob, path, part, plain)


def is_secret(entry: FileEntry) -> bool:
    return entry.path.startswith(f"{SECRETS_FOLDER}/")


def require_space(directory: Path, size: int) -> None:
    """Raises NoSpace, with figures, unless `size` bytes and a reserve fit on the file system of `directory`."""
    free = shutil.disk_usage(directory).free
    if free < size + RESERVE_BYTES:
        raise NoSpace(
            f"{directory} has {free / MIB:.0f} MiB free; {size / MIB:.0f} MiB and a reserve of "
            f"{RESERVE_BYTES / MIB:.0f} MiB are needed. Nothing was written. Free space there or grow the disk."
        )


@contextmanager
def writing(directory: Path) -> Iterator[None]:
    """Turn the operating system's errors into ours."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise NoSpace(
                f"The disk of {directory} is full ({error.filename or directory}). Grow it, run again."
            ) from error
        raise TargetError(f"Cannot write to {directory}: {error}. Check the disk and the owner.") from error


def make_durable(directory: Path, workers: int) -> None:
    """Sync every file and folder below `directory`, and its name in the folder above."""
    with writing(directory):
        paths = [directory, directory.parent]
        for folder, folders, names in os.walk(directory):
            paths += [Path(folder) / name for name in [*folders, *names]]
        pool.run(_sync, paths, workers)


def objects_of(manifest: Manifest, files: list[FileEntry], directory: Path) -> list[_Object]:
    """The objects that hold the files. Raises Damaged for a part that lies in none, or not within one."""
    objects: dict[str, _Object] = {}
    for entry in files:
        at = 0
        for part in entry.parts:
            stored = manifest.objects.get(part.object)
            if stored is None or part.offset + part.length > stored.size:
                raise Damaged(f"The manifest of {manifest.id} does not say what {object_key(part.object)} holds.")
            blob = objects.setdefault(part.object, _Object(part.object, stored))
            blob.targets.append((directory / entry.path, at, part))
            at += part.length
    return list(objects.values())


def _make(path: Path) -> None:
    durable.make_folder(path.parent)
    # Open to nobody else until the whole is put in place.
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))


def _spread(blob: _Object, plain: Bytes) -> None:
    view = memoryview(plain)
    for path, start, part in blob.targets:
        at, data = start, _part_data(blob, path, part, view)
        descriptor = os.open(path, os.O_WRONLY)
        try:
            while data:
                count = os.pwrite(descriptor, data, at)
                data, at = data[count:], at + count
        finally:
            os.close(descriptor)


def _part_data(blob: _Object, path: Path, part: Part, plain: memoryview) -> memoryview:
    data = plain[part.offset : part.offset + part.length]
    if sha256(data).hexdigest() != part.sha256:
        raise Damaged(f"{object_key(blob.name)} does not hold the bytes of {path.name} that the manifest names.")
    return data


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
