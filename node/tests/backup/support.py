"""A chain to back up: validators with fixed keys, blocks of random collections, written by the node's own store."""

from __future__ import annotations

import random
import subprocess
import sys
from collections.abc import Iterator, Sequence
from hashlib import sha256
from pathlib import Path

from goud_backup import create as creating
from goud_backup import restore as restoring
from goud_backup import ship as shipping
from goud_backup.plan import Wish, make
from goud_backup.repository.manifest import Manifest, canonical
from goud_backup.repository.repository import Repository, initialize, open_repository
from goud_backup.source import DirectorySource
from goud_backup.targets import Target, open_target
from goud_node.chain.block import Block, Header, build
from goud_node.chain.certificate import Certificate, countersign
from goud_node.chain.genesis import Genesis, Validator
from goud_node.chain.keys import SigningKey
from goud_node.chain.ledger import Ledger
from goud_node.chain.transactions import AccountCreate, CollectionPut
from goud_node.chain.volume import initialize_volume
from goud_node.store import RocksStore

KEYS = {f"node{number}": SigningKey.from_seed(bytes([number]) * 32) for number in (1, 2, 3)}
GENESIS = Genesis("backup", 1_700_000_000_000, tuple(Validator(node_id, key.public) for node_id, key in KEYS.items()))
BLOCK_MS = 1000
_APPEND = 50


def blocks_after(tip: Header, number: int, *, collections: int = 2, size: int = 400) -> Iterator[Block]:
    """Consecutive blocks; the first of a chain creates the account. The same tip gives the same blocks."""
    source = random.Random(tip.height)  # noqa: S311  # reproducible data, no secret
    for _ in range(number):
        height = tip.height + 1
        if height == 1:
            body = [AccountCreate("alice", b"h" * 32, b"s" * 16, 5).encode()]
        else:
            body = [
                CollectionPut(
                    f"c{height}-{index}",
                    "alice",
                    f"k{height}-{index}",
                    source.randbytes(32),
                    source.randbytes(24),
                    source.randbytes(size),
                    tip.timestamp_ms,
                ).encode()
                for index in range(collections)
            ]
        at = GENESIS.created_ms + height * BLOCK_MS
        block = build(tip, body, proposer="node1", key=KEYS["node1"], timestamp_ms=at)
        tip = block.header
        yield block


def certificate_of(block: Block, signers: Sequence[str] = ("node1", "node2")) -> Certificate:
    return Certificate(block.height, block.hash, {name: countersign(KEYS[name], block.hash) for name in signers})


def grow(
    data_dir: Path,
    number: int,
    *,
    collections: int = 2,
    size: int = 400,
    uncertified: int = 0,
    genesis: Genesis = GENESIS,
) -> Header:
    """Append blocks to the data directory (made when it is not there); the new tip."""
    data_dir.parent.mkdir(parents=True, exist_ok=True)
    initialize_volume(data_dir, genesis)
    store = RocksStore.open(data_dir / "rocksdb")
    try:
        ledger = Ledger(store, genesis)
        last = ledger.height + number - uncertified
        batch: list[Block] = []
        late = [ledger.block(height) for height in range(ledger.certified_height + 1, ledger.height + 1)]
        ledger.certify([certificate_of(block) for block in late if block is not None])
        for block in blocks_after(ledger.tip, number, collections=collections, size=size):
            batch.append(block)
            if len(batch) == _APPEND:
                _append(ledger, batch, last)
                batch = []
        _append(ledger, batch, last)
        return ledger.tip
    finally:
        store.close()


def _append(ledger: Ledger, batch: Sequence[Block], last: int) -> None:
    ledger.append(batch, [certificate_of(block) for block in batch if block.height <= last])


def leave_a_log(database: Path, number: int) -> None:
    """Append blocks and be killed before they are in any file but RocksDB's log."""
    script = (
        "import os, sys; from pathlib import Path; sys.path.insert(0, sys.argv[2]); "
        "from backup.support import *; from backup.support import _append\n"
        "s = RocksStore.open(Path(sys.argv[1])); l = Ledger(s, GENESIS)\n"
        "_append(l, list(blocks_after(l.tip, int(sys.argv[3]))), 1000); os.kill(os.getpid(), 9)"
    )
    command = [sys.executable, "-c", script, str(database), str(Path(__file__).parents[1]), str(number)]
    assert subprocess.run(command, check=False).returncode == -9


def tip_of(data_dir: Path) -> Header:
    store = RocksStore.open(data_dir / "rocksdb", read_only=True)
    try:
        return Ledger(store, GENESIS).tip
    finally:
        store.close()


def make_repository(folder: Path, recipients: Sequence[str] = ()) -> Repository:
    return initialize(open_target(f"file://{folder}"), GENESIS, encrypted=bool(recipients), recipients=recipients)


def reopened(target: Target) -> Repository:
    return open_repository(target, GENESIS)


def backup(
    repository: Repository, data_dir: Path, cache: Path, recipients: Sequence[str] = (), **options: object
) -> Manifest:
    given = creating.Options(recipients=recipients, cache_dir=cache, **options)  # type: ignore[arg-type]  # tests choose
    return creating.create(repository, DirectorySource(data_dir), given)


def ship(repository: Repository, data_dir: Path, recipients: Sequence[str] = (), **options: int) -> shipping.Shipped:
    with shipping.DirectoryBlocks(data_dir, GENESIS) as blocks:
        return shipping.ship(repository, blocks, recipients, **options)  # type: ignore[arg-type]  # tests choose


def restore(
    repository: Repository, data_dir: Path, wish: Wish | None = None, tools: restoring.Tools | None = None
) -> restoring.Restored:
    tools = tools or restoring.Tools(None)
    data_dir.mkdir(parents=True, exist_ok=True)
    return restoring.restore(repository, make(repository, wish or Wish(), tools.opener), data_dir, tools)


def redone(document: dict[str, object]) -> bytes:
    """A manifest with a right hash of its own: what somebody could write who may write to the store."""
    document.pop("sha256", None)
    return canonical({**document, "sha256": sha256(canonical(document)).hexdigest()})
