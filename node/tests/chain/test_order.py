"""The order of a single node follows from nothing: each row of it is a record, and none contradicts the chain."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from goud_node.agreement.embedded import EmbeddedKv
from goud_node.agreement.sequencer import Sequencer, State
from goud_node.chain import encoding
from goud_node.chain.block import Block
from goud_node.chain.certificate import countersign
from goud_node.chain.ledger import EPOCH_KEY, Epoch
from goud_node.chain.proof import prove
from goud_node.errors import CorruptStore
from goud_node.store import Batch, Family, MemoryStore

from .support import GENESIS, KEYS, block_after
from .test_proof import CERTIFIED, CHAIN, whole


def ordered() -> MemoryStore:
    """A single node's database, with the order that it keeps."""
    store = whole()

    async def order() -> None:
        kv = EmbeddedKv(store)
        sequencer = Sequencer(kv, GENESIS.chain_id, "node1")
        epoch = Epoch(2, 1, CHAIN[0].hash)
        await sequencer.begin_epoch(epoch, State(None, None, None))
        term = await sequencer.campaign(epoch, 60)
        assert term is not None
        for block in [*CHAIN[1:], block_after(CHAIN[-1].header, [], at=90_000)]:
            await sequencer.commit(term, block)
        await sequencer.countersign(epoch, {7: countersign(KEYS["node1"], CHAIN[6].hash)}, CERTIFIED)

    asyncio.run(order())
    return store


NEXT = block_after(CHAIN[-1].header, [], at=90_000)
TIP = CHAIN[-1].height
CONTROL: dict[str, list[object | None]] = {
    "head": [
        None,
        [0, GENESIS.block().hash],
        [TIP - 1, CHAIN[-2].hash],
        [TIP, NEXT.hash],
        [TIP + 1, CHAIN[-1].hash],
        [TIP + 1, b"x" * 32],
        [TIP + 2, NEXT.hash],
        [TIP + 9, bytes(32)],
        [-1, NEXT.hash],
        [TIP, CHAIN[-1].hash[:31]],
        ["x", b"y"],
        "junk",
    ],
    "epoch": [
        None,
        "junk",
        [7, 1, b"x" * 32],
        [1, 1, CHAIN[0].hash],
        [2, 2, CHAIN[1].hash],
        [3, TIP + 1, NEXT.hash],
        [-5, -1, b""],
        [0, 1, CHAIN[0].hash],
        [2, 1, CHAIN[0].hash[:31]],
    ],
    "leader": ["junk", ["node1"], ["node1", "x"], [1, 1]],
    "nodes/node1": [-1, CERTIFIED + 1, "x", [1]],
    "strange": [1],
    f"blocks/{TIP + 2:016x}": [NEXT.header.fields()],
}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in CONTROL.items() for value in values])
def test_a_control_row_that_contradicts_the_chain_is_named(name: str, value: object) -> None:
    store = ordered()
    prefix = next(key for key, _ in store.scan(Family.SEQUENCER) if key.endswith(b"/head")).removesuffix(b"head")
    batch = Batch()
    if value is None:
        batch.delete(Family.SEQUENCER, prefix + name.encode())
    else:
        record = encoding.encode([encoding.encode(value), 1, 1, 1, 0])
        batch.put(Family.SEQUENCER, prefix + name.encode(), record)
    store.write(batch)
    with pytest.raises(CorruptStore, match="sequencer"):
        prove(store, GENESIS)


@pytest.mark.parametrize("rival", [1, 2], ids=["of another tip", "beyond a gap"])
def test_an_ordered_block_that_does_not_follow_the_tip_is_named(rival: int) -> None:
    store = ordered()
    block = block_after(CHAIN[-1 - rival].header, [], at=95_000)
    header = replace(block.header, height=TIP + rival)
    key = next(key for key, _ in store.scan(Family.SEQUENCER) if b"/blocks/" in key)
    batch = Batch()
    raw = Block(header, (), block.signature).encode()
    batch.put(Family.SEQUENCER, key[:-16] + b"%016x" % (TIP + rival), encoding.encode([raw, 1, 1, 1, 0]))
    store.write(batch)
    with pytest.raises(CorruptStore, match="does not follow"):
        prove(store, GENESIS)


@pytest.mark.parametrize("own_epoch", [None, Epoch(1, 0, GENESIS.block().hash), Epoch(2, 1, CHAIN[0].hash)])
def test_an_order_whose_epoch_the_ledger_has_not_joined_yet_is_whole(own_epoch: Epoch | None) -> None:
    """A node that is killed in between has written the order first."""
    store = ordered()
    batch = Batch()
    if own_epoch is None:
        batch.delete(Family.METADATA, EPOCH_KEY)
    else:
        batch.put(Family.METADATA, EPOCH_KEY, own_epoch.encode())
    store.write(batch)
    prove(store, GENESIS)


def test_the_order_of_a_single_node_may_not_contradict_its_chain() -> None:
    store = ordered()
    assert prove(store, GENESIS).keys["sequencer"] == sum(1 for _ in store.scan(Family.SEQUENCER))
    blocks = [(key, value) for key, value in store.scan(Family.SEQUENCER) if b"/blocks/" in key]
    signature = next(key for key, _ in store.scan(Family.SEQUENCER) if b"/signatures/" in key)
    head = next(key for key, _ in store.scan(Family.SEQUENCER) if key.endswith(b"/head"))
    (one, first), (_, second) = blocks[:2]
    damage = [
        (one, second),
        (one, first[:-1]),
        (signature, first),
        (head, first),
        (b"record/other", first),
        (b"junk", b""),
        (b"revision", None),
    ]
    for key, value in damage:
        copy = store.copy()
        batch = Batch()
        if value is None:
            batch.delete(Family.SEQUENCER, key)
        else:
            batch.put(Family.SEQUENCER, key, value)
        copy.write(batch)
        with pytest.raises(CorruptStore, match="sequencer"):
            prove(copy, GENESIS)
