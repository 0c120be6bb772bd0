"""Backups and restores as an operator makes them: the archive, the repository, all volumes lost, a chosen height."""

from __future__ import annotations

import json
import socket
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from threading import Event
from typing import Any

import httpx
import pytest

from tests.support.cluster import BACKUPS, NODE1, NODE2, NODE3, NODES, STATE, Cluster, reported, succeed, wait_until
from tests.support.workload import Account

pytestmark = pytest.mark.e2e
COLLECTIONS = 20
DONE, SOURCE_GONE = 0, 14
ATTEMPTS = 4
"""To kill a node midway: a backup that finds nothing new is over in a second."""


def repository(verb: str) -> Any:
    """What the host's own command says."""
    command = [str(STATE / NODE1 / "backup/goud-backup"), verb, "--json"]
    return json.loads(subprocess.run(command, text=True, capture_output=True, check=True).stdout)


def newest_archive() -> Path:
    return max(BACKUPS.glob("goud-chain-backup-local-*.tar.gz"), key=lambda path: path.stat().st_mtime)


def hashes_at(height: int) -> set[str]:
    """The hash of one block as each node serves it: one, when they agree."""
    return {httpx.get(f"{address}/api/blocks/{height}", trust_env=False).json()["hash"] for address in NODES.values()}


def lose_all_volumes(cluster: Cluster) -> None:
    for node in NODES:
        cluster.container(node).remove(force=True)
    for node in NODES:
        cluster.engine.volumes.get(f"{node}_data").remove()


def beside(cluster: Cluster, node: str, pattern: str) -> set[Path]:
    """What restores have left beside the live data of a node."""
    return set(Path(str(cluster.engine.volumes.get(f"{node}_data").attrs["Mountpoint"])).glob(pattern))


@contextmanager
def port_taken_between(port: int, begin: Callable[[], bool], end: Callable[[], bool]) -> Iterator[None]:
    """Another program listens on a node's port, from the moment `begin` is true until `end` is."""
    left = Event()

    def take() -> None:
        wait_until("the moment to take the port", lambda: left.is_set() or begin(), within=300)
        if left.is_set():
            return
        with socket.create_server(("127.0.0.1", port)):
            wait_until("the moment to give it back", lambda: left.is_set() or end(), within=300)

    with ThreadPoolExecutor(1) as pool:
        taken = pool.submit(take)
        try:
            yield
        finally:
            left.set()
        taken.result()


@pytest.fixture(scope="module")
def account(deployed: Cluster) -> Account:
    """Somebody whose collections are there, so that the chain has blocks."""
    deployed.wait_ready()
    found = Account(NODES[NODE1])
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
        succeed(cluster, "backup", "-e", f"backup_nodes={NODE2}", "-e", "backup_archive=false")
    first, second = repository("list")[-2:]
    assert second["height"] == first["height"]
    assert second["new_objects"] <= 1  # the checkpoint's own small MANIFEST may be another one
    assert second["new_bytes"] < 65536


@pytest.mark.usefixtures("account")
@pytest.mark.parametrize("moment", ["the lock is taken", "the checkpoint is made"])
def test_a_node_that_is_killed_while_it_is_backed_up_spoils_nothing(cluster: Cluster, moment: str) -> None:
    program = str(STATE / NODE2 / "backup/goud-backup")
    lock = BACKUPS / "repository/locks/backup.json"
    before: set[Path] = set()

    def is_taken() -> bool:
        return lock.exists() and "free" not in lock.read_text()

    def come() -> bool:
        if moment == "the lock is taken":
            return is_taken()
        return beside(cluster, NODE2, "checkpoints/*") > before

    for _ in range(ATTEMPTS):
        wait_until("the repository is free", lambda: not is_taken())
        before = beside(cluster, NODE2, "checkpoints/*")
        run = subprocess.Popen(
            [program, "create", "--json"], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )
        wait_until(moment, come, every=0.01)
        cluster.kill(NODE2)
        try:
            error = run.communicate(timeout=60)[1]
        finally:
            cluster.start(NODE2)
        assert run.returncode in {DONE, SOURCE_GONE}, error
        cluster.wait_ready()
        assert repository("verify")["ok"]
        subprocess.run([program, "create", "--json"], check=True, stdout=subprocess.DEVNULL)
        if run.returncode == SOURCE_GONE or "was not released" in error:
            return
    pytest.fail(f"the backup was over before the node was killed, {ATTEMPTS} times")


def test_an_archive_restores_what_all_nodes_lost(cluster: Cluster, account: Account) -> None:
    archive = newest_archive()  # nothing was written since
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
    plan = reported(succeed(cluster, "restore", *arguments))
    assert {row["node"]: row["lost"] for row in plan} == dict.fromkeys(NODES, "5 blocks")
    assert cluster.wait_level() - 1 == height, "the plan alone must change nothing"
    before = len(repository("list"))
    succeed(cluster, "restore", *arguments, "-e", "restore_confirm=true")
    cluster.wait_ready()
    assert cluster.wait_level() - 1 == wanted
    assert hashes_at(wanted) == expected
    safety, own = [(one["height"], one["abandoned"]) for one in repository("list")[before:]]
    assert safety == (height, True), "the backup of what is given up"
    assert own == (wanted, False), "the backup of the history that goes on"
    assert account.submit("elsewhere", "another history from here on", "elsewhere").status_code == 201
    cluster.wait_level()


def test_a_restore_that_fails_after_the_swap_puts_everything_back(cluster: Cluster, account: Account) -> None:
    height = cluster.wait_level() - 1
    before = hashes_at(height)
    kept, undone = (beside(cluster, NODE3, f"rocksdb.{what}-*") for what in ("before", "undone"))
    with port_taken_between(
        28083,
        lambda: beside(cluster, NODE3, "rocksdb.before-*") > kept,
        lambda: beside(cluster, NODE3, "rocksdb.undone-*") > undone,
    ):
        wish = ["-e", f"restore_to_height={height - 5}"]
        recap = cluster.playbook("restore", "-e", "backup=latest", *wish, "-e", "restore_confirm=true")
    assert recap.returncode != 0
    assert "What was there before runs again" in recap.output
    assert "127.0.0.1:28083: bind" in recap.output, "the cause is named"
    cluster.wait_ready()
    assert hashes_at(height) == before
    assert account.submit("as if nothing was", "the old history goes on", "as-if-nothing-was").status_code == 201
    cluster.wait_level()


def test_a_damaged_archive_changes_nothing(cluster: Cluster, tmp_path: Path) -> None:
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
    scratch = STATE
    assert list(scratch.glob("*/backup/scratch/*")) == []
