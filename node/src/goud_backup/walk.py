"""Prove a database: every key read with its checksum, every block, link, signature and certificate verified.

Ranges of heights are independent of each other once the link between them is compared, so they are verified in
processes of their own, on all cores. Everything follows from the genesis document; nothing that is stored is believed.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import as_completed
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from goud_backup import pool
from goud_backup.errors import NotVerified
from goud_backup.progress import Progress, Silent
from goud_backup.repository.manifest import Manifest
from goud_backup.source import twin
from goud_node.chain.block import Block, Header
from goud_node.chain.certificate import Certificate
from goud_node.chain.genesis import Genesis
from goud_node.chain.indexes import height_key
from goud_node.chain.ledger import Ledger
from goud_node.chain.rules import check_block
from goud_node.errors import CorruptStore, InvalidBlock
from goud_node.store import Family, RocksStore

_RANGE: Final = 1000
_INLINE: Final = 2000
"""Fewer blocks than this are verified in this process: starting others takes longer."""


@dataclass(frozen=True)
class Proven:
    """What was read and verified; `keys` counts the rows of each family."""

    height: int
    tip_hash: bytes
    certified_height: int
    certificates: int
    transactions: int
    keys: dict[str, int]


@dataclass(frozen=True)
class _Range:
    first: int
    last: int
    previous_hash: bytes
    last_hash: bytes
    certificates: int
    transactions: int


@contextmanager
def opened(database: Path) -> Iterator[RocksStore]:
    """The database, read-only, through a twin: its own directory stays as it is."""
    with twin(database) as path:
        store = RocksStore.open(path, read_only=True)
        try:
            yield store
        finally:
            store.close()


def height_of(store: RocksStore, genesis: Genesis) -> int:
    """The height of the chain in an open store, after the ledger's cheap checks."""
    return Ledger(store, genesis).height


def prove(database: Path, genesis: Genesis, workers: int, progress: Progress | None = None) -> Proven:
    """Raises CorruptStore or InvalidBlock naming the height, family or file; WrongChain for another chain's."""
    shown = progress or Silent()
    # Verification never waits: more processes than cores only take memory.
    processes = min(workers, os.cpu_count() or 1)
    with opened(database) as store:
        if store.fresh:
            raise CorruptStore(f"{database} holds no chain.")
        ledger = Ledger(store, genesis)
        state, certified = ledger.state, ledger.certified_height
    height = state.height
    ranges = [(first, min(first + _RANGE - 1, height)) for first in range(1, height + 1, _RANGE)]
    shown.stage("blocks", height)
    if height <= _INLINE or processes < 2:
        found, keys = _inline(database, genesis, ranges, shown)
    else:
        found, keys = _parallel(database, genesis, ranges, processes, shown)
    _join(genesis, found, state.tip_hash)
    transactions = sum(one.transactions for one in found)
    certificates = sum(one.certificates for one in found)
    proven = Proven(height, state.tip_hash, certified, certificates, transactions, keys)
    _compare_counts(proven, ledger)
    return proven


def _inline(
    database: Path, genesis: Genesis, ranges: list[tuple[int, int]], progress: Progress
) -> tuple[list[_Range], dict[str, int]]:
    with opened(database) as store:
        found = []
        for first, last in ranges:
            found.append(_verify_range(store, genesis, first, last))
            progress.advance(last - first + 1)
        return found, {family.value: _count(store, family) for family in Family if family is not Family.BLOCKS}


_worker: dict[str, RocksStore | Genesis] = {}
"""The open store of this worker process."""


def _begin(path: str, genesis: Genesis) -> None:
    _worker["genesis"] = genesis
    _worker["store"] = RocksStore.open(Path(path), read_only=True)


def _task(item: tuple[int, int] | str) -> _Range | tuple[str, int]:
    store, genesis = _worker["store"], _worker["genesis"]
    if not isinstance(store, RocksStore) or not isinstance(genesis, Genesis):
        raise TypeError("the worker has no store")
    if isinstance(item, str):
        return item, _count(store, Family(item))
    return _verify_range(store, genesis, *item)


def _parallel(
    database: Path, genesis: Genesis, ranges: list[tuple[int, int]], workers: int, progress: Progress
) -> tuple[list[_Range], dict[str, int]]:
    found: list[_Range] = []
    keys: dict[str, int] = {}
    # Families first: they are few and long.
    items: list[tuple[int, int] | str] = [family.value for family in Family if family is not Family.BLOCKS]
    items += ranges
    with twin(database) as path, pool.processes(workers, _begin, (str(path), genesis)) as executor:
        futures = [executor.submit(_task, item) for item in items]
        try:
            for future in as_completed(futures):
                result = future.result()
                if isinstance(result, _Range):
                    found.append(result)
                    progress.advance(result.last - result.first + 1)
                else:
                    keys[result[0]] = result[1]
        except BaseException:
            executor.shutdown(wait=True, cancel_futures=True)
            raise
    return sorted(found, key=lambda one: one.first), keys


