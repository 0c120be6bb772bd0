"""Benchmark the backup engine beside restic, borg and tar | pigz, on the same data in one run.

A restore counts as done when its data is on the disk: this engine syncs what it restores, the others are followed by
`sync`. A step shorter than a second is run several times, with its change before each; its row is the median. What the
tools keep for themselves meanwhile is in memory for all of them, as it is in the container that runs ours.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import pyrage

from goud_backup.codec.sealing import Opener, load_identities
from goud_backup.repository.repository import open_repository
from goud_backup.settings import WORKERS
from goud_backup.staging import stage
from goud_backup.targets import open_target
from goud_node.chain import genesis as genesis_document
from goud_node.chain.block import Block, build
from goud_node.chain.certificate import Certificate, countersign
from goud_node.chain.genesis import Genesis, Validator
from goud_node.chain.keys import SigningKey
from goud_node.chain.ledger import Ledger
from goud_node.chain.transactions import AccountCreate, CollectionPut
from goud_node.chain.volume import initialize_volume
from goud_node.store import RocksStore
from goud_node.store.checkpoint import Checkpoints

ROOT = Path(__file__).resolve().parents[1]
MB = 1_000_000
COLLECTIONS, COLLECTION_BYTES = 10, 7_500
KEYS = {f"node{number}": SigningKey.from_seed(bytes([number]) * 32) for number in (1, 2, 3)}
GENESIS = Genesis("bench", 1_700_000_000_000, tuple(Validator(name, key.public) for name, key in KEYS.items()))
BATCH = 50
MEMORY = Path("/dev/shm")  # noqa: S108  # the tools make names of their own in it
ROUNDS = 7
"""Of the steps that take less than a second."""
PACKAGES = {"restic": "apt-get install restic", "borg": "apt-get install borgbackup", "pigz": "apt-get install pigz"}
Command = Sequence[str] | str


@dataclass(frozen=True)
class Cost:
    """Of one command: seconds of wall and CPU time, peak memory of its largest process in MB, bytes stored after it.

    The kernel counts this script's own memory, about 90 MB, in what it starts: less than that is not seen.
    """

    tool: str
    step: str
    seconds: float
    cpu: float
    memory_mb: float
    stored_mb: float


def grow(data: Path, count: int) -> None:
    """Append `count` certified blocks of random ciphertext, as large as the guide's blocks."""
    initialize_volume(data, GENESIS)
    store = RocksStore.open(data / "rocksdb")
    try:
        ledger = Ledger(store, GENESIS)
        while count > 0:
            blocks = _blocks(ledger, min(BATCH, count))
            ledger.append(blocks, [_certificate(block) for block in blocks])
            count -= len(blocks)
    finally:
        store.close()


def _blocks(ledger: Ledger, count: int) -> list[Block]:
    tip, blocks = ledger.tip, []
    for _ in range(count):
        height = tip.height + 1
        body = [
            CollectionPut(
                f"c{height}-{index}",
                "alice",
                f"k{height}-{index}",
                os.urandom(32),
                os.urandom(40),
                os.urandom(COLLECTION_BYTES),
                tip.timestamp_ms,
            ).encode()
            for index in range(COLLECTIONS)
        ]
        if height == 1:
            body = [AccountCreate("alice", b"h" * 32, b"s" * 16, 5).encode()]
        timestamp = GENESIS.created_ms + 1000 * height
        blocks.append(build(tip, body, proposer="node1", key=KEYS["node1"], timestamp_ms=timestamp))
        tip = blocks[-1].header
    return blocks


def _certificate(block: Block) -> Certificate:
    return Certificate(block.height, block.hash, {name: countersign(KEYS[name], block.hash) for name in KEYS})


