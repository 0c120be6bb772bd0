"""Encodings of stored bytes: as they are, or gzip, either of them sealed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, cast

from isal import isal_zlib

from goud_backup.codec.sealing import Opener, Sealer
from goud_backup.errors import Damaged, WrongIdentity

Bytes = bytes | bytearray | memoryview

RAW: Final = "raw"
GZIP: Final = "gzip"
GZIP_ERROR: Final = cast(type[Exception], isal_zlib.error)  # the stubs of the library call it an instance
SEALED: Final = "sealed+"
ENCODINGS: Final = frozenset({RAW, GZIP, SEALED + RAW, SEALED + GZIP})
_GZIP_WINDOW: Final = 31
_SAMPLE: Final = 256 * 1024
_WORTH: Final = 0.95
"""Compressed data above this share of the original is stored as it is: RocksDB has compressed it already."""


@dataclass(frozen=True)
class Encoded:
    """Bytes as the store gets them."""

    data: Bytes
    encoding: str


def encode(plain: Bytes, sealer: Sealer | None) -> Encoded:
    """Compress where it shrinks, then seal where there is a sealer. Without either, `data` is `plain` itself."""
    data, encoding = plain, RAW
    if _shrinks(plain):
        packed = isal_zlib.compress(plain, 1, _GZIP_WINDOW)
        if len(packed) < len(plain) * _WORTH:
            data, encoding = packed, GZIP
    if sealer is None:
        return Encoded(data, encoding)
    return Encoded(sealer.seal(data), SEALED + encoding)


def check_encoding(name: str) -> str:
    """The encoding. Raises ValueError for one that this version does not know."""
    if name not in ENCODINGS:
        raise ValueError(f"the encoding {name[:40]!r} is unknown: it may need a newer goud-backup")
    return name


def decode(data: Bytes, encoding: str, size: int, opener: Opener | None, name: str) -> Bytes:
    """The `size` plain bytes. Raises Damaged or WrongIdentity, naming `name`."""
    if encoding not in ENCODINGS:
        raise Damaged(f"{name} has the unknown encoding {encoding!r}: it may need a newer goud-backup.")
    if encoding.startswith(SEALED):
        if opener is None:
            raise WrongIdentity(f"{name} is encrypted. Give the file with the age identity by --identity.")
        data, encoding = opener.open(data, name), encoding.removeprefix(SEALED)
    plain = gunzip(data, size, name) if encoding == GZIP else data
    if len(plain) != size:
        raise Damaged(f"{name} holds {len(plain)} bytes where {size} were written.")
    return plain


def gunzip(data: Bytes, limit: int, name: str) -> bytes:
    """At most `limit` bytes of one gzip stream: what claims to be small can not fill the memory. Raises Damaged."""
    stream = isal_zlib.decompressobj(_GZIP_WINDOW)
    try:
        plain = stream.decompress(data, limit + 1)
    except GZIP_ERROR as error:
        raise Damaged(f"{name} is damaged: {error}.") from error
    if not stream.eof or len(plain) > limit:
        raise Damaged(f"{name} is cut short, or longer than the {limit} bytes it should hold.")
    return plain


def _shrinks(plain: Bytes) -> bool:
    if len(plain) <= _SAMPLE:
        return len(plain) > 0
    middle = len(plain) // 2
    sample = memoryview(plain)[middle : middle + _SAMPLE]
    return len(isal_zlib.compress(sample, 1, _GZIP_WINDOW)) < len(sample) * _WORTH
