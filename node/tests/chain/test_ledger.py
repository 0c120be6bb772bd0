"""The ledger: what it accepts, refuses, remembers, and how it reads."""

from __future__ import annotations

from dataclasses import replace

import pytest

from goud_node.chain.block import Block
from goud_node.chain.certificate import Certificate
from goud_node.chain.indexes import height_key
from goud_node.chain.ledger import EPOCH_KEY, STATE_KEY, Epoch, Ledger, Receipt
from goud_node.chain.transactions import Transaction
from goud_node.errors import (
    AlreadyExists,
    ConflictingBlock,
    CorruptStore,
    IdempotencyConflict,
    InvalidBlock,
    InvalidCursor,
    InvalidTransaction,
    StoreError,
    StoreFull,
    WrongChain,
)
from goud_node.store import FRESH_KEY, Batch, Family, MemoryStore

from .support import GENESIS, account, block_after, certificate_of, chain_of, collection, simple_chain

CHAIN = simple_chain(6)


class CountingStore(MemoryStore):
    """Counts writes, and fails them on demand: before they take effect or after."""

    writes = 0
    fail: str | None = None

    def write(self, batch: Batch) -> None:
        self.writes += 1
        if self.fail == "before":
            raise StoreFull("no space")
        super().write(batch)
        if self.fail == "after":
            raise StoreError("the sync failed")


def ledger_of(blocks: list[Block], store: MemoryStore | None = None) -> Ledger:
    ledger = Ledger(store or MemoryStore(), GENESIS)
    ledger.append(blocks)
    return ledger


def change(store: MemoryStore, family: Family, key: bytes, value: bytes | None) -> None:
    batch = Batch()
    if value is None:
        batch.delete(family, key)
    else:
        batch.put(family, key, value)
    store.write(batch)


class TestAppend:
    def test_a_new_ledger_is_at_genesis(self) -> None:
        ledger = Ledger(MemoryStore(), GENESIS)
        assert (ledger.height, ledger.certified_height, ledger.epoch) == (0, 0, None)
        assert ledger.tip == GENESIS.block().header
        assert ledger.block(0) == GENESIS.block()
        assert ledger.certificate(0) is None

    def test_many_blocks_are_one_write_and_all_are_read_back_by_a_new_ledger(self) -> None:
        store = CountingStore()
        ledger = Ledger(store, GENESIS)
        before = store.writes
        ledger.append(CHAIN, [certificate_of(block) for block in CHAIN[:4]])
        assert store.writes == before + 1
        again = Ledger(store.copy(), GENESIS)
        for found in (ledger, again):
            assert found.tip == CHAIN[-1].header
            assert (found.height, found.certified_height) == (6, 4)
            assert found.blocks(1, 99) == CHAIN
            assert found.blocks(3, 2) == CHAIN[2:4]
            assert found.blocks(7, 1) == found.blocks(-1, 5) == found.blocks(1, 0) == found.blocks(2**70, 1) == []
            assert found.raw_block(6) == CHAIN[5].encode()
            assert (found.block(7), found.raw_block(-1), found.certificate(2**70)) == (None, None, None)
        assert again.state == ledger.state

    def test_what_is_here_already_changes_nothing(self) -> None:
        store = CountingStore()
        ledger = ledger_of(CHAIN, store)
        before = store.writes
        ledger.append(CHAIN)
        ledger.append([GENESIS.block()])
        ledger.append([])
        assert store.writes == before
        assert ledger.state.collections == 5

    def test_overlapping_batches_append_only_the_rest(self) -> None:
        ledger = ledger_of(CHAIN[:3])
        ledger.append(CHAIN[1:])
        assert ledger.tip == CHAIN[-1].header
        assert ledger.state == ledger_of(CHAIN).state

    @pytest.mark.parametrize("height", [1, 4, 6])
    def test_another_block_at_a_taken_height_conflicts(self, height: int) -> None:
        ledger = ledger_of(CHAIN)
        previous = CHAIN[height - 2].header if height > 1 else GENESIS.block().header
        other = block_after(previous, [collection("other")], at=99_999)
        with pytest.raises(ConflictingBlock, match=f"height {height}"):
            ledger.append([other])
        assert ledger.block(height) == CHAIN[height - 1]

    def test_two_blocks_at_one_height_in_one_batch_conflict_and_nothing_is_kept(self) -> None:
        ledger = Ledger(MemoryStore(), GENESIS)
        other = block_after(GENESIS.block().header, [account("bob")])
        with pytest.raises(ConflictingBlock):
            ledger.append([CHAIN[0], CHAIN[1], other])
        assert ledger.height == 0
        assert ledger.block(1) is None

    def test_a_gap_or_a_bad_block_keeps_the_whole_batch_out(self) -> None:
        ledger = ledger_of(CHAIN[:1])
        with pytest.raises(InvalidBlock, match="does not follow"):
            ledger.append([CHAIN[1], CHAIN[3]])
        with pytest.raises(InvalidBlock, match="signature"):
            ledger.append([CHAIN[1], replace(CHAIN[2], signature=bytes(64))])
        assert ledger.height == 1
        assert ledger.blocks(1, 9) == CHAIN[:1]

    @pytest.mark.parametrize(("fail", "height"), [("before", 0), ("after", 1)])
    def test_after_a_failed_write_the_ledger_believes_the_store(self, fail: str, height: int) -> None:
        store = CountingStore()
        ledger = Ledger(store, GENESIS)
        store.fail = fail
        with pytest.raises(StoreError):
            ledger.append(CHAIN[:1])
        assert ledger.height == height
        store.fail = None
        ledger.append(CHAIN)
        assert ledger.state == ledger_of(CHAIN).state


