"""Each rule refuses what it is there for, and only that."""

from __future__ import annotations

from dataclasses import replace

import pytest

from goud_node.chain.block import MAX_BLOCK_BYTES, NO_HASH, Block, build, merkle_root
from goud_node.chain.keys import DOMAIN_BLOCK, DOMAIN_PERSISTED, SigningKey
from goud_node.chain.rules import LATEST_MS, check_block
from goud_node.errors import InvalidBlock

from .support import GENESIS, KEYS, account, block_after, collection, resigned, simple_chain

FIRST, SECOND = simple_chain(2)


def test_a_good_block_passes_and_yields_its_transactions() -> None:
    assert check_block(GENESIS, GENESIS.block().header, FIRST) == (account(),)
    assert check_block(GENESIS, FIRST.header, SECOND) == (collection("c2"),)


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({"schema": 2}, "schema 2 is unknown"),
        ({"chain_id": "goud-other"}, "belongs to chain goud-other"),
        ({"height": 3}, "does not follow"),
        ({"height": 1}, "does not follow"),
        ({"previous": NO_HASH}, "previous hash"),
        ({"timestamp_ms": FIRST.header.timestamp_ms}, "not later"),
        ({"timestamp_ms": FIRST.header.timestamp_ms - 1}, "not later"),
        ({"timestamp_ms": LATEST_MS + 1}, "after the year 9999"),
        ({"timestamp_ms": 2**63}, "after the year 9999"),
        ({"proposer": "stranger"}, "not a validator"),
        ({"proposer": ""}, "not a validator"),
        ({"proposer": "node2"}, "signature of node2"),
        ({"count": 2}, "counts 2"),
        ({"root": NO_HASH}, "root does not match"),
        ({"root": b""}, "root does not match"),
    ],
)
def test_a_validly_signed_block_that_breaks_a_rule_is_refused(changes: dict[str, object], rule: str) -> None:
    with pytest.raises(InvalidBlock, match=rule):
        check_block(GENESIS, FIRST.header, resigned(SECOND, changes))


def test_signatures_are_by_the_proposer_over_this_header_in_the_block_domain() -> None:
    for signature in (
        b"",
        bytes(64),
        FIRST.signature,
        KEYS["node2"].sign(DOMAIN_BLOCK, SECOND.hash),
        KEYS["node1"].sign(DOMAIN_PERSISTED, SECOND.hash),
        SigningKey.generate().sign(DOMAIN_BLOCK, SECOND.hash),
    ):
        with pytest.raises(InvalidBlock, match="signature of node1"):
            check_block(GENESIS, FIRST.header, replace(SECOND, signature=signature))


def test_swapped_transactions_are_noticed() -> None:
    block = block_after(FIRST.header, [collection("a"), collection("b")])
    with pytest.raises(InvalidBlock, match="root"):
        check_block(GENESIS, FIRST.header, replace(block, transactions=block.transactions[::-1]))


def test_sizes_are_limited() -> None:
    parts = [bytes(MAX_BLOCK_BYTES // 2), bytes(MAX_BLOCK_BYTES // 2 + 1)]
    with pytest.raises(InvalidBlock, match="exceed"):
        check_block(GENESIS, FIRST.header, signed(parts))
    with pytest.raises(InvalidBlock, match="encodes to"):
        check_block(GENESIS, FIRST.header, signed([b"x"] * 600_000))


def test_undecodable_transactions_are_refused() -> None:
    with pytest.raises(InvalidBlock, match="transaction is invalid"):
        check_block(GENESIS, FIRST.header, signed([b"\xff"]))


def test_an_empty_block_is_a_block() -> None:
    block = signed([])
    assert block.header.root == merkle_root([])
    assert check_block(GENESIS, FIRST.header, block) == ()


def signed(parts: list[bytes]) -> Block:
    return build(FIRST.header, parts, proposer="node1", key=KEYS["node1"], timestamp_ms=0)


@pytest.mark.parametrize("time_ms", [LATEST_MS - 1, LATEST_MS])
def test_a_block_of_any_allowed_time_can_be_followed(time_ms: int) -> None:
    """Whatever a clock said: time then goes on by milliseconds, and the chain with it."""
    tip = resigned(SECOND, {"timestamp_ms": time_ms})
    check_block(GENESIS, FIRST.header, tip)
    for _ in range(3):
        following = build(tip.header, [], proposer="node1", key=KEYS["node1"], timestamp_ms=0)
        check_block(GENESIS, tip.header, following)
        tip = following
