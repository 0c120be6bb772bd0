"""What a run that says yes promises: `restore latest` leads to the source's chain, without gaps, and to no other."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from pyrage import x25519

from goud_backup import plan as plans
from goud_backup import restore as restoring
from goud_backup import ship as shipping
from goud_backup import verify as verifying
from goud_backup.codec.sealing import Opener
from goud_backup.errors import Damaged, OtherHistory, OutOfReach, SourceError
from goud_backup.fork import fork
from goud_backup.plan import Wish
from goud_backup.prune import prune
from goud_backup.repository import layout, segments
from goud_backup.repository.manifest import Manifest
from goud_backup.repository.repository import Repository
from goud_backup.repository.retention import Policy
from goud_backup.restore import Tools
from goud_backup.seen import Memory
from goud_backup.ship import DirectoryBlocks
from goud_node.chain.block import Block
from goud_node.chain.indexes import height_key
from goud_node.errors import GoudError, InvalidBlock
from goud_node.store import Batch, Family, RocksStore

from .command import Command
from .support import GENESIS, backup, grow, make_repository, restore, ship, tip_of

IDENTITY = x25519.Identity.generate()
RECIPIENT = str(IDENTITY.to_public())


def keys(repository: Repository) -> list[str]:
    return [stat.key for stat in repository.target.list(layout.SEGMENTS)]


def certified(data: Path) -> tuple[int, str]:
    blocks = DirectoryBlocks(data, GENESIS)
    height = blocks.reach()
    return height, str(blocks.digest(height))


@dataclass
class World:
    """An operator, a node, and a repository."""

    folder: Path
    number: int = 0
    data: Path = field(init=False)
    before: Path | None = None
    lagging: Path | None = None
    repository: Repository = field(init=False)

    def __post_init__(self) -> None:
        self.repository = make_repository(self.folder / "repository")
        self.data = self.folder / "data0"
        grow(self.data, 3, collections=1, size=20)

    def grow(self) -> None:
        self.number += 1
        grow(self.data, 4, collections=1, size=20 + self.number)

    def backup(self) -> None:
        backup(self.repository, self.data, self.folder / f"cache{self.data.name}")
        self.hold()

    def lag(self) -> None:
        """Another node of the present history, which stays at this block."""
        self.number += 1
        self.lagging = Path(shutil.copytree(self.data, self.folder / f"lagging{self.number}"))

    def backup_of_lagging(self) -> None:
        if self.lagging is not None:
            backup(self.repository, self.lagging, self.folder / "cache-of-lagging")

    def ship(self) -> None:
        ship(self.repository, self.data, segment_bytes=900)
        self.hold()

    def lower(self) -> None:
        """Restored to two blocks before; nobody says so."""
        self.number += 1
        elsewhere = self.folder / f"data{self.number}"
        restore(self.repository, elsewhere, Wish(to_height=max(1, tip_of(self.data).height - 2)))
        self.before, self.data = self.data, elsewhere

    def lower_to_lagging(self) -> None:
        """As low as the node that lags; nobody says so."""
        if self.lagging is not None:
            self.number += 1
            self.before, self.data = self.data, self.folder / f"data{self.number}"
            shutil.copytree(self.lagging, self.data)

    def fork(self) -> None:
        """What the refusal of the other history advises; nothing where nothing is refused."""
        try:
            ship(self.repository, self.data, segment_bytes=900)
        except OtherHistory as refused:
            words = str(refused).split("--height ")[1].split("`")[0].split()
            fork(self.repository, int(words[0]), words[2])

    def lower_and_fork(self) -> None:
        self.lower()
        tip = tip_of(self.data)
        fork(self.repository, tip.height, tip.hash.hex())

    def undo(self) -> None:
        if self.before is not None:
            self.data, self.before = self.before, self.data

    def prune(self) -> None:
        prune(self.repository, Policy(days=0), grace=0.0)
        prune(self.repository, Policy(days=0), grace=0.0)

    def hold(self) -> None:
        """The promise."""
        self.number += 1
        height, digest = certified(self.data)
        plan = plans.make(self.repository, Wish(), None)
        assert plan.height is not None
        assert plan.height >= height
        again = self.folder / f"again{self.number}"
        restore(self.repository, again)
        assert DirectoryBlocks(again, GENESIS).digest(height) == digest, "restored was another history"
        shutil.rmtree(again)


STEPS = ("grow", "backup", "ship", "lag", "backup_of_lagging", "lower_to_lagging", "lower", "fork", "lower_and_fork",
         "undo", "prune")  # fmt: skip
AGAIN = "backup grow ship lower_and_fork undo ship lower_and_fork undo ship grow ship"
BETWEEN = "backup grow ship lower_and_fork grow ship undo fork ship backup undo fork ship"


LAGGING = "backup lag grow grow backup backup_of_lagging lower_to_lagging grow"


@given(st.lists(st.sampled_from(STEPS), max_size=9))
@example([*LAGGING.split(), "backup"])
@example([*LAGGING.split(), "ship", "grow", "grow", "backup", "ship"])
@example(["grow", "ship", "lower_and_fork", "undo", "ship"])
@example(AGAIN.split())
@example(BETWEEN.split())
@example(["backup", "grow", "backup", "lower", "grow", "backup"])
@example(["grow", "ship", "lower", "backup", "grow", "ship", "fork", "ship", "prune", "ship"])
@settings(max_examples=6, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_run_that_says_yes_leads_to_the_source(tmp_path_factory: pytest.TempPathFactory, steps: list[str]) -> None:
    world = World(tmp_path_factory.mktemp("world"))
    for step in steps:
        try:
            getattr(world, step)()
        except (OtherHistory, SourceError, OutOfReach, Damaged):
            continue  # a refusal promises nothing
    shutil.rmtree(world.folder)


@pytest.fixture
def shipped(repository: Repository, cache: Path, tmp_path: Path) -> Path:
    """A backup at 5, and segments of a few blocks from 6 to 30."""
    data = tmp_path / "chain"
    grow(data, 5)
    backup(repository, data, cache)
    grow(data, 25)
    ship(repository, data, segment_bytes=4000)
    assert len(keys(repository)) > 5
    return data


@pytest.mark.parametrize("at", [0, 3, -2])
def test_a_hole_is_refused_by_all_who_judge_and_filled_from_the_node(
    repository: Repository, shipped: Path, tmp_path: Path, at: int
) -> None:
    gone = keys(repository)[at]
    repository.target.delete(gone)
    first = int(gone.split("/")[1].split("-")[0])
    for depth in (verifying.Depth(data=False), verifying.Depth(), verifying.Depth(deep=True)):
        report = verifying.verify(repository, depth, Tools(None))
        assert [one.message for one in report.problems if f"Blocks {first} to" in one.message]
    with pytest.raises(Damaged, match=f"Blocks {first} to .*--to-height {first - 1}"):
        restore(repository, tmp_path / "again")
    assert restore(repository, tmp_path / "lower", Wish(to_height=first - 1)).height == first - 1
    grow(shipped, 1)
    ship(repository, shipped)
    assert verifying.verify(repository, verifying.Depth(deep=True), Tools(None)).ok
    assert restore(repository, tmp_path / "again").tip_hash == tip_of(shipped).hash.hex()


@pytest.mark.usefixtures("shipped")
def test_a_hole_that_the_source_cannot_fill_ends_the_run(repository: Repository, tmp_path: Path) -> None:
    for key in keys(repository)[2:-1]:
        repository.target.delete(key)
    restore(repository, tmp_path / "lower", Wish(to_height=6))
    with pytest.raises((Damaged, SourceError), match=r"missing|is known"):
        ship(repository, tmp_path / "lower")


def test_status_refuses_a_hole(goud_backup: Command, tmp_path: Path, data: Path) -> None:
    goud_backup("init")
    goud_backup("create", "--data-dir", str(data))
    for _ in range(2):
        grow(data, 5)
        goud_backup("ship", "--data-dir", str(data))
    assert goud_backup("status", "--json")["problem"] is None
    sorted((tmp_path / "repository" / "segments").iterdir())[0].unlink()
    assert "missing" in str(goud_backup("status", "--json", code=10)["problem"])


@pytest.mark.parametrize("sealed", [False, True])
@pytest.mark.parametrize("height", [12, 20, 30])
@pytest.mark.parametrize("more", [0, 4, 40])
def test_another_history_is_refused_at_every_height(
    tmp_path: Path, cache: Path, *, sealed: bool, height: int, more: int
) -> None:
    """Whether it is shorter or longer than what is stored, and where it parts; a source that is behind is none."""
    recipients = (RECIPIENT,) if sealed else ()
    repository, data = make_repository(tmp_path / "r", recipients), tmp_path / "chain"
    grow(data, 10)
    backup(repository, data, cache, recipients)
    grow(data, 20)
    ship(repository, data, recipients)
    other = tmp_path / "other"
    restore(repository, other, Wish(to_height=height), Tools(Opener([IDENTITY])))
    if more:
        grow(other, more, size=77)
    before = keys(repository)
    runs = (lambda: ship(repository, other, recipients), lambda: backup(repository, other, tmp_path / "c2", recipients))
    for run in runs:
        if height == 30 or (not more and not sealed):
            run()
            continue
        # Without a key, nothing says which block it was inside a sealed segment.
        with pytest.raises((OtherHistory, SourceError), match=f"fork --height {height} " if not sealed else "fork"):
            run()
        assert keys(repository) == before
        assert len(repository.manifests().good) == 1


@pytest.mark.parametrize("at", [6, 7, 9])
@pytest.mark.parametrize("fault", ["body", "signature", "proposer", "root", "count"])
def test_no_bad_block_is_shipped(tmp_path: Path, at: int, fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    repository, data = make_repository(tmp_path / "r"), tmp_path / "chain"
    grow(data, 5)
    backup(repository, data, tmp_path / "cache")
    grow(data, 5)
    _spoil(data, at, fault)
    with pytest.raises(InvalidBlock, match=f"Block {at} |Block {at + 1} "):
        ship(repository, data)
    assert keys(repository) == []
    # Who stored such a block before this was looked at: verification names the segment.
    monkeypatch.setattr("goud_backup.ship.check_block", lambda *_: ())
    monkeypatch.setattr("goud_backup.ship.segments.check_certificate", lambda *_: None)
    ship(repository, data)
    report = verifying.verify(repository, verifying.Depth(), Tools(None))
    assert any(one.thing.startswith(layout.SEGMENTS) and f"Block {at}" in one.message for one in report.problems)


def _spoil(data: Path, at: int, fault: str) -> None:
    with_store = RocksStore.open(data / "rocksdb")
    try:
        raw = with_store.get(Family.BLOCKS, height_key(at))
        assert raw is not None
        block = Block.decode(raw)
        changed = {
            "body": lambda: replace(block, transactions=(b"other",)),
            "signature": lambda: replace(block, signature=bytes(64)),
            "proposer": lambda: replace(block, header=replace(block.header, proposer="node9")),
            "root": lambda: replace(block, header=replace(block.header, root=bytes(32))),
            "count": lambda: replace(block, header=replace(block.header, count=9)),
        }[fault]()
        batch = Batch()
        batch.put(Family.BLOCKS, height_key(at), changed.encode())
        with_store.write(batch)
    finally:
        with_store.close()


def test_a_name_that_was_abandoned_is_never_used_again(repository: Repository, shipped: Path) -> None:
    before = set(keys(repository))
    base = DirectoryBlocks(shipped, GENESIS).digest(8)
    assert base is not None
    made = fork(repository, 8, base)
    assert made is not None
    ship(repository, shipped, segment_bytes=4000)
    again = {one.key for one in repository.segments()}
    assert not again & set(made.segments)
    assert len(again - before) > 5
    assert segments.cover(repository.segments(), 6)[-1].last == 30


def test_the_backup_that_leads_highest_is_the_latest(repository: Repository, cache: Path, tmp_path: Path) -> None:
    """A node that lags may be the source of the newest backup: what is higher is not left out for that."""
    data, lagging = tmp_path / "chain", tmp_path / "lagging"
    grow(data, 10)
    shutil.copytree(data, lagging)
    backup(repository, data, cache)
    ship(repository, data, from_genesis=True)
    grow(data, 10)
    backup(repository, data, cache)
    backup(repository, lagging, tmp_path / "cache-of-another")
    assert repository.find("latest").chain.height == 10
    assert restore(repository, tmp_path / "again").height == 20


@pytest.mark.usefixtures("shipped")
def test_mixed_histories_are_named(repository: Repository, tmp_path: Path) -> None:
    """A repository of an earlier release may hold segments that do not fit each other."""
    other = tmp_path / "other"
    grow(other, 20)
    grow(other, 10, size=77)
    strange = make_repository(tmp_path / "strange")
    for _ in range(2):
        ship(strange, other)
        grow(other, 5)
    key = keys(strange)[-1]
    assert key.startswith("segments/000000000031-")
    repository.target.put(key, strange.target.get(key))
    with pytest.raises(GoudError):
        restore(repository, tmp_path / "again")
    report = verifying.verify(repository, verifying.Depth(data=False), Tools(None))
    assert any("two histories are mixed" in one.message for one in report.problems)


@pytest.mark.parametrize(
    ("parted", "live", "lost"),
    [(12, 27, (15, 15)), (30, 30, (0, 0)), (30, 40, (10, 10)), (20, 35, (15, 15)), (3, 28, (24, 28))],
)
@pytest.mark.usefixtures("shipped")
def test_the_plan_says_how_many_live_blocks_go(
    repository: Repository, tmp_path: Path, parted: int, live: int, lost: tuple[int, int]
) -> None:
    """Where the live chain has parted below the backup's height, heights alone would say that none goes."""
    other = tmp_path / "live"
    restore(repository, other, Wish(to_height=parted))
    if live > parted:
        grow(other, live - parted, size=77)
    plan = plans.make(repository, Wish(), None)
    document = restoring.plan_document(repository, plan, other)
    assert document["live_height"] == live
    assert (document["live_blocks_not_in_the_restore_at_least"], document["live_blocks_not_in_the_restore"]) == lost