class TestCertify:
    def test_certified_height_is_the_contiguous_part_in_any_order(self) -> None:
        store = MemoryStore()
        ledger = ledger_of(CHAIN, store)
        certificates = {block.height: certificate_of(block) for block in CHAIN}
        for heights, certified in (([2, 5], 0), ([1], 2), ([4], 2), ([3], 5), ([6, 1], 6)):
            ledger.certify([certificates[height] for height in heights])
            assert ledger.certified_height == certified
            assert Ledger(store.copy(), GENESIS).certified_height == certified
        found = ledger.certificate(5)
        assert found is not None
        found.verify(GENESIS)
        assert found.block_hash == CHAIN[4].hash

    def test_certificates_of_blocks_in_the_same_batch_count(self) -> None:
        ledger = Ledger(MemoryStore(), GENESIS)
        ledger.append(CHAIN[:3], [certificate_of(block) for block in CHAIN[:3]])
        assert ledger.certified_height == 3

    def test_without_a_majority_nothing_changes(self) -> None:
        ledger = ledger_of(CHAIN)
        with pytest.raises(InvalidBlock, match="majority"):
            ledger.certify([certificate_of(CHAIN[0]), certificate_of(CHAIN[1], ["node2"])])
        assert ledger.certified_height == 0
        assert ledger.certificate(1) is None
        with pytest.raises(InvalidBlock, match="majority"):
            Ledger(MemoryStore(), GENESIS).append(CHAIN[:1], [certificate_of(CHAIN[0], [])])

    def test_a_majority_for_another_block_conflicts(self) -> None:
        ledger = ledger_of(CHAIN)
        other = block_after(CHAIN[1].header, [collection("other")])
        with pytest.raises(ConflictingBlock, match="height 3"):
            ledger.certify([certificate_of(other)])
        swapped = certificate_of(CHAIN[0])
        with pytest.raises(ConflictingBlock):
            ledger.certify([Certificate(2, swapped.block_hash, swapped.signatures)])

    def test_signatures_are_looked_at_before_the_block_they_are_for(self) -> None:
        """A conflict stops the node, so nobody may make one up."""
        other = block_after(CHAIN[1].header, [collection("other")])
        with pytest.raises(InvalidBlock, match="majority"):
            ledger_of(CHAIN).certify([certificate_of(other, ["node2"])])

    def test_heights_that_are_not_here_are_refused(self) -> None:
        ledger = ledger_of(CHAIN[:2])
        for certificate in (certificate_of(CHAIN[2]), certificate_of(GENESIS.block())):
            with pytest.raises(InvalidBlock, match="ends at 2"):
                ledger.certify([certificate])


