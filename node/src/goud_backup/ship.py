"""Ship new certified blocks as segments: idempotent, without gaps, each joined by hash to what was shipped before."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, Protocol, Self

from goud_backup import source as sources
from goud_backup.codec.sealing import Sealer
from goud_backup.errors import OtherHistory, SourceError
from goud_backup.progress import Progress, Silent
from goud_backup.repository import forks as forked
from goud_backup.repository import layout, locks, segments
from goud_backup.repository.history import Anchor, Anchors, History, recorded, require_no_hole
from goud_backup.repository.recording import put_under, withdraw
from goud_backup.repository.repository import Repository
from goud_backup.repository.segments import MOST_BLOCKS, Pair
from goud_backup.seen import Memory, Seen
from goud_backup.settings import MIB, SEGMENT_BYTES
from goud_backup.walk import opened
from goud_node.chain.block import Block
from goud_node.chain.certificate import Certificate
from goud_node.chain.genesis import Genesis
from goud_node.chain.indexes import height_key
from goud_node.chain.ledger import Ledger
from goud_node.chain.rules import check_block
from goud_node.errors import GoudError
from goud_node.store import Family, RocksStore

_MOST_SIGNED: Final = layout.MOST_OBJECT - MIB
"""Most bytes of blocks with their certificates in one segment, so that it can be read whatever is put around them."""
LOOK_SECONDS: Final = 3600.0
"""How long a run that has nothing to add may trust that what was there before is still there."""


class Blocks(Protocol):
    """Where certified blocks come from."""

    def from_height(self, start: int) -> Iterator[Pair]:
        """Consecutive certified blocks from `start`, at least 1, as far as there are any. Raises SourceError."""
        ...

    def reach(self) -> int:
        """The height of the last one. Raises SourceError."""
        ...

    def digest(self, height: int) -> str | None:
        """The hash of one, in hex; None where there is none. Raises SourceError."""
        ...


class NodeBlocks(sources.NodeView):
    """A running node's peer interface."""

    def from_height(self, start: int) -> Iterator[Pair]:
        while pairs := self._client.blocks(start):
            yield from pairs
            start += len(pairs)


class DirectoryBlocks:
    """The data directory of a stopped node: opened for each question, or once for all those of a `with` statement."""

    def __init__(self, data_dir: Path, genesis: Genesis) -> None:
        self._data_dir = data_dir
        self._genesis = genesis
        self._store: RocksStore | None = None
        self._open = ExitStack()

    def __enter__(self) -> Self:
        self._store = self._open.enter_context(self._database())
        return self

    def __exit__(self, *_: object) -> None:
        self._store = None
        self._open.close()

    def from_height(self, start: int) -> Iterator[Pair]:
        with self._database() as store:
            certificates = store.scan(Family.CERTIFICATES, height_key(start))
            for (key, raw), (certified, certificate) in zip(
                store.scan(Family.BLOCKS, height_key(start)), certificates, strict=False
            ):
                # The chain ends where the certificates do, or where one does not exist yet.
                if key != certified:
                    return
                yield Block.decode(raw), Certificate.decode(certificate)

    def reach(self) -> int:
        with self._database() as store:
            return Ledger(store, self._genesis).certified_height

    def digest(self, height: int) -> str | None:
        with self._database() as store:
            block = Ledger(store, self._genesis).block(height)
            return None if block is None else block.hash.hex()

    @contextmanager
    def _database(self) -> Iterator[RocksStore]:
        if self._store is not None:
            yield self._store
            return
        source = sources.DirectorySource(self._data_dir)
        with source.open(self._genesis) as snapshot, opened(snapshot.database) as store:
            yield store


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
    memory: Memory | None = None,
    progress: Progress | None = None,
) -> Shipped:
    """Store every certified block that is not shipped yet, and those that are missing in between.

    Raises Locked, OtherHistory, SourceError, InvalidBlock, Damaged when a hole stays, the target's. A run that has
    nothing to store takes no lock; with a `memory` it asks for little more than what came after its last look.
    """
    sealer = repository.sealer(recipients)
    memory = memory or Memory()
    seen = memory.shipped()
    if seen is not None and not from_genesis and _is_unchanged(repository, blocks, seen):
        return Shipped(None, seen.last, 0, 0, 0, None, seen.recovery_ms)
    known = memory.backups()
    state = _State(repository, known, from_genesis=from_genesis)
    run = _Run(repository, state, sealer, segment_bytes, progress or Silent())
    if state.due(blocks):
        with locks.Lock(repository.target, locks.SHIP, "ship", wait=wait) as lock:
            # Whoever held the lock before may have shipped, or forked.
            run.state = state = _State(repository, known, from_genesis=from_genesis)
            if state.due(blocks):
                run.all(blocks, lock)
                run.state = _State(repository, known, from_genesis=from_genesis)
                run.require_visible()
    memory.keep_shipped(run.state.seen(time.time()))
    memory.keep_backups(known)
    return run.result()


