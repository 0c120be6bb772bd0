"""Faults of the APIs: each is seen by a client, and nothing else is."""

from __future__ import annotations

import time
from typing import Any

import pytest

from goud_sandbox.apifaults import ApiFault
from goud_sandbox.room.model import Disk

from .conftest import ZONE, Cloud

GIB = 1 << 30


def device(cloud: Cloud) -> Disk:
    return cloud.google.desired().disks[0]


def test_a_failing_call_fails_as_often_as_ordered(cloud: Cloud) -> None:
    cloud.faults.order(ApiFault("one", "fail", path="compute.*/disks", status=429, reason="rateLimitExceeded", times=2))
    cloud.client.headers["host"] = "compute.googleapis.com"
    for _ in range(2):
        assert cloud.refusal("GET", f"{ZONE}/disks")[:2] == (429, "rateLimitExceeded")
    assert cloud.call("GET", f"{ZONE}/instances")["items"] == []
    assert cloud.call("GET", f"{ZONE}/disks")["items"] == []
    assert cloud.faults.orders() == []


def test_a_slow_call_is_slow(cloud: Cloud) -> None:
    cloud.faults.order(ApiFault("one", "slow", path="/disks$", seconds=0.3, times=1))
    start = time.monotonic()
    cloud.call("GET", f"{ZONE}/disks")
    assert time.monotonic() - start >= 0.3


def test_a_lie_says_done_and_changes_nothing(cloud: Cloud) -> None:
    cloud.disk(size=10)
    cloud.faults.order(ApiFault("one", "lie", path="/resize$", method="POST"))
    answer = cloud.call("POST", f"{ZONE}/disks/data/resize", {"sizeGb": 20})
    assert (answer["status"], answer["operationType"]) == ("DONE", "resizeDisk")
    assert answer["targetLink"].endswith("/disks/data")
    assert cloud.call("GET", f"{ZONE}/operations/{answer['name']}")["status"] == "DONE"
    assert cloud.call("GET", f"{ZONE}/disks/data")["sizeGb"] == "10"


def test_a_lie_about_the_device_changes_the_api_only_until_an_honest_resize(cloud: Cloud) -> None:
    cloud.disk(size=10)
    cloud.faults.order(ApiFault("one", "lie_device", path="/data/resize", times=1))
    cloud.do("POST", f"{ZONE}/disks/data/resize", {"sizeGb": 20})
    assert cloud.call("GET", f"{ZONE}/disks/data")["sizeGb"] == "20"
    assert device(cloud).size == 10 * GIB
    cloud.do("POST", f"{ZONE}/disks/data/resize", {"sizeGb": 30})
    assert device(cloud).size == 30 * GIB


def test_orders_outlive_the_service(cloud: Cloud, make_cloud: Any) -> None:
    cloud.faults.order(ApiFault("one", "slow"))
    assert [fault.id for fault in make_cloud().faults.orders()] == ["one"]
    cloud.faults.clear()
    assert make_cloud().faults.orders() == []


def test_an_order_that_is_no_expression_is_refused(cloud: Cloud) -> None:
    with pytest.raises(ValueError, match="unterminated"):
        cloud.faults.order(ApiFault("one", "fail", path="["))
    assert cloud.faults.orders() == []
