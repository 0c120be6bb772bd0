"""The sequencer's answers, case by case, on the embedded log."""

from __future__ import annotations

import hashlib

import pytest

from goud_node.agreement.embedded import EmbeddedKv
from goud_node.agreement.kv import KeyValue, Put
from goud_node.agreement.refusals import HeightTrimmed, LogUnreadable
from goud_node.agreement.sequencer import Sequencer, State, Term
from goud_node.chain.block import Block, build
from goud_node.chain.encoding import encode
from goud_node.chain.genesis import Genesis, Validator
from goud_node.chain.keys import SigningKey
from goud_node.chain.ledger import Epoch
from goud_node.errors import GoudError, NotLeader, OutcomeUnknown, Unavailable
from goud_node.store.memory import MemoryStore

from .trio import account

KEY = SigningKey.from_seed(hashlib.sha256(b"sequencer").digest())
GENESIS = Genesis("sequencer", 0, (Validator("n1", KEY.public),))
EPOCH = Epoch(1, 0, GENESIS.block().hash)


def after(block: Block, label: str) -> Block:
    return build(block.header, [account(label)], proposer="n1", key=KEY, timestamp_ms=1)


async def begin() -> tuple[EmbeddedKv, Sequencer, Term]:
    kv = EmbeddedKv(MemoryStore())
    log = Sequencer(kv, GENESIS.chain_id, "n1")
    await log.begin_epoch(EPOCH, State(None, None, None))
    term = await log.campaign(EPOCH, 60)
    assert term is not None
    return kv, log, term


async def test_blocks_are_ordered_once_and_read_back() -> None:
    _, log, term = await begin()
    one = after(GENESIS.block(), "one")
    assert await log.commit(term, one) == one.encode()
    rival = after(GENESIS.block(), "rival")
    assert await log.commit(term, rival) == one.encode()
    assert await log.commit(term, one) == one.encode()
    two = after(one, "two")
    await log.commit(term, two)
    assert (await log.tail(1, 10)).blocks == [one.encode(), two.encode()]
    assert (await log.tail(2, 10)).blocks == [two.encode()]
    nothing = await log.tail(3, 10)
    assert (nothing.first, nothing.blocks) == (None, [])
    state = await log.state()
    assert state.head is not None
    assert (state.head.height, state.head.hash) == (2, two.hash)


@pytest.mark.parametrize("gone", [1, 2])
async def test_where_the_log_begins_is_known_also_without_a_block_in_it(gone: int) -> None:
    """Who lacks what was trimmed has to ask its peers, also for the last block that is ordered."""
    _, log, term = await begin()
    one = after(GENESIS.block(), "one")
    await log.commit(term, one)
    await log.commit(term, after(one, "two"))
    assert await log.trim(EPOCH, gone)
    for start in range(1, gone + 1):
        assert (await log.tail(start, 10)).first == gone + 1
    nothing = await log.tail(3, 10)
    assert (nothing.first, nothing.blocks) == (None, [])


class SlowLink(EmbeddedKv):
    """Answers of more bytes than fit into the deadline of a call do not come."""

    most = 0

    async def range(
        self, start: bytes, end: bytes | None = None, limit: int = 0, *, keys_only: bool = False
    ) -> list[KeyValue]:
        found = await super().range(start, end, limit, keys_only=keys_only)
        if sum(len(kv.value) for kv in found) > self.most:
            raise Unavailable("no etcd member answers")
        return found


@pytest.mark.parametrize("fit", [1, 2, 3, 7, 16, 100])
@pytest.mark.parametrize("limit", [1, 16, 100])
async def test_a_slow_link_carries_fewer_blocks_at_a_time(fit: int, limit: int) -> None:
    kv = SlowLink(MemoryStore())
    kv.most = 1 << 30
    log = Sequencer(kv, GENESIS.chain_id, "n1")
    await log.begin_epoch(EPOCH, State(None, None, None))
    term = await log.campaign(EPOCH, 60)
    assert term is not None
    blocks = [GENESIS.block()]
    for number in range(40):
        blocks.append(after(blocks[-1], f"{number:03}"))
        await log.commit(term, blocks[-1])
    await log.tail(1, 1)
    assert len((await log.tail(1, 100)).blocks) == 40, "a small request makes no later one small"
    kv.most = fit * max(len(block.encode()) for block in blocks)
    read: list[bytes] = []
    while len(read) < 40:
        tail = await log.tail(len(read) + 1, limit)
        assert 0 < len(tail.blocks) <= min(fit, limit)
        read += tail.blocks
    assert read == [block.encode() for block in blocks[1:]]
    kv.most = 0
    with pytest.raises(Unavailable):
        await log.tail(1, limit)
    kv.most = 1 << 30
    for _ in range(7):
        most = len((await log.tail(1, limit)).blocks)
    assert most == min(limit, 40), "a link that got better is used"


