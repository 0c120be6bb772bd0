"""Two hosts of two histories work on one repository at the same moment: each has looked before the other wrote.

One run is stopped at each of its calls to the store, and others run to their end there.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from pyrage import x25519

from goud_backup import create as creating
from goud_backup import verify as verifying
from goud_backup.codec.sealing import Opener
from goud_backup.errors import AccessRefused, Locked, OtherHistory, SourceError
from goud_backup.fork import fork
from goud_backup.repository import layout
from goud_backup.repository.repository import Repository
from goud_backup.repository.segments import Pair
from goud_backup.restore import Tools
from goud_backup.ship import DirectoryBlocks
from goud_backup.source import DirectorySource, NodeView, Snapshot
from goud_backup.targets import open_target
from goud_backup.targets.file import FileTarget
from goud_node.chain.genesis import Genesis
from goud_node.errors import GoudError

from .support import GENESIS, backup, grow, make_repository, reopened, restore, ship

IDENTITY = x25519.Identity.generate()
RECIPIENTS = {"plain": (), "sealed": (str(IDENTITY.to_public()),)}
TOOLS = Tools(Opener([IDENTITY]))
WATCHED = (layout.SEGMENTS, layout.MANIFESTS, layout.FORKS, layout.LATEST)
REFUSALS = (OtherHistory, SourceError, Locked)


class Stopping:
    """A target that calls `at` before each call that concerns what both runs read and write."""

    def __init__(self, url: str, at: Callable[[], None]) -> None:
        self._target = open_target(url)
        self._at = at

    def __getattr__(self, name: str) -> Any:
        attribute = getattr(self._target, name)
        if name not in {"put", "get", "list", "delete"}:
            return attribute

        def call(key: str, *more: Any, **options: Any) -> Any:
            if key.startswith(WATCHED):
                self._at()
            answer = attribute(key, *more, **options)
            # As a store answers: when it is asked, not when somebody gets to the end of the list.
            return iter(list(answer)) if name == "list" else answer

        return call


@dataclass
class World:
    """A repository, and the data of two hosts, x and y, whose chains are one up to block `parted`."""

    folder: Path
    recipients: tuple[str, ...]
    parted: int
    claims: list[tuple[str, int, str]] = field(default_factory=list)
    refusals: list[tuple[str, str, GoudError]] = field(default_factory=list)

    def data(self, host: str) -> Path:
        return self.folder.parent / host

    def repository(self, at: Callable[[], None] = lambda: None) -> Repository:
        return reopened(Stopping(f"file://{self.folder}/repository", at))

    def run(self, word: str, at: Callable[[], None] = lambda: None) -> None:
        """One run of a host, `verb-host`; what it promises when it succeeds, or how it refuses, is noted."""
        verb, host = word.split("-")
        blocks, repository = DirectoryBlocks(self.data(host), GENESIS), self.repository(at)
        try:
            if verb == "create":
                backup(repository, self.data(host), self.folder / f"cache-{host}", self.recipients, workers=1)
            elif verb == "ship":
                ship(repository, self.data(host), self.recipients, wait=0)
            else:
                fork(repository, self.parted, str(blocks.digest(self.parted)))
                self.claims.clear()
                return
        except REFUSALS as error:
            self.refusals.append((verb, host, error))
        else:
            height = blocks.reach()
            self.claims.append((host, height, str(blocks.digest(height))))

    def hold(self) -> None:
        """The repository is whole, and a restore of the latest has all that was promised."""
        report = verifying.verify(self.repository(), verifying.Depth(deep=True, record=False), TOOLS)
        assert report.ok, report.problems
        if self.claims:
            out = self.folder / "out"
            restore(self.repository(), out, None, TOOLS)
            for _, height, digest in self.claims:
                assert DirectoryBlocks(out, GENESIS).digest(height) == digest
            shutil.rmtree(out)

    def follow(self) -> None:
        """Whoever was refused does what the refusal says, and then succeeds."""
        for verb, host, _ in list(self.refusals):
            self.refusals.clear()
            self.run(f"{verb}-{host}")
            for _, _, refused in list(self.refusals):
                words = re.search(r"goud-backup fork --height (\d+) --hash (\w+)", str(refused))
                if words is None and "say so with `goud-backup fork`" in str(refused):
                    return  # this chain is shorter than what is stored, and no segment that can be read says where
                assert words, str(refused)
                fork(self.repository(), int(words[1]), words[2])
                self.claims.clear()
                self.refusals.clear()
                self.run(f"{verb}-{host}")
            assert not self.refusals
            self.hold()


def template(folder: Path, kind: str, parted: int) -> World:
    """Backed up at 10, shipped to 20; x goes on to 30, and y, from block `parted` on, in another way to 32."""
    x, y = folder / "x", folder / "y"
    (folder / "made").mkdir()
    repository = make_repository(folder / "made" / "repository", RECIPIENTS[kind])
    grow(x, 5, collections=1, size=20)
    for height in (10, 15, 20, 25, 30):
        grow(x, 5, collections=1, size=20)
        if height == 10:
            backup(repository, x, folder / "cache", RECIPIENTS[kind])
        if height == 20:
            ship(repository, x, RECIPIENTS[kind])
        if height == parted:
            shutil.copytree(x, y)
    grow(y, 32 - parted, collections=1, size=77)
    return World(folder / "made", RECIPIENTS[kind], parted)


@pytest.fixture(scope="module")
def templates(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, int], World]:
    made: dict[tuple[str, int], World] = {}

    def world(kind: str, parted: int) -> World:
        if (kind, parted) not in made:
            made[kind, parted] = template(tmp_path_factory.mktemp("hosts"), kind, parted)
        return made[kind, parted]

    return world


def copied(world: World, number: int) -> World:
    """A target never changes a file in place, so links are copies."""
    folder = world.folder.parent / f"case{number}"
    shutil.copytree(world.folder, folder, copy_function=os.link)
    return World(folder, world.recipients, world.parted)


def stopped_at(world: World, step: int, outer: str, inner: Sequence[str]) -> bool:
    """Run `outer`, and `inner` when it is about to make its n-th call; whether it got that far."""
    left = [step]

    def at() -> None:
        left[0] -= 1
        if left[0] == 0:
            for word in inner:
                world.run(word)

    world.run(outer, at)
    return left[0] <= 0


# Without a fork, hosts that part at what is stored (20), or inside of what one of them ships (25).
PARTED = [
    (f"{outer}-{x}", [f"{inner}-{y}"], kind, parted)
    for x, y in (("x", "y"), ("y", "x"))
    for outer, inner in (("create", "ship"), ("ship", "create"), ("create", "create"), ("ship", "ship"))
    for kind, parted in (("plain", 20), ("plain", 25), ("sealed", 25))
    if outer != inner or (kind, x) == ("plain", "x")
]
# A restore to a block below of what is stored (15), which is said while the other works, or has been said before.
FORKED = [
    (outer, ["fork-y", *then], "plain", 15)
    for outer in ("create-x", "ship-x")
    for then in ([], ["ship-y"], ["create-y"], ["ship-y", "create-y"])
] + [("fork-y", [inner], "plain", 15) for inner in ("create-x", "ship-x")]  # fmt: skip
# Nobody says so.
SILENT = [("create-x", ["ship-y"], "plain", 15), ("ship-y", ["create-x"], "plain", 15)]


def named(value: object) -> str:
    return "+".join(value) if isinstance(value, list) else str(value)


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("goud_backup.create._PATIENCE", ())
    # Who holds the lock is the run that waits for this one.
    monkeypatch.setattr("goud_backup.fork._SHIP_SECONDS", 0.0)


@pytest.mark.parametrize(("outer", "inner", "kind", "parted"), [*PARTED, *FORKED, *SILENT], ids=named)
def test_not_both_succeed(
    templates: Callable[[str, int], World], outer: str, inner: list[str], kind: str, parted: int
) -> None:
    world, step = templates(kind, parted), 1
    while True:
        case = copied(world, step)
        try:
            if not stopped_at(case, step, outer, inner):
                break
            if not any(word.startswith("fork") for word in (outer, *inner)):
                assert {"x", "y"} != {host for host, _, _ in case.claims}, f"both succeeded at {step}"
            case.hold()
            case.follow()
        finally:
            shutil.rmtree(case.folder)
        step += 1
    assert step > 3


def test_what_a_killed_run_left_is_named(templates: Callable[[str, int], World]) -> None:
    """A host shipped and was killed before it looked again, when the other had looked before."""
    world = copied(templates("plain", 20), 100)
    strange = copied(templates("plain", 20), 101)
    strange.run("ship-y")
    world.run("create-x")
    (left,) = [one.key for one in strange.repository().segments() if one.first == 21]
    world.repository().target.put(left, strange.repository().target.get(left))
    report = verifying.verify(world.repository(), verifying.Depth(record=False), TOOLS)
    assert any(one.thing == left and "another block 30" in one.message for one in report.problems)
    world.claims.clear()
    for again in ("create-x", "ship-y"):
        world.run(again)
    assert [f"{verb}-{host}" for verb, host, _ in world.refusals] == ["create-x", "ship-y"]
    world.follow()


def shipping_meanwhile(patch: pytest.MonkeyPatch, run: Callable[[], object]) -> None:
    """Between the last look before a manifest is stored and the moment it is."""
    put = FileTarget.put

    def late(target: FileTarget, key: str, data: Any, **options: Any) -> Any:
        if key.startswith(layout.MANIFESTS):
            run()
        return put(target, key, data, **options)

    patch.setattr(FileTarget, "put", late)


def test_a_backup_that_cannot_be_withdrawn_counts_as_damaged(
    templates: Callable[[str, int], World], monkeypatch: pytest.MonkeyPatch
) -> None:
    world, delete = copied(templates("plain", 20), 102), FileTarget.delete

    def refused(target: FileTarget, key: str) -> None:
        if key.startswith(layout.MANIFESTS):
            raise AccessRefused("this host may not remove")
        delete(target, key)

    with monkeypatch.context() as patch:
        patch.setattr(FileTarget, "delete", refused)
        shipping_meanwhile(patch, lambda: world.run("ship-y"))
        world.run("create-x")
    ((verb, _, error),) = world.refusals
    assert verb == "create"
    assert "could not be withdrawn" in str(error)
    newest = world.repository().manifests().good[-1]
    assert world.repository().checks()[newest.id]["ok"] is False


class Client:
    """A running node, by a copy of its data."""

    def __init__(self, data: Path) -> None:
        self._blocks = DirectoryBlocks(data, GENESIS)

    def blocks(self, start: int, most: int = 512) -> list[Pair]:
        return list(islice(self._blocks.from_height(start), most))

    def certified_height(self) -> int:
        return self._blocks.reach()


class Running(DirectorySource):
    """What was examined, and the node that goes on."""

    def __init__(self, data: Path, later: Path) -> None:
        super().__init__(data)
        self._later = later

    @contextmanager
    def open(self, genesis: Genesis) -> Iterator[Snapshot]:
        with super().open(genesis) as snapshot:
            yield replace(snapshot, live=NodeView(Client(self._later)))


@pytest.mark.parametrize("later", ["own", "restored", "none"])
def test_a_node_is_asked_for_what_was_shipped_above_its_checkpoint(
    templates: Callable[[str, int], World], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, later: str
) -> None:
    """Inside a sealed segment nothing names the checkpoint's tip."""
    world = copied(templates("sealed", 25), 103)
    grown = Path(shutil.copytree(world.data("x"), tmp_path / "grown"))
    grow(grown, 10, collections=1, size=20)
    lives = {"own": grown, "restored": world.data("y")}
    x = world.data("x")
    source = Running(x, lives[later]) if later in lives else DirectorySource(x)
    options = creating.Options(recipients=world.recipients, cache_dir=tmp_path / "cache")
    with monkeypatch.context() as patch:
        shipping_meanwhile(patch, lambda: ship(world.repository(), grown, world.recipients))
        if later == "own":
            creating.create(world.repository(), source, options)
        else:
            with pytest.raises(SourceError, match=r"nothing that can be read here.*was withdrawn"):
                creating.create(world.repository(), source, options)
    world.hold()
    shutil.rmtree(world.folder)
