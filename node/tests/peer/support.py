"""A peer client and a raw caller for the running node of the fixture `live`."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, Protocol, TypeVar

import httpx

from goud_node.chain.keys import SigningKey
from goud_node.peer.tokens import Signer, challenge_of
from goud_node.service.node import Node

T = TypeVar("T")


class Live(Protocol):
    """The running node of the fixture `live`."""

    node: Node
    loop: asyncio.AbstractEventLoop
    url: str
    peer_url: str

    def call(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine in the node's loop."""
        ...


class Caller:
    """Calls the peer interface as `issuer`, signed by `key`."""

    def __init__(self, live: Live, key: SigningKey | None = None, issuer: str = "node1") -> None:
        self.http = httpx.Client(base_url=live.peer_url, timeout=15, trust_env=False)
        self.signer = Signer(key or live.node.identity.key, issuer)

    def token(self, method: str, target: str, body: bytes = b"", audience: str = "node1") -> str:
        return self.signer.request(audience, method, target, body)[0]

    def __call__(self, method: str, target: str, body: bytes = b"", token: str | None = None) -> httpx.Response:
        answer = self.once(method, target, body, token)
        challenge = challenge_of(answer.content) if token is None else None
        if challenge is None:
            return answer
        return self.once(method, target, body, self.signer.request("node1", method, target, body, challenge)[0])

    def once(self, method: str, target: str, body: bytes = b"", token: str | None = None) -> httpx.Response:
        """The first answer, also when that is a challenge."""
        headers = {"Authorization": f"Bearer {token or self.token(method, target, body)}"}
        headers["Content-Type"] = "application/json"
        return self.http.request(method, target, content=body, headers=headers)
