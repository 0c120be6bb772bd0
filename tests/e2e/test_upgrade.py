"""From an earlier release to this one and back, node by node under load: no write is lost, and none waits long."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.cluster import NODE1, NODES, ROOT, Cluster, succeed
from tests.support.workload import Account, lost, writing

pytestmark = pytest.mark.restores
WHEELS = sorted((ROOT / "tests/fixtures").glob("release-*/goud_node-*.whl"))
PATIENCE = 5.0
"""Seconds within which a client that repeats under its own key has its answer."""


def image_of(wheel: Path) -> str:
    """The id of the node's image with an earlier release in it."""
    command = [sys.executable, "scripts/image.py", "node", "--wheel", str(wheel)]
    done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    image: str = json.loads(done.stdout)["id"]
    return image


def images(cluster: Cluster) -> set[str]:
    return {cluster.container(node).attrs["Image"] for node in NODES}


@pytest.mark.parametrize("wheel", WHEELS, ids=lambda wheel: wheel.parent.name)
def test_an_upgrade_and_the_way_back_lose_nothing(cluster: Cluster, wheel: Path) -> None:
    (present,) = images(cluster)
    earlier = image_of(wheel)
    try:
        with writing(3) as writers:
            for image in (earlier, present, earlier):
                # The engine's own image stays: it is not part of a node's release.
                succeed(cluster, "deploy", "-e", f"chain_node_image={image}", "-e", f"chain_backup_image={present}")
                assert images(cluster) == {image}
    finally:
        succeed(cluster, "deploy")
    cluster.wait_level()
    for writer in writers:
        assert len(writer.acknowledged) > 100, "no load, no proof"
        slowest = max(write.latency for write in writer.acknowledged)
        assert slowest < PATIENCE, f"a write waited {slowest:.1f} s; refusals: {writer.failed[:5]}"
        assert not lost(writer.acknowledged, Account(NODES[NODE1], writer.account.api_key))
