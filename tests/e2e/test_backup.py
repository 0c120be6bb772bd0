"""Backups and restores as an operator makes them: the archive, the repository, all volumes lost, a chosen height."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.cluster import NODES, ROOT, Cluster
from tests.support.workload import Account

pytestmark = pytest.mark.e2e
BACKUPS = ROOT / "backups"
COLLECTIONS = 20


def repository(verb: str) -> Any:
    """What the host's own command says."""
    command = [str(ROOT / ".state/local/node1/backup/goud-backup"), verb, "--json"]
    return json.loads(subprocess.run(command, text=True, capture_output=True, check=True).stdout)


def newest_archive() -> Path:
    return max(BACKUPS.glob("goud-chain-backup-local-*.tar.gz"), key=lambda path: path.stat().st_mtime)


def hashes_at(height: int) -> set[str]:
    """The hash of one block as each node serves it: one, when they agree."""
    return {httpx.get(f"{address}/api/blocks/{height}").json()["hash"] for address in NODES.values()}


def lose_all_volumes(cluster: Cluster) -> None:
    for node in NODES:
        cluster.container(node).remove(force=True)
    for node in NODES:
        cluster.engine.volumes.get(f"{node}_data").remove()


def succeed(cluster: Cluster, verb: str, *arguments: str) -> str:
    recap = cluster.playbook(verb, *arguments)
    assert recap.returncode == 0, recap.output
    return recap.output


@pytest.fixture(scope="module")
def account(deployed: Cluster) -> Account:
    """Somebody whose collections are there, so that the chain has blocks."""
    deployed.wait_ready()
    found = Account(NODES["node1"])
    for number in range(COLLECTIONS):
        assert found.submit(f"backup-{number}", f"content {number}", f"key-{number}").status_code == 201
    deployed.wait_level()
    return found


@pytest.mark.usefixtures("account")
def test_an_archive_that_anybodys_tools_read(cluster: Cluster) -> None:
    succeed(cluster, "backup")
    archive = newest_archive()
    subprocess.run(["sha256sum", "--check", f"{archive.name[:-7]}.sha256"], cwd=BACKUPS, check=True)
    listing = subprocess.run(["tar", "-tzf", str(archive)], text=True, capture_output=True, check=True).stdout
    assert "metadata.txt" in listing
    assert "secret" not in listing
    assert archive.stat().st_mode & 0o077 == 0


@pytest.mark.usefixtures("account")
def test_the_same_state_stores_nothing_again(cluster: Cluster) -> None:
    cluster.wait_level()
    for _ in range(2):
        succeed(cluster, "backup", "-e", "backup_nodes=node2", "-e", "backup_archive=false")
    first, second = repository("list")[-2:]
    assert second["height"] == first["height"]
    assert second["new_objects"] <= 1  # the checkpoint's own small MANIFEST may be another one
    assert second["new_bytes"] < 65536


def test_an_archive_restores_what_all_nodes_lost(cluster: Cluster, account: Account) -> None:
    succeed(cluster, "backup")
    archive = newest_archive()
    height = cluster.wait_level() - 1
    before = hashes_at(height)
    lose_all_volumes(cluster)
    succeed(cluster, "restore", "-e", f"backup={archive}", "-e", "restore_confirm=true")
    cluster.wait_ready()
    assert hashes_at(height) == before
    assert len(account.http.get("/api/collections").json()["collections"]) == COLLECTIONS
    assert account.submit("after", "the chain goes on", "after").status_code == 201
    cluster.wait_level()


def test_a_height_is_exactly_the_tip(cluster: Cluster, account: Account) -> None:
    succeed(cluster, "backup", "-e", "backup_archive=false")
    height = cluster.wait_level() - 1
    wanted, expected = height - 5, hashes_at(height - 5)
    arguments = ["-e", "backup=latest", "-e", f"restore_to_height={wanted}"]
    plan = succeed(cluster, "restore", *arguments)
    assert "5 blocks" in plan
    assert cluster.wait_level() - 1 == height, "the plan alone must change nothing"
    succeed(cluster, "restore", *arguments, "-e", "restore_confirm=true")
    cluster.wait_ready()
    assert cluster.wait_level() - 1 == wanted
    assert hashes_at(wanted) == expected
    assert account.submit("elsewhere", "another history from here on", "elsewhere").status_code == 201
    cluster.wait_level()


def test_a_damaged_archive_changes_nothing(cluster: Cluster, tmp_path: Path) -> None:
    succeed(cluster, "backup")
    archive = newest_archive()
    damaged = tmp_path / archive.name
    content = bytearray(archive.read_bytes())
    content[len(content) // 2] ^= 1
    damaged.write_bytes(content)
    (tmp_path / f"{archive.name[:-7]}.sha256").write_text((BACKUPS / f"{archive.name[:-7]}.sha256").read_text())
    height = cluster.wait_level()
    recap = cluster.playbook("restore", "-e", f"backup={damaged}", "-e", "restore_confirm=true")
    assert recap.returncode != 0
    assert "damaged" in recap.output
    cluster.wait_ready()
    assert cluster.wait_level() == height


def test_a_drill_measures_and_leaves_nothing(cluster: Cluster) -> None:
    assert "passed" in succeed(cluster, "drill")
    scratch = ROOT / ".state/local"
    assert list(scratch.glob("*/backup/scratch/*")) == []
