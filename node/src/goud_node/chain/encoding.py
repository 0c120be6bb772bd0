"""Canonical CBOR: one value has one encoding, and anything else is refused."""

from __future__ import annotations

from typing import Any

import cbor2


class NotCanonical(ValueError):
    """Bytes that are not the one canonical encoding of a value; the message says why."""


def encode(value: Any) -> bytes:
    """Canonical CBOR of lists, tuples, ints, bytes, str, None and maps of those."""
    return cbor2.dumps(value, canonical=True)


def decode(raw: bytes) -> Any:
    """The value of canonical CBOR. Raises NotCanonical for malformed, trailing or non-canonical bytes."""
    value = decode_trusted(raw)
    try:
        again = encode(value)
    except (cbor2.CBOREncodeError, ValueError, TypeError, RecursionError) as error:
        raise NotCanonical(f"not a plain value: {error}") from error
    if again != raw:
        raise NotCanonical("not in canonical form, or followed by other bytes")
    return value


def decode_trusted(raw: bytes) -> Any:
    """The value of CBOR that we wrote ourselves: no canonicality check. Raises NotCanonical when malformed."""
    try:
        return cbor2.loads(raw)
    except (cbor2.CBORDecodeError, ValueError, TypeError, RecursionError, OverflowError, MemoryError) as error:
        raise NotCanonical(f"malformed CBOR: {error}") from error


def record(value: Any, kinds: tuple[type, ...]) -> list[Any]:
    """Check that `value` is an array of exactly these types (bool is no int). Raises NotCanonical."""
    if type(value) is not list or len(value) != len(kinds):
        raise NotCanonical(f"expected an array of {len(kinds)} fields")
    for position, (item, kind) in enumerate(zip(value, kinds, strict=True)):
        if type(item) is not kind:
            raise NotCanonical(f"field {position} is {type(item).__name__}, expected {kind.__name__}")
    return value