def _is_unchanged(repository: Repository, blocks: Blocks, seen: Seen) -> bool:
    """Whether all is as it was seen, and the source has nothing more; otherwise a closer look is due."""
    if not 0 <= time.time() - seen.looked < LOOK_SECONDS or blocks.reach() != seen.last:
        return False
    if blocks.digest(seen.last) != seen.digest or sorted(repository.fork_keys()) != list(seen.forks):
        return False
    # From the last segment on, itself included: nobody has removed it, and nobody has shipped more.
    later = list(repository.segments_after(layout.before_segments(seen.first)))
    whole = any(segment.key == seen.key and segment.size == seen.size for segment in later)
    return whole and all(segment.last <= seen.last for segment in later)


class _State:
    """What is stored of the present history, from the newest backup on, and what every backup names.

    After a restore to a lower height the chain may grow another way; then it is not what `due` wants: it is refused.
    """

    def __init__(self, repository: Repository, known: Anchors, *, from_genesis: bool) -> None:
        self._repository = repository
        self.forks = repository.forks()
        newest = repository.last_readable(self.forks)[0]
        base = None if from_genesis else newest
        self.start = 1 if base is None else base.chain.certified_height + 1
        references = repository.segments(since=self.start, forks=self.forks)
        self.history = History(repository, recorded(repository, self.forks, known), references)
        self._known = dict(known)
        shipped = self.history.newest
        self.top = shipped.last if shipped is not None else self.start - 1
        self.holes = segments.holes(references, self.start)
        times = [newest.chain.tip_ms] if newest is not None else []
        times += [self.history.header(shipped).last_ms] if shipped is not None else []
        self.recovery_ms = max(times, default=None)
        self.abandoned = forked.abandoned_segments(self.forks)

    def recorded_since(self) -> list[Anchor]:
        """What backups name that have been recorded since this was read."""
        now = dict(self._known)
        recorded(self._repository, self.forks, now)
        return [anchor for key in now.keys() - self._known.keys() for anchor in now[key]]

    def due(self, blocks: Blocks) -> bool:
        """Whether anything is missing. Raises OtherHistory or SourceError for a source that does not continue this."""
        self.history.require(blocks)
        return bool(self.holes) or blocks.reach() > self.top

    def seen(self, now: float) -> Seen | None:
        newest = self.history.newest
        if newest is None:
            return None
        keys = sorted(forked.dump(fork)[0] for fork in self.forks)
        digest = self.history.header(newest).last_hash
        return Seen(tuple(keys), newest.key, newest.first, newest.last, newest.size, digest, self.recovery_ms, now)


def _valid_pairs(pairs: Iterator[Pair], genesis: Genesis, history: History, start: int, last: int) -> Iterator[Pair]:
    """Blocks `start` to `last`, as far as there are any, that follow what is stored, obey every rule and are certified;
    nothing else may be called shipped. `pairs` begin one before, except at the first block.
    """
    before = genesis.block()
    if start > 1:
        pair = next(pairs, None)
        if pair is None:
            raise SourceError(f"The source has no block {start - 1}, although it said so. Try again.")
        before = pair[0]
        _require_anchor(history, before, start - 1)
    for block, certificate in pairs:
        if block.height > last:
            return
        check_block(genesis, before.header, block)
        segments.check_certificate(genesis, block, certificate)
        _require_anchor(history, block, block.height)
        yield block, certificate
        before = block


