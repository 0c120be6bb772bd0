"""What a node logs of an etcd that fails: the beginning with its cause, a line a minute, and the end."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from goud_node import telemetry
from goud_node.agreement import etcd
from goud_node.agreement.embedded import EmbeddedKv
from goud_node.agreement.etcd import EtcdKv
from goud_node.agreement.kv import Put
from goud_node.errors import GoudError, OutcomeUnknown, Unavailable
from goud_node.replica.duties import Duties
from goud_node.replica.queue import Queue
from goud_node.replica.types import Hooks
from goud_node.store.memory import MemoryStore

from .test_complaints import Clock
from .test_steps import Told, core_on

ENDPOINTS = ["etcd1:2379", "etcd2:2379", "etcd3:2379"]


class Members:
    """All members of the cluster: they answer, or they do not; each try takes a tenth of a second."""

    def __init__(self, clock: Clock) -> None:
        self.clock, self.silent, self.deaf = clock, False, set[str]()

    def __call__(self, endpoint: str, _tls: object) -> Any:
        async def answer(*_: object, **__: object) -> object:
            self.clock.now += 0.1
            if self.silent or endpoint in self.deaf:
                raise TimeoutError("deadline exceeded")
            return SimpleNamespace(kvs=[], succeeded=True, header=SimpleNamespace(revision=1))

        async def close() -> None:
            return None

        return SimpleNamespace(endpoint=endpoint, kv=SimpleNamespace(get=answer, txn=answer), close=close)


def duties_of_a_node() -> Duties:
    return Duties(core_on(EmbeddedKv(MemoryStore()), Told()), Queue(8, 1 << 20), Hooks())


@pytest.fixture
def members(monkeypatch: pytest.MonkeyPatch) -> Members:
    clock = Clock()
    members = Members(clock)
    monkeypatch.setattr(telemetry, "time", clock)
    monkeypatch.setattr(etcd, "Member", members)
    return members


async def attempts(kv: EtcdKv, duties: Duties, seconds: float, clock: Clock) -> None:
    """As the loops of a node go on: reads and transactions, and what each loop says of those that fail."""
    end = clock.now + seconds
    while clock.now < end:
        for name, call in (("follow", kv.range(b"/a")), ("certify", kv.txn([], [Put(b"/a", b"1")]))):
            try:
                await call
            except GoudError as error:
                duties._complain(name, error)
            else:
                duties._go_on(name)
        clock.now += 0.25


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture) -> Iterator[list[logging.LogRecord]]:
    """Whatever is logged from now on."""
    records: list[logging.LogRecord] = []
    caplog.set_level(logging.INFO, "goud_node")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(caplog.handler, "emit", records.append)
        yield records


async def test_an_outage_is_a_line_at_its_beginning_one_a_minute_and_one_at_its_end(
    members: Members, lines: list[logging.LogRecord]
) -> None:
    kv, clock = EtcdKv(ENDPOINTS), members.clock
    duties = duties_of_a_node()
    await attempts(kv, duties, 10, clock)
    assert not lines
    members.silent = True
    await attempts(kv, duties, 150, clock)
    said = [record.getMessage() for record in lines]
    assert len(said) == 3, said
    assert "etcd1:2379" in said[0]
    assert "deadline exceeded" in said[0]
    assert all(record.levelname == "WARNING" for record in lines)
    members.silent = False
    await attempts(kv, duties, 10, clock)
    assert len(lines) == 4
    assert "etcd answers again" in lines[3].getMessage()
    assert "after 15" in lines[3].getMessage(), "how long it lasted, in seconds"
    await kv.close()


async def test_one_member_that_fails_is_an_outage_that_ends_at_the_next(
    members: Members, lines: list[logging.LogRecord]
) -> None:
    kv = EtcdKv(ENDPOINTS)
    members.deaf = {ENDPOINTS[0]}
    await kv.range(b"/a")
    await kv.range(b"/a")
    assert [record.levelname for record in lines] == ["WARNING", "INFO"]
    assert "etcd2:2379" in lines[1].getMessage()
    await kv.close()


async def test_an_etcd_that_comes_and_goes_does_not_fill_the_log(
    members: Members, lines: list[logging.LogRecord]
) -> None:
    kv, clock = EtcdKv(ENDPOINTS), members.clock
    duties = duties_of_a_node()
    began = clock.now
    for _ in range(60):
        members.silent = not members.silent
        await attempts(kv, duties, 2, clock)
    assert len(lines) <= 2 * (1 + (clock.now - began) / 60)
    await kv.close()


@pytest.mark.parametrize("error", [Unavailable("no peer answers"), OutcomeUnknown("a fault of another kind")])
async def test_what_etcd_does_not_log_its_loop_does(
    members: Members, lines: list[logging.LogRecord], error: GoudError
) -> None:
    duties = duties_of_a_node()
    for _ in range(40):
        duties._complain("certify", error)
        members.clock.now += 0.25
    duties._go_on("certify")
    duties._go_on("certify")
    assert [record.getMessage() for record in lines] == [f"certify: {error}", "certify: goes on after 10.0 s"]
