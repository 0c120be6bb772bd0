"""A workload whose truth is known: every write that was acknowledged, with what it must read back as."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise

import httpx

from tests.support.cluster import BALANCER


@dataclass(frozen=True)
class Acknowledged:
    """One write the cluster said yes to; times in seconds of the monotonic clock."""

    collection_id: str
    label: str
    payload: str
    height: int
    started: float
    finished: float

    @property
    def latency(self) -> float:
        return self.finished - self.started


@dataclass(frozen=True)
class Failed:
    """One attempt that was not answered with success."""

    at: float
    why: str


class Account:
    """An account and its session; one HTTP connection, not shared between threads."""

    def __init__(self, url: str = BALANCER, api_key: str | None = None) -> None:
        self.http = httpx.Client(base_url=url, timeout=15, trust_env=False)
        self.api_key = api_key or str(self._post("/api/accounts")["api_key"])
        self.token = str(self._post("/api/sessions", {"api_key": self.api_key})["token"])
        self.http.headers["Authorization"] = f"Bearer {self.token}"

    def __del__(self) -> None:
        self.http.close()

    def _post(self, path: str, body: dict[str, str] | None = None) -> dict[str, object]:
        answer = self.http.post(path, json=body)
        answer.raise_for_status()
        document: dict[str, object] = answer.json()
        return document

    def submit(self, label: str, payload: str, key: str) -> httpx.Response:
        return self.http.post(
            "/api/collections", json={"label": label, "payload": payload}, headers={"Idempotency-Key": key}
        )

    def read(self, collection_id: str) -> httpx.Response:
        return self.http.get(f"/api/collections/{collection_id}")


@dataclass
class Writer(threading.Thread):
    """Writes until told to stop. With `persistent`, an attempt that failed is repeated under the same idempotency key
    until it is acknowledged, as a careful client does; without, each attempt counts for itself."""

    account: Account
    persistent: bool = True
    pause: float = 0.005
    size: int = 1_000
    acknowledged: list[Acknowledged] = field(default_factory=list)
    failed: list[Failed] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__(daemon=True)
        self._stopping = threading.Event()

    # A thread is hashed by identity; the dataclass would otherwise take that away.
    __hash__ = threading.Thread.__hash__

    def run(self) -> None:
        while not self._stopping.is_set():
            key = str(uuid.uuid4())
            self.write((key * (self.size // len(key) + 1))[: self.size], key)
            self._stopping.wait(self.pause)

    def finish(self) -> None:
        """Stop after the write under way has its answer."""
        self._stopping.set()
        self.join(timeout=60)
        if self.is_alive():
            raise TimeoutError("a writer got no answer within 60 s of being told to stop")

    def write(self, payload: str, key: str | None = None) -> None:
        """Submit one collection, as often as `persistent` says."""
        key = key or str(uuid.uuid4())
        label = f"label {key}"
        started = time.monotonic()
        while True:
            try:
                answer = self.account.submit(label, payload, key)
            except httpx.TransportError as error:
                self.failed.append(Failed(time.monotonic(), repr(error)))
            else:
                if answer.is_success:
                    body = answer.json()
                    self.acknowledged.append(
                        Acknowledged(body["collection_id"], label, payload, body["height"], started, time.monotonic())
                    )
                    return
                self.failed.append(Failed(time.monotonic(), f"{answer.status_code} {answer.text[:200]}"))
            if not self.persistent or self._stopping.is_set():
                return
            time.sleep(0.05)


def lost(writes: list[Acknowledged], reader: Account) -> list[Acknowledged]:
    """Those of the writes that are not served as they were acknowledged."""
    return [one for one in writes if not _served(one, reader)]


def _served(write: Acknowledged, reader: Account) -> bool:
    answer = reader.read(write.collection_id)
    if not answer.is_success:
        return False
    body = answer.json()
    return bool((body["label"], body["payload"], body["height"]) == (write.label, write.payload, write.height))


def longest_gap(writes: list[Acknowledged], since: float) -> float:
    """The longest time without an acknowledged write from `since` on, seconds."""
    times = [since, *sorted(w.finished for w in writes if w.finished >= since)]
    return max((later - earlier for earlier, later in pairwise(times)), default=float("inf"))


@contextmanager
def writing(count: int, *, persistent: bool = True, pause: float = 0.005) -> Iterator[list[Writer]]:
    """`count` writers at work through the load balancer for as long as the block lasts."""
    writers = [Writer(Account(), persistent=persistent, pause=pause) for _ in range(count)]
    for writer in writers:
        writer.start()
    try:
        yield writers
    finally:
        for writer in writers:
            writer.finish()
