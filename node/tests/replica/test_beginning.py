"""The first block of a new chain: one peer's word neither keeps it from coming, nor begins a second chain."""

from __future__ import annotations

from dataclasses import replace

import pytest

from goud_node.agreement.embedded import EmbeddedKv
from goud_node.errors import EpochMismatch
from goud_node.replica import steps
from goud_node.replica.types import Served
from goud_node.store.memory import MemoryStore

from .lies import LIES
from .test_steps import FIRST, GENESIS, KEYS, Told, chain, core_on

TRUE = Served("n2", None, chain(3)[2:])
NO_PROOFS = sorted(set(LIES) - {"oversized", "another epoch", "another body", "misplaced"})
"""Those four say a true thing in a wrong place, or beside another: the signed header of a block is enough."""


async def test_one_peers_word_does_not_keep_a_chain_from_beginning() -> None:
    peers = Told()
    core = core_on(EmbeddedKv(MemoryStore()), peers)
    peers.tips = {"n2": 1, "n3": 0}
    await steps.join(core)
    assert core.epoch == FIRST


@pytest.mark.parametrize("lie", NO_PROOFS)
async def test_nor_does_what_is_no_proof(lie: str) -> None:
    peers = Told()
    core = core_on(EmbeddedKv(MemoryStore()), peers)
    peers.tips = {"n2": 3, "n3": 0}
    peers.proofs = {"n2": LIES[lie](GENESIS, KEYS["n2"], TRUE)}
    await steps.join(core)
    assert core.epoch == FIRST


@pytest.mark.parametrize("tips", [{"n2": 1}, {"n2": 1, "watcher": 0}, {"n2": 1, "n3": 1}, {"n2": 1, "n3": -1}])
async def test_a_word_counts_until_a_majority_says_otherwise(tips: dict[str, int]) -> None:
    peers = Told()
    core = core_on(EmbeddedKv(MemoryStore()), peers)
    peers.tips = tips
    with pytest.raises(EpochMismatch, match=r"the log is empty, but n2 says that it holds 1 blocks.*start-epoch"):
        await steps.join(core)
    peers.tips = {"n2": 1, "n3": 0}
    await steps.join(core)


async def test_a_proof_counts_against_every_majority() -> None:
    peers = Told()
    core = core_on(EmbeddedKv(MemoryStore()), peers)
    peers.tips = {"n2": 3, "n3": 0, "watcher": 0}
    peers.proofs = {"n2": TRUE}
    with pytest.raises(EpochMismatch, match=r"log is empty, but n2 proves that the chain has 3 blocks.*start-epoch"):
        await steps.join(core)
    genesis = replace(TRUE, pairs=[(GENESIS.block(), TRUE.pairs[0][1])])
    peers.proofs = {"n2": genesis}
    await steps.join(core)


async def test_who_claims_nothing_is_not_asked_for_a_proof() -> None:
    peers = Told()
    core = core_on(EmbeddedKv(MemoryStore()), peers)
    peers.tips = {"n2": 0, "n3": 0}
    peers.proofs = {"n2": TRUE}
    await steps.join(core)
