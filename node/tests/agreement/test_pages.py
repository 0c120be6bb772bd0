"""Whatever others wrote below the log's keys, an answer has a most of bytes, and the log is read all the same."""

from __future__ import annotations

import pytest

from goud_node.agreement.embedded import EmbeddedKv
from goud_node.agreement.kv import KeyValue, Put
from goud_node.agreement.sequencer import Sequencer, State
from goud_node.chain.ledger import Epoch
from goud_node.errors import Unavailable
from goud_node.store.memory import MemoryStore

from .test_sequencer import EPOCH, GENESIS, ROOT, after

MOST_BYTES = 64 * 1024
VALUE_BYTES = 1536
"""As 64 MiB of an answer are to the 1.5 MiB of a value that etcd takes."""


class Bounded(EmbeddedKv):
    """No answer is longer than gRPC takes it."""

    async def range(
        self, start: bytes, end: bytes | None = None, limit: int = 0, *, keys_only: bool = False
    ) -> list[KeyValue]:
        entries = await super().range(start, end, limit, keys_only=keys_only)
        if sum(len(entry.key) + len(entry.value) for entry in entries) > MOST_BYTES:
            raise Unavailable("etcd's answer is too long")
        return entries


PREFIXES = {
    "signatures": b"signatures/%016x/junk" % 1,
    "signatures of no node": b"signatures/%016x" % 1,
    "nodes": b"nodes/junk",
    "before the head": b"epoch/junk",
    "before the leader": b"head/junk",
    "before the blocks": b"blocks/",
    "between the blocks": b"blocks/%016x/" % 1,
    "behind the blocks": b"blocks/%016x/" % 9,
}


@pytest.mark.parametrize("count", [5, 70, 300])
@pytest.mark.parametrize("place", PREFIXES)
@pytest.mark.parametrize("long", ["values", "keys"])
async def test_the_log_is_read_past_what_others_wrote(place: str, long: str, count: int) -> None:
    kv, filler = Bounded(MemoryStore()), b"x" * VALUE_BYTES
    log = Sequencer(kv, GENESIS.chain_id, "n1")
    await log.begin_epoch(EPOCH, State(None, None, None))
    term = await log.campaign(EPOCH, 60)
    assert term is not None
    one = after(GENESIS.block(), "one")
    two = after(one, "two")
    for block in (one, two):
        await log.commit(term, block)
    await log.countersign(EPOCH, {1: b"s1", 2: b"s2"}, 1)
    for number in range(count):
        name = ROOT + PREFIXES[place] + b"%d" % number
        await kv.txn([], [Put(name + filler, b"") if long == "keys" else Put(name, filler)])
    state = await log.state()
    assert (state.epoch, state.head and state.head.height) == (EPOCH, 2)
    assert state.leader is not None
    signatures = await log.signatures(1, 64)
    assert (signatures[1]["n1"], signatures[2]) == (b"s1", {"n1": b"s2"})
    assert (await log.progress())["n1"] == 1
    raws: list[bytes] = []
    while len(raws) < 2:
        raws += (await log.tail(len(raws) + 1, 16)).blocks
    assert raws == [one.encode(), two.encode()]
    assert (await log.tail(3, 16)).blocks == []
    assert await log.held_above(0) == 2
    await log.begin_epoch(Epoch(2, 0, GENESIS.block().hash), state)
