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
    """What is proven: a database that says that its chain ends at `tip` and is certified up to `certified`."""

    genesis: Genesis
    tip: int
    certified: int
    checked: Checked = Checked()


@dataclass(frozen=True)
class Stretch:
    """Blocks `first` to `last`. `certified` is the height up to which each of them has its certificate, `void` counts
    the transactions without effect, `made` the others. `digest` covers all that signatures are checked of; those of
    `spared` blocks were not verified, because they had been before.
    """

    first: int
    last: int
    previous_hash: bytes
    last_hash: bytes
    certified: int
    certificates: int
    transactions: int
    void: int
    made: LedgerState
    digest: bytes
    spared: int = 0


def prove_stretch(store: Store, chain: Chain, first: int, last: int) -> Stretch:
    """Blocks first..last on the block before them, which its own stretch proves.

    Signatures that were checked before are left out, except those of the last certified block and of all above it.
    """
    walk = _Walk(store, chain, first, last)
    found = walk.blocks()
    return replace(found, spared=walk.check_signatures())


class _Walk:
    """One pass over blocks and certificates, side by side, in bounded memory."""

    def __init__(self, store: Store, chain: Chain, first: int, last: int) -> None:
        self._store = store
        self._chain = chain
        self._first = first
        self._last = last
        self._signed: list[tuple[Block, Certificate | None]] = []
        self._rows = _Rows(store)
        self._digest = sha256(b"goud-signatures-v1\0")
        self._checked = first - 1

    def blocks(self) -> Stretch:
        blocks = self._scan(Family.BLOCKS)
        certificates = _Certificates(self._scan(Family.CERTIFICATES), self._chain.certified)
        begin = previous = self._before(blocks)
        transactions = 0
        for key, raw in blocks:
            height = previous.height + 1
            with _blaming(height):
                if key != height_key(height) or height > self._last:
                    raise CorruptStore(f"Block {height} is missing: the next one stored has the key {key.hex()}.")
                block = Block.decode(raw)
                made = check_content(self._chain.genesis, previous, block)
                self._note(block, certificates.take(block))
                self._rows.check(block, made)
                transactions += len(made)
            previous = block.header
        if previous.height != self._last:
            raise CorruptStore(f"Block {previous.height + 1} is missing: the chain should reach {self._chain.tip}.")
        certificates.end()
        return Stretch(
            first=self._first,
            last=self._last,
            previous_hash=begin.hash,
            last_hash=previous.hash,
            certified=certificates.contiguous(self._first),
            certificates=certificates.taken,
            transactions=transactions,
            void=self._rows.void,
            made=self._rows.made,
            digest=self._digest.digest(),
        )

    def check_signatures(self) -> int:
        """Of the proposer, and of a majority for the certificate, of every block that is not spared; how many are.

        Links and roots hold: a majority that signed the last certified block has signed all below it.
        """
        spared = max(0, min(self._checked, self._chain.certified - 1) - self._first + 1)
        for block, certificate in self._signed[spared:]:
            with _blaming(block.height):
                check_signature(self._chain.genesis, block)
                if certificate is not None:
                    certificate.verify(self._chain.genesis)
        return spared

    def _scan(self, family: Family) -> Iterator[tuple[bytes, bytes]]:
        """The first stretch begins, and the last one ends, where the family does: no row is outside of all."""
        start = b"" if self._first == 1 else height_key(self._first)
        return self._store.scan(family, start, None if self._last == self._chain.tip else height_key(self._last + 1))

    def _before(self, blocks: Iterator[tuple[bytes, bytes]]) -> Header:
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

    def _note(self, block: Block, certificate: tuple[Certificate, bytes] | None) -> None:
        stored, raw = (None, b"") if certificate is None else certificate
        self._digest.update(block.hash)
        for signed in (block.signature, raw):
            self._digest.update(len(signed).to_bytes(8, "big") + signed)
        checked = self._chain.checked
        if (block.height == self._last or block.height in checked.ends) and self._digest.digest() in checked.digests:
            self._checked = block.height
        # Without its transactions: a thousand blocks are too much to hold.
        self._signed.append((replace(block, transactions=()), stored))


