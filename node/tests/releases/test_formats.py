"""Data directories, repositories and archives of earlier releases are read, proven and carried on by this one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from goud_node.api.vault import ApiKey, unseal
from goud_node.chain import genesis as documents
from goud_node.chain.volume import open_volume

from .conftest import Left

pytestmark = pytest.mark.programs


def assert_every_write_reads_back(left: Left, data_dir: Path, up_to: int) -> None:
    """Decrypt each acknowledged collection of `written.json` at or below block `up_to` from the database itself."""
    keys = [ApiKey.parse(text) for text in left.written["accounts"]]
    store, ledger = open_volume(data_dir, documents.load(left.genesis), must_be_mount=False)
    try:
        for write in left.written["writes"]:
            if write["height"] > up_to:
                continue
            key = keys[write["account"]]
            assert key is not None
            account = ledger.account(key.account_id)
            collection = ledger.collection(key.account_id, write["id"])
            assert account is not None, write["height"]
            assert collection is not None, f"{write['label']} of block {write['height']} is lost"
            data_key = key.data_key(account.salt)
            label = unseal(data_key, collection.label, key.account_id, write["id"], "label")
            payload = unseal(data_key, collection.payload, key.account_id, write["id"], "payload")
            assert label.decode() == write["label"]
            assert json.loads(payload) == write["payload"]
    finally:
        store.close()


@pytest.mark.parametrize("node", ["node1", "node2", "node3"])
def test_a_data_directory_is_proven_and_read(left: Left, node: str) -> None:
    report = left.run("goud-node", "inspect", "--data-dir", left.data(node))
    assert report["height"] == left.written["height"]
    assert_every_write_reads_back(left, left.data(node), left.written["height"])


def test_a_repository_is_verified_and_restored(left: Left) -> None:
    left.run("goud-backup", "verify", "--deep", "-r", left.repository, "--scratch", left.folder)
    target = left.folder / "restored"
    target.mkdir()
    restored = left.run("goud-backup", "restore", "latest", "-r", left.repository, "--data-dir", target, "--yes")
    assert restored["height"] == left.written["shipped"]
    assert_every_write_reads_back(left, target, left.written["shipped"])


def test_a_repository_is_carried_on(left: Left) -> None:
    shipped = left.run("goud-backup", "ship", "-r", left.repository, "--data-dir", left.data())
    assert shipped["first"] == left.written["shipped"] + 1
    backup = left.run("goud-backup", "create", "-r", left.repository, "--data-dir", left.data("node2"))
    assert backup["height"] == left.written["height"]
    left.run("goud-backup", "verify", "--deep", "-r", left.repository, "--scratch", left.folder)
    target = left.folder / "restored"
    target.mkdir()
    restored = left.run("goud-backup", "restore", "latest", "-r", left.repository, "--data-dir", target, "--yes")
    assert restored["height"] == left.written["height"]
    assert_every_write_reads_back(left, target, left.written["height"])


def test_an_archive_is_restored(left: Left) -> None:
    target = left.folder / "restored"
    target.mkdir()
    restored = left.run("goud-backup", "restore-archive", left.archive, "--data-dir", target, "--yes")
    assert restored["height"] == left.written["backup"]
    assert_every_write_reads_back(left, target, left.written["backup"])
