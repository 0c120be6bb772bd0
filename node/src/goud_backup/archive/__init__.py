"""The guide's archive: one .tar.gz that plain tools read, with a tar of the volume, metadata and checksums."""

from __future__ import annotations

from goud_backup.archive.reader import Unpacked, check_checksum, compare, metadata, unpack
from goud_backup.archive.writer import Exported, export

__all__ = ["Exported", "Unpacked", "check_checksum", "compare", "export", "metadata", "unpack"]
