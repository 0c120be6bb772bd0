"""One stretch of a proof: consecutive blocks with their certificates and every row that they make. See `proof`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from hashlib import sha256

from goud_node.chain.block import Block, Header
from goud_node.chain.certificate import Certificate
from goud_node.chain.genesis import Genesis
from goud_node.chain.indexes import Indexes, Row, counted, height_key, rows_of
from goud_node.chain.records import LedgerState
from goud_node.chain.rules import check_content, check_signature
from goud_node.chain.transactions import AccountCreate, CollectionPut, Transaction
from goud_node.errors import CorruptStore, GoudError, InvalidBlock
from goud_node.store import Family, Store

_MOST_ACCOUNTS = 10_000
Position = tuple[int, int]


@dataclass(frozen=True)
class Checked:
    """What was verified before: digests of stretches, or of the beginnings of stretches that end at one of `ends`."""

    digests: frozenset[bytes] = frozenset()
    ends: frozenset[int] = frozenset()


@dataclass(frozen=True)
class Chain:
    """What is proven: a database that says that its chain ends at `tip` and is certified up to `certified_height`."""

    genesis: Genesis
    tip: int
    certified_height: int
    checked: Checked = Checked()


@dataclass(frozen=True)
class Stretch:
    """Blocks `first` to `last`. Each one up to `certified_height` has its certificate, `void` counts the transactions
    without effect, `counters` the others. `digest` covers all that signatures are checked of; those of `spared` blocks
    were not verified, because they had been before.
    """

    first: int
    last: int
    previous_hash: bytes
    last_hash: bytes
    certified_height: int
    certificates: int
    transactions: int
    void: int
    counters: LedgerState
    digest: bytes
    spared: int = 0


def prove_stretch(store: Store, chain: Chain, first: int, last: int) -> Stretch:
    """Blocks first..last on the block before them, which its own stretch proves.

    Signatures that were checked before are left out, except those of the last certified block and of all above it.
    """
    walk = _Walk(store, chain, first, last)
    stretch = walk.blocks()
    return replace(stretch, spared=walk.check_signatures())


class _Walk:
    """One pass over blocks and certificates, side by side, in bounded memory."""

    def __init__(self, store: Store, chain: Chain, first: int, last: int) -> None:
        self._store = store
        self._chain = chain
        self._first = first
        self._last = last
        self._pairs: list[tuple[Block, Certificate | None]] = []
        self._rows = _Rows(store)
        self._digest = sha256(b"goud-signatures-v1\0")
        self._checked_height = first - 1

    def blocks(self) -> Stretch:
        blocks = self._scan(Family.BLOCKS)
        certificates = _Certificates(self._scan(Family.CERTIFICATES), self._chain.certified_height)
        parent = previous = self._parent(blocks)
        count = 0
        for key, raw in blocks:
            height = previous.height + 1
            with _blame(height):
                if key != height_key(height) or height > self._last:
                    raise CorruptStore(f"Block {height} is missing: the next one stored has the key {key.hex()}.")
                block = Block.decode(raw)
                transactions = check_content(self._chain.genesis, previous, block)
                self._add(block, certificates.take(block))
                self._rows.check(block, transactions)
                count += len(transactions)
            previous = block.header
        if previous.height != self._last:
            raise CorruptStore(f"Block {previous.height + 1} is missing: the chain should reach {self._chain.tip}.")
        certificates.end()
        return Stretch(
            first=self._first,
            last=self._last,
            previous_hash=parent.hash,
            last_hash=previous.hash,
            certified_height=certificates.contiguous(self._first),
            certificates=certificates.count,
            transactions=count,
            void=self._rows.void,
            counters=self._rows.counters,
            digest=self._digest.digest(),
        )

    def check_signatures(self) -> int:
        """Of the proposer, and of a majority for the certificate, of every block that is not spared; how many are.

        Links and roots hold: a majority that signed the last certified block has signed all below it.
        """
        spared = max(0, min(self._checked_height, self._chain.certified_height - 1) - self._first + 1)
        for block, certificate in self._pairs[spared:]:
            with _blame(block.height):
                check_signature(self._chain.genesis, block)
                if certificate is not None:
                    certificate.verify(self._chain.genesis)
        return spared

    def _scan(self, family: Family) -> Iterator[tuple[bytes, bytes]]:
        """The first stretch begins, and the last one ends, where the family does: no row is outside of all."""
        start = b"" if self._first == 1 else height_key(self._first)
        return self._store.scan(family, start, None if self._last == self._chain.tip else height_key(self._last + 1))

    def _parent(self, blocks: Iterator[tuple[bytes, bytes]]) -> Header:
        if self._first == 1:
            # The genesis block was compared with the document when the ledger was opened.
            key, _ = next(blocks)
            if key != height_key(0):
                raise CorruptStore(f"The family blocks has a row before the genesis block: {key.hex()}.")
            return self._chain.genesis.block().header
        raw = self._store.get(Family.BLOCKS, height_key(self._first - 1))
        if raw is None:
            raise CorruptStore(f"Block {self._first - 1} is missing.")
        return Block.decode(raw).header

    def _add(self, block: Block, row: tuple[Certificate, bytes] | None) -> None:
        certificate, raw = (None, b"") if row is None else row
        self._digest.update(block.hash)
        for part in (block.signature, raw):
            self._digest.update(len(part).to_bytes(8, "big") + part)
        verified = self._chain.checked
        if (block.height == self._last or block.height in verified.ends) and self._digest.digest() in verified.digests:
            self._checked_height = block.height
        # Without its transactions: a thousand blocks are too much to hold.
        self._pairs.append((replace(block, transactions=()), certificate))


class _Certificates:
    """The certificates of a stretch, taken block by block."""

    def __init__(self, rows: Iterator[tuple[bytes, bytes]], certified_height: int) -> None:
        self._rows = rows
        self._row = next(rows, None)
        self._certified_height = certified_height
        self._hole: int | None = None
        self._height = 0
        self.count = 0

    def take(self, block: Block) -> tuple[Certificate, bytes] | None:
        """The certificate of this block, its signatures not verified yet; None where it has none."""
        self._height = block.height
        if self._row is None or self._row[0] > height_key(block.height):
            if block.height <= self._certified_height:
                raise CorruptStore(f"The certificate of block {block.height} is missing.")
            self._hole = self._hole or block.height
            return None
        key, raw = self._row
        if key != height_key(block.height):
            self.end()
        self._row = next(self._rows, None)
        certificate = Certificate.decode(raw)
        if (certificate.height, certificate.block_hash) != (block.height, block.hash):
            raise InvalidBlock(f"The certificate stored for block {block.height} certifies another block.")
        self.count += 1
        return certificate, raw

    def end(self) -> None:
        if self._row is not None:
            height = int.from_bytes(self._row[0], "big")
            raise CorruptStore(f"There is a certificate for block {height}, not stored here.")

    def contiguous(self, first: int) -> int:
        """The height up to which each block from `first` on has a certificate."""
        return (self._hole or max(self._height, first - 1) + 1) - 1


class _Rows:
    """Compares the rows that transactions make with those that are stored."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._indexes = Indexes(store)
        self._accounts: dict[str, Position | None] = {}
        self.counters = LedgerState(0, b"", 0, 0, 0, 0, 0)
        self.void = 0

    def check(self, block: Block, transactions: Sequence[Transaction]) -> None:
        """Raises CorruptStore naming the first row that contradicts them."""
        transaction_rows = [rows_of(block.header, index, transaction) for index, transaction in enumerate(transactions)]
        families: dict[Family, list[Row]] = {}
        for row in (row for rows in transaction_rows for row in rows):
            families.setdefault(row[0], []).append(row)
        differences = {
            row for family, family_rows in families.items() for row in self._differences(family, family_rows)
        }
        effective_transactions: list[Transaction] = []
        for index, transaction in enumerate(transactions):
            position = (block.height, index)
            if differences.isdisjoint(transaction_rows[index]) and self._has_owner(transaction, position):
                effective_transactions.append(transaction)
            elif self._is_forbidden(transaction, position):
                self.void += 1
            else:
                family = next((row[0] for row in transaction_rows[index] if row in differences), Family.ACCOUNTS)
                raise CorruptStore(
                    f"The family {family.value} contradicts transaction {index} of block {block.height}."
                )
        self.counters = counted(self.counters, effective_transactions)

    def _differences(self, family: Family, rows: Sequence[Row]) -> Iterator[Row]:
        """Rows that are not stored exactly so."""
        values = [value for _, _, value in rows]
        stored = self._store.get_many(family, [key for _, key, _ in rows])
        if stored != values:
            yield from (row for row, value in zip(rows, stored, strict=True) if row[2] != value)

    def _has_owner(self, transaction: Transaction, position: Position) -> bool:
        """Whether the account of a collection existed before it."""
        if isinstance(transaction, AccountCreate):
            return True
        account = self._account(transaction.account_id)
        return account is not None and account < position

    def _is_forbidden(self, transaction: Transaction, position: Position) -> bool:
        """Whether something before this transaction keeps it from having an effect."""
        if isinstance(transaction, AccountCreate):
            owner = self._indexes.account_by_key_hash(transaction.key_hash)
            keys = None if owner is None else (owner.height, owner.index)
            rivals = [self._account(transaction.account_id), keys]
        elif not self._has_owner(transaction, position):
            return True
        else:
            rivals = self._rivals(transaction)
        return any(rival is not None and rival < position for rival in rivals)

    def _rivals(self, transaction: CollectionPut) -> list[Position | None]:
        owner = transaction.account_id
        submission = self._indexes.submission(owner, transaction.idempotency_key)
        receipt = None if submission is None else (submission[0].height, submission[0].index)
        return [receipt, self._indexes.collection_position(owner, transaction.collection_id)]

    def _account(self, account_id: str) -> Position | None:
        if account_id not in self._accounts:
            if len(self._accounts) >= _MOST_ACCOUNTS:
                self._accounts.clear()
            record = self._indexes.account(account_id)
            self._accounts[account_id] = None if record is None else (record.height, record.index)
        return self._accounts[account_id]


@contextmanager
def _blame(height: int) -> Iterator[None]:
    try:
        yield
    except GoudError as error:
        error.height = height
        raise
