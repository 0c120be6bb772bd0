"""An independent judge of the local deploy: what the engine and the kernel say, not what the roles report."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from testinfra.host import Host

ROOT = Path(__file__).resolve().parents[3]
testinfra_hosts = ["ansible://edge"]

NODES = {"test-node1": 28081, "test-node2": 28082, "test-node3": 28083}
MEMBERS = ("test-etcd1", "test-etcd2", "test-etcd3")


def inspect(host: Host, name: str) -> dict[str, Any]:
    return json.loads(host.check_output("docker inspect %s", name))[0]


@pytest.mark.parametrize("name", [*NODES, *MEMBERS, "goud-test-lb"])
def test_container_is_confined(host: Host, name: str) -> None:
    container = inspect(host, name)
    assert container["State"]["Running"]
    assert container["RestartCount"] == 0
    assert container["Config"]["User"] not in {"", "0", "root"}
    settings = container["HostConfig"]
    assert settings["ReadonlyRootfs"]
    assert not settings["Privileged"]
    assert settings["CapDrop"] == ["ALL"]
    assert any(option.startswith("no-new-privileges") for option in settings["SecurityOpt"])
    assert settings["RestartPolicy"]["Name"] == "unless-stopped"
    assert settings["LogConfig"]["Config"]["max-size"]


@pytest.mark.parametrize("name", [*NODES, *MEMBERS])
def test_data_lives_on_its_own_named_volume(host: Host, name: str) -> None:
    volumes = {mount["Name"] for mount in inspect(host, name)["Mounts"] if mount["Type"] == "volume"}
    assert volumes == {f"{name}_data"}


@pytest.mark.parametrize(("name", "port"), NODES.items())
def test_node_listens_on_loopback_only(host: Host, name: str, port: int) -> None:
    bindings = inspect(host, name)["NetworkSettings"]["Ports"]
    published = {(at["HostIp"], at["HostPort"]) for ats in bindings.values() for at in ats or []}
    assert published == {("127.0.0.1", str(port))}


@pytest.mark.parametrize("name", MEMBERS)
def test_member_is_reachable_by_peers_only(host: Host, name: str) -> None:
    networks = inspect(host, name)["NetworkSettings"]["Networks"]
    assert list(networks) == ["goud-test-peers"]
    network = json.loads(host.check_output("docker network inspect goud-test-peers"))[0]
    assert network["Internal"] is True


@pytest.mark.parametrize("name", MEMBERS)
def test_member_refuses_a_client_without_a_certificate(host: Host, name: str) -> None:
    bare = host.run(
        "docker exec -e ETCDCTL_CERT= -e ETCDCTL_KEY= %s etcdctl --command-timeout=3s get /goud --prefix", name
    )
    assert bare.rc != 0


def test_secrets_are_for_their_owner_only() -> None:
    names = ("*secret*", "*.key", "*-key.pem")
    found = [
        path for place in (".secrets/test", ".state/test") for name in names for path in (ROOT / place).rglob(name)
    ]
    secrets = [path for path in found if path.is_file()]
    assert secrets, "no secret was found: the test proved nothing"
    assert [path for path in secrets if path.stat().st_mode & 0o077] == []
