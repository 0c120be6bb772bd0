"""Small files that are either the old or the new one after a power cut, and whose they are.

Root restores, initialises and looks at volumes for a node that runs as another account, under whatever umask root has.
So what is put into a folder belongs to the owner of that folder, and is open to whom the folder is open.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from goud_node.errors import StoreError, StoreFull

_FULL = {28, 122}  # ENOSPC, EDQUOT


@contextmanager
def named(path: Path) -> Iterator[None]:
    """Turn the OSErrors of a block that writes at `path` into StoreFull or StoreError that names it."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise StoreFull(f"Cannot write {path}: the disk is full. Free space on it or grow it.") from error
        raise StoreError(f"Cannot write {path}: {error.strerror}. Check the volume and its owner.") from error


def replace(path: Path, content: bytes, mode: int | None = None) -> None:
    """Write `content` to `path` atomically and durably. Raises StoreFull or StoreError; the old file then stands.

    Without a `mode`, the file is as open as its folder.
    """
    temporary = path.with_name(f"{path.name}.tmp")
    with named(path):
        # O_NONBLOCK: a pipe of that name is an error, and not waited for until somebody reads it.
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_NONBLOCK
        descriptor = os.open(temporary, flags, mode or 0o600)
        with os.fdopen(descriptor, "wb") as file:
            _adopt(descriptor, path.parent, mode)
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        sync_directory(path.parent)


def sync_directory(path: Path) -> None:
    """Make names created, renamed or removed in the directory `path` survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_folder(path: Path, mode: int | None = None) -> None:
    """Make the folder `path`, and those above it, unless it exists; see the head of this module. Raises OSError."""
    if not path.parent.is_dir():
        make_folder(path.parent)
    path.mkdir(mode=mode or 0o700, exist_ok=True)
    adopt(path, mode=mode)


def adopt(path: Path, model_folder: Path | None = None, mode: int | None = None) -> None:
    """Give a file or folder to the owner of `model_folder` (else of the folder it is in), as open as that folder is.

    Only root changes an owner, and only root or its owner a mode: for anybody else this does nothing. Links are left
    alone. Raises OSError.
    """
    # Not opened for reading: closing that would give up a lock that this process holds on the file.
    descriptor = os.open(path, os.O_PATH | os.O_NOFOLLOW)
    try:
        if stat.S_IFMT(os.fstat(descriptor).st_mode) in {stat.S_IFREG, stat.S_IFDIR}:
            _adopt(descriptor, model_folder or path.parent, mode)
    finally:
        os.close(descriptor)


def adopt_all(folder: Path, model_folder: Path | None = None) -> None:
    """`adopt` the folder and everything below it."""
    adopt(folder, model_folder)
    for parent, folders, names in os.walk(folder):
        for name in (*folders, *names):
            adopt(Path(parent) / name, model_folder)


def _adopt(descriptor: int, folder: Path, mode: int | None) -> None:
    model, entry, user_id = folder.stat(), os.fstat(descriptor), os.geteuid()
    # The name of the descriptor, because one that only names a file takes no changes itself.
    name = f"/proc/self/fd/{descriptor}"
    if user_id == 0 and (entry.st_uid, entry.st_gid) != (model.st_uid, model.st_gid):
        os.chown(name, model.st_uid, model.st_gid)
    target_mode = _mode(model.st_mode, folder=stat.S_ISDIR(entry.st_mode)) if mode is None else mode
    if user_id in {0, entry.st_uid} and stat.S_IMODE(entry.st_mode) != target_mode:
        Path(name).chmod(target_mode)


def _mode(model: int, *, folder: bool) -> int:
    """Whoever may enter the folder may read; nobody but the owner writes."""
    if folder:
        return model & 0o055 | 0o700
    return (model & 0o011) << 2 | 0o600