class _Certificates:
    """The certificates of a stretch, taken block by block."""

    def __init__(self, rows: Iterator[tuple[bytes, bytes]], certified: int) -> None:
        self._rows = rows
        self._pending = next(rows, None)
        self._certified = certified
        self._hole: int | None = None
        self._height = 0
        self.taken = 0

    def take(self, block: Block) -> tuple[Certificate, bytes] | None:
        """The certificate of this block, its signatures not verified yet; None where it has none."""
        self._height = block.height
        if self._pending is None or self._pending[0] > height_key(block.height):
            if block.height <= self._certified:
                raise CorruptStore(f"The certificate of block {block.height} is missing.")
            self._hole = self._hole or block.height
            return None
        key, raw = self._pending
        if key != height_key(block.height):
            self.end()
        self._pending = next(self._rows, None)
        certificate = Certificate.decode(raw)
        if (certificate.height, certificate.block_hash) != (block.height, block.hash):
            raise InvalidBlock(f"The certificate stored for block {block.height} certifies another block.")
        self.taken += 1
        return certificate, raw

    def end(self) -> None:
        if self._pending is not None:
            where = int.from_bytes(self._pending[0], "big")
            raise CorruptStore(f"There is a certificate for block {where}, not stored here.")

    def contiguous(self, first: int) -> int:
        """The height up to which each block from `first` on has a certificate."""
        return (self._hole or max(self._height, first - 1) + 1) - 1


class _Rows:
    """Compares the rows that transactions make with those that are stored."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._indexes = Indexes(store)
        self._accounts: dict[str, Position | None] = {}
        self.made = LedgerState(0, b"", 0, 0, 0, 0, 0)
        self.void = 0

    def check(self, block: Block, transactions: Sequence[Transaction]) -> None:
        """Raises CorruptStore naming the first row that contradicts them."""
        made = [rows_of(block.header, index, transaction) for index, transaction in enumerate(transactions)]
        rows: dict[Family, list[Row]] = {}
        for row in (row for each in made for row in each):
            rows.setdefault(row[0], []).append(row)
        wrong = {row for family, wanted in rows.items() for row in self._differing(family, wanted)}
        effective: list[Transaction] = []
        for index, transaction in enumerate(transactions):
            here = (block.height, index)
            if wrong.isdisjoint(made[index]) and self._owned(transaction, here):
                effective.append(transaction)
            elif self._forbidden(transaction, here):
                self.void += 1
            else:
                family = next((row[0] for row in made[index] if row in wrong), Family.ACCOUNTS)
                raise CorruptStore(
                    f"The family {family.value} contradicts transaction {index} of block {block.height}."
                )
        self.made = counted(self.made, effective)

    def _differing(self, family: Family, rows: Sequence[Row]) -> Iterator[Row]:
        """Rows that are not stored exactly so."""
        values = [value for _, _, value in rows]
        stored = self._store.get_many(family, [key for _, key, _ in rows])
        if stored != values:
            yield from (row for row, value in zip(rows, stored, strict=True) if row[2] != value)

    def _owned(self, transaction: Transaction, here: Position) -> bool:
        """Whether the account of a collection was there before it."""
        if isinstance(transaction, AccountCreate):
            return True
        account = self._account(transaction.account_id)
        return account is not None and account < here

    def _forbidden(self, transaction: Transaction, here: Position) -> bool:
        """Whether something before this transaction keeps it from having an effect."""
        if isinstance(transaction, AccountCreate):
            owner = self._indexes.account_by_key_hash(transaction.key_hash)
            keys = None if owner is None else (owner.height, owner.index)
            earlier = [self._account(transaction.account_id), keys]
        elif not self._owned(transaction, here):
            return True
        else:
            earlier = self._earlier(transaction)
        return any(position is not None and position < here for position in earlier)

    def _earlier(self, transaction: CollectionPut) -> list[Position | None]:
        owner = transaction.account_id
        submitted = self._indexes.submission(owner, transaction.idempotency_key)
        receipt = None if submitted is None else (submitted[0].height, submitted[0].index)
        return [receipt, self._indexes.collection_position(owner, transaction.collection_id)]

    def _account(self, account_id: str) -> Position | None:
        if account_id not in self._accounts:
            if len(self._accounts) >= _MOST_ACCOUNTS:
                self._accounts.clear()
            found = self._indexes.account(account_id)
            self._accounts[account_id] = None if found is None else (found.height, found.index)
        return self._accounts[account_id]


@contextmanager
def _blaming(height: int) -> Iterator[None]:
    try:
        yield
    except GoudError as error:
        error.height = height
        raise
