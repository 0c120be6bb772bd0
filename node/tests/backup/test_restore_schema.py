"""Backups of a schema that no migration leads from: refused, led around by shipped blocks, or begun again if asked."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from goud_backup import swap
from goud_backup.plan import How, Wish, make
from goud_backup.repository import layout
from goud_backup.repository.repository import Repository
from goud_node.errors import SchemaMismatch

from .support import backup, grow, redone, restore, ship, tip_of


def make_foreign(repository: Repository) -> None:
    """From now on its backups have a schema that no migration leads from."""
    for manifest in repository.manifests().good:
        key = layout.manifest_key(manifest.sequence, manifest.id)
        document = json.loads(bytes(repository.target.get(key)))
        document["chain"]["schema"] = 99
        repository.target.put(key, redone(document))


def test_a_schema_without_a_migration_is_refused_by_the_plan(history: Repository, grown: Path) -> None:
    make_foreign(history)
    with pytest.raises(SchemaMismatch, match="schema version 99"):
        make(history, Wish(exact=True), None)
    assert tip_of(grown).height == 130


def test_a_foreign_schema_begins_again_only_when_asked_by_name(history: Repository, grown: Path) -> None:
    make_foreign(history)
    assert restore(history, grown, Wish(exact=True, reinitialize=True)).height == 0
    assert tip_of(grown).height == 0
    swap.undo(grown)
    assert tip_of(grown).height == 130, "what was there is kept"


def test_shipped_blocks_lead_around_a_foreign_schema(repository: Repository, data: Path, cache: Path) -> None:
    ship(repository, data)
    grow(data, 10)
    backup(repository, data, cache)
    ship(repository, data)
    grow(data, 10)
    ship(repository, data)
    make_foreign(repository)
    assert make(repository, Wish(), None).how is How.SEGMENTS
    done = restore(repository, data, Wish(reinitialize=True))
    assert done.height >= 70, "nothing begins again while the blocks are there"
