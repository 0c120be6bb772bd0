"""Who has a database open: asked without taking its lock, so that a node that starts meanwhile does not fail.

Closing any descriptor of a file gives up every lock that this process has on it. So a process never asks about a
database that it has open itself; what it opens for writing is noted here first.
"""

from __future__ import annotations

import fcntl
import os
import re
import stat as modes
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Lock
from typing import Final

from goud_node.errors import CorruptStore, StoreError, StoreInUse

LOCK: Final = "LOCK"
_FLOCK: Final = struct.Struct("hhqqi0q")
_WRITTEN: Final = re.compile(r"CURRENT|MANIFEST-\d+|\d+\.(log|sst)")
_KINDS: Final = {
    modes.S_IFIFO: "a named pipe",
    modes.S_IFSOCK: "a socket",
    modes.S_IFCHR: "a device",
    modes.S_IFBLK: "a device",
    modes.S_IFDIR: "a folder",
}
_guard = Lock()
_own_databases: dict[Path, int] = {}
"""How often this process has a database open for writing."""


def take(database: Path) -> None:
    """Note that this process is about to lock the database. Raises CorruptStore where that would wait without end."""
    _require_files(database)
    with _guard:
        path = database.resolve()
        _own_databases[path] = _own_databases.get(path, 0) + 1


def leave(database: Path) -> None:
    """Undo one `take`."""
    with _guard:
        path = database.resolve()
        _own_databases[path] = _own_databases.get(path, 1) - 1
        if _own_databases[path] <= 0:
            del _own_databases[path]


@contextmanager
def undisturbed(database: Path) -> Iterator[None]:
    """Raises StoreInUse when another process has the database open, or had it while the block failed, and CorruptStore
    where opening it would wait without end.
    """
    _require_files(database)
    _refuse(database, is_held=held_elsewhere(database), cause=None)
    content = _content(database)
    try:
        yield
    except (StoreError, OSError) as error:
        with _guard:
            is_own = database.resolve() in _own_databases
        _refuse(
            database, is_held=held_elsewhere(database) or (not is_own and _content(database) != content), cause=error
        )
        raise


def held_elsewhere(database: Path) -> bool:
    """Whether another process holds the database's lock. What cannot be asked is not known to be held."""
    with _guard:
        if database.resolve() in _own_databases:
            return False
        try:
            descriptor = os.open(database / LOCK, os.O_RDONLY | os.O_NONBLOCK)
        except OSError:
            return False
        try:
            if not modes.S_ISREG(os.fstat(descriptor).st_mode):
                return False
            lock_request = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
            kind, *_ = _FLOCK.unpack(fcntl.fcntl(descriptor, fcntl.F_GETLK, lock_request))
        finally:
            os.close(descriptor)
    return bool(kind != fcntl.F_UNLCK)


def _refuse(database: Path, *, is_held: bool, cause: BaseException | None) -> None:
    if is_held:
        raise StoreInUse(
            f"{database} is in use by another process: a running node has it open, and what is read beside it is not "
            "to be relied on. Stop the node first, or ask it instead (`goud-node admin status`)."
        ) from cause


def _require_files(database: Path) -> None:
    """The library waits for who writes into a pipe, calls a LOCK that is a folder "in use", and hears no signal."""
    try:
        with os.scandir(database) as entries:
            kinds = {entry.name: _kind(entry) for entry in entries}
    except OSError:
        return  # whoever opens it is told
    for name, kind in sorted(kinds.items()):
        if kind not in {None, modes.S_IFREG} and (kind != modes.S_IFDIR or name == LOCK):
            raise CorruptStore(
                f"{database / name} is no file, but {_KINDS.get(kind, 'something else')}: the database was not opened. "
                "Look who put it there and move it away; if a file of the database was there, move the directory "
                "aside and restore a backup, or let the node refill from its peers on an empty volume."
            )


def _kind(entry: os.DirEntry[str]) -> int | None:
    """None for what is gone, and for a link that leads nowhere."""
    try:
        return modes.S_IFMT(entry.stat().st_mode)
    except OSError:
        return None


def _content(database: Path) -> list[tuple[str, int, int]]:
    """What changes when a database is written; a reader, too, may write the library's other files."""
    try:
        with os.scandir(database) as entries:
            files = [(entry.name, entry.stat()) for entry in entries if _WRITTEN.fullmatch(entry.name)]
    except OSError:
        return []
    return sorted((name, stat.st_size, stat.st_mtime_ns) for name, stat in files)
