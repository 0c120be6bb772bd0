"""RocksDB's errors arrive as plain exceptions with a text: here they get our types, names and next steps."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rocksdict import DbClosedError

from goud_node.errors import CorruptStore, GoudError, StoreError, StoreFull
from goud_node.store.base import Family

_FILE = re.compile(r"\S*?((?:\d{6,}\.(?:sst|log|ldb)|MANIFEST-\d+|CURRENT|OPTIONS-\d+|IDENTITY))\b")
_LOST_FILE = re.compile(r"No such file or directory", re.IGNORECASE)


@contextmanager
def classified(path: Path, family: Family | None = None) -> Iterator[None]:
    """Turn the library's exceptions inside the block into StoreError, CorruptStore or StoreFull naming `path`."""
    try:
        yield
    except (GoudError, TypeError, AttributeError):
        raise
    except DbClosedError as error:
        raise StoreError(f"{path} is closed: this process is shutting down.") from error
    except Exception as error:
        # The library raises bare Exception: the text is all there is to tell causes apart.
        raise translate(path, str(error), family) from error


def translate(path: Path, text: str, family: Family | None = None) -> StoreError:
    """The error for one of the library's messages."""
    if "No space left on device" in text or "Disk quota exceeded" in text:
        return StoreFull(
            f"The disk of {path} is full: nothing was written ({text}). "
            "Free space on it or grow it; writes then resume by themselves within seconds."
        )
    if "lock" in text.lower() and "LOCK" in text:
        return StoreError(f"{path} is in use by another process ({text}). Stop that process first.")
    if "Read-only file system" in text:
        return StoreError(
            f"{path} is on a read-only file system ({text}). Even reading needs a writable directory: copy it first."
        )
    match = _FILE.search(text)
    location = str(path / match.group(1)) if match else str(path) + (f", family {family.value}" if family else "")
    is_damage = text.startswith("Corruption") or "checksum mismatch" in text or (match and _LOST_FILE.search(text))
    if is_damage or text.startswith("Invalid argument: Column family not found"):
        return CorruptStore(
            f"The database is damaged: {location} ({text}). Do not repair it in place, that loses blocks: move the "
            "directory aside and restore a backup, or let the node refill from its peers on an empty volume."
        )
    return StoreError(f"RocksDB failed on {location}: {text}.")
