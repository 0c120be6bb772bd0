"""Where a backup comes from: a checkpoint of a running node, or the data directory of one that is stopped."""

from __future__ import annotations

import fcntl
import logging
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from goud_backup.errors import EmptyBackup, InUse, SourceError
from goud_backup.repository.segments import Pair
from goud_node.chain import order
from goud_node.chain.genesis import Genesis
from goud_node.chain.indexes import height_key, rows_implied
from goud_node.chain.ledger import Ledger
from goud_node.errors import CorruptStore
from goud_node.store import Family, RocksStore, durable, holding, marker, schema
from goud_node.store.twin import twin

_log = logging.getLogger(__name__)

CHECKPOINT: Final = "checkpoint"
DIRECTORY: Final = "directory"
IMPLIED: Final = tuple(family for family in Family if family not in {Family.METADATA, Family.SEQUENCER})
"""Families whose rows follow from the chain; none of them is ever removed."""


@dataclass(frozen=True)
class Snapshot:
    """A database directory whose files do not change while it is open."""

    database: Path
    data_dir: Path
    node: str
    kind: str
    live: NodeView | None = None
    """The node that goes on while its checkpoint is read."""


class Source(Protocol):
    def open(self, genesis: Genesis) -> AbstractContextManager[Snapshot]:
        """Raises SourceError, InUse, or the marker's errors for a directory that is empty or another chain's."""
        ...


class Checkpoint(Protocol):
    """What a node tells of a checkpoint it made: its id, and where it is in the node's own view."""

    @property
    def id(self) -> str: ...

    @property
    def path(self) -> str: ...


class Peer(Protocol):
    """A running node: certified blocks from a height, as many as one answer holds; none when there are no more."""

    def blocks(self, start: int, most: int = ...) -> list[Pair]: ...

    def certified_height(self) -> int: ...


class Node(Peer, Protocol):
    """A running node that makes checkpoints, each gone after `ttl_seconds` unless it is released before."""

    node: str

    def create_checkpoint(self, ttl_seconds: float) -> Checkpoint: ...

    def release_checkpoint(self, checkpoint_id: str) -> None: ...


class NodeView:
    """The certified blocks of a running node."""

    def __init__(self, client: Peer) -> None:
        self._client = client

    def reach(self) -> int:
        """The height of the last one. Raises SourceError."""
        return self._client.certified_height()

    def digest(self, height: int) -> str | None:
        """The hash of one, in hex; None where there is none. Raises SourceError."""
        return next((block.hash.hex() for block, _ in self._client.blocks(height, 1)), None)


class NodeSource:
    """A running node: it makes the checkpoint, we read it below `data_dir` (its volume, wherever that is mounted)."""

    def __init__(self, client: Node, data_dir: Path, *, ttl_seconds: float = 6 * 3600) -> None:
        self._client = client
        self._data_dir = data_dir
        self._ttl = ttl_seconds

    @contextmanager
    def open(self, genesis: Genesis) -> Iterator[Snapshot]:
        marker.require(self._data_dir, genesis.chain_id, must_be_mount=False, writable=False)
        checkpoint = self._client.create_checkpoint(self._ttl)
        try:
            path = self._data_dir / marker.CHECKPOINTS / checkpoint.id
            if not (path / "CURRENT").is_file():
                raise SourceError(
                    f"{self._client.node} made the checkpoint {checkpoint.path}, but it is not at {path}: --data-dir "
                    "must be that node's volume."
                )
            yield Snapshot(path, self._data_dir, self._client.node, CHECKPOINT, NodeView(self._client))
        finally:
            try:
                self._client.release_checkpoint(checkpoint.id)
            except SourceError as error:
                # The backup stands or falls by itself; the node drops the checkpoint when its lease ends.
                _log.warning("checkpoint %s was not released and expires by itself: %s", checkpoint.id, error)


class DirectorySource:
    """The data directory of a stopped node. It cannot start while this is open."""

    def __init__(self, data_dir: Path, *, node: str = "", must_be_mount: bool = False) -> None:
        self._data_dir = data_dir
        self._node = node
        self._must_be_mount = must_be_mount

    @contextmanager
    def open(self, genesis: Genesis) -> Iterator[Snapshot]:
        marker.require(self._data_dir, genesis.chain_id, must_be_mount=self._must_be_mount)
        database = marker.database_path(self._data_dir)
        if not (database / "CURRENT").is_file():
            raise CorruptStore(
                f"{database / 'CURRENT'} is missing, so there is no database to back up in {self._data_dir}. Check "
                "that the right volume is mounted."
            )
        with held(database):
            yield Snapshot(database, self._data_dir, self._node, DIRECTORY)


