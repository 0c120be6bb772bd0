"""Segments: certified blocks in order, shipped between backups, each joined to the one before by hashes."""

from __future__ import annotations

from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from itertools import count
from typing import Annotated, Any, Final, Literal

from msgspec import Meta

from goud_backup.codec.encoding import ENCODINGS, check_encoding, decode, encode
from goud_backup.codec.sealing import Opener, Sealer
from goud_backup.errors import Damaged, LaterFormat
from goud_backup.repository.layout import FORMAT, FORMATS, MOST_OBJECT, segment_key, segment_parts
from goud_backup.repository.manifest import canonical
from goud_backup.repository.records import parse
from goud_backup.targets import Stat
from goud_node.chain import encoding
from goud_node.chain.block import Block
from goud_node.chain.certificate import Certificate, decode_pairs
from goud_node.chain.genesis import Genesis
from goud_node.chain.rules import check_alone, check_block
from goud_node.documents import Digest, Document, Line, Malformed, Milliseconds, Number
from goud_node.documents import read as read_document
from goud_node.errors import InvalidBlock

MAGIC: Final = b"goudseg1"
HEAD_BYTES: Final = 4096
"""Enough of a segment's beginning to read its header."""
MOST_BLOCKS: Final = 4096
"""Most blocks of one segment: one that holds block *h* begins at most so many below."""


REMEDY: Final = (
    "Copy it back from another copy of the repository, or move it aside by `goud-backup verify --quarantine`: then "
    "backups go on, and `goud-backup ship` stores its blocks again (`ship --from-genesis` those below the newest "
    "backup)."
)

Pair = tuple[Block, Certificate]


@dataclass(frozen=True)
class Reference:
    """A segment as a listing shows it."""

    key: str
    first: int
    last: int
    name: str
    size: int


class Header(Document):
    """What is readable without a key. Hashes in hex, times in Unix milliseconds, heights inclusive."""

    chain: Line
    first: Number
    last: Number
    previous_hash: Digest
    last_hash: Digest
    first_ms: Milliseconds
    last_ms: Milliseconds
    encoding: str
    size: Annotated[int, Meta(ge=0, le=MOST_OBJECT)]

    def __post_init__(self) -> None:
        check_encoding(self.encoding)


class _Written(Header, forbid_unknown_fields=True):
    format: Literal["goud-backup/1"]


def reference(stat: Stat) -> Reference | None:
    """None for a key that names no segment."""
    parts = segment_parts(stat.key)
    return None if parts is None else Reference(stat.key, *parts, stat.size)


def build(pairs: Sequence[Pair], sealer: Sealer | None, avoided: Container[str] = ()) -> tuple[str, bytes]:
    """The key and the bytes of a segment of consecutive blocks.

    Its hash is none of `avoided`: what a fork has abandoned stays abandoned, so the same blocks, stored again, need
    another name. Spaces behind the header make it.
    """
    plain = encoding.encode([[block.encode(), certificate.encode()] for block, certificate in pairs])
    first, last = pairs[0][0].header, pairs[-1][0].header
    encoded = encode(plain, sealer)
    header = {
        "format": FORMAT,
        "chain": first.chain_id,
        "first": first.height,
        "last": last.height,
        "previous_hash": first.previous.hex(),
        "last_hash": last.hash.hex(),
        "first_ms": first.timestamp_ms,
        "last_ms": last.timestamp_ms,
        "encoding": encoded.encoding,
        "size": len(plain),
    }
    for spaces in count():
        text = canonical(header) + b" " * spaces
        stored = b"".join((MAGIC, len(text).to_bytes(4, "big"), text, encoded.data))
        name = sha256(stored).hexdigest()
        if name not in avoided:
            break
    return segment_key(first.height, last.height, name), stored


def read_header(raw: bytes | bytearray, segment: Reference) -> tuple[Header, int]:
    """The header and where the payload begins. Raises Damaged naming the segment."""
    header, start = header_of(raw, segment.key)
    if (header.first, header.last) != (segment.first, segment.last):
        raise Damaged(
            f"{segment.key} says it holds blocks {header.first} to {header.last}: it was renamed or altered. {REMEDY}"
        )
    return header, start


def header_of(raw: bytes | bytearray, key: str) -> tuple[Header, int]:
    """The same, of a segment that may lie under another name than its own."""
    length = int.from_bytes(raw[8:12], "big")
    if bytes(raw[:8]) != MAGIC or not 0 < length <= min(len(raw), HEAD_BYTES) - 12:
        raise Damaged(f"{key} is not a segment: it is damaged or cut short. {REMEDY}")
    text = raw[12 : 12 + length]
    _require_ours(text, key)
    return parse(text, f"The header of {key}", _Written, REMEDY), 12 + length


def _require_ours(text: bytes | bytearray, key: str) -> None:
    """Raises LaterFormat for a header that has all of ours and more, or another number of the format or encoding."""
    try:
        document = read_document(text, dict[str, Any])
    except Malformed:
        return
    form, encoded = document.get("format"), document.get("encoding")
    if not isinstance(form, str) or not FORMATS.fullmatch(form):
        return
    known = set(_Written.__struct_fields__)
    foreign_encoding = isinstance(encoded, str) and encoded not in ENCODINGS
    if form != FORMAT or known < set(document) or (known == set(document) and foreign_encoding):
        raise LaterFormat(
            f"A later release of goud-backup wrote {key}, as its header tells: this one cannot read it. Update "
            "goud-backup here and wherever the repository is used. It is not moved aside."
        )


