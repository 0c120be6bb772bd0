"""One cluster for the whole end-to-end run, deployed as an operator deploys it."""

from __future__ import annotations

import os

import pytest

from tests.support.cluster import Cluster


@pytest.fixture(scope="session")
def deployed() -> Cluster:
    """`GOUD_TEST_DEPLOYED`: this very tree has just been deployed, so look only whether it serves."""
    cluster = Cluster()
    recap = cluster.playbook("verify" if os.environ.get("GOUD_TEST_DEPLOYED") else "deploy")
    assert recap.returncode == 0, recap.output
    return cluster


@pytest.fixture
def cluster(deployed: Cluster) -> Cluster:
    """The cluster, whole: a test that finds it broken fails here, under the name of what is broken."""
    deployed.wait_ready()
    deployed.wait_level()
    return deployed