@contextmanager
def held(database: Path) -> Iterator[None]:
    """Hold RocksDB's own lock, so that no node opens the database meanwhile. Raises InUse when one has it."""
    path = database / holding.LOCK
    holding.take(database)
    try:
        with _lock(database, path):
            yield
    finally:
        holding.leave(database)


@contextmanager
def _lock(database: Path, path: Path) -> Iterator[None]:
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        durable.adopt(path)
    except OSError as error:
        raise SourceError(f"Cannot open {path}: {error.strerror}. Check the owner and the mount.") from error
    try:
        try:
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise InUse(
                f"A running process holds the database {database}. Stop the node first; to back up a running node, "
                "give --node-url, --node and --key, so that it makes a checkpoint."
            ) from error
        yield
    finally:
        os.close(descriptor)


@dataclass(frozen=True)
class Facts:
    """What the database says of its chain, read from the very files that are backed up. Certificates are CBOR."""

    height: int
    tip_hash: bytes
    tip_ms: int
    tip_certificate: bytes | None
    certified_height: int
    certified_hash: bytes
    certificate: bytes | None
    schema: int
    epoch: int | None
    keys: dict[str, int]


@dataclass(frozen=True)
class Examination:
    """An open twin and its facts."""

    store: RocksStore
    ledger: Ledger
    facts: Facts

    def reach(self) -> int:
        """The height of the tip."""
        return self.ledger.height

    def digest(self, height: int) -> str | None:
        """The hash of a block, in hex; None above the tip."""
        block = self.ledger.block(height)
        return None if block is None else block.hash.hex()


class Grown:
    """What was examined, and what its node has stored since: segments may reach beyond a checkpoint."""

    def __init__(self, examination: Examination, live: NodeView | None) -> None:
        self._examination = examination
        self._live = live if live is not None and self._continues(live) else None

    def _continues(self, live: NodeView) -> bool:
        height = self._examination.reach()
        try:
            return live.reach() >= height and live.digest(height) == self._examination.digest(height)
        except SourceError as error:
            _log.warning("the node is not asked for what it has stored since its checkpoint: %s", error)
            return False

    def reach(self) -> int:
        """The height of the last block. Raises SourceError."""
        height = self._examination.reach()
        return height if self._live is None else max(height, self._live.reach())

    def digest(self, height: int) -> str | None:
        """The hash of a block, in hex; None above the last one. Raises SourceError."""
        if self._live is None or height <= self._examination.reach():
            return self._examination.digest(height)
        return self._live.digest(height)


@contextmanager
def examining(database: Path, genesis: Genesis) -> Iterator[Examination]:
    """Open a twin of `database` and read its facts.

    Raises EmptyBackup when there are no blocks, CorruptStore and WrongChain for what must not become a backup.
    """
    with twin(database) as path:
        store = RocksStore.open(path, read_only=True)
        try:
            if store.fresh:
                raise EmptyBackup(f"{database} was created but holds no chain yet: there is nothing to back up.")
            ledger = Ledger(store, genesis)
            if ledger.height == 0:
                raise EmptyBackup(
                    f"{database} holds nothing but the genesis block: a backup of it would be empty. Is this the right "
                    "volume?"
                )
            yield Examination(store, ledger, _facts(store, ledger))
        finally:
            store.close()


def _facts(store: RocksStore, ledger: Ledger) -> Facts:
    state, certified = ledger.state, ledger.certified_height
    tail = sum(1 for _ in store.scan(Family.CERTIFICATES, height_key(certified + 1), height_key(ledger.height + 1)))
    certified_block = ledger.block(certified)
    if certified_block is None:
        raise CorruptStore(f"Block {certified} is missing from the source.")
    certificates = [ledger.certificate(height) for height in (ledger.height, certified)]
    tip_certificate, certificate = (None if item is None else item.encode() for item in certificates)
    keys = {
        Family.BLOCKS: ledger.height + 1,
        Family.CERTIFICATES: certified + tail,
        **rows_implied(state),
        **order.other_rows(store, ledger),
    }
    return Facts(
        height=ledger.height,
        tip_hash=ledger.tip.hash,
        tip_ms=ledger.tip.timestamp_ms,
        tip_certificate=tip_certificate,
        certified_height=certified,
        certified_hash=certified_block.hash,
        certificate=certificate,
        schema=schema.version(store),
        epoch=None if ledger.epoch is None else ledger.epoch.number,
        keys={family.value: number for family, number in keys.items()},
    )
