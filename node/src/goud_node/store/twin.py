"""A database directory that can be opened in place of another one, which stays untouched."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from goud_node.errors import CorruptStore
from goud_node.store import holding

RESTORED: Final = "goud-restored.json"
"""Beside a database that a restore put there: which restore it was."""
_NOT_DATA: Final = ("LOCK", "LOG", "IDENTITY", RESTORED)


def data_files(database: Path) -> list[Path]:
    """The files of a database that make up its content, by name."""
    with os.scandir(database) as entries:
        names = sorted(entry.name for entry in entries if entry.is_file(follow_symlinks=False))
    return [database / name for name in names if _is_data(name)]


def _is_data(name: str) -> bool:
    return not (name.startswith(_NOT_DATA) or name.endswith((".dbtmp", ".tmp")))


@contextmanager
def twin(database: Path) -> Iterator[Path]:
    """A directory that can be opened in place of `database`, which stays untouched.

    Opening writes files beside the data. Data files are linked by name; the small ones, which the library rewrites,
    are copied.
    """
    with holding.undisturbed(database), tempfile.TemporaryDirectory(prefix="goud-twin-") as folder:
        path = Path(folder) / "rocksdb"
        path.mkdir()
        # A database that does not exist makes an empty twin, and opening that says what is missing.
        for file in data_files(database) if database.is_dir() else []:
            if file.suffix == ".sst":
                (path / file.name).symlink_to(file.absolute())
            else:
                shutil.copyfile(file, path / file.name)
        try:
            yield path
        except CorruptStore as error:
            # The twin is gone when somebody reads this: what is damaged is the database.
            database_error = CorruptStore(str(error).replace(str(path), str(database)))
            database_error.height = error.height
            raise database_error from error
