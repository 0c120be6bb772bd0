"""Restores beyond the everyday ones: to a moment, of one node, from an encrypted repository, and killed midway."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import httpx
import pyrage
import pytest

from tests.support.cluster import NODES, ROOT, Cluster, succeed
from tests.support.workload import Account, lost, writing

pytestmark = pytest.mark.restores
KILLS = int(os.environ.get("GOUD_TEST_KILLS", "12"))
CONFIRMED = ["-e", "restore_confirm=true"]


def block(node: str, height: int) -> dict[str, object]:
    """One block as a node serves it."""
    found: dict[str, object] = httpx.get(f"{NODES[node]}/api/blocks/{height}").raise_for_status().json()
    return found


def assert_tip(cluster: Cluster, height: int, expected: object) -> None:
    cluster.wait_ready()
    assert cluster.wait_level() - 1 == height
    assert {block(node, height)["hash"] for node in NODES} == {expected}


@pytest.fixture
def account(cluster: Cluster) -> Account:
    """Somebody with a dozen blocks."""
    found = Account(NODES["node1"])
    for number in range(12):
        assert found.submit(f"restores-{number}", f"content {number}", f"{time.time_ns()}").status_code == 201
    cluster.wait_level()
    return found


@pytest.mark.usefixtures("account")
def test_a_moment_is_the_last_block_before_it(cluster: Cluster) -> None:
    succeed(cluster, "backup", "-e", "backup_archive=false")
    height = cluster.wait_level() - 1
    wanted = block("node1", height - 4)
    between = (int(str(wanted["timestamp_ms"])) + int(str(block("node1", height - 3)["timestamp_ms"]))) // 2
    moment = datetime.fromtimestamp(between / 1000, UTC).isoformat(timespec="milliseconds")
    succeed(cluster, "restore", "-e", "backup=latest", "-e", f"restore_to_time={moment}", *CONFIRMED)
    assert_tip(cluster, height - 4, wanted["hash"])


def test_one_node_is_restored_while_the_others_serve(cluster: Cluster) -> None:
    with writing(2, persistent=False) as writers:
        succeed(cluster, "backup", "-e", "backup_archive=false")
        succeed(cluster, "restore", "-e", "backup=latest", "-e", "restore_nodes=node2", *CONFIRMED)
        cluster.wait_ready()
    cluster.wait_level()
    for writer in writers:
        assert writer.acknowledged
        assert not writer.failed, writer.failed[:3]
        assert not lost(writer.acknowledged, Account(NODES["node2"], writer.account.api_key))


@pytest.fixture
def sealed(cluster: Cluster, tmp_path: Path) -> Iterator[Path]:
    """The age identity of an encrypted repository that all nodes use meanwhile."""
    identity = pyrage.x25519.Identity.generate()
    path = tmp_path / "identity"
    path.write_text(f"{identity}\n")
    place = ROOT / "backups/sealed"
    shutil.rmtree(place, ignore_errors=True)
    wanted = {
        "chain_backup_repository": f"file://{place}",
        "chain_backup_recipients": [str(identity.to_public())],
    }
    succeed(cluster, "deploy", "-e", json.dumps(wanted))
    yield path
    succeed(cluster, "deploy")
    shutil.rmtree(place)


@pytest.mark.usefixtures("account")
def test_an_encrypted_repository_needs_its_identity_and_leaves_none(cluster: Cluster, sealed: Path) -> None:
    repository = ["-e", f"chain_backup_repository=file://{ROOT}/backups/sealed"]
    succeed(cluster, "backup", "-e", "backup_archive=false", *repository)
    height = cluster.wait_level() - 1
    tip = block("node1", height)["hash"]
    wish = ["-e", "backup=latest", *repository, *CONFIRMED]
    without = cluster.playbook("restore", *wish)
    assert without.returncode != 0
    assert "is encrypted" in without.output
    assert_tip(cluster, height, tip)
    succeed(cluster, "restore", *wish, "-e", f"restore_identity={sealed}")
    assert_tip(cluster, height, tip)
    assert not list((ROOT / ".state/local").glob("*/incoming")), "an identity stayed on a host"


def killed_after(cluster: Cluster, seconds: float, *arguments: str) -> None:
    """`restore.yml` and every process that it started here, killed in the midst of it."""
    process = cluster.begin("restore", *arguments)
    try:
        process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def test_a_restore_that_is_killed_at_any_moment_is_simply_run_again(cluster: Cluster, account: Account) -> None:
    succeed(cluster, "backup", "-e", "backup_archive=false")
    height = cluster.wait_level() - 1
    tip = block("node1", height)["hash"]
    wish = ["-e", "backup=latest", "-e", f"restore_to_height={height}", *CONFIRMED]
    begun = time.monotonic()
    succeed(cluster, "restore", *wish)
    whole = time.monotonic() - begun
    for number in range(KILLS):
        assert account.submit("lost again", "of no history", f"{time.time_ns()}").status_code == 201
        moment = whole * (number + random.random()) / KILLS  # noqa: S311  # printed below
        print(f"killed after {moment:.1f} of {whole:.1f} s")
        killed_after(cluster, moment, *wish)
        succeed(cluster, "restore", *wish)
        assert_tip(cluster, height, tip)
    assert account.submit("at last", "the history goes on", f"{time.time_ns()}").status_code == 201
