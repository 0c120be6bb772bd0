"""The guide's own commands answer as the guide shows."""

from __future__ import annotations

import httpx
import pytest

from tests.support.cluster import BALANCER, ETCD, NODE1, NODE2, NODE3, NODES, Cluster, wait_until
from tests.support.workload import Account

pytestmark = [pytest.mark.e2e, pytest.mark.usefixtures("cluster")]


def test_volume_metrics_as_json() -> None:
    metrics = httpx.get(f"{BALANCER}/api/metrics", trust_env=False).json()["volume_metrics"]
    assert metrics["mount_path"] == "/data"
    assert metrics["rocksdb_present"] is True
    assert metrics["disk_used_bytes"] > 0
    assert metrics["disk_used_mb"] == metrics["disk_used_bytes"] // 2**20
    assert metrics["sst_file_count"] >= 0


def test_volume_metrics_for_prometheus() -> None:
    text = httpx.get(f"{BALANCER}/api/metrics/prometheus", trust_env=False).text
    values = dict(
        line.rsplit(" ", 1) for line in text.splitlines() if line.startswith(("goud_volume", "goud_chain", "goud_peer"))
    )
    assert float(values["goud_volume_disk_used_bytes"]) > 0
    assert float(values["goud_volume_rocksdb_present"]) == 1
    assert {"goud_volume_disk_used_mb", "goud_volume_sst_files", "goud_chain_length"} <= values.keys()
    assert float(values["goud_peer_count"]) == len(NODES) - 1


def test_health_of_each_node(cluster: Cluster) -> None:
    for node in NODES:
        health = cluster.health(node)
        assert health["node_id"] == node
        assert health["status"] == "healthy"
        assert health["peer_count"] == len(NODES) - 1
        assert health["chain_length"] == health["latest_block"]["height"] + 1


def test_a_peer_that_is_gone_is_not_counted(cluster: Cluster) -> None:
    cluster.container(NODE3).stop(timeout=15)
    try:
        wait_until(f"{NODE1} to count one peer", lambda: cluster.health(NODE1)["peer_count"] == 1)
    finally:
        cluster.start(NODE3)


def test_a_retry_through_another_node_is_applied_once(cluster: Cluster) -> None:
    account = Account(NODES[NODE1])
    first = account.submit("once", "only", "the-same-key-twice")
    again = Account(NODES[NODE2], account.api_key).submit("once", "only", "the-same-key-twice")
    assert (first.status_code, again.json()["collection_id"]) == (201, first.json()["collection_id"])
    other = account.submit("once", "something else", "the-same-key-twice")
    assert other.status_code == 422
    assert other.json()["code"] == "idempotency-conflict"
    cluster.wait_level()
    assert len(account.http.get("/api/collections").json()["collections"]) == 1


def test_peers_and_etcd_are_not_published(cluster: Cluster) -> None:
    for name in (*NODES, *ETCD):
        container = cluster.container(name)
        container.reload()
        published = {port for port, where in (container.ports or {}).items() if where}
        assert published <= {"8080/tcp"}, f"{name} publishes {published}"
