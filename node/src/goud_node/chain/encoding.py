"""Canonical CBOR: one value has one encoding, and anything else is refused."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final, Never

import cbor2

MOST_VALUES: Final = 65_536
"""Most values of one encoding: a segment has 12,289, a block some thousands, a certificate two for each validator."""
_MOST_DEPTH: Final = 16
_UNCOUNTED: Final = 64 * 1024
"""Whatever so many bytes hold, it takes some five mebibytes: up to ninety bytes of memory for each byte."""
_STRINGS: Final = (2, 3)
_SHORT: Final = 24
_INDEFINITE: Final = 31


class NotCanonical(ValueError):
    """Bytes that are not the one canonical encoding of a value; the message says why."""


def _refuse_tag(*_: object) -> Never:
    raise NotCanonical("a tag, which nothing of ours has")


class _EveryTag(Mapping[int, Callable[..., Never]]):
    """How to decode each tag: not at all. We write none, and tags hold numbers of any length, and references by which
    some hundred bytes become gigabytes when they are encoded again.
    """

    def __getitem__(self, tag: int) -> Callable[..., Never]:
        return _refuse_tag

    def __iter__(self) -> Iterator[int]:
        return iter(())

    def __len__(self) -> int:
        return 0


_NO_TAGS: Final = _EveryTag()


def encode(value: Any) -> bytes:
    """Canonical CBOR of lists, tuples, ints, bytes, str, None and maps of those."""
    return cbor2.dumps(value, canonical=True)


def decode(raw: bytes) -> Any:
    """The value of canonical CBOR. Raises NotCanonical for malformed, trailing or non-canonical bytes."""
    value = decode_trusted(raw)
    try:
        canonical_form = encode(value)
    except (cbor2.CBOREncodeError, ValueError, TypeError, RecursionError) as error:
        raise NotCanonical(f"not a plain value: {error}") from error
    if canonical_form != raw:
        raise NotCanonical("not in canonical form, or followed by other bytes")
    return value


def decode_trusted(raw: bytes) -> Any:
    """The value of CBOR that we wrote ourselves: no canonicality check. Raises NotCanonical when malformed, and when
    it holds more than anything that we write: others may have put it in our place.
    """
    if len(raw) > _UNCOUNTED:
        _require_few(raw)
    try:
        return cbor2.loads(
            raw, max_depth=_MOST_DEPTH, allow_indefinite=False, semantic_decoders=_NO_TAGS, tag_hook=_refuse_tag
        )
    except (cbor2.CBORDecodeError, ValueError, TypeError, RecursionError, OverflowError, MemoryError) as error:
        raise NotCanonical(f"malformed CBOR: {error}") from error


def record(value: Any, kinds: tuple[type, ...]) -> list[Any]:
    """Check that `value` is an array of exactly these types (bool is not int). Raises NotCanonical."""
    if type(value) is not list or len(value) != len(kinds):
        raise NotCanonical(f"expected an array of {len(kinds)} fields")
    for position, (item, kind) in enumerate(zip(value, kinds, strict=True)):
        if type(item) is not kind:
            raise NotCanonical(f"field {position} is {type(item).__name__}, expected {kind.__name__}")
    return value


def _require_few(raw: bytes) -> None:
    """Raises NotCanonical for too many values, of which none is made here: an empty array of one byte takes 64."""
    offset, end = 0, len(raw)
    for _ in range(MOST_VALUES):
        if offset >= end:
            return
        kind, information = raw[offset] >> 5, raw[offset] & 31
        offset += 1
        if information == _INDEFINITE:
            raise NotCanonical("a length is left open")
        width = 0 if information < _SHORT else 1 << (information - _SHORT)
        if kind in _STRINGS:
            offset += int.from_bytes(raw[offset : offset + width], "big") if width else information
        offset += width
    if offset < end:
        raise NotCanonical(f"more than {MOST_VALUES} values")
