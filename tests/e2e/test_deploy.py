"""Rehearsals work on a running cluster, and bad input is refused by name. A second deploy is for molecule to show."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.support.cluster import EDGE, ETCD, NODE2, NODE3, NODES, Cluster, wait_until

pytestmark = pytest.mark.e2e


def test_a_rehearsal_on_a_running_cluster_changes_nothing(cluster: Cluster) -> None:
    before = {name: cluster.container(name).id for name in (*NODES, ETCD[0], EDGE)}
    recap = cluster.playbook("deploy", "--check", "--diff")
    assert recap.returncode == 0, recap.output
    assert {name: cluster.container(name).id for name in before} == before


def test_verify_is_red_when_a_node_is_down(cluster: Cluster) -> None:
    cluster.container(NODE2).stop(timeout=15)
    try:
        recap = cluster.playbook("verify")
    finally:
        cluster.start(NODE2)
    assert recap.returncode != 0
    assert NODE2 in recap.output


def test_a_mistyped_variable_is_refused_with_the_nearest_name(cluster: Cluster) -> None:
    recap = cluster.playbook("deploy", "-e", "chain_node_imge=x")
    assert recap.returncode != 0
    assert "chain_node_imge" in recap.output
    assert "chain_node_image" in recap.output


def test_a_volume_of_another_chain_is_refused_and_kept(cluster: Cluster) -> None:
    container = cluster.container(NODE3)
    container.stop(timeout=15)
    marker = rewrite_marker(cluster, "goud-0000000000000000")
    try:
        recap = cluster.playbook("deploy")
        assert recap.returncode != 0
        assert "goud-0000000000000000" in recap.output
    finally:
        assert rewrite_marker(cluster, marker) == "goud-0000000000000000", "the refused volume was touched"
        cluster.start(NODE3)


def rewrite_marker(cluster: Cluster, text: str) -> str:
    """Put `text` into node3's chain id marker; what stood there."""
    output = cluster.run_on_volume_of(
        NODE3,
        ["-c", f"cat /data/chain_id; printf '%s\\n' {text} > /data/chain_id"],
        entrypoint="/bin/sh",
        user="root",
        volumes={f"{NODE3}_data": {"bind": "/data", "mode": "rw"}},
    )
    return output.strip()


@contextmanager
def listening(port: int) -> Iterator[None]:
    with socket.create_server(("127.0.0.1", port)):
        yield


def test_a_taken_port_is_named_with_its_process(cluster: Cluster) -> None:
    with listening(28090):
        recap = cluster.playbook("deploy", "-e", "load_balancer_http_port=28090")
    assert recap.returncode != 0
    assert "28090" in recap.output
    assert "python" in recap.output or "pytest" in recap.output


def test_an_interrupted_deploy_says_where_and_a_start_takes_it_back(cluster: Cluster) -> None:
    """What ./run deploy does after Ctrl-C: no node stays drained, at itself or at the balancer."""
    process = cluster.begin("deploy", "-e", "chain_node_memory_limit=1100m")
    try:
        wait_until("a node to be drained", lambda: any(drained(cluster, node) for node in NODES), within=400)
    finally:
        os.killpg(process.pid, signal.SIGINT)
        shown, errors = process.communicate(timeout=120)
    assert process.returncode == 99, shown + errors
    assert "stopped before its end" in shown
    assert "deploy: interrupted" in shown
    recap = cluster.playbook("start")
    assert recap.returncode == 0, recap.output
    assert not any(drained(cluster, node) for node in NODES)
    assert "3 of 3 nodes get requests" in cluster.playbook("lb_status").output
    recap = cluster.playbook("deploy")
    assert recap.returncode == 0, recap.output


def drained(cluster: Cluster, node: str) -> bool:
    return bool(cluster.health(node)["draining"])


def test_a_stopped_part_is_called_stopped(cluster: Cluster) -> None:
    try:
        stopped = cluster.playbook("stop")
        seen = cluster.playbook("status")
    finally:
        started = cluster.playbook("start")
    assert stopped.returncode == 0, stopped.output
    assert started.returncode == 0, started.output
    assert seen.returncode != 0
    for recap in (stopped, seen):
        assert recap.output.count("stopped") >= 7, recap.output
        assert "absent" not in recap.output
    assert "`./run start` starts them" in seen.output
