"""No row of a database may differ from what its blocks make: each is changed, removed, added to and swapped in turn."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import pytest

from goud_node.chain import encoding, proof
from goud_node.chain.certificate import Certificate
from goud_node.chain.indexes import account_key, collection_key, height_key, key_hash_key
from goud_node.chain.ledger import EPOCH_KEY, STATE_KEY, Epoch, Ledger
from goud_node.chain.proof import prove
from goud_node.chain.records import LedgerState
from goud_node.chain.stretch import Checked
from goud_node.chain.transactions import Transaction
from goud_node.errors import CorruptStore, GoudError, InvalidBlock
from goud_node.store import Batch, Family, MemoryStore

from .support import GENESIS, account, certificate_of, chain_of, collection, resigned

BODIES: list[list[Transaction]] = [
    [collection("void"), account(), account("bob")],
    [collection("one"), collection("one"), collection("two", "bob")],
    [collection("three"), collection("four")],
    [account("bob"), collection("five", "bob")],
    [collection("six")],
    [],
    [collection("seven", "bob")],
]
CHAIN = chain_of(BODIES)
CERTIFIED = 5
DERIVED = (Family.BLOCKS, Family.CERTIFICATES, Family.ACCOUNTS, Family.COLLECTIONS, Family.SUBMISSIONS, Family.AUDIT)


def whole() -> MemoryStore:
    store = MemoryStore()
    ledger = Ledger(store, GENESIS)
    # Of a bare majority: what a certificate carries beyond it proves nothing, and need not be valid.
    ledger.append(CHAIN, [certificate_of(block, ["node1", "node2"]) for block in CHAIN[:CERTIFIED]])
    ledger.set_epoch(Epoch(2, 1, CHAIN[0].hash))
    return store


WHOLE = whole()


@pytest.fixture(params=[1000, 3, 1], ids="stretches of {}".format)
def stretch(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """Damage at the edge of a stretch is damage, too."""
    length: int = request.param
    monkeypatch.setattr(proof, "STRETCH", length)
    return length


def rows(family: Family) -> list[tuple[bytes, bytes]]:
    return list(WHOLE.scan(family))


def changed(family: Family) -> Iterator[Batch]:
    for key, value in rows(family):
        for at in {0, len(value) // 2, len(value) - 1} if value else set():
            batch = Batch()
            batch.put(family, key, value[:at] + bytes([value[at] ^ 1]) + value[at + 1 :])
            yield batch


def removed(family: Family) -> Iterator[Batch]:
    for key, _ in rows(family):
        batch = Batch()
        batch.delete(family, key)
        yield batch


def moved(family: Family) -> Iterator[Batch]:
    """One row less and another one more: the number of rows is right."""
    for key, value in rows(family):
        batch = Batch()
        batch.delete(family, key)
        batch.put(family, key + b"~", value)
        yield batch


def added(family: Family) -> Iterator[Batch]:
    for key, value in [*rows(family), (b"", b""), (b"\xff" * 9, b"")]:
        for more in (key + b"\0", key[:-1]):
            if WHOLE.get(family, more) is None:
                batch = Batch()
                batch.put(family, more, value)
                yield batch


def swapped(family: Family) -> Iterator[Batch]:
    found = rows(family)
    for one, (key, value) in enumerate(found):
        for other, content in found[one + 1 :]:
            if value != content:
                batch = Batch()
                batch.put(family, key, content)
                batch.put(family, other, value)
                yield batch


def refused(batch: Batch) -> bool:
    store = WHOLE.copy()
    store.write(batch)
    try:
        prove(store, GENESIS)
    except GoudError:
        return True
    return False


def test_what_is_whole_is_proven_whatever_the_stretches(stretch: int) -> None:
    proven = prove(WHOLE, GENESIS)
    assert (proven.height, proven.tip_hash, proven.certified_height) == (7, CHAIN[-1].hash, CERTIFIED)
    assert (proven.state.transactions, proven.void) == (sum(map(len, BODIES)), 3)
    assert len(proven.digests) == -(-7 // stretch)
    assert proven.keys == {family.value: sum(1 for _ in WHOLE.scan(family)) for family in Family}


@pytest.mark.parametrize("family", DERIVED)
@pytest.mark.parametrize("damage", [changed, removed, moved, added, swapped])
def test_every_row_is_compared(stretch: int, family: Family, damage: Callable[[Family], Iterator[Batch]]) -> None:
    del stretch
    accepted = [dict_of(batch) for batch in damage(family) if not refused(batch)]
    assert accepted == []


def dict_of(batch: Batch) -> dict[bytes, bytes | None]:
    return {key: value for _, key, value in batch.changes()}


@pytest.mark.parametrize(
    "field", ["height", "certified_height", "accounts", "collections", "payload_bytes", "transactions"]
)
@pytest.mark.parametrize("by", [-1, 1])
def test_every_counter_is_compared(field: str, by: int) -> None:
    state = LedgerState.decode(WHOLE.get(Family.METADATA, STATE_KEY) or b"")
    batch = Batch()
    fields = {**vars(state), field: getattr(state, field) + by}
    batch.put(Family.METADATA, STATE_KEY, LedgerState(**fields).encode())
    assert refused(batch)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        (b"other", b""),
        (STATE_KEY, None),
        (b"schema", None),
        (b"schema", b"x"),
        (EPOCH_KEY, Epoch(2, 1, bytes(32)).encode()),
        (EPOCH_KEY, Epoch(2, 2, CHAIN[0].hash).encode()),
        (EPOCH_KEY, b""),
    ],
)
def test_single_records_are_compared(key: bytes, value: bytes | None) -> None:
    batch = Batch()
    if value is None:
        batch.delete(Family.METADATA, key)
    else:
        batch.put(Family.METADATA, key, value)
    assert refused(batch)


def test_a_forged_index_that_is_whole_in_itself_is_refused() -> None:
    """Another key logs in as alice, and every row of the index agrees with it."""
    raw = WHOLE.get(Family.ACCOUNTS, account_key("alice")) or b""
    row = encoding.decode(raw)
    batch = Batch()
    batch.delete(Family.ACCOUNTS, key_hash_key(row[0]))
    batch.put(Family.ACCOUNTS, key_hash_key(b"E" * 32), b"alice")
    batch.put(Family.ACCOUNTS, account_key("alice"), encoding.encode([b"E" * 32, *row[1:]]))
    assert refused(batch)


def test_the_first_of_two_repeats_wins_and_no_other() -> None:
    """The second of two equal submissions may not take the place of the first in all of its rows."""
    store = WHOLE.copy()
    ledger = Ledger(store, GENESIS)
    position = store.get(Family.COLLECTIONS, collection_key("alice", "one")) or b""
    assert int.from_bytes(position[-4:], "big") == 0
    later = position[:-1] + b"\x01"
    batch = Batch()
    for family, prefix in ((Family.COLLECTIONS, b"palice\0"), (Family.AUDIT, b"alice\0")):
        batch.put(family, prefix + later, store.get(family, prefix + position) or b"")
        batch.delete(family, prefix + position)
    batch.put(Family.COLLECTIONS, collection_key("alice", "one"), later)
    for key, raw in store.scan(Family.SUBMISSIONS):
        receipt = encoding.decode(raw)
        if receipt[:3] == [2, 0, "one"]:
            batch.put(Family.SUBMISSIONS, key, encoding.encode([2, 1, *receipt[2:]]))
    assert len(batch) == 6
    assert ledger.height == 7
    assert refused(batch)


@pytest.mark.parametrize("height", range(1, CERTIFIED + 1))
def test_a_certificate_is_of_its_block_and_below_the_certified_height_none_is_missing(
    stretch: int, height: int
) -> None:
    del stretch
    other = resigned(CHAIN[height - 1], {"timestamp_ms": CHAIN[height - 1].header.timestamp_ms + 1})
    valid = certificate_of(other)
    valid.verify(GENESIS)
    for certificate in (valid, Certificate(height, CHAIN[height - 1].hash, valid.signatures)):
        store = WHOLE.copy()
        batch = Batch()
        batch.put(Family.CERTIFICATES, height_key(height), certificate.encode())
        store.write(batch)
        with pytest.raises(InvalidBlock) as caught:
            prove(store, GENESIS)
        assert caught.value.height == height
    store = WHOLE.copy()
    batch = Batch()
    batch.delete(Family.CERTIFICATES, height_key(height))
    store.write(batch)
    with pytest.raises(CorruptStore, match="certificate"):
        prove(store, GENESIS)


def checked(digests: Iterable[bytes], *ends: int) -> Callable[[Ledger], Checked]:
    return lambda _: Checked(frozenset(digests), frozenset(ends))


def test_signatures_that_were_checked_are_those_of_the_same_bytes_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proof, "STRETCH", 2)
    before = checked(prove(WHOLE, GENESIS).digests)
    verified: list[int] = []
    monkeypatch.setattr(
        "goud_node.chain.stretch.check_signature", lambda _, block: verified.append(block.height), raising=True
    )
    prove(WHOLE, GENESIS, checked=before)
    # The last certified block, and all above it, are always checked.
    assert verified == [5, 6, 7]
    for block in CHAIN[:2]:
        verified.clear()
        store = WHOLE.copy()
        batch = Batch()
        batch.put(Family.CERTIFICATES, height_key(block.height), certificate_of(block, ["node2", "node3"]).encode())
        store.write(batch)
        prove(store, GENESIS, checked=before)
        assert verified == [1, 2, 5, 6, 7]


@pytest.mark.parametrize("end", range(1, len(CHAIN) + 1))
def test_what_was_checked_up_to_a_height_within_a_stretch_is_not_checked_again(
    monkeypatch: pytest.MonkeyPatch, end: int
) -> None:
    """A chain grows after its verification: the stretch that was the last one then has more blocks now."""
    shorter = MemoryStore()
    Ledger(shorter, GENESIS).append(CHAIN[:end], [certificate_of(block) for block in CHAIN[: min(end, CERTIFIED)]])
    longer = shorter.copy()
    ledger = Ledger(longer, GENESIS)
    ledger.append(CHAIN[end:], [certificate_of(block) for block in CHAIN[end:CERTIFIED]])
    monkeypatch.setattr(proof, "STRETCH", 4)
    before = checked(prove(shorter, GENESIS).digests, end)
    verified: list[int] = []
    monkeypatch.setattr("goud_node.chain.stretch.check_signature", lambda _, block: verified.append(block.height))
    proven = prove(longer, GENESIS, checked=before)
    assert verified == list(range(min(end + 1, CERTIFIED), len(CHAIN) + 1))
    assert proven.spared == len(CHAIN) - len(verified)


@pytest.mark.parametrize("height", [1, 4, 7])
def test_a_forged_signature_is_found_although_the_stretch_was_checked_before(
    monkeypatch: pytest.MonkeyPatch, height: int
) -> None:
    monkeypatch.setattr(proof, "STRETCH", 2)
    before = checked(prove(WHOLE, GENESIS).digests)
    store = WHOLE.copy()
    batch = Batch()
    batch.put(Family.BLOCKS, height_key(height), resigned(CHAIN[height - 1], {}, signer="node2").encode())
    store.write(batch)
    with pytest.raises(InvalidBlock, match="signature"):
        prove(store, GENESIS, checked=before)
