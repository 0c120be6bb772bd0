"""The content of an answer, as it comes: one that hardly goes on counts as cut off."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any, Final

_SECONDS: Final = 30.0
_RATE: Final = 1024
"""Bytes a second: many readers may share a slow link, but what has less than this is gone on with by a new call."""


class CutOff(ConnectionError):
    """The content ended early, or hardly goes on: timeouts are for each read, so a byte a minute would do."""


def paced(raw: Any, most: int) -> Iterator[bytes]:
    """What `raw`, an answer of urllib3's, brings, at most so many bytes at once. Raises CutOff, and what it raises."""
    begin, size = time.monotonic(), 0
    while data := raw.read1(most, decode_content=False):
        size += len(data)
        if time.monotonic() - begin > _SECONDS + size / _RATE:
            raise CutOff(f"{size} bytes came in {time.monotonic() - begin:.0f} s")
        yield data
    # Reading so much at once as there is, the library does not look whether that was all.
    length = raw.headers.get("Content-Length")
    if length is not None and size < int(length):
        raise CutOff(f"{size} of {length} bytes came")
