"""Verify a data directory offline, block by block, from the genesis document and the validators' public keys alone."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from goud_node.chain import indexes
from goud_node.chain.block import Block
from goud_node.chain.certificate import Certificate
from goud_node.chain.genesis import Genesis
from goud_node.chain.indexes import Indexes, height_key, position_key
from goud_node.chain.ledger import Ledger
from goud_node.chain.rules import check_block
from goud_node.chain.transactions import AccountCreate, CollectionPut, Transaction
from goud_node.errors import CorruptStore, GoudError, InvalidBlock, StoreError
from goud_node.store import Family, RocksStore, Store, marker, schema

Progress = Callable[[int, int], None]
"""Called now and then with (blocks verified, blocks in all)."""
PROGRESS_EVERY = 500


@dataclass
class Problem:
    """The first thing that is wrong: its error slug, the sentence, and the height when a block is to blame."""

    code: str
    message: str
    height: int | None = None


@dataclass
class Report:
    """What was found. Counts cover what was verified; `problem` is None when everything was."""

    data_dir: str
    chain_id: str
    height: int = 0
    tip_hash: str = ""
    certified_height: int = 0
    uncertified_blocks: int = 0
    blocks_verified: int = 0
    certificates_verified: int = 0
    transactions: int = 0
    void_transactions: int = 0
    accounts: int = 0
    collections: int = 0
    payload_bytes: int = 0
    schema_version: int = 0
    epoch: int | None = None
    seconds: float = 0.0
    problem: Problem | None = field(default=None)

    @property
    def ok(self) -> bool:
        return self.problem is None

    def as_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return {"ok": self.ok, **asdict(self)}

    def rows(self) -> list[tuple[str, str]]:
        """What a person reads: (what, value), the verdict last."""
        tail = f"{self.uncertified_blocks} (not yet countersigned by a majority; normal at the tip)"
        rows = [
            ("data directory", self.data_dir),
            ("chain", self.chain_id),
            ("height", str(self.height)),
            ("tip", self.tip_hash or "-"),
            ("certified height", str(self.certified_height)),
            ("uncertified tail", tail if self.uncertified_blocks else "0"),
            ("blocks verified", str(self.blocks_verified)),
            ("certificates verified", str(self.certificates_verified)),
            ("transactions", f"{self.transactions} ({self.void_transactions} without effect)"),
            ("accounts", str(self.accounts)),
            ("collections", f"{self.collections} ({self.payload_bytes} bytes encrypted)"),
            ("schema, epoch", f"{self.schema_version}, {'-' if self.epoch is None else self.epoch}"),
            ("time", f"{self.seconds:.1f} s"),
        ]
        where = "" if self.problem is None or self.problem.height is None else f" at height {self.problem.height}"
        verdict = "verified" if self.problem is None else f"{self.problem.code}{where}: {self.problem.message}"
        return [*rows, ("result", verdict)]


def inspect(data_dir: Path, genesis: Genesis, progress: Progress | None = None) -> Report:
    """Verify everything in `data_dir`. Damage is reported, never raised, and nothing in the data is changed.

    The directory must be writable (the database library keeps its own configuration file there): copy a read-only one.
    """
    report = Report(str(data_dir), genesis.chain_id)
    began = time.monotonic()
    store: RocksStore | None = None
    try:
        marker.require(data_dir, genesis.chain_id, must_be_mount=False, writable=False)
        store = RocksStore.open(marker.database_path(data_dir), read_only=True)
        verify_store(store, genesis, report, progress)
    except GoudError as error:
        report.problem = report.problem or Problem(error.code, str(error))
    finally:
        if store is not None:
            store.close()
        report.seconds = round(time.monotonic() - began, 3)
    return report


def verify_store(store: Store, genesis: Genesis, report: Report, progress: Progress | None = None) -> None:
    """Fill `report` from an open store; the first problem is noted in it and ends the work."""
    if store.fresh:
        raise CorruptStore("The database was created but holds no chain yet. Run `goud-node init` again to finish it.")
    report.schema_version = schema.version(store)
    ledger = Ledger(store, genesis)
    report.height, report.certified_height = ledger.height, ledger.certified_height
    report.tip_hash = ledger.tip.hash.hex()
    report.epoch = None if ledger.epoch is None else ledger.epoch.number
    walk = _Walk(store, genesis, report)
    try:
        walk.blocks(progress)
        _check_counts(store, ledger, report)
    except GoudError as error:
        report.problem = Problem(error.code, str(error), walk.height)


class _Walk:
    """One pass over blocks and certificates, side by side, in constant memory."""

    def __init__(self, store: Store, genesis: Genesis, report: Report) -> None:
        self._store = store
        self._genesis = genesis
        self._report = report
        self._indexes = Indexes(store)
        self.height: int | None = None

    def blocks(self, progress: Progress | None) -> None:
        report = self._report
        certificates = self._store.scan(Family.CERTIFICATES)
        pending = next(certificates, None)
        certified = 0
        previous = self._genesis.block().header
        # Genesis was compared with the document when the ledger was opened.
        report.blocks_verified = 1
        for key, raw in self._store.scan(Family.BLOCKS, height_key(1)):
            height = self.height = previous.height + 1
            if key != height_key(height):
                raise CorruptStore(f"Block {height} is missing: the next one stored is {int.from_bytes(key, 'big')}.")
            block = Block.decode(raw)
            transactions = check_block(self._genesis, previous, block)
            if pending is not None and pending[0] == key:
                self._certificate(block, pending[1])
                pending = next(certificates, None)
                certified += certified == height - 1
            elif height <= report.certified_height:
                raise CorruptStore(f"The certificate of block {height} is missing.")
            self._transactions(height, transactions)
            previous = block.header
            report.blocks_verified += 1
            if progress is not None and height % PROGRESS_EVERY == 0:
                progress(height, report.height)
        self.height = None
        if previous.height != report.height:
            raise CorruptStore(f"The chain ends at block {previous.height}; its state says {report.height}.")
        if pending is not None:
            raise CorruptStore(
                f"There is a certificate for block {int.from_bytes(pending[0], 'big')}, not stored here."
            )
        if certified != report.certified_height:
            raise CorruptStore(f"Blocks up to {certified} are certified; the state says {report.certified_height}.")
        report.uncertified_blocks = report.height - report.certified_height

    def _transactions(self, height: int, transactions: tuple[Transaction, ...]) -> None:
        for index, transaction in enumerate(transactions):
            self._report.transactions += 1
            if not self._has_effect(height, index, transaction):
                self._report.void_transactions += 1

    def _certificate(self, block: Block, raw: bytes) -> None:
        certificate = Certificate.decode(raw)
        if (certificate.height, certificate.block_hash) != (block.height, block.hash):
            raise InvalidBlock(f"The certificate stored for block {block.height} certifies another block.")
        certificate.verify(self._genesis)
        self._report.certificates_verified += 1

    def _has_effect(self, height: int, index: int, transaction: Transaction) -> bool:
        if isinstance(transaction, AccountCreate):
            return self._account_has_effect((height, index), transaction)
        return self._collection_has_effect((height, index), transaction)

    def _account_has_effect(self, here: tuple[int, int], transaction: AccountCreate) -> bool:
        known = self._indexes.account(transaction.account_id)
        owner = self._indexes.account_by_key_hash(transaction.key_hash)
        if known is not None and (known.height, known.index) == here:
            if owner is None or owner.account_id != transaction.account_id or known.salt != transaction.salt:
                raise CorruptStore(f"The account index contradicts transaction {here[1]} of block {here[0]}.")
            self._report.accounts += 1
            return True
        if any(other is not None and (other.height, other.index) < here for other in (known, owner)):
            return False
        raise CorruptStore(f"The account index lacks transaction {here[1]} of block {here[0]}.")

    def _collection_has_effect(self, here: tuple[int, int], transaction: CollectionPut) -> bool:
        account = self._indexes.account(transaction.account_id)
        submitted = self._indexes.submission(transaction.account_id, transaction.idempotency_key)
        stored = self._indexes.collection_position(transaction.account_id, transaction.collection_id)
        row = self._store.get(
            Family.COLLECTIONS, indexes.owner_prefix(b"p", transaction.account_id) + position_key(*here)
        )
        receipt = None if submitted is None else (submitted[0].height, submitted[0].index)
        if row is not None and receipt == here and stored == here:
            self._report.collections += 1
            self._report.payload_bytes += len(transaction.label) + len(transaction.payload)
            return True
        void = account is None or (account.height, account.index) > here
        repeated = any(earlier is not None and earlier < here for earlier in (receipt, stored))
        if row is None and (void or repeated):
            return False
        raise CorruptStore(f"The collection index contradicts transaction {here[1]} of block {here[0]}.")


def _check_counts(store: Store, ledger: Ledger, report: Report) -> None:
    """Read every index row, checksums and all, and compare the numbers with the blocks and the kept counters."""
    state = ledger.state
    families = [family for family in Family if family is not Family.BLOCKS]
    found: dict[Family, int] = {family: sum(1 for _ in store.scan(family)) for family in families}
    expected = {
        Family.CERTIFICATES: report.certificates_verified,
        Family.ACCOUNTS: 2 * report.accounts,
        Family.COLLECTIONS: 2 * report.collections,
        Family.SUBMISSIONS: report.collections,
        Family.AUDIT: report.accounts + report.collections,
    }
    for family, number in expected.items():
        if found[family] != number:
            raise CorruptStore(f"The family {family.value} has {found[family]} rows; the blocks make {number}.")
    kept = (state.accounts, state.collections, state.payload_bytes, state.transactions)
    counted = (report.accounts, report.collections, report.payload_bytes, report.transactions)
    if kept != counted:
        raise StoreError(f"The kept counters {kept} differ from those of the blocks {counted}.")
