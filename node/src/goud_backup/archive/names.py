"""What writing and reading archives share."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path
from typing import IO, Any, Final, cast

from isal import igzip_threaded

from goud_backup.settings import MIB

METADATA: Final = "metadata.json"
SUMS: Final = "SHA256SUMS"
CHUNK: Final = 4 * MIB


def gzip(path: Path, mode: str, **options: int) -> IO[bytes]:
    """The file's plain content, compressed or unpacked in a thread of its own."""
    opened: Any = igzip_threaded.open
    return cast(IO[bytes], opened(path, mode, **options))


def file_digest(path: Path) -> tuple[str, int]:
    """SHA-256 in hex, and size."""
    digest, size = sha256(), 0
    with path.open("rb", buffering=0) as file:
        while data := file.read(CHUNK):
            digest.update(data)
            size += len(data)
    return digest.hexdigest(), size
