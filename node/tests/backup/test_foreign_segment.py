"""A segment that is sealed to others than the rest of the repository keeps nobody from verifying the rest."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
from pyrage import x25519

from goud_backup import verify as verifying
from goud_backup.codec.sealing import Opener, Sealer
from goud_backup.errors import WrongIdentity
from goud_backup.repository import layout, segments
from goud_backup.repository.repository import Repository
from goud_backup.restore import Tools
from goud_backup.ship import DirectoryBlocks

from .support import GENESIS, backup, grow, make_repository, ship

OURS, OTHERS = x25519.Identity.generate(), x25519.Identity.generate()
RECIPIENTS = (str(OURS.to_public()),)


@dataclass
class World:
    repository: Repository
    foreign: str

    def verify(self, identity: x25519.Identity, *, deep: bool = False) -> verifying.Report:
        return verifying.verify(self.repository, verifying.Depth(deep=deep), Tools(Opener([identity])))


@pytest.fixture(params=["backup", "segment"])
def world(request: pytest.FixtureRequest, tmp_path: Path) -> World:
    """What shows that the identity is the right one is a backup, or another segment."""
    repository, data = make_repository(tmp_path / "repository", RECIPIENTS), tmp_path / "data"
    grow(data, 10)
    if request.param == "backup":
        backup(repository, data, tmp_path / "cache", RECIPIENTS)
    else:
        ship(repository, data, RECIPIENTS)
    grow(data, 5)
    pairs = list(DirectoryBlocks(data, GENESIS).from_height(11))
    key, raw = segments.build(pairs, Sealer([str(OTHERS.to_public())]))
    repository.target.put(key, raw)
    return World(repository, key)


@pytest.mark.parametrize("deep", [False, True])
def test_it_is_a_problem_of_its_own(world: World, *, deep: bool) -> None:
    objects = [stat.key for stat in world.repository.target.list(layout.OBJECTS)]
    report = world.verify(OURS, deep=deep)
    assert report.problems[0].thing == world.foreign
    assert {problem.thing for problem in report.problems} <= {world.foreign, "latest"}
    assert "by hand" in report.problems[0].message
    assert all(check["ok"] for check in world.repository.checks().values())
    for key in objects:
        world.repository.target.put(key, bytes(20))
    assert {problem.thing for problem in world.verify(OURS).problems} >= {world.foreign, *objects}


def test_it_stays_where_it_is(world: World) -> None:
    """Its own identity may open it."""
    assert verifying.quarantine(world.repository, world.verify(OURS), opener=Opener([OURS])) == []
    both = Tools(Opener([OURS, OTHERS]))
    assert verifying.verify(world.repository, verifying.Depth(deep=True), both).ok


def test_an_identity_that_opens_nothing_is_the_wrong_one(world: World) -> None:
    with pytest.raises(WrongIdentity):
        world.verify(x25519.Identity.generate())
    assert not world.repository.checks()
