"""Segments that were made to hurt, a few KB as they are stored; `main` reads each and says what came of it, and how
much memory this process has ever held."""

from __future__ import annotations

import gzip
import json
import os
import sys
from collections.abc import Callable
from dataclasses import replace
from hashlib import sha256

from goud_backup.repository import layout, segments
from goud_backup.repository.manifest import canonical
from goud_backup.repository.segments import Reference
from goud_node.chain import encoding
from goud_node.chain.block import ENCODED_LIMIT, Block, Header
from goud_node.chain.certificate import Certificate
from goud_node.errors import GoudError

from .hostile import peak_mb

BLOCKS = 200
MOST = layout.MOST_OBJECT
Make = Callable[[], bytes]


def array(items: int) -> bytes:
    """The head of an array of so many items."""
    return b"\x9a" + items.to_bytes(4, "big")


def repeated(item: bytes, size: int = MOST - 100) -> bytes:
    """An array of the same item, of that many bytes."""
    number = size // len(item)
    return array(number) + item * number


def rows(*pairs: tuple[bytes, bytes]) -> bytes:
    return encoding.encode([list(pair) for pair in pairs])


def block(height: int, transactions: list[bytes]) -> Block:
    header = Header("goud-0", height, bytes(32), height, "node1", bytes(32), len(transactions))
    return Block(header, tuple(transactions), bytes(64))


def certificate(height: int, signers: int) -> bytes:
    signatures = {f"{number:x}": number.to_bytes(64, "big") for number in range(signers)}
    return Certificate(height, bytes(32), signatures).encode()


def of_blocks(number: int, each: int, transaction: Callable[[int], bytes]) -> bytes:
    """Blocks of the shape that is wanted, each with so many transactions that are none."""
    first_block = block(1, [transaction(index) for index in range(each)])
    blocks = [
        replace(first_block, header=replace(first_block.header, height=height)) for height in range(1, number + 1)
    ]
    return rows(*[(one.encode(), certificate(one.height, 2)) for one in blocks])


PAYLOADS: dict[str, Make] = {
    "empty arrays": lambda: repeated(b"\x80"),
    "empty maps": lambda: repeated(b"\xa0"),
    "arrays of one": lambda: repeated(b"\x81\x80"),
    "maps of one": lambda: repeated(b"\xa1\x00\x00"),
    "deep arrays": lambda: repeated(b"\x81" * 300 + b"\x80"),
    "sets": lambda: repeated(b"\xd9\x01\x02\x80"),
    "rows of nothing": lambda: repeated(b"\x82\x40\x40"),
    "numbers": lambda: repeated(b"\x19\xff\xff"),
    "an array without end": lambda: b"\x9f" + b"\x80" * (MOST - 100),
    "an array that claims more": lambda: b"\x9b" + b"\xff" * 8 + b"\x80" * (MOST - 100),
    "a string that claims more": lambda: array(2) + b"\x5b" + b"\x7f" * 8 + b"\x80" * (MOST - 100),
    "blocks of empty arrays": lambda: rows(*[(repeated(b"\x80", ENCODED_LIMIT - 100), b"")] * 15),
    "certificates of empty arrays": lambda: rows((block(1, []).encode(), repeated(b"\x80", MOST - 1000))),
    "certificates of many": lambda: rows((block(1, []).encode(), certificate(1, 200_000))),
    "transactions of nothing": lambda: of_blocks(BLOCKS, 60_000, lambda _: b""),
    "transactions of two bytes": lambda: of_blocks(BLOCKS, 20_000, lambda n: n.to_bytes(2, "big")),
    "more blocks than are written": lambda: of_blocks(5000, 0, lambda _: b""),
}
LASTS = {"blocks of empty arrays": 15, "transactions of nothing": BLOCKS, "transactions of two bytes": BLOCKS,
         "more blocks than are written": 5000}  # fmt: skip
"""What the headers say, where it is not one block."""
DIRECT: dict[str, Callable[[], object]] = {
    "a certificate alone": lambda: Certificate.decode(repeated(b"\x80")),
    "a certificate of many alone": lambda: Certificate.decode(certificate(1, 200_000)),
    "a block alone": lambda: Block.decode(repeated(b"\x80", ENCODED_LIMIT - 100)),
}


def segment(payload: bytes, last: int) -> tuple[bytes, Reference]:
    header = {"format": layout.FORMAT, "chain": "goud-0", "first": 1, "last": last, "previous_hash": "0" * 64,
              "last_hash": "0" * 64, "first_ms": 1, "last_ms": 1, "encoding": "gzip", "size": len(payload)}  # fmt: skip
    head = canonical(header)
    raw = segments.MAGIC + len(head).to_bytes(4, "big") + head + gzip.compress(payload, 6)
    name = sha256(raw).hexdigest()
    return raw, Reference(layout.segment_key(1, last, name), 1, last, name, len(raw))


Prepared = tuple[int, Callable[[], object]]
"""How many bytes are stored, and what reads them."""


def stored(name: str) -> Prepared:
    raw, reference = segment(PAYLOADS[name](), LASTS.get(name, 1))
    return len(raw), lambda: segments.read(raw, reference, None)


def prepared(name: str) -> Prepared:
    return stored(name) if name in PAYLOADS else (0, DIRECT[name])


def measured(read: Callable[[], object]) -> tuple[str, int]:
    """What comes of reading, in a process of its own, whose memory is not that of whoever made the bytes."""
    ours, theirs = os.pipe()
    child = os.fork()
    if not child:
        try:
            end = repr(read())[:100]
        except GoudError as error:
            end = f"{error.code}: {error}"
        os.write(theirs, json.dumps([end, peak_mb()]).encode())
        os._exit(0)
    os.close(theirs)
    with os.fdopen(ours, "rb") as answer:
        end, peak = json.loads(answer.read() or '["no end", 1000000]')
    os.waitpid(child, 0)
    return end, peak


def main(names: list[str]) -> None:
    for name in names or [*PAYLOADS, *DIRECT]:
        size, read = prepared(name)
        end, peak = measured(read)
        print(json.dumps({"name": name, "end": end, "size": size, "peak_mb": peak}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
