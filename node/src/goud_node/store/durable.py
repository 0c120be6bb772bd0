"""Small files that are either the old or the new one after a power cut."""

from __future__ import annotations

import os
from pathlib import Path

from goud_node.errors import StoreError, StoreFull

_FULL = {28, 122}  # ENOSPC, EDQUOT


def replace(path: Path, content: bytes, mode: int = 0o644) -> None:
    """Write `content` to `path` atomically and durably. Raises StoreFull or StoreError; the old file then stands."""
    temporary = path.with_name(f"{path.name}.tmp")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        sync_directory(path.parent)
    except OSError as error:
        if error.errno in _FULL:
            raise StoreFull(f"Cannot write {path}: the disk is full. Free space on it or grow it.") from error
        raise StoreError(f"Cannot write {path}: {error.strerror}. Check the volume and its owner.") from error


def sync_directory(path: Path) -> None:
    """Make names created, renamed or removed in the directory `path` survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