def test_a_backup_reads_no_manifest_that_an_earlier_one_has_read(
    repository: Repository, shipped: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "cache"
    for _ in range(4):
        backup(repository, shipped, cache)
    manifests: list[str] = []
    read_manifest = repository.read_manifest

    def counted(key: str) -> Manifest:
        manifests.append(key)
        return read_manifest(key)

    monkeypatch.setattr(repository, "read_manifest", counted)
    backup(repository, shipped, cache)
    assert len(set(manifests)) == 1, "the newest alone: whatever runs later needs no more of the others"
    shutil.rmtree(cache)
    manifests.clear()
    backup(repository, shipped, cache)
    assert len(set(manifests)) == 6, "what is not remembered is read"


def test_an_idle_run_takes_no_lock_and_makes_three_requests(
    repository: Repository, shipped: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = Memory(tmp_path / "cache", repository.config.id)

    def run() -> int:
        blocks = DirectoryBlocks(shipped, GENESIS)
        return shipping.ship(repository, blocks, (), memory=memory).blocks

    run()
    requests: list[str] = []

    def counted(call: Callable[..., Any], verb: str) -> Callable[..., Any]:
        def request(key: str, *more: Any, **options: Any) -> Any:
            requests.append(f"{verb} {key}")
            return call(key, *more, **options)

        return request

    for verb in ("get", "put", "stat", "list", "delete"):
        monkeypatch.setattr(repository.target, verb, counted(getattr(repository.target, verb), verb))
    assert run() == 0
    # The third is for the configuration, which whoever opens the repository has read.
    assert requests == [f"list {layout.FORKS}", f"list {layout.SEGMENTS}"]
    repository.target.delete(keys(repository)[-1])
    assert run() > 0, "what was seen before is gone"
