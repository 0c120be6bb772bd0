"""The ledger: a node's own durable copy of the chain, checked block by block, with its indexes.

One thread appends and certifies; any thread may read meanwhile. Everything is read back from the store on construction.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from goud_node.chain import encoding, indexes
from goud_node.chain.block import NO_HASH, Block, Header
from goud_node.chain.certificate import Certificate
from goud_node.chain.genesis import Genesis
from goud_node.chain.indexes import Indexes, height_key
from goud_node.chain.records import (
    AccountRecord,
    AuditRecord,
    CollectionRecord,
    CollectionSummary,
    Epoch,
    Item,
    LedgerState,
    Page,
    Receipt,
)
from goud_node.chain.rules import check_block
from goud_node.chain.transactions import CollectionPut, Transaction, decode_trusted
from goud_node.errors import ConflictingBlock, CorruptStore, InvalidBlock, InvalidCursor, StoreError, WrongChain
from goud_node.store import FRESH_KEY, Batch, Family, Store

__all__ = [
    "AccountRecord",
    "AuditRecord",
    "CollectionRecord",
    "CollectionSummary",
    "Epoch",
    "Ledger",
    "LedgerState",
    "Page",
    "Receipt",
]

STATE_KEY = b"state"
EPOCH_KEY = b"epoch"
MAX_PAGE = 1000
_RECOVERY = "Move the database aside and restore a backup, or let the node refill from its peers on an empty volume."


class Ledger:
    """See the module. Raises CorruptStore or WrongChain on construction when the store is not a whole ledger."""

    def __init__(self, store: Store, genesis: Genesis) -> None:
        self._store = store
        self.genesis = genesis
        self._indexes = Indexes(store)
        if store.fresh and store.get(Family.METADATA, STATE_KEY) is None:
            self._begin()
        self._state, self._tip = self._load()
        self._epoch = self._load_epoch()

    @property
    def tip(self) -> Header:
        return self._tip

    @property
    def height(self) -> int:
        return self._state.height

    @property
    def certified_height(self) -> int:
        """The highest h such that every block 1..h has its certificate here; 0 when only genesis is certain."""
        return self._state.certified_height

    @property
    def state(self) -> LedgerState:
        """Height and counters as of one write, for statistics."""
        return self._state

    @property
    def epoch(self) -> Epoch | None:
        return self._epoch

    def append(self, blocks: Sequence[Block], certificates: Sequence[Certificate] = ()) -> None:
        """Check, index and store blocks (ascending) and certificates in one durable write; all or nothing.

        A block that is here already changes nothing. Raises ConflictingBlock for another block at a height that is
        taken, InvalidBlock for a gap, a broken rule or a bad certificate, StoreError when the write failed.
        """
        batch = Batch()
        state, tip = self._state, self._tip
        new_blocks: dict[int, Block] = {}
        for block in blocks:
            if block.height <= state.height:
                self._check_same(block, new_blocks)
                continue
            transactions = check_block(self.genesis, tip, block)
            state = indexes.apply(self._store, batch, state, block, transactions)
            tip = block.header
            new_blocks[block.height] = block
        state = self._put_certificates(batch, state, certificates, new_blocks)
        self._write(batch, state, tip)

    def certify(self, certificates: Sequence[Certificate]) -> None:
        """Verify and store certificates of blocks that are here, in any order; one durable write.

        Raises InvalidBlock without a valid majority or for a height above the tip, ConflictingBlock for a valid
        certificate of another block.
        """
        batch = Batch()
        state = self._put_certificates(batch, self._state, certificates, {})
        self._write(batch, state, self._tip)

    def set_epoch(self, epoch: Epoch) -> None:
        """Record the agreement epoch this chain follows; durable when it returns."""
        batch = Batch()
        batch.put(Family.METADATA, EPOCH_KEY, epoch.encode())
        self._store.write(batch)
        self._epoch = epoch

    def raw_block(self, height: int) -> bytes | None:
        if not 0 <= height <= self.height:
            return None
        return self._store.get(Family.BLOCKS, height_key(height))

    def block(self, height: int) -> Block | None:
        raw = self.raw_block(height)
        return None if raw is None else Block.decode(raw)

    def blocks(self, start: int, limit: int) -> list[Block]:
        """Blocks from `start` upwards, at most `limit`."""
        if limit <= 0 or not 0 <= start <= self.height:
            return []
        rows = self._store.scan(Family.BLOCKS, height_key(start), height_key(self.height + 1), limit=limit)
        return [Block.decode(raw) for _, raw in rows]

    def certificate(self, height: int) -> Certificate | None:
        raw = self._store.get(Family.CERTIFICATES, height_key(height)) if 0 < height <= self.height else None
        return None if raw is None else Certificate.decode(raw)

    def account(self, account_id: str) -> AccountRecord | None:
        return self._indexes.account(account_id)

    def account_by_key_hash(self, key_hash: bytes) -> AccountRecord | None:
        return self._indexes.account_by_key_hash(key_hash)

    def admissible(self, transaction: Transaction) -> Receipt | None:
        """None: it may go into a block. A Receipt: it is in one already, as the same request.

        Raises InvalidTransaction (unknown account), AlreadyExists, or IdempotencyConflict.
        """
        return self._indexes.admissible(transaction)

    def submission(self, account_id: str, idempotency_key: str) -> Receipt | None:
        """The receipt of what the account submitted under this key."""
        submission = self._indexes.submission(account_id, idempotency_key)
        return None if submission is None else submission[0]

    def collection(self, account_id: str, collection_id: str) -> CollectionRecord | None:
        """The whole collection, read out of its block; None unless this account owns it."""
        position = self._indexes.collection_position(account_id, collection_id)
        if position is None:
            return None
        height, index = position
        raw = self.raw_block(height)
        try:
            transaction = decode_trusted(encoding.decode_trusted(raw or b"")[1][index])
        except (encoding.NotCanonical, IndexError, TypeError) as error:
            raise CorruptStore(f"Block {height} does not hold collection {collection_id}. {_RECOVERY}") from error
        if not isinstance(transaction, CollectionPut) or transaction.collection_id != collection_id:
            raise CorruptStore(f"Block {height} does not hold collection {collection_id}. {_RECOVERY}")
        return CollectionRecord(
            height, index, collection_id, transaction.label, transaction.payload, transaction.created_ms
        )

    def collections(self, account_id: str, cursor: str | None = None, limit: int = 50) -> Page[CollectionSummary]:
        """The account's collections, newest first, without payloads. Raises InvalidCursor."""
        prefix = indexes.owner_prefix(b"p", account_id)
        return self._page(Family.COLLECTIONS, prefix, cursor, limit, indexes.summary)

    def audit(self, account_id: str, cursor: str | None = None, limit: int = 50) -> Page[AuditRecord]:
        """What changed the chain on behalf of the account, newest first. Raises InvalidCursor."""
        return self._page(Family.AUDIT, indexes.owner_prefix(b"", account_id), cursor, limit, indexes.audit_record)

    def _page(
        self, family: Family, prefix: bytes, cursor: str | None, limit: int, decode: Callable[[bytes, bytes], Item]
    ) -> Page[Item]:
        limit = max(1, min(limit, MAX_PAGE))
        # Rows before the cursor's: the cursor is the position of the last row already given out.
        end = prefix + (b"\xff" * (indexes.POSITION_BYTES + 1) if cursor is None else _cursor_position(cursor))
        rows = list(self._store.scan(family, prefix, end, reverse=True, limit=limit + 1))
        items = tuple(decode(key, raw) for key, raw in rows[:limit])
        last = rows[limit - 1][0][-indexes.POSITION_BYTES :].hex() if len(rows) > limit else None
        return Page(items, last)

    def _begin(self) -> None:
        batch = Batch()
        block = self.genesis.block()
        batch.put(Family.BLOCKS, height_key(0), block.encode())
        state = LedgerState(0, block.hash, 0, 0, 0, 0, 0)
        batch.put(Family.METADATA, STATE_KEY, state.encode())
        batch.delete(Family.METADATA, FRESH_KEY)
        self._store.write(batch)

    def _load(self) -> tuple[LedgerState, Header]:
        """State and tip from the store, after cheap checks that they agree (a cut MANIFEST opens without error)."""
        raw = self._store.get(Family.METADATA, STATE_KEY)
        if raw is None:
            raise CorruptStore(f"The database has no ledger state although it is not new: data was lost. {_RECOVERY}")
        state = LedgerState.decode(raw)
        raw_genesis = self._store.get(Family.BLOCKS, height_key(0))
        if raw_genesis is None:
            raise CorruptStore(f"The genesis block is missing from the database. {_RECOVERY}")
        if raw_genesis != self.genesis.block().encode():
            chain_id = self._decode_stored(0, raw_genesis).header.chain_id
            raise WrongChain(
                f"The database holds chain {chain_id}, but the genesis document is that of {self.genesis.chain_id}. "
                "Mount the right volume or give the right genesis document."
            )
        self._check_rows(state)
        return state, self._load_tip(state)

    def _check_rows(self, state: LedgerState) -> None:
        """A cut MANIFEST may drop files from the middle of the chain: then the rows cannot add up."""
        minimum_rows = {
            Family.BLOCKS: state.height + 1,
            Family.CERTIFICATES: state.certified_height,
            **indexes.rows_implied(state),
        }
        for family, rows in minimum_rows.items():
            bound = self._store.rows_at_most(family)
            if bound < rows:
                raise CorruptStore(
                    f"The family {family.value} holds at most {bound} rows where the ledger's state says {rows}: data "
                    f"files are missing, probably because MANIFEST was cut. {_RECOVERY}"
                )

    def _load_tip(self, state: LedgerState) -> Header:
        last_row = next(self._store.scan(Family.BLOCKS, reverse=True, limit=1), (b"", b""))
        tip = self._decode_stored(state.height, last_row[1]).header
        if last_row[0] != height_key(state.height) or tip.height != state.height or tip.hash != state.tip_hash:
            raise CorruptStore(
                f"The ledger's state says height {state.height}, but the last block stored is {tip.height}. {_RECOVERY}"
            )
        if not 0 <= state.certified_height <= state.height:
            raise CorruptStore(
                f"The ledger's state says certified height {state.certified_height} above height {state.height}. "
                f"{_RECOVERY}"
            )
        certified_height = state.certified_height
        if certified_height and self._store.get(Family.CERTIFICATES, height_key(certified_height)) is None:
            raise CorruptStore(f"The certificate of block {certified_height} is missing from the database. {_RECOVERY}")
        return tip

    def _decode_stored(self, height: int, raw: bytes) -> Block:
        try:
            return Block.decode(raw)
        except InvalidBlock as error:
            raise CorruptStore(f"Block {height} is missing or damaged in the database. {_RECOVERY}") from error

    def _load_epoch(self) -> Epoch | None:
        raw = self._store.get(Family.METADATA, EPOCH_KEY)
        try:
            return None if raw is None else Epoch.decode(raw)
        except ValueError as error:
            raise CorruptStore(f"The epoch record is damaged: {error}. {_RECOVERY}") from error

    def _check_same(self, block: Block, new_blocks: dict[int, Block]) -> None:
        stored_hash = self._hash_at(block.height, new_blocks)
        if stored_hash != block.hash:
            raise ConflictingBlock(
                f"Another block stands at height {block.height}: {stored_hash.hex()[:16]} is stored here, "
                f"{block.hash.hex()[:16]} was offered. The node keeps its history and must be examined."
            )

    def _hash_at(self, height: int, new_blocks: dict[int, Block]) -> bytes:
        if height in new_blocks:
            return new_blocks[height].hash
        if height == self.height:
            return self._tip.hash
        block = self.block(height)
        return NO_HASH if block is None else block.hash

    def _put_certificates(
        self, batch: Batch, state: LedgerState, certificates: Sequence[Certificate], new_blocks: dict[int, Block]
    ) -> LedgerState:
        for certificate in certificates:
            if not 0 < certificate.height <= state.height:
                raise InvalidBlock(
                    f"A certificate for block {certificate.height} came, but the chain here ends at {state.height}."
                )
            key = height_key(certificate.height)
            if certificate.height <= state.certified_height or batch.touches(Family.CERTIFICATES, key):
                continue
            certificate.verify(self.genesis)
            stored_hash = self._hash_at(certificate.height, new_blocks)
            if certificate.block_hash != stored_hash:
                raise ConflictingBlock(
                    f"A majority certified another block at height {certificate.height}: "
                    f"{certificate.block_hash.hex()[:16]}, here is {stored_hash.hex()[:16]}. The node must be examined."
                )
            batch.put(Family.CERTIFICATES, key, certificate.encode())
        return replace(state, certified_height=self._contiguous_height(batch, state))

    def _contiguous_height(self, batch: Batch, state: LedgerState) -> int:
        height = state.certified_height
        reader = Indexes(self._store, batch)
        while height < state.height and reader.get(Family.CERTIFICATES, height_key(height + 1)) is not None:
            height += 1
        return height

    def _write(self, batch: Batch, state: LedgerState, tip: Header) -> None:
        if not len(batch):
            return
        batch.put(Family.METADATA, STATE_KEY, state.encode())
        try:
            self._store.write(batch)
        except StoreError:
            # A failed sync may have reached the disk or not: believe only what can be read back.
            self._state, self._tip = self._load()
            raise
        self._state, self._tip = state, tip


def _cursor_position(cursor: str) -> bytes:
    try:
        raw = bytes.fromhex(cursor)
    except ValueError:
        raw = b""
    if len(raw) != indexes.POSITION_BYTES or raw.hex() != cursor:
        raise InvalidCursor("The cursor is not one of ours. Leave it out to start at the newest entry.")
    return raw
