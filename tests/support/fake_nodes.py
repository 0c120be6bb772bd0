"""Nodes that do what a test orders, behind a load balancer with the configuration of the running one."""

from __future__ import annotations

import re
import socket
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import docker
import httpx

from tests.support.cluster import EDGE, Cluster, wait_until


@dataclass
class FakeNodes:
    """Three listeners on loopback. `orders` is what becomes of the next requests, whoever gets them; then all is well.

    An order is a status, `lost` (the request is read, the connection ends without an answer), `gone` (the same, and no
    node listens any more), or `silent` (the request is read, and no answer comes).
    """

    orders: list[str] = field(default_factory=list)
    served: list[str] = field(default_factory=list)
    listeners: list[socket.socket] = field(default_factory=list)

    def start(self) -> list[int]:
        """Begin to listen; the ports."""
        for _ in range(3):
            listener = socket.create_server(("127.0.0.1", 0))
            self.listeners.append(listener)
            threading.Thread(target=self._accept, args=(listener,), daemon=True).start()
        return [listener.getsockname()[1] for listener in self.listeners]

    def close(self) -> None:
        for listener in self.listeners:
            listener.close()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=self._answer, args=(connection,), daemon=True).start()

    def _answer(self, connection: socket.socket) -> None:
        with connection, connection.makefile("rb") as reader:
            request = reader.readline().decode()
            headers = iter(lambda: reader.readline().decode().lower(), "\r\n")
            length = sum(int(line.split(":")[1]) for line in headers if line.startswith("content-length"))
            reader.read(length)
            if "/readyz" in request:
                connection.sendall(answer("200"))
                return
            order = self.orders.pop(0) if self.orders else "200"
            self.served.append(order)
            if order == "gone":
                for listener in self.listeners:
                    listener.shutdown(socket.SHUT_RDWR)
                    listener.close()
            elif order == "silent":
                with suppress(ConnectionError):
                    reader.read()  # until the other side gives up
            elif order != "lost":
                connection.sendall(answer(order))


def answer(status: str) -> bytes:
    body = b'{"code": "by-the-node"}'
    head = f"HTTP/1.1 {status} As-ordered\r\nContent-Type: application/problem+json\r\nContent-Length: {len(body)}"
    return f"{head}\r\n\r\n".encode() + body


@contextmanager
def balanced(cluster: Cluster, nodes: FakeNodes, folder: Path) -> Iterator[str]:
    """A load balancer of the running one's image and configuration in front of `nodes`; its base URL."""
    text = cluster.run_in(EDGE, "cat", "/etc/haproxy/haproxy.cfg")
    ports = iter(nodes.start() * 2)  # the servers of both back ends
    text = re.sub(
        r"^(    server \S+) .*$", lambda match: f"{match[1]} 127.0.0.1:{next(ports)}", text, flags=re.MULTILINE
    )
    public, metrics = free_port(), free_port()
    text = text.replace("bind :8080", f"bind 127.0.0.1:{public}").replace("bind :8404", f"bind 127.0.0.1:{metrics}")
    folder.chmod(0o755)
    (folder / "haproxy.cfg").write_text(text)
    image = cluster.container(EDGE).attrs["Image"]
    container = docker.from_env().containers.run(
        image,
        name=f"goud-test-balancer-{uuid.uuid4().hex[:8]}",
        labels={"io.goud-chain.cluster": "goud-test"},
        volumes={str(folder): {"bind": "/etc/haproxy", "mode": "ro"}},
        tmpfs={"/run/haproxy": "mode=1777"},
        network_mode="host",
        detach=True,
    )
    url = f"http://127.0.0.1:{public}"
    try:
        wait_until("the nodes to be in rotation", lambda: _serves(url))
        nodes.served.clear()
        yield url
    finally:
        container.remove(force=True)
        nodes.close()


def _serves(url: str) -> bool:
    return httpx.get(f"{url}/health", trust_env=False).status_code == 200


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
        return port
