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
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path

import httpx
import psutil
import pyrage
import pytest

from goud_backup.repository.manifest import canonical
from tests.support.cluster import BACKUPS, NODE1, NODE2, NODES, STATE, Cluster, succeed
from tests.support.workload import Account, lost, writing

pytestmark = pytest.mark.restores
KILLS = int(os.environ.get("GOUD_TEST_KILLS", "12"))
CONFIRMED = ["-e", "restore_confirm=true"]


def block(node: str, height: int) -> dict[str, object]:
    """One block as a node serves it."""
    found: dict[str, object] = (
        httpx.get(f"{NODES[node]}/api/blocks/{height}", trust_env=False).raise_for_status().json()
    )
    return found


def assert_tip(cluster: Cluster, height: int, expected: object) -> None:
    cluster.wait_ready()
    assert cluster.wait_level() - 1 == height
    assert {block(node, height)["hash"] for node in NODES} == {expected}


@pytest.fixture
def account(cluster: Cluster) -> Account:
    """Somebody with a dozen blocks."""
    found = Account(NODES[NODE1])
    for number in range(12):
        assert found.submit(f"restores-{number}", f"content {number}", f"{time.time_ns()}").status_code == 201
    cluster.wait_level()
    return found


@pytest.mark.usefixtures("account")
def test_a_moment_is_the_last_block_before_it(cluster: Cluster) -> None:
    succeed(cluster, "backup", "-e", "backup_archive=false")
    height = cluster.wait_level() - 1
    wanted = block(NODE1, height - 4)
    between = (int(str(wanted["timestamp_ms"])) + int(str(block(NODE1, height - 3)["timestamp_ms"]))) // 2
    moment = datetime.fromtimestamp(between / 1000, UTC).isoformat(timespec="milliseconds")
    succeed(cluster, "restore", "-e", "backup=latest", "-e", f"restore_to_time={moment}", *CONFIRMED)
    assert_tip(cluster, height - 4, wanted["hash"])


def test_one_node_is_restored_while_the_others_serve(cluster: Cluster) -> None:
    with writing(2, persistent=False) as writers:
        succeed(cluster, "backup", "-e", "backup_archive=false")
        succeed(cluster, "restore", "-e", "backup=latest", "-e", f"restore_nodes={NODE2}", *CONFIRMED)
        cluster.wait_ready()
    cluster.wait_level()
    for writer in writers:
        assert writer.acknowledged
        assert not writer.failed, writer.failed[:3]
        assert not lost(writer.acknowledged, Account(NODES[NODE2], writer.account.api_key))


@dataclass(frozen=True)
class Sealed:
    """An encrypted repository: the arguments that make it the nodes' own, and the age identity that opens it."""

    arguments: tuple[str, ...]
    identity: Path


@pytest.fixture
def sealed(cluster: Cluster, tmp_path: Path) -> Iterator[Sealed]:
    """All nodes use it meanwhile, as if their group's variables said so."""
    identity = pyrage.x25519.Identity.generate()
    (tmp_path / "identity").write_text(f"{identity}\n")
    place = BACKUPS / "sealed"
    shutil.rmtree(place, ignore_errors=True)
    wanted = {"chain_backup_repository": f"file://{place}", "chain_backup_recipients": [str(identity.to_public())]}
    (tmp_path / "group_vars").mkdir()
    (tmp_path / "group_vars/chain_nodes.yml").write_text(json.dumps(wanted))
    (tmp_path / "hosts.yml").write_text("chain_nodes: {}\n")
    made = Sealed(("-i", str(tmp_path / "hosts.yml")), tmp_path / "identity")
    succeed(cluster, "deploy", *made.arguments)
    yield made
    succeed(cluster, "deploy")
    shutil.rmtree(place)


