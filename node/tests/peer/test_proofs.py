"""The proof that a chain has begun: what a real node shows, and what is none."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

import httpx
import pytest

from goud_node.chain import encoding
from goud_node.peer.client import PeerClient
from goud_node.peer.directory import Peer
from goud_node.replica.proofs import has_begun
from goud_node.settings import Settings

from .support import Live
from .test_client import NODE1, NODE2, Reply, breaks, client, client_of, refusal, signed
from .test_server import grow

__all__ = ["client"]


async def test_a_chain_that_has_begun_is_proven(live: Live, client: PeerClient) -> None:
    height = grow(live)
    served = await client.proof("node1")
    assert served is not None
    assert has_begun(live.node.identity.genesis, served)
    assert (served.peer, [block.height for block, _ in served.pairs]) == ("node1", [height])


async def test_no_blocks_are_no_proof(
    make_settings: Callable[[], Settings], run_node: Callable[[Settings], AbstractContextManager[Live]]
) -> None:
    with run_node(make_settings()) as fresh:
        peers = {"node1": Peer("node1", fresh.peer_url, fresh.node.identity.key.public)}
        fresh.node.peer_api.state.context.verifier._keys["node2"] = NODE2.public
        client = client_of(peers)
        assert await client.proof("node1") is None
        await client.close()


@pytest.mark.parametrize(
    "reply",
    [
        refusal("not-found", 404),
        signed(200, b"\xff"),
        signed(200, encoding.encode([[b"x", b"y"]])),
        lambda _: httpx.Response(200, content=encoding.encode([])),
        lambda _: httpx.Response(401, json={"reason": "unknown"}),
        breaks,
    ],
    ids=["an earlier release", "no CBOR", "no blocks", "unsigned", "refused", "broken off"],
)
async def test_what_is_not_shown_is_not_proven(reply: Reply) -> None:
    client = client_of({"node1": Peer("node1", "http://node1:9000", NODE1.public)}, reply)
    assert await client.proof("node1") is None
    await client.close()