async def test_a_block_that_skips_or_forks_is_never_ordered() -> None:
    _, log, term = await begin()
    one = after(GENESIS.block(), "one")
    with pytest.raises(NotLeader):
        await log.commit(term, after(one, "two"))
    await log.commit(term, one)
    fork = after(after(GENESIS.block(), "rival"), "two")
    with pytest.raises(NotLeader):
        await log.commit(term, fork)


async def test_an_ended_term_orders_nothing() -> None:
    kv, log, term = await begin()
    other = Sequencer(kv, GENESIS.chain_id, "n2")
    assert await other.campaign(EPOCH, 60) is None
    await log.resign(term)
    assert not await log.renew(term)
    successor = await other.campaign(EPOCH, 60)
    assert successor is not None
    with pytest.raises(NotLeader):
        await log.commit(term, after(GENESIS.block(), "stale"))
    state = await log.state()
    assert state.leader is not None
    assert state.leader.node_id == "n2"
    await other.remove_leader(state.leader)
    assert (await log.state()).leader is None


async def test_a_trimmed_height_is_never_taken_again() -> None:
    _, log, term = await begin()
    one = after(GENESIS.block(), "one")
    two = after(one, "two")
    await log.commit(term, one)
    await log.commit(term, two)
    assert await log.trim(EPOCH, 2)
    with pytest.raises(HeightTrimmed):
        await log.commit(term, after(GENESIS.block(), "stale"))
    assert (await log.tail(1, 10)).first == 3
    await log.commit(term, after(two, "three"))
    gap = await log.tail(1, 10)
    assert (gap.first, gap.blocks) == (3, [])


async def test_signatures_and_progress_belong_to_their_epoch() -> None:
    _, log, term = await begin()
    await log.commit(term, after(GENESIS.block(), "one"))
    assert await log.countersign(EPOCH, {1: b"s1", 2: b"s2"}, 0)
    assert await log.signatures(1, 1) == {1: {"n1": b"s1"}}
    assert await log.signatures(1, 5) == {1: {"n1": b"s1"}, 2: {"n1": b"s2"}}
    assert await log.progress() == {"n1": 0}
    new = Epoch(2, 0, GENESIS.block().hash)
    before = await log.state()
    await log.begin_epoch(new, before)
    await log.begin_epoch(new, before)
    assert await log.progress() == {}
    assert not await log.countersign(EPOCH, {}, 9)
    assert not await log.trim(EPOCH, 9)
    assert not await log.republish(EPOCH, after(GENESIS.block(), "old"))
    with pytest.raises(NotLeader):
        await log.commit(term, after(GENESIS.block(), "old"))
    with pytest.raises(Unavailable):
        await log.begin_epoch(Epoch(2, 0, bytes(32)), before)
    with pytest.raises(GoudError):
        await log.countersign(new, dict.fromkeys(range(101), b""), 0)


ROOT = f"/goud/{GENESIS.chain_id}/".encode()
JUNK = [b"", b"\xff", b"junk", *map(encode, [None, 7, "x", [], ["x"], ["x", b"y"], [-1, None], [1, b"short"], {}])]
JUNK += [encode([height, bytes(32)]) for height in (-1, 2**63, 2**64 - 1)]
JUNK += [encode([number, height, bytes(32)]) for number, height in ((-5, 0), (0, 0), (2**63, 0), (1, -1), (1, 2**63))]
JUNK += [encode([1, 0, b""]), encode([1, 0, bytes(33)]), encode(["n1", "x"]), encode(["n1", None])]
"""What no node writes to a control key."""


