"""A hypothesis model of one ledger: overlapping appends, certificates in any order, failing disks, crashes."""

from __future__ import annotations

import hypothesis.strategies as st
import pytest
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from goud_node.chain.block import Block
from goud_node.chain.inspect import Report, verify_store
from goud_node.chain.ledger import Ledger
from goud_node.chain.transactions import Transaction
from goud_node.errors import ConflictingBlock, IdempotencyConflict, InvalidBlock, InvalidTransaction, StoreError
from goud_node.store import Batch, MemoryStore

from .support import GENESIS, account, block_after, certificate_of, collection

OWNERS = ("alice", "al", "bob")
TRANSACTIONS = st.one_of(
    st.sampled_from([account(name) for name in OWNERS]),
    st.builds(
        lambda name, owner, key, fingerprint: collection(name, owner, key=key, fingerprint=fingerprint),
        st.sampled_from(["c1", "c2", "c3", "c4"]),
        st.sampled_from(OWNERS),
        st.sampled_from(["k1", "k2", "k3"]),
        st.sampled_from([b"f1", b"f2"]),
    ),
)


class Disk(MemoryStore):
    """Memory that fails the next write when told to, before or after it took effect."""

    def __init__(self) -> None:
        super().__init__()
        self.fail: str | None = None

    def write(self, batch: Batch) -> None:
        fail, self.fail = self.fail, None
        if fail == "lost":
            raise StoreError("the write was lost")
        super().write(batch)
        if fail == "kept":
            raise StoreError("the answer was lost")


class LedgerModel(RuleBasedStateMachine):
    """The chain is decided elsewhere (`decided`); the ledger may hold any prefix of it, and nothing else."""

    def __init__(self) -> None:
        super().__init__()
        self.disk = Disk()
        self.ledger = Ledger(self.disk, GENESIS)
        self.decided: list[Block] = []
        self.certified: set[int] = set()
        self.highest = 0

    @initialize()
    def start(self) -> None:
        self.decide([account("alice")])

    @rule(body=st.lists(TRANSACTIONS, max_size=4))
    def decide(self, body: list[Transaction]) -> None:
        tip = self.decided[-1].header if self.decided else GENESIS.block().header
        self.decided.append(block_after(tip, body))

    @rule(start=st.integers(0, 10), length=st.integers(0, 6), fail=st.sampled_from([None, None, "lost", "kept"]))
    def append(self, start: int, length: int, fail: str | None) -> None:
        blocks = self.decided[start : start + length]
        gap = bool(blocks) and blocks[0].height > self.ledger.height + 1
        self.disk.fail = fail
        try:
            self.ledger.append(blocks)
        except InvalidBlock:
            assert gap
        except StoreError:
            assert fail is not None
        else:
            assert not gap
        self.disk.fail = None

    @rule(data=st.data(), fail=st.sampled_from([None, None, "lost", "kept"]))
    def certify(self, data: st.DataObject, fail: str | None) -> None:
        if self.ledger.height == 0:
            return
        heights = data.draw(st.lists(st.integers(1, self.ledger.height), max_size=4))
        self.disk.fail = fail
        try:
            self.ledger.certify([certificate_of(self.decided[height - 1], ["node1", "node3"]) for height in heights])
        except StoreError:
            assert fail is not None
        self.disk.fail = None
        self.certified = {h for h in range(1, self.ledger.height + 1) if self.ledger.certificate(h) is not None}

    @rule(height=st.integers(1, 10))
    def offer_another_block(self, height: int) -> None:
        if height > self.ledger.height:
            return
        previous = self.decided[height - 2].header if height > 1 else GENESIS.block().header
        other = block_after(previous, [collection("other")], proposer="node2")
        with pytest.raises(ConflictingBlock):
            self.ledger.append([other])
        try:
            self.ledger.certify([certificate_of(other)])
        except ConflictingBlock:
            return
        # A height that is certified already needs no other certificate: it is passed over, never taken.
        assert height <= self.ledger.certified_height

    @rule()
    def crash(self) -> None:
        image = Disk()
        image._families = self.disk.copy()._families
        before = self.ledger.state
        self.disk, self.ledger = image, Ledger(image, GENESIS)
        assert self.ledger.state == before

    @invariant()
    def the_ledger_is_a_prefix_of_what_was_decided(self) -> None:
        assert self.ledger.blocks(1, 999) == self.decided[: self.ledger.height]
        assert self.ledger.height >= self.highest
        self.highest = self.ledger.height

    @invariant()
    def certified_means_without_a_hole(self) -> None:
        assert set(range(1, self.ledger.certified_height + 1)) <= self.certified
        assert self.ledger.certified_height + 1 not in self.certified

    @invariant()
    def everything_verifies_from_genesis(self) -> None:
        report = Report("model", GENESIS.chain_id)
        verify_store(self.disk, GENESIS, report)
        assert report.problem is None

    @invariant()
    def nothing_is_applied_twice(self) -> None:
        applied: dict[tuple[str, str], str] = {}
        for owner in OWNERS:
            items = self.ledger.collections(owner, None, 100).items
            assert len({item.collection_id for item in items}) == len(items)
            for item in items:
                found = self.ledger.collection(owner, item.collection_id)
                assert found is not None
                assert (found.height, found.index, found.label) == (item.height, item.index, item.label)
        for key in ("k1", "k2", "k3"):
            for owner in OWNERS:
                receipt = self.ledger.submission(owner, key)
                if receipt is not None:
                    applied[owner, key] = receipt.transaction_id
        assert len(applied) == self.ledger.state.collections

    @invariant()
    def admission_agrees_with_application(self) -> None:
        for transaction in (collection("c1", key="k1", fingerprint=b"f1"), account("bob")):
            try:
                receipt = self.ledger.admissible(transaction)
            except (IdempotencyConflict, InvalidTransaction):
                continue
            if receipt is not None:
                assert self.decided[receipt.height - 1].hash == receipt.block_hash


TestLedgerModel = LedgerModel.TestCase
TestLedgerModel.settings = settings(max_examples=40, stateful_step_count=20, deadline=None)
