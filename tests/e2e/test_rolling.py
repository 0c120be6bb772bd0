"""Planned stops: each ends by itself, and a rolling restart under load fails no request."""

from __future__ import annotations

import time

import pytest

from tests.support.cluster import NODES, Cluster
from tests.support.workload import writing

pytestmark = pytest.mark.e2e


@pytest.mark.parametrize("node", NODES)
def test_docker_stop_ends_by_itself(cluster: Cluster, node: str) -> None:
    container = cluster.container(node)
    started = time.monotonic()
    container.stop(timeout=30)  # an engine that has to kill after 30 s leaves exit code 137
    elapsed = time.monotonic() - started
    container.reload()
    cluster.start(node)
    assert container.attrs["State"]["ExitCode"] == 0
    assert elapsed < 10, "the guide's engine kills after 10 s: a stop must have ended before"


def test_a_rolling_restart_under_load_fails_no_request(cluster: Cluster) -> None:
    with writing(4, persistent=False) as writers:
        time.sleep(1)
        for node in NODES:
            cluster.container(node).restart(timeout=15)
            cluster.wait_ready(node)
            time.sleep(2)  # the balancer's two good checks
    failures = [failed for writer in writers for failed in writer.failed]
    written = sum(len(writer.acknowledged) for writer in writers)
    assert written > 100, f"only {written} writes: no load, no proof"
    assert not failures, f"{len(failures)} of {written + len(failures)} failed: {failures[:5]}"