def _require_anchor(history: History, block: Block, height: int) -> None:
    anchor = history.anchor(height)
    if block.height != height or (anchor is not None and block.hash.hex() != anchor.digest):
        if anchor is not None:
            history.require_whole(anchor.origin)
        raise OtherHistory(
            f"The source gave block {block.height} with the hash {block.hash.hex()[:16]}… for block {height}, which is "
            "not the one that is stored. Its history has changed meanwhile: compare the nodes."
        )


class _Run:
    def __init__(
        self, repository: Repository, state: _State, sealer: Sealer | None, most: int, progress: Progress
    ) -> None:
        self.state = state
        self._repository = repository
        self._sealer = sealer
        self._most = most
        self._progress = progress
        self._first: int | None = None
        self._blocks = self._segments = self._bytes = 0
        self._last: Block | None = None
        self._stored: list[str] = []

    def all(self, blocks: Blocks, lock: locks.Lock) -> None:
        """Raises what stopped it; what it has stored stays, unless it is of another history than a new backup."""
        try:
            self._all(blocks, lock)
        except GoudError:
            self._look_again(blocks)
            raise
        self._look_again(blocks)

    def _look_again(self, blocks: Blocks) -> None:
        """Whoever makes a backup has looked before these segments were stored, and this before the backup was."""
        if self._last is None:
            return
        try:
            fresh = self.state.recorded_since()
            whole = History(self._repository, [*self.state.history.anchors, *fresh], self.state.history.segments)
            History(self._repository, fresh, ()).require_known(blocks, self._last.height, whole)
        except GoudError as error:
            outcome = withdraw(self._repository, self._stored) if self._stored else ""
            raise type(error)(f"{error} {outcome}".rstrip()) from error

    def _all(self, blocks: Blocks, lock: locks.Lock) -> None:
        self._progress.stage("blocks shipped", 0)
        genesis, reach = self._repository.config.genesis, blocks.reach()
        for first, last in [*self.state.holes, (self.state.top + 1, reach)]:
            if first <= min(last, reach):
                pairs = blocks.from_height(max(1, first - 1))
                self._batches(_valid_pairs(pairs, genesis, self.state.history, first, last), lock)

    def _batches(self, pairs: Iterator[Pair], lock: locks.Lock) -> None:
        batch: list[Pair] = []
        size = signed = 0
        for pair in pairs:
            length, whole = len(pair[0].encode()), sum(len(item.encode()) for item in pair)
            # Of many validators, certificates are larger than blocks; nobody reads a segment beyond its bound.
            full = size + length > self._most or signed + whole > _MOST_SIGNED
            if batch and (full or len(batch) >= MOST_BLOCKS):
                self._store(batch, lock)
                batch, size, signed = [], 0, 0
            batch.append(pair)
            size += length
            signed += whole
        if batch:
            self._store(batch, lock)

    def _store(self, batch: list[Pair], lock: locks.Lock) -> None:
        key, stored = segments.build(batch, self._sealer, self.state.abandoned)
        if put_under(self._repository, [lock], key, stored):
            self._stored.append(key)
        self._first = batch[0][0].height if self._first is None else self._first
        self._blocks += len(batch)
        self._segments += 1
        self._bytes += len(stored)
        self._last = batch[-1][0]
        self._progress.advance(len(batch))

    def require_visible(self) -> None:
        """What was stored must lead on from the newest backup, as whoever restores sees it. Raises Damaged."""
        require_no_hole(self._repository, self.state.start, self.state.history.segments)
        if self._last is not None and self.state.top < self._last.height:
            raise SourceError(
                f"{self._repository.url} does not show block {self._last.height}, which was stored just now. Check the "
                "store, and whether somebody else works on the repository."
            )

    def result(self) -> Shipped:
        if self._last is None:
            return Shipped(None, self.state.top, 0, 0, 0, None, self.state.recovery_ms)
        newest_ms = self._last.header.timestamp_ms
        return Shipped(self._first, self._last.height, self._blocks, self._segments, self._bytes, newest_ms,
                       self.state.recovery_ms)  # fmt: skip
