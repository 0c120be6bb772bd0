"""JSON that others may have written: read in one way everywhere, strict, and bounded before it is read."""

from __future__ import annotations

import json
import math
import os
import re
from pathlib import Path
from typing import Annotated, Any, Final, TypeVar

import msgspec
from msgspec import Meta

T = TypeVar("T")

MOST_BYTES: Final = 64 * 1024
"""Most bytes of a document, where its reader does not say otherwise."""
MOST_LISTING: Final = 16 * 1024 * 1024
"""Most bytes of what grows with a repository: a manifest, its list of files, a fork, marks, what was hashed before."""
MOST_VALUES: Final = 1_000_000
"""Most values of any document: each takes some hundred bytes of memory, however short its text is."""
_MOST_DEPTH: Final = 32
"""What an interpreter can parse it may not be able to write, show or walk: by then it is deeper in its own calls."""
_MOST_DETAIL: Final = 200
_MOST_DIGITS: Final = 20
_NESTING: Final = bytes.maketrans(b"{}", b"[]")
_NO_NESTING: Final = bytes(set(range(256)) - set(b'"[]{}'))
_STRING: Final = re.compile(rb'"[^"]*"')
_SURROGATE: Final = re.compile(rb"\\u[dD][89a-fA-F]")

Number = Annotated[int, Meta(ge=0, lt=1 << 53)]
"""An integer that every JSON library reads alike."""
Milliseconds = Annotated[int, Meta(ge=0, le=(1 << 63) - 1)]
"""A block's time: whatever its proposer's clock said, also what no calendar has."""
Seconds = Annotated[float, Meta(gt=-1e15, lt=1e15)]
_SHOWN: Final = r"^[^\x00-\x1f\x7f-\x9f\ud800-\udfff]*\Z"
"""Text that may be shown: a terminal obeys control characters, and half of a character cannot be written."""
Text = Annotated[str, Meta(max_length=10_000, pattern=_SHOWN)]
Line = Annotated[str, Meta(max_length=1000, pattern=_SHOWN)]
Digest = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}\Z")]
FEW: Final = Meta(max_length=1000)
"""On a map or a list that is short in any true document."""


class Malformed(ValueError):
    """A document is not what its reader wants; the message is a clause such as `it has more than 3 bytes`."""


class Document(msgspec.Struct):
    """Base of documents that are read: each value has exactly its kind; `__post_init__` refuses with ValueError."""


def read(raw: bytes | bytearray | memoryview | str, shape: type[T], most: int = MOST_BYTES) -> T:
    """The document, of that shape. Raises Malformed, and nothing else, whatever `raw` holds."""
    data = raw.encode(errors="surrogatepass") if isinstance(raw, str) else bytes(raw[: most + 1])
    require_bounds(data, most)
    try:
        document = json.loads(
            data.decode(),
            object_pairs_hook=_unique_object,
            parse_constant=_refuse,
            parse_float=_float,
            parse_int=_integer,
        )
        if _SURROGATE.search(data):
            json.dumps(document, ensure_ascii=False).encode()
    except Malformed:
        raise
    except (ValueError, RecursionError) as error:
        raise Malformed(f"it is not JSON: {error}"[:_MOST_DETAIL]) from error
    return shaped(document, shape)


def shaped(document: object, shape: type[T]) -> T:
    """A value out of a document, of that shape. Raises Malformed saying where, for the first thing that is wrong."""
    try:
        return msgspec.convert(document, shape, strict=True)
    except msgspec.ValidationError as error:
        raise Malformed(str(error)[:_MOST_DETAIL]) from error


def read_file(path: Path, shape: type[T], most: int = MOST_BYTES) -> T:
    """The document of a file, of which no more is read than it may have. Raises Malformed, OSError."""
    with path.open("rb", buffering=0) as file:
        if os.fstat(file.fileno()).st_size > most:
            raise Malformed(_too_long(most))
        data = bytearray()
        while part := file.read(most + 1 - len(data)):
            data += part
    return read(data, shape, most)


def require_bounds(data: bytes | bytearray, most: int) -> None:
    """Raises Malformed when it has more bytes, or more values, or is nested deeper, than any that is read."""
    if len(data) > most:
        raise Malformed(_too_long(most))
    openings = data.count(b"[") + data.count(b"{")
    if data.count(b",") + openings > MOST_VALUES:
        raise Malformed(f"it has more than {MOST_VALUES} values")
    if openings > _MOST_DEPTH and _is_deep(data):
        raise Malformed(f"it is nested more than {_MOST_DEPTH} deep")


def printable(text: str) -> str:
    """The text in which each character that a terminal obeys, or cannot show, is escaped."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def _is_deep(data: bytes | bytearray) -> bool:
    """By whole passes over what is left of it, which take less time than the parsing."""
    rest = data.replace(b"\\\\", b"").replace(b'\\"', b"").translate(_NESTING, _NO_NESTING).replace(b'""', b"")
    rest = _STRING.sub(b"", rest)
    for _ in range(_MOST_DEPTH):
        rest = rest.replace(b"[]", b"")
    # What is left beside the pairs was never closed; the parser goes down there before it says so.
    return b"[]" in rest or rest.count(b"[") > _MOST_DEPTH


def _too_long(most: int) -> str:
    return f"it has more than {most} bytes"


def _unique_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    document: dict[str, Any] = {}
    for name, value in pairs:
        if name in document:
            raise Malformed(f"it names {name[:100]!r} twice")
        document[name] = value
    return document


def _refuse(constant: str) -> None:
    raise Malformed(f"{constant} is not a number of JSON")


def _integer(text: str) -> int:
    if len(text) > _MOST_DIGITS:
        raise Malformed(f"{text[:30]}… has more digits than any number of ours")
    return int(text)


def _float(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise Malformed(f"{text[:30]} is larger than any number")
    return number
