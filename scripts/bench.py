"""Measure the running local cluster: writes through each door, fail-over, catch-up, checkpoints, writes during backups.

Run it as `./run bench`. Variants that are compared run in turn, A B C A B C, so that a machine that slows down
slows them all; figures are medians with their range. The load generator shares the machine with the cluster.
"""

from __future__ import annotations

import base64
import json
import os
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
os.environ["GOUD_WORLD"] = "operator"  # before the import: what is measured is the cluster of ./run up

import httpx
import typer
from rich.console import Console
from rich.progress import track
from rich.table import Table

from tests.support.cluster import BALANCER, ETCD, NODE1, NODES, STATE, Cluster, wait_until
from tests.support.workload import Account, Writer, longest_gap, writing

console = Console(stderr=True)
CALM = (4, 0.1)  # clients, and the seconds each pauses after a write
UNITS = (("writes", "1/s"), ("p50", "ms"), ("p99", "ms"))  # of what `load` measures


@dataclass(frozen=True)
class Figure:
    """One measured quantity over several rounds."""

    name: str
    unit: str
    values: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.values)


def percentile(values: Iterable[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def load(url: str, writers: int, seconds: float, pause: float = 0.0) -> tuple[float, float, float]:
    """Writes per second, median and 99th percentile in milliseconds, by `writers` clients that pause after each."""
    crew = [Writer(Account(url), pause=pause) for _ in range(writers)]
    start = time.monotonic()
    for writer in crew:
        writer.start()
    time.sleep(seconds)
    for writer in crew:
        writer.finish()
    elapsed = time.monotonic() - start
    failures = sum(len(writer.failed) for writer in crew)
    if failures:
        raise RuntimeError(f"{failures} writes failed under load: the figures would be of something else")
    latencies = [write.latency * 1000 for writer in crew for write in writer.acknowledged]
    return len(latencies) / elapsed, percentile(latencies, 0.5), percentile(latencies, 0.99)


def submits(cluster: Cluster, rounds: int, writers: int, seconds: float) -> list[Figure]:
    proposer = cluster.proposer()
    follower = next(node for node in NODES if node != proposer)
    doors = {
        "through the load balancer": BALANCER,
        "straight to the proposer": NODES[proposer],
        "straight to a follower": NODES[follower],
    }
    results: dict[str, list[tuple[float, float, float]]] = {name: [] for name in doors}
    for _ in track(range(rounds), "writes", console=console):
        for name, url in doors.items():
            results[name].append(load(url, writers, seconds))
    return [
        Figure(f"{quantity} {name}, {writers} clients", unit, tuple(row[column] for row in rows))
        for name, rows in results.items()
        for column, (quantity, unit) in enumerate(UNITS)
    ]


def gap_around(cluster: Cluster, act: Callable[[], None], mend: Callable[[], None]) -> float:
    """Seconds without an acknowledged write around `act`, for a client that keeps asking."""
    with writing(1) as writers:
        time.sleep(1)
        start = time.monotonic()
        act()
        wait_until("writes to resume", lambda: any(write.started > start + 0.1 for write in writers[0].acknowledged))
        time.sleep(4)  # a second stumble would count too
        mend()
    cluster.wait_ready()
    return longest_gap(writers[0].acknowledged, start - 0.5)


def failover(cluster: Cluster, rounds: int) -> list[Figure]:
    def killed(name: str) -> float:
        return gap_around(cluster, lambda: cluster.kill(name), lambda: cluster.start(name))

    def handed_over(name: str) -> float:
        return gap_around(cluster, lambda: cluster.container(name).restart(timeout=15), lambda: None)

    gaps: dict[str, list[float]] = {"proposer killed": [], "etcd leader killed": [], "proposer restarted": []}
    for _ in track(range(rounds), "fail-over", console=console):
        gaps["proposer killed"].append(killed(cluster.proposer()))
        gaps["etcd leader killed"].append(killed(cluster.etcd_leader()))
        gaps["proposer restarted"].append(handed_over(cluster.proposer()))
    return [Figure(f"longest time without a write, {name}", "s", tuple(values)) for name, values in gaps.items()]


class HeightWatch(threading.Thread):
    """Samples one node's height while it fills."""

    def __init__(self, node: str, until: int) -> None:
        super().__init__(daemon=True)
        self.node, self.until = node, until
        self.samples: list[tuple[float, int]] = []

    def run(self) -> None:
        while not self.samples or self.samples[-1][1] < self.until:
            with suppress(httpx.TransportError, KeyError, ValueError):  # not up yet: that is what is awaited
                self.samples.append((time.monotonic(), int(Cluster.health(self.node)["chain_length"])))
            time.sleep(0.02)

    @property
    def blocks_per_second(self) -> float:
        (first, low), (last, high) = self.samples[0], self.samples[-1]
        return (high - low) / max(last - first, 0.001)


def catch_up(cluster: Cluster, blocks: int) -> list[Figure]:
    """Wipe one node's volume on a chain of at least `blocks` blocks, and watch it refill."""
    with writing(4) as writers:
        for writer in writers:
            writer.pause = 0
        wait_until("the chain to grow", lambda: min(cluster.lengths().values()) >= blocks, within=600)
    length = cluster.wait_level()
    victim = next(node for node in NODES if node != cluster.proposer())
    cluster.container(victim).remove(force=True)
    cluster.engine.volumes.get(f"{victim}_data").remove()
    watch = HeightWatch(victim, length)
    watch.start()
    recap = cluster.playbook("deploy")
    if recap.returncode:
        raise RuntimeError(recap.output)
    watch.join(timeout=600)
    cluster.wait_ready()
    return [Figure(f"catch-up of a wiped node, {length} blocks", "blocks/s", (watch.blocks_per_second,))]


def checkpoint(cluster: Cluster, megabytes: int, rounds: int) -> list[Figure]:
    """Grow every node to `megabytes` with incompressible collections, then take checkpoints of one."""
    with ExitStack() as stack:
        threads = [threading.Thread(target=fill, args=(megabytes,), daemon=True) for _ in range(4)]
        for thread in threads:
            thread.start()
            stack.callback(thread.join)
    members = [member for member in ETCD if cluster.container(member).attrs["RestartCount"]]
    if members:
        raise RuntimeError(f"the engine had to restart {', '.join(members)} under large blocks: see docker inspect")
    node = cluster.proposer()
    size = Cluster.volume(node)["disk_used_mb"]
    times = []
    for _ in track(range(rounds), "checkpoints", console=console):
        answer = json.loads(cluster.run_in(node, "goud-node", "admin", "checkpoint", "create", "--json"))
        times.append(float(answer["seconds"]) * 1000)
        cluster.run_in(node, "goud-node", "admin", "checkpoint", "release", str(answer["id"]))
    return [Figure(f"checkpoint of {size} MB", "ms", tuple(times))]


def fill(megabytes: int) -> None:
    writer = Writer(Account())
    while Cluster.volume(NODE1)["disk_used_mb"] < megabytes:
        writer.write(base64.b64encode(os.urandom(300_000)).decode())


@contextmanager
def backing_up(node: str) -> Iterator[list[float]]:
    """Back `node` up, read the backup back and make an archive of it, over and over, as long as the block lasts.

    Yields the seconds of each time.
    """
    home = STATE / node / "backup"
    durations: list[float] = []
    end = threading.Event()

    def work(outbox: Path) -> None:
        environment = {**os.environ, "GOUD_BACKUP_INCOMING": str(outbox)}
        while not end.is_set():
            start = time.monotonic()
            for words in (["create"], ["verify"], ["export", "--to", "/incoming"]):
                command = [str(home / "goud-backup"), *words, "--json"]
                subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=environment)
            durations.append(time.monotonic() - start)
            for path in outbox.iterdir():
                path.unlink()

    with ThreadPoolExecutor(1) as pool, TemporaryDirectory() as outbox:
        owner = (home / "cache").stat()
        os.chown(outbox, owner.st_uid, owner.st_gid)
        work_future = pool.submit(work, Path(outbox))
        try:
            yield durations
        finally:
            end.set()
        work_future.result()


def beside_backups(cluster: Cluster, rounds: int, writers: int, seconds: float) -> list[Figure]:
    """The same load with nothing beside it, and while a follower is backed up all the time.

    Clients without a pause use every processor there is, so anything beside them shows; those that pause leave some.
    """
    figures = []
    for crew, pause in ((writers, 0.0), CALM):
        baseline, contention, backup_durations = [], [], []
        for _ in track(range(rounds), "writes during backups", console=console):
            proposer = cluster.proposer()
            baseline.append(load(BALANCER, crew, seconds, pause))
            with backing_up(next(node for node in NODES if node != proposer)) as durations:
                contention.append(load(BALANCER, crew, seconds, pause))
            backup_durations += durations
        clients = f"{crew} clients" + (f" that pause {pause * 1000:.0f} ms" if pause else "")
        figures += [
            Figure(f"{quantity} {when}, {clients}", unit, tuple(row[column] for row in rows))
            for column, (quantity, unit) in enumerate(UNITS)
            for when, rows in (("without a backup", baseline), ("during backups", contention))
        ]
        figures.append(
            Figure(f"a backup made, read back and put into an archive, {clients}", "s", tuple(backup_durations))
        )
    return figures


def show(figures: list[Figure]) -> None:
    table = Table("figure", "median", "lowest", "highest", "unit", "rounds")
    for figure in figures:
        row = (figure.median, min(figure.values), max(figure.values))
        table.add_row(figure.name, *(f"{value:,.2f}" for value in row), figure.unit, str(len(figure.values)))
    Console().print(table)


def main(
    *,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds of each variant; the median is quoted.")] = 3,
    seconds: Annotated[float, typer.Option(min=1, help="Length of one round of load.")] = 10.0,
    writers: Annotated[int, typer.Option(min=1, help="Clients that write without a pause.")] = 16,
    blocks: Annotated[int, typer.Option(min=1, help="Length of the chain that a wiped node refills.")] = 5000,
    megabytes: Annotated[int, typer.Option(min=1, help="Size of the database that is checkpointed.")] = 1024,
    json_output: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Measure the cluster that `./run up` started. It grows the chain; `./run clean` removes it."""
    cluster = Cluster()
    cluster.wait_ready()
    figures = submits(cluster, rounds, writers, seconds)
    figures += failover(cluster, rounds)
    figures += catch_up(cluster, blocks)
    figures += checkpoint(cluster, megabytes, rounds)
    figures += beside_backups(cluster, rounds, writers, seconds)
    if json_output:
        print(json.dumps([{**asdict(figure), "median": figure.median} for figure in figures]))
    else:
        show(figures)


if __name__ == "__main__":
    typer.run(main)
