"""Take the proposer of the running local cluster away and say what became of every write submitted meanwhile.

Writes arrive at a steady rate, whether those before were answered or not, through the load balancer and straight at a
follower. Afterwards each write that was answered 503 ("it did not happen") is looked up in the chain.
"""

from __future__ import annotations

import json
import os
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
os.environ.setdefault("GOUD_WORLD", "operator")  # before the import: the cluster of ./run up

import httpx
import typer
from rich.console import Console
from rich.progress import track
from rich.table import Table

from tests.support.cluster import BALANCER, NODES, Cluster
from tests.support.workload import Account

BEFORE_SECONDS, AFTER_SECONDS = 1.0, 8.0
RATE = 10.0
"""Writes a second through each door."""
BOUND_SECONDS = 4.0


@dataclass(frozen=True)
class Attempt:
    """One write and its answer; `began` in seconds after the fault; status 0: the connection just ended."""

    door: str
    label: str
    began: float
    seconds: float
    status: int
    code: str

    @property
    def is_true(self) -> bool:
        """Acknowledged, or known to be unknown, in time."""
        return self.seconds <= BOUND_SECONDS and (self.status in {200, 201} or self.code == "outcome-unknown")


@dataclass(frozen=True)
class Round:
    """What one fault did."""

    fault: str
    attempts: list[Attempt]
    refused_and_stored: list[str]

    @property
    def acknowledged(self) -> float:
        return 100 * sum(attempt.status in {200, 201} for attempt in self.attempts) / len(self.attempts)


def submit(account: Account, door: str, fault_at: float) -> Attempt:
    label, began = f"failover {uuid.uuid4()}", time.monotonic()
    status, code = 0, ""
    try:
        answer = account.submit(label, label, label[-36:])
        status = answer.status_code
        code = "" if answer.is_success else str(answer.json().get("code"))
    except (httpx.TransportError, ValueError) as error:
        code = repr(error)
    return Attempt(door, label, began - fault_at, time.monotonic() - began, status, code)


def stored(account: Account) -> set[str]:
    """The labels of all that is in the chain."""
    labels: set[str] = set()
    cursor: str | None = None
    while True:
        page = account.http.get("/api/collections", params={"cursor": cursor} if cursor else {}).json()
        labels |= {entry["label"] for entry in page["collections"]}
        if not (cursor := page["next_cursor"]):
            return labels


def around(cluster: Cluster, fault: str, act: Callable[[str], Callable[[], None]]) -> Round:
    """Submit, take the proposer away, bring it back, and look every refused write up."""
    proposer = cluster.proposer()
    follower = next(node for node in NODES if node != proposer)
    first = Account(BALANCER)
    accounts = [("balancer", first), ("follower", Account(NODES[follower], first.api_key))]
    futures: list[Future[Attempt]] = []
    fault_at = time.monotonic() + BEFORE_SECONDS
    with ThreadPoolExecutor(128) as pool:
        act_future = pool.submit(_at, fault_at, act, proposer)
        while (now := time.monotonic()) < fault_at + AFTER_SECONDS:
            futures += [pool.submit(submit, account, door, fault_at) for door, account in accounts]
            time.sleep(max(0.0, now + 1 / RATE - time.monotonic()))
        act_future.result()()
    attempts = [future.result() for future in futures]
    cluster.wait_ready()
    cluster.wait_level()
    labels = stored(first)
    sample = [attempt for attempt in attempts if attempt.began > -0.2]
    liars = [attempt.label for attempt in attempts if attempt.status == 503 and attempt.label in labels]
    missing = [attempt.label for attempt in attempts if attempt.status in {200, 201} and attempt.label not in labels]
    if missing:
        raise RuntimeError(f"{len(missing)} acknowledged writes are not in the chain: {missing[:3]}")
    return Round(fault, sample, liars)


def _at(moment: float, act: Callable[[str], Callable[[], None]], node: str) -> Callable[[], None]:
    time.sleep(max(0.0, moment - time.monotonic()))
    return act(node)


def faults(cluster: Cluster) -> Iterator[tuple[str, Callable[[str], Callable[[], None]]]]:
    """Each act returns what undoes it."""

    def killed(node: str) -> Callable[[], None]:
        cluster.kill(node)
        return lambda: cluster.start(node)

    def paused(node: str) -> Callable[[], None]:
        cluster.container(node).pause()
        return lambda: cluster.container(node).unpause()

    def cut_off(node: str) -> Callable[[], None]:
        networks = cluster.disconnect(node)
        return lambda: cluster.reconnect(node, networks)

    yield from (("killed", killed), ("paused", paused), ("cut off", cut_off))


def show(rounds: list[Round]) -> None:
    table = Table("proposer", "rounds", "writes", "yes", "503", "503, stored", "other", "slowest")
    for fault in dict.fromkeys(entry.fault for entry in rounds):
        entries = [entry for entry in rounds if entry.fault == fault]
        attempts = [attempt for entry in entries for attempt in entry.attempts]
        acknowledged = sum(attempt.status in {200, 201} for attempt in attempts)
        table.add_row(
            fault,
            str(len(entries)),
            str(len(attempts)),
            f"{100 * acknowledged / len(attempts):.1f} %",
            str(sum(attempt.status == 503 for attempt in attempts)),
            str(sum(len(entry.refused_and_stored) for entry in entries)),
            str(sum(not attempt.is_true and attempt.status != 503 for attempt in attempts)),
            f"{max(attempt.seconds for attempt in attempts):.2f} s",
        )
    Console().print(table)
    console = Console(stderr=True)
    for entry in rounds:
        for attempt in entry.attempts:
            if not attempt.is_true:
                console.print(f"{entry.fault}: {attempt}")


def main(
    *,
    rounds: Annotated[int, typer.Option(min=1, help="How often each fault is made.")] = 10,
    json_output: Annotated[bool, typer.Option("--json", help="Print every write as JSON instead of a table.")] = False,
) -> None:
    """Kill, pause and cut off the proposer of the cluster that `./run up` started, in turn."""
    cluster = Cluster()
    cluster.wait_ready()
    results = []
    for _ in track(range(rounds), "faults", console=Console(stderr=True)):
        for name, act in faults(cluster):
            results.append(around(cluster, name, act))
    if json_output:
        print(json.dumps([asdict(result) for result in results]))
    else:
        show(results)
    if any(result.refused_and_stored for result in results):
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