@pytest.mark.parametrize("key", [b"epoch", b"head"])
@pytest.mark.parametrize("junk", JUNK, ids=bytes.hex)
async def test_an_unreadable_control_key_is_named_and_waited_for(key: bytes, junk: bytes) -> None:
    """One validator can write it: that proves nothing about the chain, so nobody may halt for it."""
    kv, log, term = await begin()
    value = next(entry.value for entry in await kv.range(ROOT + key))
    await kv.txn([], [Put(ROOT + key, junk)])
    with pytest.raises(LogUnreadable, match=f"{(ROOT + key).decode()} .*epoch start"):
        await log.state()
    with pytest.raises((OutcomeUnknown, NotLeader, Unavailable)):
        await log.commit(term, after(GENESIS.block(), "one"))
    await kv.txn([], [Put(ROOT + key, value)])
    assert (await log.state()).epoch == EPOCH


@pytest.mark.parametrize("node_id", ["n1", "n2", "nobody", ""])
@pytest.mark.parametrize("hanging", ["on none", "on another", "on one that ended"])
async def test_a_leader_that_does_not_hang_on_the_lease_it_names_is_none(node_id: str, hanging: str) -> None:
    """No campaign wrote it, and no lease that runs out would ever remove it."""
    kv, log, term = await begin()
    await log.resign(term)
    other_lease = await kv.grant(60)
    own_lease = other_lease if hanging == "on another" else 0
    named_lease = await kv.grant(60)
    await kv.txn([], [Put(ROOT + b"leader", encode([node_id, named_lease]), own_lease)])
    if hanging == "on one that ended":
        await kv.revoke(named_lease)
    assert (await log.state()).leader is None
    with pytest.raises(LogUnreadable, match="removed"):
        await log.campaign(EPOCH, 60)
    assert await log.campaign(EPOCH, 60) is not None


async def test_lease_0_is_no_lease() -> None:
    kv, log, term = await begin()
    await log.resign(term)
    await kv.txn([], [Put(ROOT + b"leader", encode(["n2", 0]))])
    assert (await log.state()).leader is None


@pytest.mark.parametrize("junk", JUNK, ids=bytes.hex)
async def test_an_unreadable_leader_is_none_and_is_removed_by_who_wants_to_lead(junk: bytes) -> None:
    kv, log, term = await begin()
    await kv.txn([], [Put(ROOT + b"leader", junk)])
    assert (await log.state()).leader is None
    with pytest.raises(LogUnreadable, match="removed"):
        await log.campaign(EPOCH, 60)
    new_term = await log.campaign(EPOCH, 60)
    assert new_term is not None
    with pytest.raises(NotLeader):
        await log.commit(term, after(GENESIS.block(), "late"))
    block = after(GENESIS.block(), "one")
    assert await log.commit(new_term, block) == block.encode()


@pytest.mark.parametrize(
    "name", [b"", b"zz", b"1", b"%016x " % 1, b"%016X" % 10, b"%017x" % 1, b"%016x/x" % 2, b"\xff"]
)
async def test_a_key_that_is_no_block_s_says_nothing(name: bytes) -> None:
    kv, log, term = await begin()
    block = after(GENESIS.block(), "one")
    await log.commit(term, block)
    await kv.txn([], [Put(ROOT + b"blocks/" + name, b"junk")])
    assert (await log.tail(1, 10)).blocks == [block.encode()]
    assert (await log.tail(2, 10)).blocks == []
    assert await log.held_above(0) == 1


@pytest.mark.parametrize(
    "written", [b"", b"\xff", b"\xf6", b"\x61x", b"\xfb\x7f\xf0\x00\x00\x00\x00\x00\x00", b"\x20", encode(2**64 - 1)]
)
async def test_what_one_node_writes_of_itself_stops_no_other(written: bytes) -> None:
    """Everybody reads what each node says it holds and signs; what cannot be read says nothing."""
    kv, log, _ = await begin()
    await log.countersign(EPOCH, {1: b"a signature"}, 3)
    root = f"/goud/{GENESIS.chain_id}/".encode()
    odd = [root + b"nodes/n2", root + b"nodes/\xff", root + b"signatures/%016x/\xff" % 1]
    odd += [root + b"signatures/%016x" % 1 + name for name in (b"", b"x/n2", b"-")]
    await kv.txn([], [Put(key, written) for key in odd])
    progress = await log.progress()
    assert progress.pop("n1") == 3
    assert set(progress.values()) <= {0}
    assert await log.signatures(1, 2) == {1: {"n1": b"a signature"}}
