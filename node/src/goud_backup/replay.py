"""Bring a staged database to an exact height, through the node's own append path: every block is checked again."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final

from goud_backup import pool, times
from goud_backup.codec.sealing import Opener
from goud_backup.errors import NotVerified, OutOfReach
from goud_backup.progress import Progress
from goud_backup.repository.repository import Repository
from goud_backup.repository.segments import Reference
from goud_backup.walk import opened
from goud_node.chain.block import Block
from goud_node.chain.certificate import Certificate
from goud_node.chain.genesis import Genesis
from goud_node.chain.indexes import height_key
from goud_node.chain.ledger import Ledger
from goud_node.errors import CorruptStore
from goud_node.store import Batch, Family, RocksStore

_BATCH_BYTES: Final = 4 * 1024 * 1024
_READERS: Final = 16
"""Small segments take their time on the way, not here: so many are read at once, however few cores there are."""

_AHEAD_BYTES: Final = 64 * 1024 * 1024

Row = tuple[Block, Certificate | None]


def rows_of_segments(
    repository: Repository, segments: Sequence[Reference], opener: Opener | None, upto: int
) -> Iterator[Row]:
    """The blocks of consecutive segments up to a height. Raises what reading a segment raises, naming it."""
    largest = max((segment.size for segment in segments), default=0)
    readers = max(1, min(_READERS, _AHEAD_BYTES // max(1, largest)))
    # Only what is stored is held for all of them: what it unpacks to may be much more.
    for segment, raw in pool.ahead(lambda segment: (segment, repository.raw_segment(segment)), segments, readers):
        _, pairs = repository.read_segment(segment, opener, raw)
        yield from ((block, certificate) for block, certificate in pairs if block.height <= upto)


def rows_of_database(store: RocksStore, upto: int) -> Iterator[Row]:
    """Blocks 1..upto with their certificates, as far as they have one."""
    certificates = store.scan(Family.CERTIFICATES, height_key(1), height_key(upto + 1))
    pending = next(certificates, None)
    for key, raw in store.scan(Family.BLOCKS, height_key(1), height_key(upto + 1)):
        certificate = None
        if pending is not None and pending[0] == key:
            certificate = Certificate.decode(pending[1])
            pending = next(certificates, None)
        yield Block.decode(raw), certificate


def height_at(database: Path, genesis: Genesis, to_ms: int, creation_ms: int) -> int:
    """The height of the last block that is not later than `to_ms`, in a database that existed at `creation_ms`.

    Raises OutOfReach when even block 1 is later, or when times are wrong there.
    """
    with opened(database) as store:

        def ms(height: int) -> int:
            raw = store.get(Family.BLOCKS, height_key(height))
            if raw is None:
                raise CorruptStore(f"Block {height} is missing.")
            return Block.decode(raw).header.timestamp_ms

        tip = Ledger(store, genesis).height
        low = bisect_right(range(1, tip + 1), to_ms, key=ms)
        around = range(max(1, low - times.AROUND), min(tip, low + times.AROUND) + 1)
        times.require_trust({height: ms(height) for height in around}, low, creation_ms, to_ms)
    if low == 0:
        raise OutOfReach("The chain has no block as early as that: block 1 is later. Give a later time.")
    return low


def extend(database: Path, genesis: Genesis, rows: Iterable[Row], height: int, progress: Progress) -> None:
    """Append to the database until its tip is `height`. Raises InvalidBlock, ConflictingBlock, OutOfReach."""
    store = RocksStore.open(database)
    try:
        _append(store, genesis, rows, height, progress)
        _forget_order(store)
    finally:
        store.close()


def rebuild(database: Path, genesis: Genesis, rows: Iterable[Row], height: int, progress: Progress) -> None:
    """A new database of blocks 1..height, every index made again."""
    store = RocksStore.create(database)
    try:
        _append(store, genesis, rows, height, progress)
    finally:
        store.close()


def check_tip(database: Path, genesis: Genesis, height: int, hashes: dict[int, str]) -> str:
    """The tip's hash in hex. Raises NotVerified unless the tip is `height` and every named height has its hash."""
    with opened(database) as store:
        ledger = Ledger(store, genesis)
        if ledger.height != height:
            raise NotVerified(f"The restored chain ends at block {ledger.height}; it should end at {height}.")
        for at, recorded in hashes.items():
            block = ledger.block(at)
            if block is None or block.hash.hex() != recorded:
                raise NotVerified(f"Block {at} of the restored chain is not the one the manifest names ({recorded}).")
        return ledger.tip.hash.hex()


def _append(store: RocksStore, genesis: Genesis, rows: Iterable[Row], height: int, progress: Progress) -> None:
    ledger = Ledger(store, genesis)
    progress.stage("blocks", max(0, height - ledger.height))
    blocks: list[Block] = []
    certificates: list[Certificate] = []
    size = 0
    for block, certificate in rows:
        blocks.append(block)
        if certificate is not None:
            certificates.append(certificate)
        size += len(block.encode())
        if size >= _BATCH_BYTES:
            ledger.append(blocks, certificates)
            progress.advance(len(blocks))
            blocks, certificates, size = [], [], 0
    ledger.append(blocks, certificates)
    progress.advance(len(blocks))
    if ledger.height != height:
        raise OutOfReach(f"What the repository holds ends at block {ledger.height}, not at {height}.")


def _forget_order(store: RocksStore) -> None:
    """A single node's own order of blocks ends where the backup was made: a new one begins at the restored tip."""
    batch = Batch()
    for key, _ in store.scan(Family.SEQUENCER):
        batch.delete(Family.SEQUENCER, key)
    if len(batch):
        store.write(batch)
