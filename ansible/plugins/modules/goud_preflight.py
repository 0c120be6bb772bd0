"""Read what could stop a deployment on this host: engine, disk, memory, ports, clock. Changes nothing."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = """
module: goud_preflight
short_description: Read what could stop a deployment on this host
description:
  - Returns every problem as one sentence with its cause and the next step. Reads only, also in check mode.
options:
  ports:
    description: Addresses that will be published, each with address, port and the container that may hold it.
    type: list
    elements: dict
    default: []
  containers:
    description: Containers whose published ports are not taken.
    type: list
    elements: str
    default: []
  disk_path: {description: Where volumes are kept., type: path, required: true}
  disk_free_mb: {description: MiB that must be free., type: int, required: true}
  memory_free_mb: {description: MiB that must be available., type: int, required: true}
  engine_minimum: {description: The oldest Docker Engine that will do., type: str, required: true}
  controller_time: {description: The controller's clock in seconds since 1970., type: float, required: true}
  clock_skew_seconds: {description: How far this clock may differ., type: int, required: true}
  earliest_time: {description: A clock before this was never set., type: int, required: true}
"""

_LISTENING = "0A"  # state of a listening socket in /proc/net/tcp
T = TypeVar("T")
_ANY = {"0.0.0.0", "::"}  # noqa: S104 - compared with, never bound to


def engine_problem(minimum: str, docker: str | None) -> str | None:
    """Return why Docker Engine will not do, or None."""
    if docker is None:
        return "Docker is not installed: ./run up installs it here, the role container_engine on hosts"
    try:
        result = subprocess.run(
            [docker, "version", "--format", "{{.Server.Version}}"],
            check=False, capture_output=True, text=True, timeout=20,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return "Docker Engine did not answer within 20 s: restart it (systemctl restart docker)"
    version = result.stdout.strip()
    if result.returncode != 0 or not version:
        cause = (result.stderr.strip().splitlines() or ["no answer"])[-1]
        if "permission denied" in cause.lower():
            return f"this account may not use Docker Engine ({cause}): add it to the group docker and log in again"
        return f"Docker Engine does not answer ({cause}): start it with scripts/bootstrap, or systemctl start docker"
    if numbers(version) < numbers(minimum):
        return f"Docker Engine {version} is too old: at least {minimum} is needed"
    return None


def numbers(version: str) -> tuple[int, ...]:
    """Return the leading numbers of a version: `20.10.24+dfsg1` is (20, 10, 24)."""
    return tuple(int(part) for part in re.findall(r"\d+", re.split(r"[+-]", version, maxsplit=1)[0]))


def disk_problem(path: Path, minimum_mb: int) -> str | None:
    """Return what is wrong with the space at `path` (or the nearest folder above it that exists)."""
    while not path.exists():
        path = path.parent
    free_mb = shutil.disk_usage(path).free // 2**20
    if free_mb >= minimum_mb:
        return None
    return f"only {free_mb} MiB are free at {path}, {minimum_mb} MiB are needed: free some, or ./run prune old images"


def memory_problem(meminfo: str, minimum_mb: int) -> str | None:
    """Return what is wrong with the available memory, from the text of /proc/meminfo."""
    match = re.search(r"^MemAvailable:\s+(\d+) kB", meminfo, re.MULTILINE)
    if match is None:
        return None
    available_mb = int(match[1]) // 1024
    if available_mb >= minimum_mb:
        return None
    return f"only {available_mb} MiB of memory are available, {minimum_mb} MiB are needed: stop something first"


def clock_problem(now: float, controller: float, tolerance: int, earliest: int) -> str | None:
    """Return what is wrong with this host's clock (Unix seconds); `controller` was read before it was asked.

    Being ahead cannot be told here, because a busy machine answers late: the role compares `clock` afterwards.
    """
    if now < earliest:
        return f"the clock says {time.strftime('%Y-%m-%d', time.gmtime(now))}, which cannot be: set it (timedatectl)"
    if controller - now > tolerance:
        return (
            f"the clock is {now - controller:+.0f} s off the controller's, {tolerance} s are allowed: "
            "start time synchronisation (timedatectl set-ntp true)"
        )
    return None


def listening(tcp: str, tcp6: str) -> dict[tuple[str, int], int]:
    """Return (address, port) -> inode of every listening socket, from the texts of /proc/net/tcp and tcp6."""
    inodes: dict[tuple[str, int], int] = {}
    for text in (tcp, tcp6):
        for line in text.splitlines()[1:]:
            fields = line.split()
            if len(fields) < 10 or fields[3] != _LISTENING:
                continue
            address, port = fields[1].split(":")
            inodes[(_address(address), int(port, 16))] = int(fields[9])
    return inodes


def _address(text: str) -> str:
    """Decode an address of /proc/net: 32-bit words in the host's byte order; IPv6 only as far as it matters here."""
    words = [bytes.fromhex(text[start : start + 8])[::-1] for start in range(0, len(text), 8)]
    raw = b"".join(words)
    if len(raw) == 4:
        return ".".join(str(byte) for byte in raw)
    if not any(raw):
        return "::"
    if raw[:12] == b"\0" * 10 + b"\xff\xff":
        return ".".join(str(byte) for byte in raw[12:])
    return ":".join(raw[start : start + 2].hex() for start in range(0, 16, 2))


def holder(inode: int, proc: Path = Path("/proc")) -> str | None:
    """Return `name (pid N)` of the process that holds a socket, or None when it may not be seen."""
    target = f"socket:[{inode}]"
    for directory in proc.glob("[0-9]*"):
        try:
            if any(str(link.readlink()) == target for link in (directory / "fd").iterdir()):
                return f"{(directory / 'comm').read_text().strip()} (pid {directory.name})"
        except OSError:
            continue  # another account's process, or one that has just ended
    return None


def publishers(docker: str | None) -> dict[tuple[str, int], str]:
    """Return (address, host port) -> container name, for what running containers publish."""
    if docker is None:
        return {}
    result = subprocess.run(
        [docker, "ps", "--format", "{{json .}}"], check=False, capture_output=True, text=True, timeout=20
    )
    names: dict[tuple[str, int], str] = {}
    for line in result.stdout.splitlines() if result.returncode == 0 else []:
        row = json.loads(line)
        for address, first, last in re.findall(r"([^\s,]+):(\d+)(?:-(\d+))?->", str(row.get("Ports", ""))):
            ports = range(int(first), int(last or first) + 1)
            names |= {(address.strip("[]"), port): str(row["Names"]) for port in ports}
    return names


def port_problems(
    ports: Sequence[Mapping[str, Any]], sockets: Mapping[tuple[str, int], int],
    names: Mapping[tuple[str, int], str], containers: Sequence[str],
) -> list[str]:  # fmt: skip
    """Return one sentence for every one of these ports that somebody else holds."""
    problems = []
    for entry in ports:
        address, port = str(entry.get("address") or "127.0.0.1"), int(entry["port"])
        owner = _at(names, address, port)
        if owner is not None and (owner in containers or owner == entry.get("container")):
            continue
        inode = _at(sockets, address, port)
        if inode is None:
            continue
        who = holder(inode) or "a process of another account"
        container = f", which publishes it for the container {owner}" if owner else ""
        problems.append(
            f"port {port} on {address} is taken by {who}{container}: stop it, or choose another port in the inventory"
        )
    return problems


def _at(holders: Mapping[tuple[str, int], T], address: str, port: int) -> T | None:
    """What takes this port at this address; the same port at another address of the host takes nothing."""
    places = (place for place in holders if place[1] == port and (place[0] in {address, *_ANY} or address in _ANY))
    return next((holders[place] for place in places), None)


def main() -> None:
    """Gather every problem, then answer once."""
    module = AnsibleModule(
        argument_spec={
            "ports": {"type": "list", "elements": "dict", "default": []},
            "containers": {"type": "list", "elements": "str", "default": []},
            "disk_path": {"type": "path", "required": True},
            "disk_free_mb": {"type": "int", "required": True},
            "memory_free_mb": {"type": "int", "required": True},
            "engine_minimum": {"type": "str", "required": True},
            "controller_time": {"type": "float", "required": True},
            "clock_skew_seconds": {"type": "int", "required": True},
            "earliest_time": {"type": "int", "required": True},
        },
        supports_check_mode=True,
    )
    parameters = module.params
    docker = module.get_bin_path("docker")
    net = Path("/proc/net")
    sockets = listening(*((net / name).read_text() if (net / name).exists() else "" for name in ("tcp", "tcp6")))
    engine = engine_problem(parameters["engine_minimum"], docker)
    problems = [
        engine,
        disk_problem(Path(parameters["disk_path"]), parameters["disk_free_mb"]),
        memory_problem(Path("/proc/meminfo").read_text(), parameters["memory_free_mb"]),
        clock_problem(
            time.time(), parameters["controller_time"], parameters["clock_skew_seconds"], parameters["earliest_time"]
        ),
        *port_problems(
            parameters["ports"], sockets, publishers(docker) if engine is None else {}, parameters["containers"]
        ),
    ]
    module.exit_json(changed=False, clock=time.time(), problems=[problem for problem in problems if problem])


if __name__ == "__main__":
    main()
