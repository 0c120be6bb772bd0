"""The local cluster as a test sees it: containers by name, nodes by address, verbs as an operator runs them."""

from __future__ import annotations

import functools
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import docker
import httpx
from docker.models.containers import Container

ROOT = Path(__file__).resolve().parents[2]
OPERATORS = os.environ.get("GOUD_WORLD") == "operator"
"""Whether this is about the operator's own cluster (benchmarks are); tests have a world of their own, tests/world."""
INVENTORY = "inventories/local" if OPERATORS else "tests/world"
_PREFIX, _PORT = ("", 8080) if OPERATORS else ("test-", 28080)
BALANCER = f"http://127.0.0.1:{_PORT}"
NODES = {f"{_PREFIX}node{n}": f"http://127.0.0.1:{_PORT + n}" for n in (1, 2, 3)}
NODE1, NODE2, NODE3 = NODES
ETCD = tuple(f"{_PREFIX}etcd{n}" for n in (1, 2, 3))
EDGE = "goud-lb" if OPERATORS else "goud-test-lb"
"""The balancer's container."""
PEER_NETWORK = "goud-peers" if OPERATORS else "goud-test-peers"
STATE = ROOT / (".state/local" if OPERATORS else ".state/test")
BACKUPS = ROOT / "backups" if OPERATORS else STATE / "backups"

T = TypeVar("T")


def wait_until(what: str, condition: Callable[[], T | None], *, within: float = 60.0, every: float = 0.1) -> T:
    """The first truthy answer of `condition`; after `within` seconds an error that says what was awaited."""
    deadline = time.monotonic() + within
    last: object = None
    while time.monotonic() < deadline:
        try:
            answer = condition()
            if answer:
                return answer
            last = answer
        except httpx.TransportError as error:  # a node that is down is an answer too
            last = error
        time.sleep(every)
    raise TimeoutError(f"waited {within:.0f} s for {what}; last seen: {last!r}")


@dataclass(frozen=True)
class Recap:
    """What one playbook run said of each host."""

    returncode: int
    output: str
    changed: dict[str, int] = field(default_factory=dict)

    @classmethod
    def of(cls, done: subprocess.CompletedProcess[str]) -> Recap:
        output = done.stdout + done.stderr
        rows = re.findall(r"^(\S+)\s+:\s+ok=\d+\s+changed=(\d+)", output, re.MULTILINE)
        return cls(done.returncode, output, {host: int(count) for host, count in rows})

    @property
    def changes(self) -> int:
        """Changed tasks of all hosts."""
        return sum(self.changed.values())


