"""A floor under RocksDB's sequence number, kept in a file of our own.

A truncated MANIFEST opens cleanly as an older state of the database, and can be consistent in itself. The sequence
number only grows, so one below the last known value is proof of lost writes. Checked at open, raised at open and close.
"""

from __future__ import annotations

import os
from pathlib import Path

from goud_node.errors import CorruptStore, StoreFull

NAME = "goud-sequence"


def check(path: Path, sequence: int) -> None:
    """Raises CorruptStore when the database at `path` is older than it was. A missing file says nothing."""
    try:
        text = (path / NAME).read_text(encoding="ascii")
    except FileNotFoundError:
        return
    if not text.strip().isdigit():
        raise CorruptStore(f"{path / NAME} is damaged: it must hold one number. Restore the directory from a backup.")
    if sequence < int(text):
        raise CorruptStore(
            f"The database in {path} has lost writes: it ends at change {sequence}, but {path / NAME} has seen "
            f"{int(text)}. Its MANIFEST or its log was cut. Move the directory aside and restore a backup, or let the "
            "node refill from its peers on an empty volume."
        )


def raise_to(path: Path, sequence: int) -> None:
    """Record `sequence`, durably and atomically."""
    temporary = path / f"{NAME}.tmp"
    try:
        with temporary.open("w", encoding="ascii") as file:
            file.write(f"{sequence}\n")
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path / NAME)
    except OSError as error:
        raise StoreFull(f"Cannot record the state of {path}: {error.strerror}. Free space on its disk.") from error
