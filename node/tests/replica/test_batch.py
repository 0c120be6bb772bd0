"""What goes into a block, and what is answered without one."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import pytest

from goud_node.chain.block import MAX_BLOCK_BYTES, build
from goud_node.chain.genesis import Genesis, Validator
from goud_node.chain.keys import SigningKey
from goud_node.chain.ledger import Ledger, Receipt
from goud_node.chain.transactions import AccountCreate, CollectionPut, Transaction
from goud_node.errors import AlreadyExists, IdempotencyConflict, InvalidTransaction
from goud_node.replica.batch import compose
from goud_node.store.memory import MemoryStore

KEY = SigningKey.from_seed(hashlib.sha256(b"batch").digest())
GENESIS = Genesis("batch", 0, (Validator("n1", KEY.public),))


@dataclass(frozen=True, eq=False)
class Waiting:
    transaction: Transaction

    @property
    def raw(self) -> bytes:
        return self.transaction.encode()


def put(name: str, key: str, payload: bytes = b"p", fingerprint: bytes = bytes(32)) -> Waiting:
    return Waiting(CollectionPut(name, "owner", key, fingerprint, b"l", payload, 1))


@pytest.fixture
def ledger() -> Ledger:
    ledger = Ledger(MemoryStore(), GENESIS)
    order(ledger, Waiting(AccountCreate("owner", bytes(32), bytes(32), 1)))
    return ledger


def order(ledger: Ledger, *entries: Waiting) -> None:
    raws = [entry.raw for entry in entries]
    ledger.append([build(ledger.tip, raws, proposer="n1", key=KEY, timestamp_ms=1)])


def test_new_transactions_are_chosen_in_order(ledger: Ledger) -> None:
    entries = [put(f"c{n}", f"k{n}") for n in range(3)]
    batch = compose(ledger, entries)
    assert (batch.selection, batch.twins, batch.outcomes) == (entries, [], [])


def test_the_same_request_twice_is_ordered_once(ledger: Ledger) -> None:
    one, twin = put("c", "k"), put("c", "k")
    batch = compose(ledger, [one, twin])
    assert (batch.selection, batch.twins) == ([one], [twin])


def test_rivals_for_one_key_wait_until_the_ledger_can_judge(ledger: Ledger) -> None:
    one, rival, same_id = put("c", "k"), put("d", "k", fingerprint=b"\1" * 32), put("c", "other")
    batch = compose(ledger, [one, rival, same_id])
    assert (batch.selection, batch.twins, batch.outcomes) == ([one], [], [])
    order(ledger, one)
    batch = compose(ledger, [rival, same_id])
    assert batch.selection == []
    assert [type(outcome) for _, outcome in batch.outcomes] == [IdempotencyConflict, AlreadyExists]


def test_what_was_applied_is_answered_with_its_receipt(ledger: Ledger) -> None:
    entry = put("c", "k")
    order(ledger, put("other", "o"), entry)
    batch = compose(ledger, [put("c", "k")])
    assert batch.selection == []
    outcome = batch.outcomes[0][1]
    assert isinstance(outcome, Receipt)
    assert (outcome.height, outcome.index) == (2, 1)


def test_what_cannot_be_applied_is_refused(ledger: Ledger) -> None:
    stranger = Waiting(CollectionPut("c", "nobody", "k", bytes(32), b"l", b"p", 1))
    batch = compose(ledger, [stranger])
    assert batch.selection == []
    assert isinstance(batch.outcomes[0][1], InvalidTransaction)


def test_a_block_takes_what_fits_and_keeps_the_order(ledger: Ledger) -> None:
    entries = [put(f"c{n}", f"k{n}", bytes(300_000)) for n in range(5)] + [put("small", "small")]
    batch = compose(ledger, entries)
    assert batch.selection == entries[:3]
    assert sum(len(entry.raw) for entry in batch.selection) <= MAX_BLOCK_BYTES
    order(ledger, *entries[:3])
    assert compose(ledger, entries[3:]).selection == entries[3:]
