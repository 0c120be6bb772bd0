"""A node on a small disk that something else fills: a true refusal, and by itself back when there is space."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest

from goud_node.errors import StoreError, StoreFull
from goud_node.service import disk
from goud_node.service.disk import DiskWatch
from goud_node.store.space import Room, Space
from node.tests.store.support import in_mount_namespace

LIVE = """
import os, random, sys, time
from pathlib import Path
root = Path(sys.argv[1])
sys.path.insert(0, sys.argv[2])
from goud_node.store.space import Room
from node.tests.conftest import living, wait_for, write_node
def free():
    disk = os.statvfs(root)
    return disk.f_bavail * disk.f_frsize
settings = write_node(root, submit_deadline_seconds=2.0)
with living(settings) as live, live.client() as http:
    key = http.post("/api/accounts").json()["api_key"]
    http.headers["Authorization"] = "Bearer " + http.post("/api/sessions", json={"api_key": key}).json()["token"]
    def store(number):
        body = {"label": str(number), "payload": random.Random(number).randbytes(150_000).hex()}
        return http.post("/api/collections", json=body, headers={"Idempotency-Key": str(number)})
    ids = [store(number).json()["collection_id"] for number in range(5)]
    # Filled behind its back: the judge of requests sees nothing, so that the database itself meets the full disk.
    context = live.node.api.state.context
    judge, context.room = context.room, lambda: Room(root, 1, 1, False)
    ballast = (root / "ballast").open("ab", buffering=0)
    try:
        while True:
            ballast.write(bytes(4096))
    except OSError:
        pass
    number = 5
    while (answer := store(number)).status_code == 201:
        ids.append(answer.json()["collection_id"])
        number += 1
    assert answer.status_code in (504, 507), answer.text
    context.room = judge
    time.sleep(5)
    for _ in range(3):
        ready = http.get("/readyz")
        assert (ready.status_code, ready.json()["failed"]) == (503, ["disk"]), ready.text
        refused = store(2000)
        assert (refused.status_code, refused.json()["code"]) == (507, "disk-full"), refused.text
        assert http.get("/readyz", params={"for": "reads"}).status_code == 200
        assert http.get("/api/collections/" + ids[0]).status_code == 200
    os.truncate(root / "ballast", (root / "ballast").stat().st_size // 2)
    wait_for(lambda: http.get("/readyz").status_code == 200, 40)
    # The node that had stood back leads again a moment after it is ready; until then it refuses, and truly: what its
    # first answer left open, it does not deny.
    def stored():
        repeated = store(number)
        assert repeated.status_code in (200, 201, 503, 504), repeated.text
        return repeated.status_code < 500
    wait_for(stored, 10)
    again = store(3000)
    assert again.status_code == 201, again.text
    labels = [item["label"] for item in http.get("/api/collections", params={"limit": 100}).json()["collections"]]
    assert sorted(labels) == sorted([*map(str, range(number + 1)), "3000"]), labels
print("resumed")
"""


def test_a_node_on_a_full_disk_says_so_and_resumes_by_itself(tmp_path: Path) -> None:
    project = Path(__file__).parents[3]
    script = f"mount -t tmpfs -o size=90m tmpfs '{tmp_path}'"
    result = in_mount_namespace(script, LIVE, str(tmp_path), str(project))
    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stdout.startswith("resumed")


class Judge:
    """A disk as the test sets it."""

    now = Room(Path("/data"), 100, 10, refused=False)
    resumes = True
    records = True
    tries = 0
    recordings = 0

    def room(self) -> Room:
        return self.now

    def retry(self) -> None:
        self.tries += 1
        if not self.resumes:
            raise StoreError("broken") if self.now.failure else StoreFull("no space left")
        self.now = replace(self.now, refused=False, failure=None)

    def record_floor(self) -> None:
        self.recordings += 1
        if not self.records:
            raise StoreFull("no space left")


class Clock:
    now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def judge() -> Judge:
    return Judge()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("goud_node.telemetry.time", clock)
    monkeypatch.setattr(disk, "time", clock)
    return clock


@pytest.fixture
def watch(judge: Judge) -> Iterator[DiskWatch]:
    with ThreadPoolExecutor(1) as executor:
        yield DiskWatch(cast(Space, judge), executor)


@pytest.mark.parametrize("refused", [True, False])
async def test_a_shortage_is_logged_once_a_minute_and_its_end_once(
    watch: DiskWatch, judge: Judge, clock: Clock, caplog: pytest.LogCaptureFixture, refused: bool
) -> None:
    with caplog.at_level(logging.INFO):
        judge.now = replace(judge.now, free=5, refused=refused)
        for _ in range(3 * 60):
            await watch.look()
            clock.now += 1
        assert judge.tries == 0, "nothing is tried before there is enough space"
        judge.now = replace(judge.now, free=50)
        for _ in range(60):
            await watch.look()
            clock.now += 1
    levels = [record.levelname for record in caplog.records]
    assert levels == ["WARNING"] * 3 + ["INFO"]
    assert judge.tries == int(refused)


async def test_a_database_that_does_not_resume_ends_the_node(watch: DiskWatch, judge: Judge, clock: Clock) -> None:
    judge.now, judge.resumes = replace(judge.now, refused=True), False
    await watch.look()
    clock.now += 59
    await watch.look()
    clock.now += 2
    with pytest.raises(StoreFull, match="Start the node again"):
        await watch.look()


async def test_a_database_that_broke_is_tried_and_ends_the_node(
    watch: DiskWatch, judge: Judge, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    """After any other error than a full disk the library never resumes: only a new start helps."""
    judge.now, judge.resumes = replace(judge.now, failure="an I/O error on 000009.log"), False
    for _ in range(61):
        await watch.look()
        clock.now += 1
    assert (judge.tries, len(caplog.records)) == (61, 2)
    assert "000009.log" in caplog.text
    with pytest.raises(StoreError, match="start the node again"):
        await watch.look()


async def test_a_database_that_takes_writes_again_is_left_alone(
    watch: DiskWatch, judge: Judge, caplog: pytest.LogCaptureFixture
) -> None:
    judge.now = replace(judge.now, failure="an I/O error")
    with caplog.at_level(logging.INFO):
        for _ in range(3):
            await watch.look()
    assert (judge.tries, judge.now.failure) == (1, None)


@pytest.mark.parametrize("records", [True, False])
async def test_how_far_the_database_has_come_is_recorded_while_it_takes_writes(
    watch: DiskWatch, judge: Judge, clock: Clock, caplog: pytest.LogCaptureFixture, records: bool
) -> None:
    judge.records = records
    for _ in range(60):
        await watch.look()
        clock.now += 1
    assert judge.recordings == 60 / disk.FLOOR_SECONDS
    assert len(caplog.records) == int(not records), "a record that fails is logged, and ends nothing"
    judge.now, recordings = replace(judge.now, free=5), judge.recordings
    for _ in range(60):
        await watch.look()
        clock.now += 1
    assert judge.recordings == recordings
