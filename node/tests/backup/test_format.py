"""The format is what its page says: an independent reader restores what the engine wrote."""

from __future__ import annotations

import ast
from pathlib import Path

import pyrage
import pytest

from goud_node.chain.inspect import inspect
from goud_node.chain.ledger import Ledger
from goud_node.store import RocksStore

from . import reader
from .support import GENESIS, backup, grow, make_repository, ship

IDENTITY = pyrage.x25519.Identity.generate()


@pytest.mark.parametrize("encrypted", [False, True])
def test_an_independent_reader_restores(tmp_path: Path, data: Path, cache: Path, *, encrypted: bool) -> None:
    recipients = (str(IDENTITY.to_public()),) if encrypted else ()
    grow(data, 12, size=300_000)  # parts of more than one frame
    repository = make_repository(tmp_path / "repository", recipients)
    backup(repository, data, cache, recipients)
    ship(repository, data, recipients, from_genesis=True)
    manifest = reader.restore(tmp_path / "repository", tmp_path / "out", IDENTITY if encrypted else None)
    report = inspect(tmp_path / "out", GENESIS)
    assert report.ok, report.problem
    assert (report.height, report.tip_hash) == (72, manifest["chain"]["tip_hash"])
    found = reader.hashes(tmp_path / "repository", IDENTITY if encrypted else None)
    store = RocksStore.open(data / "rocksdb", read_only=True)
    ledger = Ledger(store, GENESIS)
    assert found == {block.height: block.hash.hex() for block in ledger.blocks(1, 100)}
    store.close()


def test_the_reader_is_independent_and_short() -> None:
    text = Path(reader.__file__).read_text(encoding="utf-8")
    imported = {
        alias.name.split(".")[0]
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in ([ast.alias(node.module or "")] if isinstance(node, ast.ImportFrom) else node.names)
    }
    assert not {name for name in imported if name.startswith("goud")}
    assert sum(1 for line in text.splitlines() if line.strip()) < 75
