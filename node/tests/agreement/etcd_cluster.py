"""Three real etcd members in containers on a network of their own, for tests marked `etcd`."""

from __future__ import annotations

import contextlib
import io
import os
import time
import uuid
from collections.abc import Iterator
from ipaddress import ip_network
from itertools import islice

import docker
from docker.models.containers import Container
from docker.models.networks import Network
from docker.types import IPAMConfig, IPAMPool

DOCKERFILE = b"""\
FROM debian:trixie-slim
RUN apt-get update && apt-get install -y --no-install-recommends etcd-server etcd-client \\
    && rm -rf /var/lib/apt/lists/*
ENTRYPOINT ["/usr/bin/etcd"]
"""
TAG = "goud-test/etcd"


def image(client: docker.DockerClient) -> str:
    """The official image where it is given, else one built from the distribution's packages (once)."""
    given = os.environ.get("GOUD_TEST_ETCD_IMAGE")
    if given:
        return given
    if not client.images.list(TAG):
        client.images.build(fileobj=io.BytesIO(DOCKERFILE), tag=TAG, rm=True)
    return TAG


class Cluster:
    """Members by name; every fault is undone by `heal`."""

    def __init__(self, client: docker.DockerClient, *, quota_bytes: int = 0, members: int = 3) -> None:
        self._client = client
        self._id = uuid.uuid4().hex[:8]
        self._network_name = f"goud-test-etcd-{self._id}"
        self.network, addresses = _network(client, self._network_name)
        self.names = [f"goud-test-etcd-{self._id}-{number}" for number in range(1, members + 1)]
        self.members: dict[str, Container] = {}
        # Fixed, so that a member that was cut off comes back where its clients look for it.
        self._addresses = dict(zip(self.names, addresses, strict=False))
        peers = ",".join(f"{name}=http://{name}:2380" for name in self.names)
        for name in self.names:
            command = [
                f"--name={name}",
                "--data-dir=/tmp/etcd",
                "--listen-client-urls=http://0.0.0.0:2379",
                f"--advertise-client-urls=http://{name}:2379",
                "--listen-peer-urls=http://0.0.0.0:2380",
                f"--initial-advertise-peer-urls=http://{name}:2380",
                f"--initial-cluster={peers}",
                "--heartbeat-interval=100",
                "--election-timeout=1000",
                "--logger=zap",
                "--log-level=warn",
                f"--quota-backend-bytes={quota_bytes}",
            ]
            self.members[name] = client.containers.run(
                image(client),
                command,
                entrypoint=["/usr/bin/etcd"],
                name=name,
                hostname=name,
                network=self._network_name,
                networking_config={
                    self._network_name: client.api.create_endpoint_config(ipv4_address=self._addresses[name])
                },
                detach=True,
                labels={"io.goud-chain.test": "etcd"},
            )
        self.wait_ready()

    @property
    def endpoints(self) -> list[str]:
        return [f"{self._addresses[name]}:2379" for name in self.names]

    def endpoint(self, name: str) -> str:
        return f"{self._addresses[name]}:2379"

    def etcdctl(self, name: str, *arguments: str) -> tuple[int, str]:
        result = self.members[name].exec_run(["etcdctl", "--command-timeout=2s", *arguments])
        if result.exit_code is None or not isinstance(result.output, bytes):
            raise RuntimeError(f"etcdctl in {name} gave no result")
        return result.exit_code, result.output.decode()

    def wait_ready(self) -> None:
        deadline = time.monotonic() + 60
        for name in self.names:
            while self.etcdctl(name, "endpoint", "health")[0] != 0:
                if time.monotonic() > deadline:
                    raise RuntimeError(f"{name} is not healthy: {self.members[name].logs().decode()[-2000:]}")
                time.sleep(0.1)

    def leader(self) -> str:
        for name in self.names:
            code, output = self.etcdctl(name, "endpoint", "status", "-w", "fields")
            fields = dict(line.split(" : ", 1) for line in output.splitlines() if " : " in line)
            if code == 0 and fields.get('"Leader"') == fields.get('"MemberID"'):
                return name
        raise RuntimeError("no member says that it leads")

    def kill(self, name: str) -> None:
        self.members[name].kill()

    def pause(self, name: str) -> None:
        self.members[name].pause()

    def cut(self, name: str) -> None:
        self.network.disconnect(self.members[name])

    def heal(self) -> None:
        """Undo every fault; addresses are kept."""
        for name, container in self.members.items():
            container.reload()
            if container.status == "paused":
                container.unpause()
            if container.status == "exited":
                container.start()
            container.reload()
            if self._network_name not in container.attrs["NetworkSettings"]["Networks"]:
                self.network.connect(container, ipv4_address=self._addresses[name])
        self.wait_ready()

    def remove(self) -> None:
        for container in self.members.values():
            with contextlib.suppress(docker.errors.NotFound):
                container.remove(force=True)
        self.network.remove()


def _network(client: docker.DockerClient, name: str) -> tuple[Network, list[str]]:
    """A bridge on a subnet that the engine found free, fixed so that addresses can be chosen in it."""
    probe = client.networks.create(name, driver="bridge")
    probe.reload()
    subnet = probe.attrs["IPAM"]["Config"][0]["Subnet"]
    probe.remove()
    ipam = IPAMConfig(pool_configs=[IPAMPool(subnet=subnet)])
    network = client.networks.create(name, driver="bridge", ipam=ipam)
    return network, [str(host) for host in islice(ip_network(subnet).hosts(), 10, 20)]


@contextlib.contextmanager
def running(**options: int) -> Iterator[Cluster]:
    """A cluster that is removed whatever happens."""
    client = docker.from_env()
    cluster: Cluster | None = None
    try:
        cluster = Cluster(client, **options)
        yield cluster
    finally:
        if cluster is not None:
            cluster.remove()
        client.close()
