"""The running node, a client with an account of its own, and what a problem document must have."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, Protocol, TypeVar

import httpx

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


class Account:
    """An account and its session on one node."""

    def __init__(self, url: str) -> None:
        self.http = httpx.Client(base_url=url, timeout=15, trust_env=False)
        created = self.http.post("/api/accounts")
        assert created.status_code == 201, created.text
        self.account_id: str = created.json()["account_id"]
        self.api_key: str = created.json()["api_key"]
        self.token = self.session()
        self.http.headers["Authorization"] = f"Bearer {self.token}"

    def session(self) -> str:
        answer = self.http.post("/api/sessions", json={"api_key": self.api_key})
        assert answer.status_code == 200, answer.text
        return str(answer.json()["token"])

    def store(self, label: str, payload: Any, key: str | None = None) -> httpx.Response:
        headers = {} if key is None else {"Idempotency-Key": key}
        return self.http.post("/api/collections", json={"label": label, "payload": payload}, headers=headers)


def assert_problem(answer: httpx.Response, status: int, code: str) -> dict[str, Any]:
    """The answer is a complete RFC 9457 document of this kind; the document."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    document: dict[str, Any] = answer.json()
    assert document["code"] == code, document
    assert document["type"] == f"urn:goud-chain:problem:{code}"
    assert document["status"] == status
    assert document["title"]
    assert document["detail"]
    assert document["instance"].startswith("/")
    return document
