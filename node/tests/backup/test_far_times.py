"""A block's time is whatever a clock said, as far as the rules go: it is stored, and read again."""

from __future__ import annotations

from pathlib import Path

import pytest

from goud_backup import restore as restoring
from goud_backup import verify as verifying
from goud_backup.errors import SourceError
from goud_backup.plan import Wish, make
from goud_backup.repository import layout
from goud_backup.repository.manifest import Manifest, dump
from goud_backup.repository.repository import Repository
from goud_node.chain.block import build
from goud_node.chain.ledger import Ledger
from goud_node.chain.rules import LATEST_MS
from goud_node.store import RocksStore

from .support import GENESIS, KEYS, backup, certificate_of, grow, restore, ship

YEAR_9999 = 253_370_764_800_000


@pytest.fixture(params=[[YEAR_9999], [LATEST_MS - 1], [LATEST_MS, 0]], ids=["9999", "the last", "beyond calendars"])
def late(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A chain of six blocks, the last of which have those times; 0: as early as may be after the one before."""
    data = tmp_path / "late"
    grow(data, 6 - len(request.param))
    store = RocksStore.open(data / "rocksdb")
    try:
        ledger = Ledger(store, GENESIS)
        for time_ms in request.param:
            block = build(ledger.tip, [], proposer="node1", key=KEYS["node1"], timestamp_ms=time_ms)
            ledger.append([block], [certificate_of(block)])
    finally:
        store.close()
    return data


@pytest.mark.parametrize("verb", ["create", "ship"])
def test_it_comes_back(repository: Repository, late: Path, cache: Path, tmp_path: Path, verb: str) -> None:
    if verb == "create":
        backup(repository, late, cache)
    else:
        ship(repository, late)
        ship(repository, late)
    assert verifying.verify(repository, verifying.Depth(deep=True), restoring.Tools(None)).ok
    plan = make(repository, Wish(), None)
    assert restoring.plan_document(repository, plan, tmp_path)["to_height"] == 6
    assert restore(repository, tmp_path / "live").height == 6


def test_a_manifest_that_could_not_be_read_again_is_not_recorded(
    repository: Repository, data: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the reason: a success that nobody can restore is worse than a failure."""
    described = Manifest.__init__

    def odd(manifest: Manifest, **values: object) -> None:
        described(manifest, **{**values, "source": {"node": "x" * 20_000}})  # type: ignore[arg-type]  # as it was given

    monkeypatch.setattr(Manifest, "__init__", odd)
    with pytest.raises(SourceError, match="could not be read again"):
        backup(repository, data, cache)
    monkeypatch.undo()
    assert not repository.manifest_keys()
    assert repository.target.stat(layout.LATEST) is None
    assert dump(backup(repository, data, cache))
