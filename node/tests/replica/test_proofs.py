"""What a peer says is verified before it counts: a lie halts nobody, a proven contradiction does."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace

import pytest

from goud_node.agreement.embedded import EmbeddedKv
from goud_node.agreement.kv import Delete
from goud_node.agreement.sequencer import Sequencer
from goud_node.chain.block import Block, build
from goud_node.chain.certificate import Certificate, countersign
from goud_node.chain.ledger import Epoch
from goud_node.errors import ConflictingBlock, EpochMismatch, Unavailable
from goud_node.replica import steps
from goud_node.replica.core import Core
from goud_node.replica.duties import Duties
from goud_node.replica.proofs import AnswerRefused
from goud_node.replica.queue import Queue
from goud_node.replica.types import Hooks, Options, Served
from goud_node.store.memory import MemoryStore

from .actors import ENTRIES
from .lies import LIES
from .test_steps import FIRST, GENESIS, KEYS, Told, chain, core_on

LENGTH = 3
Pairs = list[tuple[Block, Certificate]]


async def missing_certificates(peers: Told) -> tuple[Core, EmbeddedKv]:
    """A node that followed the log to block 3 and has no certificate; it asks a peer with its next step."""
    kv = EmbeddedKv(MemoryStore())
    core = core_on(kv, peers)
    await steps.join(core)
    assert core.epoch is not None
    other = Sequencer(kv, GENESIS.chain_id, "n2")
    term = await other.campaign(core.epoch, 60)
    assert term is not None
    for block, _ in chain(LENGTH):
        await other.commit(term, block)
    await steps.follow(core)
    core.patience = 0
    return core, kv


async def missing_blocks(peers: Told) -> tuple[Core, EmbeddedKv]:
    """A node that has nothing but the genesis block."""
    kv = EmbeddedKv(MemoryStore())
    core = core_on(kv, peers)
    await steps.join(core)
    return core, kv


async def about_to_join(peers: Told) -> tuple[Core, EmbeddedKv]:
    """A node that was started again with certified blocks, one of which is its tip; the log holds none of them."""
    core, kv = await missing_certificates(peers)
    await core.disk(lambda: core.ledger.certify([certificate for _, certificate in chain(LENGTH)]))
    root = f"/goud/{GENESIS.chain_id}/".encode()
    await kv.txn([], [Delete(root + b"leader")])
    other, epoch = Sequencer(kv, GENESIS.chain_id, "n2"), core.epoch
    assert epoch is not None
    term = await other.campaign(epoch, 60)
    assert term is not None
    tip = core.ledger.tip
    for number in (9, 10):
        block = build(tip, [ENTRIES[number].raw], proposer="n2", key=KEYS["n2"], timestamp_ms=number)
        await other.commit(term, block)
        tip = block.header
    await other.trim(epoch, LENGTH + 1)
    core.epoch = None
    return core, kv


async def certify(core: Core) -> object:
    core.patience = 0
    return await steps.certify(core)


SITUATIONS: dict[str, tuple[Callable[[Told], Awaitable[tuple[Core, EmbeddedKv]]], Callable[[Core], Awaitable[object]]]]
SITUATIONS = {
    "certify": (missing_certificates, certify),
    "catch up": (missing_blocks, steps.catch_up),
    "join": (about_to_join, steps.join),
}


# Where only the certificate is asked for, a true one beside a block that lost its body is no lie.
CASES = [(s, lie) for s in SITUATIONS for lie in LIES if s == "catch up" or lie != "another body"]


@pytest.mark.parametrize(("situation", "lie"), CASES)
async def test_a_lie_costs_the_liar_a_refusal_and_the_node_nothing(situation: str, lie: str) -> None:
    peers = Told()
    prepare, step = SITUATIONS[situation]
    core, _ = await prepare(peers)
    before = (core.ledger.height, core.ledger.certified_height)
    truth = chain(LENGTH)[-1:] if situation == "join" else chain(LENGTH)
    served = LIES[lie](GENESIS, KEYS["n2"], Served("n2", FIRST, truth))
    peers.answer = served
    with pytest.raises(AnswerRefused, match="n2"):
        await step(core)
    assert (core.ledger.height, core.ledger.certified_height) == before
    peers.answer, peers.pairs = None, truth
    await step(core)
    assert core.epoch is not None
    assert (core.ledger.height, core.ledger.certified_height) == (LENGTH, LENGTH)


def other_history(length: int) -> Pairs:
    """Blocks that a majority certified, and that are others than those of `chain`."""
    pairs: Pairs = []
    tip = GENESIS.block().header
    for number in range(length):
        block = build(tip, [ENTRIES[11 - number].raw], proposer="n3", key=KEYS["n3"], timestamp_ms=7)
        signatures = {name: countersign(KEYS[name], block.hash) for name in ("n2", "n3")}
        pairs.append((block, Certificate(block.height, block.hash, signatures)))
        tip = block.header
    return pairs


async def test_a_majority_of_this_epoch_over_another_block_still_halts() -> None:
    peers = Told()
    core, _ = await missing_certificates(peers)
    peers.pairs = other_history(LENGTH)
    with pytest.raises(ConflictingBlock, match="majority certified another block 1"):
        await certify(core)
    peers.pairs = other_history(LENGTH + 1)[LENGTH:]
    with pytest.raises(ConflictingBlock, match=f"another block {LENGTH + 1}"):
        await steps.catch_up(core)


@pytest.mark.parametrize("named", [None, Epoch(7, 0, GENESIS.block().hash)], ids=["unnamed", "of another epoch"])
async def test_a_majority_of_an_unknown_or_other_epoch_halts_nobody(named: Epoch | None) -> None:
    peers = Told()
    core, _ = await missing_certificates(peers)
    peers.epoch = named
    for step, pairs in ((certify, other_history(2)), (steps.catch_up, other_history(LENGTH + 1)[LENGTH:])):
        peers.pairs = pairs
        with pytest.raises(AnswerRefused):
            await step(core)


@pytest.mark.parametrize("named", [FIRST, None])
async def test_another_base_block_halts_only_when_a_majority_of_this_epoch_certified_it(named: Epoch | None) -> None:
    peers = Told()
    core, _ = await missing_blocks(peers)
    base = chain(1)[0][0]
    core.epoch = Epoch(2, 1, base.hash)
    (block, certificate), *_ = other_history(1)
    peers.epoch = named and core.epoch
    peers.pairs = [(block, replace(certificate, signatures={"n2": certificate.signatures["n2"]}))]
    with pytest.raises(AnswerRefused):
        await steps.catch_up(core)
    peers.pairs = [(block, certificate)]
    with pytest.raises(ConflictingBlock if named else AnswerRefused, match="block 1"):
        await steps.catch_up(core)
    assert core.ledger.height == 0


@pytest.mark.parametrize(("named", "signers"), [(FIRST, 1), (None, 1), (None, 2), (FIRST, 2)])
async def test_nobody_is_told_to_empty_a_volume_without_a_proof(named: Epoch | None, signers: int) -> None:
    peers = Told()
    core, _ = await about_to_join(peers)
    block, certificate = other_history(LENGTH)[-1]
    certificate = replace(certificate, signatures=dict(list(certificate.signatures.items())[:signers]))
    peers.epoch, peers.pairs = named, [(block, certificate)]
    proven = named is not None and signers == 2
    with pytest.raises(EpochMismatch if proven else Unavailable) as caught:
        await steps.join(core)
    assert ("empty its volume" in str(caught.value)) == proven


async def test_a_peer_that_keeps_lying_is_asked_on_and_named_once(caplog: pytest.LogCaptureFixture) -> None:
    peers = Told()
    core, _ = await missing_certificates(peers)
    core.options = Options(certify_interval=0.001, patience=0)
    peers.answer = LIES["zeros"](GENESIS, KEYS["n2"], Served("n2", FIRST, chain(LENGTH)))
    duties = Duties(core, Queue(1, 1), Hooks())
    working = asyncio.create_task(duties.run())
    await asyncio.wait_for(peers.asked_often.wait(), 20)
    assert duties.halted is None
    duties.stopped.set()
    await working
    assert len([record for record in caplog.records if "the answer of n2 is refused" in record.getMessage()]) == 1
