"""From an earlier release to this one and back, node by node under load: no write is lost, and none waits long."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.cluster import NODE1, NODES, PEER_NETWORK, ROOT, Cluster, succeed
from tests.support.workload import Account, lost, writing

pytestmark = pytest.mark.restores
WHEELS = sorted((ROOT / "tests/fixtures").glob("release-*/goud_node-*.whl"))
EVERYWHERE = "0.0.0.0"  # noqa: S104 - within a container
HOUR = 3600.0
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


def layout_of_before() -> str:
    """What inventories said when peers asked each other on any network: listen on all, and name no network."""
    peers = [{"node_id": node, "url": f"http://{node}:9000"} for node in NODES]
    return json.dumps({"chain_node_peer_host": EVERYWHERE, "chain_node_peers": peers})


def listening(cluster: Cluster) -> set[str]:
    """Where the nodes' peer interfaces listen, without the nodes' names."""
    hosts = set()
    for node in NODES:
        (host,) = (
            word for word in cluster.container(node).attrs["Config"]["Env"] if word.startswith("GOUD_PEER_HOST=")
        )
        hosts.add(host.removeprefix("GOUD_PEER_HOST=").removeprefix(f"{node}."))
    return hosts


@pytest.mark.parametrize("wheel", WHEELS, ids=lambda wheel: wheel.parent.name)
def test_the_way_back_and_an_upgrade_lose_nothing(cluster: Cluster, wheel: Path) -> None:
    (present,) = images(cluster)
    earlier = image_of(wheel)
    # The engine's own image stays: it is not part of a node's release.
    here, back = (
        ("-e", f"chain_node_image={image}", "-e", f"chain_backup_image={present}") for image in (present, earlier)
    )
    try:
        # Without haste: the deploys are on the same processors, and what counts is each write, not how many there are.
        with writing(3, pause=0.2) as writers:
            # Opened first: nodes of the earlier release ask their peers on the public network.
            succeed(cluster, "deploy", *here, "-e", f"chain_node_peer_host={EVERYWHERE}", timeout=HOUR)
            assert (images(cluster), listening(cluster)) == ({present}, {EVERYWHERE})
            succeed(cluster, "deploy", *back, "-e", layout_of_before(), timeout=HOUR)
            assert (images(cluster), listening(cluster)) == ({earlier}, {EVERYWHERE})
            # Two rounds: to the new addresses, then away from the public network.
            succeed(cluster, "deploy", *here, timeout=HOUR)
            assert (images(cluster), listening(cluster)) == ({present}, {PEER_NETWORK})
    except BaseException:
        cluster.playbook("start")  # a deploy that was cut off may have left a node drained
        cluster.playbook("deploy", timeout=HOUR)
        raise
    cluster.wait_level()
    for writer in writers:
        assert len(writer.acknowledged) > 100, "no load, no proof"
        slowest = max(write.latency for write in writer.acknowledged)
        assert slowest < PATIENCE, f"a write waited {slowest:.1f} s; refusals: {writer.failed[:5]}"
        assert not lost(writer.acknowledged, Account(NODES[NODE1], writer.account.api_key))
