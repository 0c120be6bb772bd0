"""Every implementation of `Kv`, under one fixture."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator

import pytest

from goud_node.agreement.embedded import EmbeddedKv
from goud_node.agreement.etcd import EtcdKv
from goud_node.agreement.kv import Delete, Kv
from goud_node.store.memory import MemoryStore

from .etcd_cluster import Cluster, running
from .trio import Shared


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    with running() as cluster:
        yield cluster


@pytest.fixture(params=["embedded", pytest.param("etcd", marks=pytest.mark.etcd)])
async def kv(request: pytest.FixtureRequest) -> AsyncIterator[Kv]:
    made: Kv
    if request.param == "embedded":
        made = EmbeddedKv(MemoryStore())
    else:
        made = EtcdKv(request.getfixturevalue("cluster").endpoints)
        await made.txn([], [Delete(b"/", b"0")])
    yield made
    await made.close()


@pytest.fixture(params=["embedded", pytest.param("etcd", marks=pytest.mark.etcd)])
def connect(request: pytest.FixtureRequest) -> Iterator[Callable[[], Kv]]:
    if request.param == "embedded":
        yield Shared()
    else:
        endpoints = request.getfixturevalue("cluster").endpoints
        yield lambda: EtcdKv(endpoints)
