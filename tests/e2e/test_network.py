"""Who reaches a node's peer port: its peers do, and the load balancer does not, on any address of the node."""

from __future__ import annotations

import pytest

from tests.support.cluster import EDGE, NODES, PEER_NETWORK, Cluster, wait_until

pytestmark = pytest.mark.e2e
PORTS = {"the public interface": 8080, "the peer interface": 9000}
CONNECT = """import socket, sys
try:
    socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=3).close()
except OSError as error:
    sys.exit(str(error))
"""


def addresses(cluster: Cluster, node: str) -> dict[str, str]:
    """The node's address by network."""
    container = cluster.container(node)
    return {name: at["IPAddress"] for name, at in container.attrs["NetworkSettings"]["Networks"].items()}


def reaches(cluster: Cluster, source: str, address: str, port: int) -> bool:
    """Whether a program in the network namespace of `source` gets a connection; not every image has one."""
    image = cluster.container(next(iter(NODES))).attrs["Image"]
    container = cluster.engine.containers.run(
        image,
        ["-c", CONNECT, address, str(port)],
        entrypoint="python3",
        network_mode=f"container:{source}",
        detach=True,
    )
    try:
        return bool(container.wait()["StatusCode"] == 0)
    finally:
        container.remove(force=True)


@pytest.mark.parametrize("node", NODES)
def test_the_balancer_reaches_a_node_and_not_its_peer_port(cluster: Cluster, node: str) -> None:
    at = addresses(cluster, node)
    assert len(at) == 2
    reached = {
        (network, name)
        for network, address in at.items()
        for name, port in PORTS.items()
        if reaches(cluster, EDGE, address, port)
    }
    (front,) = at.keys() - {PEER_NETWORK}
    assert reached == {(front, "the public interface")}


@pytest.mark.parametrize("node", NODES)
def test_peers_reach_a_node_on_the_internal_network_only(cluster: Cluster, node: str) -> None:
    for other in NODES.keys() - {node}:
        at = addresses(cluster, node)
        reached = {
            network for network, address in at.items() if reaches(cluster, other, address, PORTS["the peer interface"])
        }
        assert reached == {PEER_NETWORK}
        assert reaches(cluster, other, f"{node}.{PEER_NETWORK}", PORTS["the peer interface"])


def test_a_node_that_comes_back_under_another_address_is_reached_there(cluster: Cluster) -> None:
    node, other = list(NODES)[:2]
    before = addresses(cluster, node)[PEER_NETWORK]
    attached = cluster.disconnect(node)
    image = cluster.container(node).attrs["Image"]
    taker = cluster.engine.containers.run(image, ["300"], entrypoint="sleep", network=PEER_NETWORK, detach=True)
    try:
        cluster.reconnect(node, attached)
        now = addresses(cluster, node)[PEER_NETWORK]
        assert now != before, "nothing took the address: the test proved nothing"
        wait_until(
            "the peer port at the new address",
            lambda: reaches(cluster, other, now, PORTS["the peer interface"]),
            within=30,
        )
        cluster.wait_ready()
        wait_until("all peers to be seen", lambda: cluster.health(node)["peer_count"] == len(NODES) - 1, within=30)
    finally:
        taker.remove(force=True)
