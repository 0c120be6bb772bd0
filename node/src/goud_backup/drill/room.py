"""Where a drill works: a fresh folder below the scratch directory, removed in every case, never near live data."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

from goud_backup.drill.signals import held_back
from goud_backup.errors import InUse
from goud_node.errors import ConfigurationError
from goud_node.store import marker

PREFIX: Final = "goud-drill-"
_MARK: Final = ".goud-drill"
"""Only a folder with this in it is ever taken for what a drill left behind."""


@contextmanager
def room(scratch: Path) -> Iterator[Path]:
    """An empty folder below `scratch`. Raises ConfigurationError near live data, InUse beside another drill."""
    scratch = scratch.resolve()
    _refuse_live(scratch)
    with _alone(scratch):
        for remnant in _left_behind(scratch):
            shutil.rmtree(remnant)
        with ExitStack() as stack:
            with held_back():
                folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=scratch))
                stack.callback(_remove, folder)
                (folder / _MARK).touch()
            yield folder


def _remove(folder: Path) -> None:
    with held_back():
        shutil.rmtree(folder)


def _refuse_live(scratch: Path) -> None:
    """Raises ConfigurationError unless `scratch`, without links in it, is apart from every data directory."""
    if not scratch.is_dir():
        raise ConfigurationError(f"The scratch directory {scratch} does not exist. Make it, or correct --scratch.")
    for path in (scratch, *scratch.parents):
        if _is_data(path):
            where = "is" if path == scratch else f"lies inside {path}, which is"
            raise _refusal(scratch, where)
    for name, folders, _ in os.walk(scratch):
        path = Path(name)
        if path.parent == scratch and _is_ours(path):
            folders.clear()
        elif _is_data(path):
            raise _refusal(scratch, f"contains {path}, which is")


def _refusal(scratch: Path, where: str) -> ConfigurationError:
    return ConfigurationError(
        f"The scratch directory {scratch} {where} a data directory: it has a {marker.MARKER} marker or a database. A "
        "drill never works near live data; nothing was touched. Give a directory of its own by --scratch."
    )


def _is_data(path: Path) -> bool:
    return (path / marker.MARKER).exists() or marker.database_path(path).exists()


def _is_ours(path: Path) -> bool:
    return path.name.startswith(PREFIX) and (path / _MARK).is_file()


def _left_behind(scratch: Path) -> list[Path]:
    return [path for path in scratch.iterdir() if _is_ours(path) and not path.is_symlink()]


@contextmanager
def _alone(scratch: Path) -> Iterator[None]:
    """Two drills would take each other's folder for something left behind, and fill the disk together."""
    descriptor = os.open(scratch, os.O_RDONLY | os.O_DIRECTORY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise InUse(f"Another drill works in {scratch}. Wait until it is done.") from error
        yield
    finally:
        os.close(descriptor)