def prepare(state: Path, gigabytes: float) -> Path:
    """The source data directory, made once and kept."""
    data, marker = state / "data", state / "data.done"
    if not marker.exists():
        shutil.rmtree(data, ignore_errors=True)
        state.mkdir(parents=True, exist_ok=True)
        print(f"building {gigabytes} GB of blocks in {data} (kept for the next run)", flush=True)
        grow(data, int(gigabytes * 1e9 / (COLLECTIONS * (COLLECTION_BYTES + 400))))
        marker.write_text(json.dumps({"gigabytes": gigabytes}))
    return data


def checkpoint(data: Path, folder: Path, change: Callable[[], None] = lambda: None) -> Path:
    """What a node hands to a backup after `change`: hard links of the database. The other tools read this."""
    change()
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    store = RocksStore.open(data / "rocksdb")
    try:
        return Checkpoints(store, folder).create("bench", 3600).path
    finally:
        store.close()


class Bench:
    """Runs commands and keeps what they cost."""

    def __init__(self, work: Path, environment: Mapping[str, str]) -> None:
        self.work = work
        self.environment = {**os.environ, **environment}
        self.costs: list[Cost] = []

    def run(self, tool: str, step: str, command: Command, stored: Path, cwd: Path | None = None) -> None:
        """Run one command (a string goes through bash with pipefail); a failure ends the benchmark."""
        self.median(tool, step, command, stored, lambda: cwd, rounds=1)

    def median(
        self,
        tool: str,
        step: str,
        command: Command,
        stored: Path,
        before: Callable[[], Path | None],
        *,
        rounds: int = ROUNDS,
    ) -> None:
        """Run one command several times, each in the directory that `before` makes; keep the median."""
        print(f"$ {command if isinstance(command, str) else ' '.join(command)}", flush=True)
        costs = [self._once(tool, step, command, before()) for _ in range(rounds)]
        size = sum(path.stat().st_size for path in stored.rglob("*") if path.is_file()) if stored.exists() else 0
        middle = statistics.median_low(cost.seconds for cost in costs)
        cost = replace(
            next(cost for cost in costs if cost.seconds == middle),
            memory_mb=max(cost.memory_mb for cost in costs),
            stored_mb=round(size / MB, 1),
        )
        self.costs.append(cost)
        details = "" if rounds == 1 else f" (of {', '.join(str(cost.seconds) for cost in costs)})"
        print(
            f"  {cost.seconds} s{details}, {cost.cpu} s CPU, {cost.memory_mb:.0f} MB, stored {cost.stored_mb} MB",
            flush=True,
        )

    def _once(self, tool: str, step: str, command: Command, cwd: Path | None) -> Cost:
        shell = ["bash", "-o", "pipefail", "-c", command] if isinstance(command, str) else list(command)
        start = time.perf_counter()
        log = self.work / "last.log"
        with log.open("wb") as output:
            process = subprocess.Popen(shell, stdout=output, stderr=subprocess.STDOUT, env=self.environment, cwd=cwd)
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
        seconds = time.perf_counter() - start
        if process.returncode:
            sys.exit(f"{tool} {step} failed:\n{log.read_text(errors='replace')[-3000:]}")
        cpu = usage.ru_utime + usage.ru_stime
        return Cost(tool, step, round(seconds, 2), round(cpu, 2), round(usage.ru_maxrss / 1000, 0), 0)


