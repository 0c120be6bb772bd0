"""What a failing loop of a node logs: its beginning, then a line a minute; and no failure that lasts stays silent."""

from __future__ import annotations

import logging
from typing import Any, cast

import pytest

from goud_node import telemetry
from goud_node.agreement.embedded import EmbeddedKv
from goud_node.errors import OutcomeUnknown, Unavailable
from goud_node.replica.duties import Duties
from goud_node.replica.queue import Queue
from goud_node.replica.types import Hooks
from goud_node.store.memory import MemoryStore

from .test_steps import Told, core_on

MINUTE = 60.0


class Clock:
    """Seconds as the test sets them."""

    now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(telemetry, "time", clock)
    return clock


@pytest.fixture
async def duties() -> Duties:
    return Duties(core_on(EmbeddedKv(MemoryStore()), Told()), Queue(8, 1 << 20), Hooks())


def fail(duties: Duties, error: Exception | None = None) -> None:
    cast("Any", duties)._complain("follow", error or Unavailable("no etcd member answers"))


def recover(duties: Duties) -> None:
    cast("Any", duties)._go_on("follow")  # as the loop does after a step that went well


async def test_a_failure_that_lasts_is_logged_once_a_minute(
    duties: Duties, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        for _ in range(3 * 60 * 4):  # four tries a second, for three minutes
            fail(duties)
            clock.now += 0.25
    assert len(caplog.records) == 3


@pytest.mark.parametrize("pause", [1.0, 30.0, 59.0])
async def test_a_failure_that_returns_does_not_stay_silent(
    duties: Duties, clock: Clock, caplog: pytest.LogCaptureFixture, pause: float
) -> None:
    with caplog.at_level(logging.WARNING):
        fail(duties)
        recover(duties)
        clock.now += pause
        for _ in range(int(MINUTE * 4)):
            fail(duties)
            clock.now += 0.25
    assert len(caplog.records) == 2, "the second outage lasted a minute and was not logged"


async def test_another_failure_is_logged_at_once(
    duties: Duties, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        fail(duties)
        clock.now += 1.0
        fail(duties, OutcomeUnknown("the answer was lost"))
    assert [record.getMessage().split(": ")[1] for record in caplog.records] == [
        "no etcd member answers",
        "the answer was lost",
    ]
