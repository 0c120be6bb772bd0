"""A backup that is only the way to another height: compared first, and what of it does not lead on is left behind."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from goud_backup.errors import NotVerified
from goud_backup.plan import Wish
from goud_backup.repository import layout
from goud_backup.repository.repository import Repository
from goud_backup.walk import opened
from goud_node.agreement.embedded import EmbeddedKv
from goud_node.agreement.sequencer import Sequencer, State
from goud_node.chain.ledger import Epoch, Ledger
from goud_node.store import Family, RocksStore

from .support import GENESIS, backup, grow, redone, restore, ship, tip_of


@pytest.mark.parametrize("wish", [Wish(exact=True), Wish(to_height=101), Wish(to_height=95)])
@pytest.mark.parametrize("change", [{"chain": {"tip_hash": "00" * 32}}, {"keys": {"audit": 1}}])
def test_what_is_built_upon_is_compared_with_its_manifest_first(
    history: Repository, grown: Path, wish: Wish, change: dict[str, dict[str, object]]
) -> None:
    manifest = history.manifests().good[-1]
    key = layout.manifest_key(manifest.sequence, manifest.id)
    document = json.loads(bytes(history.target.get(key)))
    document["chain"] |= {"tip_certificate": None, "certificate": None}
    for part, changes in change.items():
        document[part] |= changes
    history.target.put(key, redone(document))
    with pytest.raises(NotVerified, match="not what its manifest says"):
        restore(history, grown, wish)
    assert tip_of(grown).height == 130


@pytest.mark.parametrize("height", [60, 70])
def test_a_single_node_s_own_order_does_not_outlive_the_backup_it_ends_with(
    repository: Repository, data: Path, cache: Path, tmp_path: Path, height: int
) -> None:
    """Its log would end below the restored tip, and no node continues a log that lost blocks."""
    store = RocksStore.open(data / "rocksdb")
    tip = Ledger(store, GENESIS).tip
    log = Sequencer(EmbeddedKv(store), GENESIS.chain_id, "node1")
    asyncio.run(log.begin_epoch(Epoch(1, tip.height, tip.hash), State(None, None, None)))
    store.close()
    backup(repository, data, cache)
    grow(data, 20)
    ship(repository, data)
    restore(repository, tmp_path / "out", Wish(to_height=height))
    with opened(tmp_path / "out/rocksdb") as restored:
        rows = list(restored.scan(Family.SEQUENCER))
    assert bool(rows) == (height == 60)