def goud(
    bench: Bench, data: Path, change: Callable[[], None], identity: Path | None = None, recipient: str = ""
) -> None:
    """Our own engine, plain or encrypted."""
    name = "goud-backup" if identity is None else "goud-backup encrypted"
    folder = bench.work / name.replace(" ", "-")
    repository = folder / "repository"
    base = [sys.executable, "-m", "goud_backup.cli"]
    location = ["-r", f"file://{repository}"]
    folder.mkdir(parents=True)
    key = folder / "node.key"
    KEYS["node1"].save(key)
    recipients = [] if identity is None else ["--recipient", recipient]
    identities = [] if identity is None else ["--identity", str(identity)]
    create = [*base, "create", *location, "--data-dir", str(data), "--cache-dir", str(folder / "cache"), *recipients]
    init = [*base, "init", *location, "--genesis", str(bench.work / "genesis.json"), *recipients]
    subprocess.run(init, check=True, env=bench.environment)
    bench.run(name, "full", create, repository)
    bench.median(name, "unchanged", create, repository, lambda: None)
    bench.median(name, "1 % more", create, repository, change)
    target = folder / "restored"
    target.mkdir()
    bench.run(name, "verify (hashes)", [*base, "verify", *location, "--no-record"], repository)
    restore = [*base, "restore", *location, "--data-dir", str(target), "--yes", "--exact", *identities]
    bench.run(name, "restore, proven", restore, repository)
    shutil.rmtree(target)
    deep = [*base, "verify", "--deep", "--quick", *location, "--scratch", str(folder), "--key", str(key), *identities]
    bench.run(name, "deep verify, recorded", deep, repository)
    target.mkdir()
    bench.run(name, "restore, proven, by the record", restore, repository)
    shutil.rmtree(target)
    target.mkdir()
    fetch = [sys.executable, str(Path(__file__)), "--fetch", str(repository), str(target)]
    bench.run(name, "restore, hashes only", [*fetch, *identities], repository)
    shutil.rmtree(target)
    ship = [*base, "ship", *location, "--data-dir", str(data), "--from-genesis", *recipients]
    bench.run(name, "ship every block", ship, repository / "segments")
    archives = folder / "archives"
    bench.run(name, "archive out of it", [*base, "export", *location, "--to", str(archives), *identities], archives)
    (archive,) = archives.glob("*.tar.gz")
    places = ["--scratch", str(folder), "--cache-dir", str(folder / "none")]
    bench.run(
        name, "archive into it, proven", [*base, "import", *location, str(archive), *places, *recipients], repository
    )
    shutil.rmtree(archives)


def fetch(repository: str, target: str, identity: str | None) -> None:
    """What other tools call a restore: files back, hashes checked, synced; the chain not looked at."""
    source = open_repository(open_target(f"file://{repository}"))
    opener = Opener(load_identities(Path(identity))) if identity else None
    stage(source, source.find("latest"), Path(target), opener, workers=WORKERS)


def restic(bench: Bench, data: Path, change: Callable[[], None]) -> None:
    """restic, always encrypted, tuned not to be fooled by the change time of hard links."""
    repository, links, target = (bench.work / f"restic-{name}" for name in ("repository", "links", "restored"))
    base = ["restic", "-q", "-r", str(repository), "--no-cache"]
    subprocess.run([*base, "init"], check=True, env=bench.environment)
    backup = [*base, "backup", "--ignore-ctime", "."]
    bench.run("restic", "full", backup, repository, cwd=checkpoint(data, links))
    bench.median("restic", "unchanged", backup, repository, lambda: checkpoint(data, links))
    bench.median("restic", "1 % more", backup, repository, lambda: checkpoint(data, links, change))
    bench.run("restic", "verify (hashes)", [*base, "check", "--read-data"], repository)
    restore = shlex.join([*base, "restore", "latest", "--target", str(target)])
    bench.run("restic", "restore, hashes only", f"{restore} && sync -f {target}", repository)
    shutil.rmtree(target)


def borg(bench: Bench, data: Path, change: Callable[[], None]) -> None:
    """borg, encrypted, zstd 1, tuned the same way."""
    repository, links, target = (bench.work / f"borg-{name}" for name in ("repository", "links", "restored"))
    subprocess.run(["borg", "init", "-e", "repokey-blake2", str(repository)], check=True, env=bench.environment)
    create = ["borg", "create", "--compression", "zstd,1", "--files-cache", "mtime,size,inode"]
    create += [f"{repository}::{{now:%s.%f}}", "."]
    bench.run("borg", "full", create, repository, cwd=checkpoint(data, links))
    bench.median("borg", "unchanged", create, repository, lambda: checkpoint(data, links))
    bench.median("borg", "1 % more", create, repository, lambda: checkpoint(data, links, change))
    bench.run("borg", "verify (hashes)", ["borg", "check", "--verify-data", str(repository)], repository)
    target.mkdir()
    last = ["borg", "list", "--last", "1", "--short", str(repository)]
    name = subprocess.run(last, check=True, env=bench.environment, capture_output=True, text=True).stdout.strip()
    restore = f"borg extract {repository}::{name} && sync -f ."
    bench.run("borg", "restore, hashes only", restore, repository, cwd=target)
    shutil.rmtree(target)