class TestReads:
    def test_accounts_are_found_by_id_and_by_key(self) -> None:
        ledger = ledger_of(CHAIN)
        found = ledger.account("alice")
        assert found is not None
        assert (found.key_hash, found.salt, found.height, found.index) == (account().key_hash, account().salt, 1, 0)
        assert ledger.account_by_key_hash(account().key_hash) == found
        assert ledger.account("alic") is ledger.account("alice2") is ledger.account_by_key_hash(bytes(32)) is None

    def test_a_collection_comes_back_whole_for_its_owner_only(self) -> None:
        ledger = ledger_of(CHAIN)
        put = collection("c3")
        found = ledger.collection("alice", "c3")
        assert found is not None
        assert (found.label, found.payload, found.height, found.index) == (put.label, put.payload, 3, 0)
        assert ledger.collection("bob", "c3") is ledger.collection("alice", "c9") is None

    def test_listings_page_newest_first_without_gap_or_repeat(self) -> None:
        # "a" and "al" begin other ids: a prefix must not leak their rows.
        names = ["a", "al", "alice"]
        bodies: list[list[Transaction]] = [[account(name) for name in names]]
        for i in range(7):
            bodies.append([collection(f"{name}-{i}", name) for name in names])  # noqa: PERF401  list types differ
        ledger = ledger_of(chain_of(bodies))
        for name in names:
            seen: list[str] = []
            cursor: str | None = None
            while True:
                page = ledger.collections(name, cursor, 3)
                seen += [item.collection_id for item in page.items]
                assert all(
                    item.size == 160 and item.label == b"label " + item.collection_id.encode() for item in page.items
                )
                cursor = page.next_cursor
                if cursor is None:
                    break
                assert len(page.items) == 3
            assert seen == [f"{name}-{i}" for i in reversed(range(7))]
        assert ledger.collections("alice", None, 7).next_cursor is None
        assert ledger.collections("nobody").items == ()

    def test_the_audit_tells_what_was_done_for_one_account(self) -> None:
        ledger = ledger_of(CHAIN)
        page = ledger.audit("alice", None, 2)
        assert [(item.action, item.subject_id, item.height) for item in page.items] == [
            ("collection.put", "c6", 6),
            ("collection.put", "c5", 5),
        ]
        rest = ledger.audit("alice", page.next_cursor, 50)
        assert [item.height for item in rest.items] == [4, 3, 2, 1]
        assert (rest.items[-1].action, rest.next_cursor) == ("account.create", None)
        assert ledger.audit("bob").items == ()

    @pytest.mark.parametrize("cursor", ["", "zz", "00", "0" * 23, "A" * 24, "0" * 26, " " + "0" * 24])
    def test_foreign_cursors_are_refused(self, cursor: str) -> None:
        ledger = ledger_of(CHAIN)
        with pytest.raises(InvalidCursor):
            ledger.collections("alice", cursor)

    def test_counters_follow(self) -> None:
        state = ledger_of(CHAIN).state
        size = sum(len(collection(f"c{height}").label) + 160 for height in range(2, 7))
        assert (state.accounts, state.collections, state.payload_bytes, state.transactions) == (1, 5, size, 6)