def check(raw: bytes | bytearray, segment: Reference) -> tuple[Header, int]:
    """The header and where the payload begins, of a segment that is what it was when it was written; needs no key."""
    if sha256(raw).hexdigest() != segment.name:
        raise Damaged(f"{segment.key} is damaged: its bytes do not have the SHA-256 in its name. {REMEDY}")
    return read_header(raw, segment)


def read(raw: bytes | bytearray, segment: Reference, opener: Opener | None) -> tuple[Header, list[Pair]]:
    """Every block with its certificate. Hash and shape are checked here, rules and signatures by who appends them."""
    header, start = check(raw, segment)
    try:
        plain = decode(memoryview(raw)[start:], header.encoding, header.size, opener, segment.key)
    except Damaged as error:
        raise Damaged(f"{error} {REMEDY}") from error
    try:
        pairs = _pairs(bytes(plain), header.last - header.first + 1)
    except (encoding.NotCanonical, InvalidBlock, TypeError) as error:
        raise Damaged(f"{segment.key} holds no blocks: {str(error).removesuffix('.')}. {REMEDY}") from error
    if [block.height for block, _ in pairs] != list(range(header.first, header.last + 1)):
        raise Damaged(f"{segment.key} does not hold the blocks {header.first} to {header.last} in order. {REMEDY}")
    if pairs[-1][0].hash.hex() != header.last_hash or pairs[0][0].header.previous.hex() != header.previous_hash:
        raise Damaged(f"The header of {segment.key} does not belong to its blocks. {REMEDY}")
    return header, pairs


def _pairs(plain: bytes, number: int) -> list[Pair]:
    """Raises NotCanonical, InvalidBlock, TypeError for what is not so many blocks as a chain may hold."""
    rows = [encoding.record(row, (bytes, bytes)) for row in encoding.decode(plain)]
    if len(rows) != number or number > MOST_BLOCKS:
        raise encoding.NotCanonical(f"it has {len(rows)} blocks, says it has {number}, and {MOST_BLOCKS} are allowed")
    return decode_pairs(rows, len(plain))


def check_blocks(genesis: Genesis, pairs: Sequence[Pair], segment: Reference) -> None:
    """Raises Damaged unless every block is one that the chain may hold, signed, and certified. Costs no request."""
    try:
        for number, (block, certificate) in enumerate(pairs):
            if number:
                check_block(genesis, pairs[number - 1][0].header, block)
            else:
                check_alone(genesis, block)
            check_certificate(genesis, block, certificate)
    except InvalidBlock as error:
        raise Damaged(f"{segment.key} holds a block that no chain may hold: {error} {REMEDY}") from error


def check_certificate(genesis: Genesis, block: Block, certificate: Certificate) -> None:
    """Raises InvalidBlock unless a majority has signed this very block."""
    if (certificate.height, certificate.block_hash) != (block.height, block.hash):
        raise InvalidBlock(f"The certificate that comes with block {block.height} is for another block.")
    certificate.verify(genesis)


def cover(segments: Iterable[Reference], start: int) -> list[Reference]:
    """The segments that lead from height `start` upwards without a gap, as far as they go, fewest first.

    Two shippers may have written overlapping segments; both hold the same certified blocks.
    """
    chosen: list[Reference] = []
    ordered = sorted(segments, key=lambda segment: (segment.first, -segment.last, segment.name))
    at, position = start, 0
    best: Reference | None = None
    while True:
        while position < len(ordered) and ordered[position].first <= at:
            if best is None or ordered[position].last > best.last:
                best = ordered[position]
            position += 1
        if best is None or best.last < at:
            return chosen
        chosen.append(best)
        at = best.last + 1


def overlapping(segments: Iterable[Reference]) -> list[Reference]:
    """Those that hold a block which another of them holds, too, by height."""
    shared: dict[str, Reference] = {}
    highest: Reference | None = None
    for segment in sorted(segments, key=lambda segment: (segment.first, segment.last, segment.name)):
        if highest is not None and segment.first <= highest.last:
            shared |= {highest.key: highest, segment.key: segment}
        if highest is None or segment.last > highest.last:
            highest = segment
    return sorted(shared.values(), key=lambda segment: segment.key)


def runs(segments: Iterable[Reference]) -> list[tuple[int, int]]:
    """Ranges of heights (first, last) without a gap, ascending."""
    ranges: list[tuple[int, int]] = []
    for segment in sorted(segments, key=lambda segment: (segment.first, segment.last)):
        if ranges and segment.first <= ranges[-1][1] + 1:
            ranges[-1] = (ranges[-1][0], max(ranges[-1][1], segment.last))
        else:
            ranges.append((segment.first, segment.last))
    return ranges


def holes(segments: Iterable[Reference], start: int) -> list[tuple[int, int]]:
    """Ranges of heights (first, last) from `start` to the highest segment that no segment holds, ascending."""
    missing = []
    for first, last in runs(segments):
        if first > start:
            missing.append((start, first - 1))
        start = max(start, last + 1)
    return missing