def pigz(bench: Bench, data: Path, _change: Callable[[], None]) -> None:
    """The guide's way: whatever changed, all of it again."""
    folder, links = bench.work / "pigz", bench.work / "pigz-links"
    folder.mkdir()
    make = f"tar -cf - . | pigz > {folder}/a.tar.gz && sha256sum {folder}/a.tar.gz > {folder}/a.sha256"
    bench.run("tar | pigz", "full, and each time again", make, folder, cwd=checkpoint(data, links))
    target = bench.work / "pigz-restored"
    target.mkdir()
    restore = f"sha256sum -c {folder}/a.sha256 && pigz -dc {folder}/a.tar.gz | tar -xf - && sync -f ."
    bench.run("tar | pigz", "restore, hashes only", restore, folder, cwd=target)


def table(costs: Sequence[Cost]) -> str:
    rows = ["| tool | step | s | CPU s | MB memory | MB stored |", "|---|---|---|---|---|---|"]
    for cost in costs:
        figures = f"{cost.seconds} | {cost.cpu} | {cost.memory_mb:.0f} | {cost.stored_mb}"
        rows.append(f"| {cost.tool} | {cost.step} | {figures} |")
    return "\n".join(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gigabytes", type=float, default=2.0)
    parser.add_argument("--state", type=Path, default=ROOT / ".state/bench-backup")
    parser.add_argument("--tools", default="goud,goud-encrypted,restic,borg,pigz")
    parser.add_argument("--prepare", action="store_true", help="only build the data")
    parser.add_argument("--fetch", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--identity", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.fetch:
        repository, target = options.fetch
        fetch(repository, target, options.identity)
        return
    state = options.state / f"{options.gigabytes:g}"
    data = prepare(state, options.gigabytes)
    if options.prepare:
        return
    work = state / "work"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir()
    identity = pyrage.x25519.Identity.generate()
    (work / "identity").write_text(f"{identity}\n")
    genesis_document.dump(GENESIS, work / "genesis.json")
    environment = {"RESTIC_PASSWORD": "bench", "BORG_PASSPHRASE": "bench", "BORG_BASE_DIR": str(work / "borg-home")}
    bench = Bench(work, {**environment, "TMPDIR": str(MEMORY)})

    def change() -> None:
        grow(data, max(1, int(options.gigabytes * 1e7 / (COLLECTIONS * (COLLECTION_BYTES + 400)))))

    files = list((data / "rocksdb").glob("*.sst"))
    size = sum(path.stat().st_size for path in files)
    print(f"source: {size / MB:.0f} MB in {len(files)} data files, {os.cpu_count()} cores")
    for tool in options.tools.split(","):
        if tool in PACKAGES and shutil.which(tool) is None:
            print(f"{tool} is not installed, left out: {PACKAGES[tool]}")
            continue
        {
            "goud": lambda: goud(bench, data, change),
            "goud-encrypted": lambda: goud(bench, data, change, work / "identity", str(identity.to_public())),
            "restic": lambda: restic(bench, data, change),
            "borg": lambda: borg(bench, data, change),
            "pigz": lambda: pigz(bench, data, change),
        }[tool]()
    (state / "result.json").write_text(json.dumps([asdict(cost) for cost in bench.costs], indent=2))
    print(table(bench.costs))


if __name__ == "__main__":
    main()