def _verify_range(store: RocksStore, genesis: Genesis, first: int, last: int) -> _Range:
    """Blocks first..last on the block before them, which its own range verifies."""
    previous = _header_before(store, genesis, first)
    begin = previous
    certificates = store.scan(Family.CERTIFICATES, height_key(first), height_key(last + 1))
    pending = next(certificates, None)
    counted = transactions = 0
    for key, raw in store.scan(Family.BLOCKS, height_key(first), height_key(last + 1)):
        height = previous.height + 1
        if key != height_key(height):
            raise CorruptStore(f"Block {height} is missing: the next one stored is {int.from_bytes(key, 'big')}.")
        block = Block.decode(raw)
        transactions += len(check_block(genesis, previous, block))
        if pending is not None and pending[0] == key:
            _check_certificate(genesis, block, pending[1])
            counted += 1
            pending = next(certificates, None)
        previous = block.header
    if previous.height != last:
        raise CorruptStore(f"Block {previous.height + 1} is missing: the chain should reach {last}.")
    if pending is not None:
        raise CorruptStore(f"There is a certificate for height {int.from_bytes(pending[0], 'big')} but no block.")
    return _Range(first, last, begin.hash, previous.hash, counted, transactions)


def _header_before(store: RocksStore, genesis: Genesis, first: int) -> Header:
    if first == 1:
        return genesis.block().header
    raw = store.get(Family.BLOCKS, height_key(first - 1))
    if raw is None:
        raise CorruptStore(f"Block {first - 1} is missing.")
    return Block.decode(raw).header


def _check_certificate(genesis: Genesis, block: Block, raw: bytes) -> None:
    certificate = Certificate.decode(raw)
    if (certificate.height, certificate.block_hash) != (block.height, block.hash):
        raise InvalidBlock(f"The certificate stored for block {block.height} certifies another block.")
    certificate.verify(genesis)


def _count(store: RocksStore, family: Family) -> int:
    return sum(1 for _ in store.scan(family))


def _join(genesis: Genesis, ranges: list[_Range], tip_hash: bytes) -> None:
    """Each range began on what the one before it ended with."""
    at = genesis.block().header.hash
    for one in ranges:
        if one.previous_hash != at:
            raise InvalidBlock(f"Block {one.first} does not follow block {one.first - 1}.")
        at = one.last_hash
    if at != tip_hash:
        raise CorruptStore("The last block is not the tip that the ledger's state names.")


def _compare_counts(proven: Proven, ledger: Ledger) -> None:
    state = ledger.state
    proven.keys[Family.BLOCKS.value] = proven.height + 1
    expected = {
        Family.CERTIFICATES: proven.certificates,
        Family.ACCOUNTS: 2 * state.accounts,
        Family.COLLECTIONS: 2 * state.collections,
        Family.SUBMISSIONS: state.collections,
        Family.AUDIT: state.accounts + state.collections,
    }
    for family, number in expected.items():
        found = proven.keys[family.value]
        if found != number:
            raise CorruptStore(f"The family {family.value} has {found} rows; the chain makes {number}.")
    if proven.certificates < proven.certified_height:
        raise CorruptStore(
            f"{proven.certificates} certificates are stored, but blocks up to {proven.certified_height} are certified."
        )
    if proven.transactions != state.transactions:
        raise CorruptStore(f"The blocks hold {proven.transactions} transactions; the state says {state.transactions}.")


def compare(proven: Proven, manifest: Manifest) -> None:
    """Raises NotVerified naming the first difference between the data and what the manifest says of it."""
    chain = manifest.chain
    pairs: list[tuple[str, object, object]] = [
        ("height", proven.height, chain.height),
        ("tip hash", proven.tip_hash.hex(), chain.tip_hash),
        ("certified height", proven.certified_height, chain.certified_height),
    ]
    pairs += [(f"rows of {name}", proven.keys.get(name), number) for name, number in sorted(manifest.keys.items())]
    for what, found, told in pairs:
        if found != told:
            raise NotVerified(
                f"Backup {manifest.id} is not what its manifest says: {what} is {found}, the manifest has {told}. Use "
                "another backup, and look at the repository with `goud-backup verify --deep`."
            )