class TestAdmission:
    def test_repeats_answer_with_the_first_receipt(self) -> None:
        ledger = ledger_of(CHAIN)
        receipt = Receipt(3, 0, "c3", CHAIN[2].hash)
        assert ledger.admissible(collection("c3")) == receipt
        # A retry of the client comes with a new id and time: the key and the fingerprint make it the same request.
        retried = replace(collection("c3"), collection_id="new", created_ms=99)
        assert ledger.admissible(retried) == receipt
        assert ledger.submission("alice", "key-c3") == receipt
        assert ledger.submission("alice", "key-c9") is ledger.submission("bob", "key-c3") is None
        assert ledger.admissible(account()) == Receipt(1, 0, "alice", CHAIN[0].hash)

    def test_new_ones_are_admitted_and_bad_ones_told_apart(self) -> None:
        ledger = ledger_of(CHAIN)
        assert ledger.admissible(collection("c9")) is None
        assert ledger.admissible(account("bob")) is None
        with pytest.raises(IdempotencyConflict):
            ledger.admissible(collection("c9", key="key-c3"))
        with pytest.raises(AlreadyExists):
            ledger.admissible(collection("c3", key="fresh"))
        with pytest.raises(InvalidTransaction, match="does not exist"):
            ledger.admissible(collection("c9", "bob"))
        with pytest.raises(AlreadyExists, match="alice"):
            ledger.admissible(replace(account(), salt=b"t" * 16))
        with pytest.raises(AlreadyExists, match="API key"):
            ledger.admissible(replace(account("bob"), key_hash=account().key_hash))

    def test_what_is_void_in_a_block_has_no_effect_and_does_not_stop_the_chain(self) -> None:
        body: list[Transaction] = [
            collection("early"),  # its account comes only later in the block
            account(),
            account(),
            collection("one"),
            collection("one"),
            collection("two", key="key-one"),
            collection("one", key="other"),
            replace(account("bob"), key_hash=account().key_hash),
        ]
        blocks = chain_of([body, [collection("one"), collection("three")]])
        together, apart = ledger_of(blocks), ledger_of(blocks[:1])
        apart.append(blocks[1:])
        for ledger in (together, apart):
            state = ledger.state
            assert (state.accounts, state.collections, state.transactions) == (1, 2, 10)
            assert [item.collection_id for item in ledger.collections("alice").items] == ["three", "one"]
            assert ledger.submission("alice", "key-one") == Receipt(1, 3, "one", blocks[0].hash)
            assert (ledger.account("bob"), ledger.collection("alice", "early")) == (None, None)


class TestOpening:
    def test_the_epoch_is_remembered(self) -> None:
        store = MemoryStore()
        ledger = ledger_of(CHAIN, store)
        epoch = Epoch(3, 6, CHAIN[-1].hash)
        ledger.set_epoch(epoch)
        assert ledger.epoch == Ledger(store, GENESIS).epoch == epoch

    def test_another_chains_store_is_refused(self) -> None:
        store = MemoryStore()
        ledger_of(CHAIN, store)
        with pytest.raises(WrongChain, match=GENESIS.chain_id):
            Ledger(store, replace(GENESIS, name="other"))

    @pytest.mark.parametrize(
        ("family", "key", "value", "part"),
        [
            (Family.METADATA, STATE_KEY, b"\xff", "state record"),
            (Family.METADATA, EPOCH_KEY, b"\xff", "epoch record"),
            (Family.BLOCKS, height_key(0), None, "genesis block is missing"),
            (Family.BLOCKS, height_key(6), None, "at most 6 rows"),
            (Family.BLOCKS, height_key(3), None, "at most 6 rows"),
            (Family.BLOCKS, height_key(6), b"\xff", "Block 6"),
            (Family.BLOCKS, height_key(6), CHAIN[4].encode(), "last block stored is 5"),
            (Family.BLOCKS, height_key(6), block_after(CHAIN[4].header, [collection("other")]).encode(), "last block"),
            (Family.BLOCKS, height_key(7), CHAIN[5].encode(), "last block"),
            (Family.CERTIFICATES, height_key(4), None, "at most 3 rows"),
            (Family.ACCOUNTS, b"aalice", None, "accounts"),
        ],
    )
    def test_a_store_that_does_not_add_up_is_refused(
        self, family: Family, key: bytes, value: bytes | None, part: str
    ) -> None:
        store = MemoryStore()
        ledger_of(CHAIN, store).certify([certificate_of(block) for block in CHAIN[:4]])
        change(store, family, key, value)
        with pytest.raises(CorruptStore, match=part):
            Ledger(store, GENESIS)

    def test_a_lost_state_in_a_store_that_is_not_new_never_starts_over(self) -> None:
        store = MemoryStore()
        change(store, Family.METADATA, FRESH_KEY, None)
        with pytest.raises(CorruptStore, match="not new"):
            Ledger(store, GENESIS)
        assert list(store.scan(Family.BLOCKS)) == []

    def test_an_index_that_points_into_the_wrong_block_is_no_answer(self) -> None:
        store = MemoryStore()
        ledger = ledger_of(CHAIN, store)
        change(store, Family.COLLECTIONS, b"ialice\0c3", height_key(4) + bytes(4))
        with pytest.raises(CorruptStore, match="Block 4 does not hold collection c3"):
            ledger.collection("alice", "c3")
        change(store, Family.ACCOUNTS, b"aalice", b"\x00")
        with pytest.raises(CorruptStore, match="index record"):
            ledger.account("alice")