@pytest.mark.usefixtures("account")
def test_an_encrypted_repository_needs_its_identity_and_leaves_none(cluster: Cluster, sealed: Sealed) -> None:
    succeed(cluster, "backup", "-e", "backup_archive=false", *sealed.arguments)
    height = cluster.wait_level() - 1
    tip = block(NODE1, height)["hash"]
    wish = ["-e", "backup=latest", *sealed.arguments, *CONFIRMED]
    without = cluster.playbook("restore", *wish)
    assert without.returncode != 0
    assert "is encrypted" in without.output
    assert_tip(cluster, height, tip)
    succeed(cluster, "restore", *wish, "-e", f"restore_identity={sealed.identity}")
    assert_tip(cluster, height, tip)
    assert not list(STATE.glob("*/incoming")), "an identity stayed on a host"


def of_a_foreign_schema(repository: Path) -> None:
    """Rewrite the newest manifest as a version of the node that nobody here knows would have made it."""
    path = max((repository / "manifests").iterdir())
    document = json.loads(path.read_bytes())
    document.pop("sha256")
    document["chain"]["schema"] = 99
    whole = {**document, "sha256": sha256(canonical(document)).hexdigest()}
    path.write_bytes(canonical(whole))


@pytest.mark.usefixtures("account")
def test_a_backup_that_nobody_can_read_is_begun_again_only_when_asked(cluster: Cluster) -> None:
    succeed(cluster, "backup", "-e", "backup_archive=false")
    height = cluster.wait_level() - 1
    tip = block(NODE1, height)["hash"]
    of_a_foreign_schema(BACKUPS / "repository")
    refused = cluster.playbook("restore", "-e", "backup=latest", *CONFIRMED)
    assert refused.returncode != 0
    assert "schema version 99" in refused.output
    assert_tip(cluster, height, tip)
    # The safety backup that this makes first can be read: it is not what the plan has shown.
    succeed(cluster, "restore", "-e", "backup=latest", "-e", "restore_reinitialize=true", *CONFIRMED)
    cluster.wait_ready()
    assert cluster.wait_level() == 1
    assert Account(NODES[NODE1]).submit("anew", "the chain begins again", f"{time.time_ns()}").status_code == 201


@contextmanager
def killed_after(cluster: Cluster, seconds: float, *arguments: str) -> Iterator[bool]:
    """`restore.yml`, killed in its midst, for the length of the block; False when it was done by then.

    Ansible's workers lead sessions of their own: as after any kill of a controller, they end their task and then wait
    for ever for somebody to take the result. They go with the block.
    """
    process = cluster.begin("restore", *arguments)
    workers: list[psutil.Process] = []
    try:
        process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        workers = psutil.Process(process.pid).children(recursive=True)
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
    try:
        yield process.returncode == -signal.SIGKILL
    finally:
        for worker in workers:
            with suppress(psutil.NoSuchProcess):
                worker.kill()


def timed(cluster: Cluster, *arguments: str) -> float:
    """Seconds that a whole restore takes now."""
    begun = time.monotonic()
    succeed(cluster, "restore", *arguments)
    return time.monotonic() - begun


def test_a_restore_that_is_killed_at_any_moment_is_simply_run_again(cluster: Cluster, account: Account) -> None:
    succeed(cluster, "backup", "-e", "backup_archive=false")
    height = cluster.wait_level() - 1
    tip = block(NODE1, height)["hash"]
    wish = ["-e", "backup=latest", "-e", f"restore_to_height={height}", *CONFIRMED]
    whole, killed = timed(cluster, *wish), 0
    for number in range(KILLS):
        assert account.submit("lost again", "of no history", f"{time.time_ns()}").status_code == 201
        moment = whole * (number + random.random()) / KILLS  # noqa: S311  # printed below
        with killed_after(cluster, moment, *wish) as midway:
            print(f"{'killed' if midway else 'done'} after {moment:.1f} of {whole:.1f} s")
            killed += midway
            whole = timed(cluster, *wish)
            assert_tip(cluster, height, tip)
    assert killed > KILLS / 2, "most runs were over before they were killed: that proves little"
    assert account.submit("at last", "the history goes on", f"{time.time_ns()}").status_code == 201
