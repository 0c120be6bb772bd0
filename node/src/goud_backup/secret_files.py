"""Put the secrets of a backup in the place of the live ones, which are kept, and put these back."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from goud_backup.errors import SourceError
from goud_node.documents import Document, Line
from goud_node.store import durable

KEPT: Final = ".restore/secrets-"
"""Below the data directory, followed by the id of the swap: what was live before it."""


@dataclass(frozen=True)
class SecretFiles:
    """Files of these names in `folder`: what comes is in `staged`, what was there in `kept`, both below the data
    directory. A name that is missing in one of them was missing in `folder`.
    """

    folder: str
    names: tuple[str, ...]
    staged: str
    kept: str


class WrittenSecretFiles(Document):
    """The same, in a journal."""

    folder: Line
    names: tuple[Line, ...]
    staged: Line
    kept: Line

    def __post_init__(self) -> None:
        for path in (self.staged, self.kept, *self.names):
            require_below(path)


def require_below(path: str) -> None:
    """Raises ValueError for a path that leads out of the data directory."""
    if path.startswith("/") or ".." in path.split("/"):
        raise ValueError(f"{path!r} leads out of the data directory")


def keep(data_dir: Path, files: SecretFiles) -> None:
    """Copy what is live. Raises OSError, StoreError."""
    durable.make_folder(data_dir / files.kept, 0o700)
    for name in files.names:
        live = Path(files.folder) / name
        if live.exists():
            durable.replace(data_dir / files.kept / name, live.read_bytes(), _mode(live))
    durable.sync_directory(data_dir / files.kept)


def put(data_dir: Path, files: SecretFiles, origin: str) -> None:
    """Make what is in `origin`, the staged or the kept ones, live. May be repeated. Raises SourceError when they are
    gone, OSError, StoreError.
    """
    source, folder = data_dir / origin, Path(files.folder)
    if not source.is_dir():
        raise SourceError(
            f"{source} is missing, which had the secrets of {folder}. Nothing was changed. Restore with --secrets-to "
            "from a backup instead."
        )
    if not folder.exists():
        durable.make_folder(folder, 0o700)
    for name in files.names:
        path, live = source / name, folder / name
        if not path.exists():
            live.unlink(missing_ok=True)
        elif not live.exists() or (live.read_bytes(), _mode(live)) != (path.read_bytes(), _mode(path)):
            durable.replace(live, path.read_bytes(), _mode(path))
    durable.sync_directory(folder)


def _mode(path: Path) -> int:
    return path.stat().st_mode & 0o777
