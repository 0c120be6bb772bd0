"""Ship new certified blocks as segments: idempotent, without gaps, each joined by hash to what was shipped before."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, Protocol

from goud_backup import source as sources
from goud_backup.codec.sealing import Sealer
from goud_backup.errors import SourceError
from goud_backup.progress import Progress, Silent
from goud_backup.repository import locks, segments
from goud_backup.repository.repository import Repository
from goud_backup.repository.segments import Pair, Reference
from goud_backup.settings import SEGMENT_BYTES
from goud_backup.walk import opened
from goud_node.chain.block import Block
from goud_node.chain.certificate import Certificate
from goud_node.chain.genesis import Genesis
from goud_node.chain.indexes import height_key
from goud_node.chain.rules import check_block
from goud_node.errors import InvalidBlock
from goud_node.store import Family

MOST_BLOCKS: Final = 4096
"""Most blocks of one segment."""


class Blocks(Protocol):
    """Where certified blocks come from."""

    def from_height(self, start: int) -> Iterator[Pair]:
        """Consecutive certified blocks from `start`, as far as there are any. Raises SourceError."""
        ...


class Node(Protocol):
    """A running node: certified blocks from a height, as many as one answer holds; none when there are no more."""

    def blocks(self, start: int) -> list[Pair]: ...


class NodeBlocks:
    """A running node's peer interface."""

    def __init__(self, client: Node) -> None:
        self._client = client

    def from_height(self, start: int) -> Iterator[Pair]:
        while pairs := self._client.blocks(start):
            yield from pairs
            start += len(pairs)


class DirectoryBlocks:
    """The data directory of a stopped node."""

    def __init__(self, data_dir: Path, genesis: Genesis) -> None:
        self._data_dir = data_dir
        self._genesis = genesis

    def from_height(self, start: int) -> Iterator[Pair]:
        source = sources.DirectorySource(self._data_dir)
        with source.open(self._genesis) as snapshot, opened(snapshot.database) as store:
            certificates = store.scan(Family.CERTIFICATES, height_key(start))
            for (key, raw), (certified, certificate) in zip(
                store.scan(Family.BLOCKS, height_key(start)), certificates, strict=False
            ):
                # The chain ends where the certificates do, or where one is not there yet.
                if key != certified:
                    return
                yield Block.decode(raw), Certificate.decode(certificate)


@dataclass(frozen=True)
class Shipped:
    """What one run has done. Heights are inclusive; `first` is None when there was nothing new.

    `recovery_point_ms` is the time of the newest block that can be restored now, whoever stored it; None when nothing
    can be.
    """

    first: int | None
    last: int
    blocks: int
    segments: int
    stored_bytes: int
    last_ms: int | None
    recovery_point_ms: int | None

    def document(self) -> dict[str, Any]:
        return asdict(self)


def ship(
    repository: Repository,
    blocks: Blocks,
    recipients: Sequence[str],
    *,
    wait: float = 20.0,
    from_genesis: bool = False,
    segment_bytes: int = SEGMENT_BYTES,
    progress: Progress | None = None,
) -> Shipped:
    """Store every certified block that is not shipped yet. Raises Locked, SourceError, InvalidBlock, the target's."""
    sealer = repository.sealer(recipients)
    with locks.Lock(repository.target, locks.SHIP, "ship", wait=wait) as lock:
        start, previous_hash, before_ms = _begin(repository, from_genesis=from_genesis)
        run = _Run(repository, sealer, lock, segment_bytes, progress or Silent())
        run.all(_checked(blocks.from_height(start), repository.config.genesis, start, previous_hash))
        return run.result(start, before_ms)


def _begin(repository: Repository, *, from_genesis: bool) -> tuple[int, str | None, int | None]:
    """The first height to ship, the hash it must follow (None: whatever the source has, certified), and the time of
    the newest block that can be restored already.

    After a restore to a lower height the chain may grow another way; then the hash does not fit: the run is refused.
    """
    references = repository.segments()
    if references:
        chain = _newest_run(references)
        header = repository.segment_header(chain)
        return header.last + 1, header.last_hash, header.last_ms
    newest = None if from_genesis else repository.last_readable()[0]
    if newest is None:
        return 1, repository.config.genesis.block().hash.hex(), None
    return newest.chain.certified_height + 1, newest.chain.certified_hash, newest.chain.tip_ms


def _newest_run(references: Sequence[Reference]) -> Reference:
    return max(references, key=lambda one: (one.last, -one.first, one.name))


def _checked(pairs: Iterator[Pair], genesis: Genesis, start: int, previous_hash: str | None) -> Iterator[Pair]:
    """Blocks that follow each other and are certified; nothing else may be called shipped."""
    previous: Block | None = None
    for block, certificate in pairs:
        if previous is not None:
            check_block(genesis, previous.header, block)
        elif block.height != start or block.header.chain_id != genesis.chain_id:
            raise SourceError(f"The source gave block {block.height} of {block.header.chain_id}, not block {start}.")
        elif previous_hash is not None and block.header.previous.hex() != previous_hash:
            raise InvalidBlock(
                f"Block {start} of the source does not follow what was shipped before (block {start - 1} there has the "
                f"hash {previous_hash[:16]}…), so nothing was shipped. If the chain was restored to an earlier height "
                "and went another way, say so with `goud-backup fork`, which keeps what was stored; else compare the "
                "nodes."
            )
        if (certificate.height, certificate.block_hash) != (block.height, block.hash):
            raise SourceError(f"The source gave a certificate for another block than {block.height}.")
        certificate.verify(genesis)
        yield block, certificate
        previous = block


class _Run:
    def __init__(
        self, repository: Repository, sealer: Sealer | None, lock: locks.Lock, most: int, progress: Progress
    ) -> None:
        self._repository = repository
        self._sealer = sealer
        self._lock = lock
        self._most = most
        self._progress = progress
        self._blocks = self._segments = self._bytes = 0
        self._last: Block | None = None

    def all(self, pairs: Iterator[Pair]) -> None:
        self._progress.stage("blocks shipped", 0)
        batch: list[Pair] = []
        size = 0
        for pair in pairs:
            length = len(pair[0].encode())
            if batch and (size + length > self._most or len(batch) >= MOST_BLOCKS):
                self._store(batch)
                batch, size = [], 0
            batch.append(pair)
            size += length
        if batch:
            self._store(batch)

    def _store(self, batch: list[Pair]) -> None:
        key, stored = segments.build(batch, self._sealer)
        self._repository.put_under([self._lock], key, stored)
        self._blocks += len(batch)
        self._segments += 1
        self._bytes += len(stored)
        self._last = batch[-1][0]
        self._progress.advance(len(batch))

    def result(self, start: int, before_ms: int | None) -> Shipped:
        if self._last is None:
            return Shipped(None, start - 1, 0, 0, 0, None, before_ms)
        last, last_ms = self._last.height, self._last.header.timestamp_ms
        reached = max(last_ms, before_ms or 0)
        return Shipped(start, last, self._blocks, self._segments, self._bytes, last_ms, reached)
