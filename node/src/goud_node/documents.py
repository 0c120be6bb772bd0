"""JSON that others may have written: read in one way everywhere, strict, and bounded before it is read."""

from __future__ import annotations

import json
import math
import os
import re
from pathlib import Path
from typing import Annotated, Any, Final, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, FailFast, Field, TypeAdapter, ValidationError

T = TypeVar("T")

MOST_BYTES: Final = 64 * 1024
"""Most bytes of a document, where its reader does not say otherwise."""
MOST_LISTING: Final = 16 * 1024 * 1024
"""Most bytes of what grows with a repository: a manifest, its list of files, a fork, marks, what was hashed before."""
MOST_VALUES: Final = 1_000_000
"""Most values of any document: each takes some hundred bytes of memory, however short its text is."""
_MOST_DETAIL: Final = 200
_MOST_DIGITS: Final = 20
_MOST_FEW: Final = 1000
_SURROGATE: Final = re.compile(rb"\\u[dD][89a-fA-F]")

Number = Annotated[int, Field(ge=0, lt=1 << 53)]
"""An integer that every JSON library reads alike."""
Seconds = Annotated[float, Field(gt=-1e15, lt=1e15)]
Text = Annotated[str, Field(max_length=10_000)]
Line = Annotated[str, Field(max_length=1000, pattern=r"^[^\x00-\x1f\x7f-\x9f]*$")]
"""Text that may be shown: a terminal obeys control characters."""
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}\z")]


FIRST: Final = FailFast()
"""On a list: the first thing that is wrong says enough, and remembering every one takes a kilobyte for each."""
ROW: Final = BeforeValidator(lambda found: tuple(found) if type(found) is list else found)
"""On a tuple: JSON has lists only."""


def _few(found: Any) -> Any:
    if isinstance(found, dict | list) and len(found) > _MOST_FEW:
        raise ValueError(f"it has more than {_MOST_FEW} entries")
    return found


FEW: Final = BeforeValidator(_few)
"""On a map or a list that is short in any true document."""


class Malformed(ValueError):
    """A document is not what its reader wants; the message is a clause such as `it has more than 3 bytes`."""


class Document(BaseModel):
    """Base of documents that are read: each value has exactly its kind, and numbers are finite."""

    model_config = ConfigDict(strict=True, frozen=True, allow_inf_nan=False)


def read(raw: bytes | bytearray | memoryview | str, shape: TypeAdapter[T], most: int = MOST_BYTES) -> T:
    """The document, of that shape. Raises Malformed, and nothing else, whatever `raw` holds."""
    data = raw.encode(errors="surrogatepass") if isinstance(raw, str) else bytes(raw[: most + 1])
    require_bounds(data, most)
    try:
        document = json.loads(
            data.decode(), object_pairs_hook=_once, parse_constant=_refuse, parse_float=_finite, parse_int=_whole
        )
        if _SURROGATE.search(data):
            json.dumps(document, ensure_ascii=False).encode()
    except Malformed:
        raise
    except (ValueError, RecursionError) as error:
        raise Malformed(f"it is not JSON: {error}"[:_MOST_DETAIL]) from error
    # Not straight from the text: that takes a kilobyte for every pair of brackets.
    return shaped(document, shape)


def shaped(document: object, shape: TypeAdapter[T], where: str = "the document") -> T:
    """A value out of a document, of that shape. Raises Malformed saying where, for the first thing that is wrong.

    Long lists and maps are handed in one entry at a time: everything that is wrong is remembered, a kilobyte for each.
    """
    try:
        return shape.validate_python(document, strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        place = ".".join(str(part) for part in first["loc"]) or where
        raise Malformed(f"{repr(place)[1:-1]}: {first['msg']}"[:_MOST_DETAIL]) from error


def read_file(path: Path, shape: TypeAdapter[T], most: int = MOST_BYTES) -> T:
    """The document of a file, of which no more is read than it may have. Raises Malformed, OSError."""
    with path.open("rb", buffering=0) as file:
        if os.fstat(file.fileno()).st_size > most:
            raise Malformed(_too_long(most))
        data = bytearray()
        while part := file.read(most + 1 - len(data)):
            data += part
    return read(data, shape, most)


def require_bounds(data: bytes | bytearray, most: int) -> None:
    """Raises Malformed when it has more bytes, or more values, than any that is read."""
    if len(data) > most:
        raise Malformed(_too_long(most))
    if data.count(b",") + data.count(b"[") + data.count(b"{") > MOST_VALUES:
        raise Malformed(f"it has more than {MOST_VALUES} values")


def _too_long(most: int) -> str:
    return f"it has more than {most} bytes"


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise Malformed(f"it names {name[:100]!r} twice")
        found[name] = value
    return found


def _refuse(constant: str) -> None:
    raise Malformed(f"{constant} is not a number of JSON")


def _whole(text: str) -> int:
    if len(text) > _MOST_DIGITS:
        raise Malformed(f"{text[:30]}… has more digits than any number of ours")
    return int(text)


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise Malformed(f"{text[:30]} is larger than any number")
    return number
