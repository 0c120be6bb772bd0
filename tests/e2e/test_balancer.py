"""What a client learns of a write that the load balancer repeated: no node may have done what "did not happen"."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from tests.support.cluster import Cluster
from tests.support.fake_nodes import FakeNodes, balanced

pytestmark = pytest.mark.e2e
KEYED = {"Idempotency-Key": "a-key"}


@pytest.fixture
def nodes() -> FakeNodes:
    return FakeNodes()


@pytest.fixture
def client(cluster: Cluster, nodes: FakeNodes, tmp_path: Path) -> Iterator[httpx.Client]:
    with balanced(cluster, nodes, tmp_path) as url, httpx.Client(base_url=url, trust_env=False, timeout=30) as client:
        yield client


def write(client: httpx.Client, headers: dict[str, str]) -> httpx.Response:
    return client.post("/api/collections", json={"label": "a", "payload": "b"}, headers=headers)


@dataclass(frozen=True)
class Case:
    """Orders to the nodes, and what the client gets: status, code, and how many nodes were asked."""

    orders: list[str]
    headers: dict[str, str]
    status: int
    code: str
    asked: int


CASES = [
    Case(["lost"], KEYED, 200, "by-the-node", 2),
    Case(["lost", "503"], KEYED, 504, "outcome-unknown", 2),
    Case(["lost", "lost", "503"], KEYED, 504, "outcome-unknown", 3),
    Case(["lost", "507"], KEYED, 504, "outcome-unknown", 2),
    Case(["507"], KEYED, 507, "by-the-node", 1),
    Case(["gone"], KEYED, 504, "outcome-unknown", 1),
    Case(["lost"] * 9, KEYED, 504, "outcome-unknown", 3),
    Case(["silent"], KEYED, 200, "by-the-node", 2),
    Case(["silent", "silent"], KEYED, 200, "by-the-node", 3),
    Case(["silent"] * 9, KEYED, 504, "outcome-unknown", 3),
    Case(["silent", "503"], KEYED, 504, "outcome-unknown", 2),
    Case(["silent"], {}, 504, "outcome-unknown", 1),
    Case(["503"], KEYED, 503, "by-the-node", 1),
    Case(["503"], {}, 503, "by-the-node", 1),
    Case(["lost"], {}, 504, "outcome-unknown", 1),
]


@pytest.mark.parametrize("later", [False, True], ids=["first request", "later request"])
@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{'+'.join(case.orders)} {len(case.headers)}")
def test_a_write_is_refused_only_when_it_did_not_happen(
    client: httpx.Client, nodes: FakeNodes, case: Case, *, later: bool
) -> None:
    if later:  # on a connection that has served before, a client must get an answer, too
        assert write(client, KEYED).status_code == 200
        nodes.served.clear()
    nodes.orders[:] = case.orders
    reply = write(client, case.headers)
    document = reply.json()
    assert (reply.status_code, document["code"]) == (case.status, case.code), reply.text
    assert len(nodes.served) == case.asked
    if case.code != "by-the-node":
        assert document["status"] == case.status
        assert reply.headers["Retry-After"]
        assert "Nothing was done" not in document["detail"]


@pytest.mark.parametrize("order", ["lost", "silent"])
def test_what_takes_no_key_is_not_repeated(client: httpx.Client, nodes: FakeNodes, order: str) -> None:
    """An account would be made twice: it does not know the key."""
    nodes.orders[:] = [order]
    reply = client.post("/api/accounts", headers=KEYED)
    assert (reply.status_code, reply.json()["code"]) == (504, "outcome-unknown")
    assert len(nodes.served) == 1


@pytest.mark.parametrize(
    ("orders", "status", "code"),
    [
        (["lost"] * 9, 502, "load-balancer-502"),
        (["silent"] * 9, 504, "load-balancer-504"),
        (["silent"], 200, "by-the-node"),
    ],
)
def test_a_read_is_repeated_and_its_error_is_no_unknown_outcome(
    client: httpx.Client, nodes: FakeNodes, orders: list[str], status: int, code: str
) -> None:
    nodes.orders[:] = orders
    reply = client.get("/api/stats")
    assert (reply.status_code, reply.json()["code"]) == (status, code)
    assert len(nodes.served) == min(3, len(orders) + 1)


@pytest.mark.parametrize("orders", [["503"], ["lost", "503"]])
def test_a_read_may_be_refused_after_any_try(client: httpx.Client, nodes: FakeNodes, orders: list[str]) -> None:
    nodes.orders[:] = orders
    assert client.get("/api/stats").status_code == 503


def test_a_write_that_no_node_got_did_not_happen(client: httpx.Client, nodes: FakeNodes) -> None:
    nodes.orders[:] = ["gone"]
    client.get("/api/stats")  # nobody listens from here on; the checks find it out while the next request is tried
    reply = write(client, {})
    assert reply.status_code in {503, 504}
    if reply.status_code == 503:
        assert "Nothing was done" in reply.json()["detail"]