class Cluster:
    """Three nodes, three etcd members and a load balancer on this machine."""

    def __init__(self) -> None:
        self.engine = docker.from_env()

    # -- verbs ------------------------------------------------------------------------------------------------------
    def playbook(self, verb: str, *arguments: str, timeout: float = 600) -> Recap:
        """Run `<verb>.yml` on the local inventory; the recap says what changed."""
        process = self.begin(verb, *arguments)
        try:
            output, errors = process.communicate(timeout=timeout)
        except BaseException:
            process.kill()  # it has left this process group, so nobody else ends it
            raise
        return Recap.of(subprocess.CompletedProcess(process.args, process.returncode, output, errors))

    @staticmethod
    def begin(verb: str, *arguments: str) -> subprocess.Popen[str]:
        """Start `<verb>.yml`, as the leader of a process group of its own."""
        program = Path(sys.executable).with_name("ansible-playbook")
        command = [str(program), f"{verb}.yml", "-i", INVENTORY, *arguments]
        environment = {**os.environ, "ANSIBLE_NOCOLOR": "1", "PATH": f"{program.parent}:{os.environ['PATH']}"}
        return subprocess.Popen(
            command,
            cwd=ROOT,
            env=environment,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )

    # -- containers -------------------------------------------------------------------------------------------------
    def container(self, name: str) -> Container:
        return self.engine.containers.get(name)

    def kill(self, name: str) -> None:
        """SIGKILL, the whole container, and it stays down (`docker kill` counts as the operator's wish)."""
        self.container(name).kill("SIGKILL")

    def start(self, name: str) -> None:
        self.container(name).start()

    def run_in(self, name: str, *command: str) -> str:
        done = self.container(name).exec_run(list(command))
        text = done.output.decode() if isinstance(done.output, bytes) else repr(done.output)
        if done.exit_code != 0:
            raise RuntimeError(f"{' '.join(command)} in {name} ended with {done.exit_code}: {text}")
        return text

    def run_on_volume_of(self, name: str, command: list[str], **options: Any) -> str:
        """Run `command` in a throw-away container of `name`'s image, without a network; what it printed."""
        container = self.container(name)
        image = container.attrs["Image"]
        output: bytes = self.engine.containers.run(image, command, network_mode="none", remove=True, **options)
        return output.decode()

    def disconnect(self, name: str) -> dict[str, Any]:
        """Cut a node off from peers and etcd; the answer is what `reconnect` needs."""
        container = self.container(name)
        container.reload()
        attached: dict[str, Any] = container.attrs["NetworkSettings"]["Networks"][PEER_NETWORK]
        self.engine.networks.get(PEER_NETWORK).disconnect(container)
        return attached

    def reconnect(self, name: str, attached: dict[str, Any]) -> None:
        fixed = (attached.get("IPAMConfig") or {}).get("IPv4Address")
        self.engine.networks.get(PEER_NETWORK).connect(
            self.container(name), aliases=attached.get("Aliases") or [], ipv4_address=fixed
        )

    # -- what nodes say ---------------------------------------------------------------------------------------------
    @staticmethod
    def health(node: str) -> dict[str, Any]:
        answer: dict[str, Any] = httpx.get(f"{NODES[node]}/health", timeout=2, trust_env=False).json()
        return answer

    @staticmethod
    def volume(node: str) -> dict[str, Any]:
        metrics: dict[str, Any] = httpx.get(f"{NODES[node]}/api/metrics", timeout=5, trust_env=False).json()[
            "volume_metrics"
        ]
        return metrics

    @staticmethod
    def ready(node: str) -> bool:
        return httpx.get(f"{NODES[node]}/readyz", timeout=2, trust_env=False).status_code == 200

    def lengths(self) -> dict[str, int]:
        return {node: int(self.health(node)["chain_length"]) for node in NODES}

    def proposer(self) -> str:
        return wait_until("a proposer", lambda: next((h for h in map(self._proposer, NODES) if h), None))

    def _proposer(self, node: str) -> str | None:
        try:
            name: str | None = self.health(node)["proposer"]
        except httpx.TransportError:
            return None
        return name

    def etcd_leader(self) -> str:
        endpoints = json.loads(self.run_in(ETCD[0], *self._etcdctl, "endpoint", "status", "--cluster", "-w", "json"))
        for endpoint in endpoints:
            status = endpoint["Status"]
            if status["leader"] == status["header"]["member_id"]:
                return str(re.sub(r"^https?://([^:]+):.*$", r"\1", endpoint["Endpoint"]))
        raise LookupError(f"no member leads: {endpoints}")

    @functools.cached_property
    def _etcdctl(self) -> list[str]:
        return ["etcdctl"]  # endpoints and certificates come from the container's own ETCDCTL_ variables

    def wait_ready(self, *nodes: str, within: float = 60) -> None:
        for node in nodes or NODES:
            wait_until(f"{node} to be ready", functools.partial(self.ready, node), within=within)

    def wait_level(self, within: float = 60) -> int:
        """Wait until all nodes have the same chain length; the length."""

        def level() -> int | None:
            lengths = set(self.lengths().values())
            return lengths.pop() if len(lengths) == 1 else None

        return wait_until("all nodes to have the same height", level, within=within)


def reported(output: str) -> list[dict[str, str]]:
    """The rows of the last table of a verb's report, from the file that `output` names: on a screen cells wrap."""
    path = re.search(r"^report: (.+)$", output, re.MULTILINE)
    assert path is not None, output
    rows: list[dict[str, str]] = json.loads((ROOT / path[1]).read_text(encoding="utf-8"))["reports"][-1]["rows"]
    return rows


def succeed(cluster: Cluster, verb: str, *arguments: str, timeout: float = 600) -> str:
    """Run a verb that must succeed; what it printed."""
    recap = cluster.playbook(verb, *arguments, timeout=timeout)
    assert recap.returncode == 0, recap.output
    return recap.output
