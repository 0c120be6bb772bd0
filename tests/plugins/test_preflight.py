"""Preflight: each problem has a cause and a next step, and a free host has none."""

from __future__ import annotations

import json
import os
import socket
import stat
from pathlib import Path

import pytest

import goud_preflight


def fake_docker(tmp_path: Path, script: str) -> str:
    path = tmp_path / "docker"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(stat.S_IRWXU)
    return str(path)


def proc(name: str) -> str:
    return Path("/proc/net", name).read_text()


def test_a_taken_port_names_the_process_and_pid() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        sockets = goud_preflight.listening(proc("tcp"), proc("tcp6"))
        (problem,) = goud_preflight.port_problems([{"port": port}], sockets, {}, [])
    assert f"port {port} on 127.0.0.1 is taken by" in problem
    assert f"(pid {os.getpid()})" in problem
    assert "choose another port" in problem


def test_a_listener_on_every_address_takes_the_port_too() -> None:
    with socket.create_server(("", 0)) as server:
        port = server.getsockname()[1]
        sockets = goud_preflight.listening(proc("tcp"), proc("tcp6"))
        assert len(goud_preflight.port_problems([{"port": port}], sockets, {}, [])) == 1


def test_another_address_or_a_free_port_is_no_problem() -> None:
    sockets = {("127.0.0.2", 8080): 1}
    assert goud_preflight.port_problems([{"port": 8080}, {"port": 8081}], sockets, {}, []) == []


@pytest.mark.parametrize(
    ("entry", "containers", "count"),
    [
        ({"port": 8080, "container": "node1"}, [], 0),
        ({"port": 8080}, ["node1"], 0),
        ({"port": 8080}, ["node2"], 1),
    ],
)
def test_our_own_container_may_hold_its_port(entry: dict[str, object], containers: list[str], count: int) -> None:
    sockets = {("0.0.0.0", 8080): 1}  # noqa: S104 - data only
    sentences = goud_preflight.port_problems([entry], sockets, {("127.0.0.1", 8080): "node1"}, containers)
    assert len(sentences) == count
    assert all("for the container node1" in sentence for sentence in sentences)


def test_another_container_at_another_address_is_not_blamed() -> None:
    sockets = {("127.0.0.1", 8080): 1, ("127.0.1.2", 8080): 2}
    names = {("127.0.1.2", 8080): "elsewhere", ("127.0.0.1", 8080): "node1"}
    assert goud_preflight.port_problems([{"port": 8080, "container": "node1"}], sockets, names, []) == []


def test_published_ports_are_read_from_the_engine(tmp_path: Path) -> None:
    ports = "127.0.0.1:8081->8080/tcp, 0.0.0.0:9000-9001->9000-9001/tcp, [::]:80->80/tcp, :::81->81/tcp, 2379/tcp"
    row = json.dumps({"Names": "web", "Ports": ports})
    docker = fake_docker(tmp_path, f"echo '{row}'")
    assert goud_preflight.publishers(docker) == {
        ("127.0.0.1", 8081): "web",
        ("0.0.0.0", 9000): "web",  # noqa: S104 - data only
        ("0.0.0.0", 9001): "web",  # noqa: S104 - data only
        ("::", 80): "web",
        ("::", 81): "web",
    }
    assert goud_preflight.publishers(None) == {}


def test_addresses_of_proc_net() -> None:
    header = "  sl  local_address rem_address   st\n"
    tcp = header + "   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000 0 0 77 1\n"
    tcp += "   1: 0100007F:1F91 00000000:0000 01 00000000:00000000 00:00000000 00000000 0 0 78 1\n"
    tcp6 = header + f"   0: {'0' * 32}:0050 {'0' * 32}:0000 0A 0:0 00:0 0 0 0 79 1\n"
    assert goud_preflight.listening(tcp, tcp6) == {("127.0.0.1", 8080): 77, ("::", 80): 79}


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("echo 20.10.24+dfsg1", None),
        ("echo 29.0.1", None),
        ("echo 19.03.15", "is too old"),
        ("echo 'Cannot connect to the Docker daemon' >&2; exit 1", "start it with scripts/bootstrap"),
        ("echo 'permission denied while trying to connect' >&2; exit 1", "group docker"),
    ],
)
def test_engine(tmp_path: Path, script: str, words: str | None) -> None:
    problem = goud_preflight.engine_problem("20.10", fake_docker(tmp_path, script))
    assert problem is None if words is None else problem is not None and words in problem


def test_no_engine_at_all() -> None:
    problem = goud_preflight.engine_problem("20.10", None)
    assert problem is not None
    assert "not installed" in problem


def test_disk_and_memory(tmp_path: Path) -> None:
    assert goud_preflight.disk_problem(tmp_path / "not/there/yet", 1) is None
    assert "are needed" in str(goud_preflight.disk_problem(tmp_path, 10**9))
    assert goud_preflight.memory_problem("MemAvailable:    2048000 kB\n", 2000) is None
    assert "2001 MiB are needed" in str(goud_preflight.memory_problem("MemAvailable:    2048000 kB\n", 2001))


@pytest.mark.parametrize(("now", "words"), [(1000.0, None), (1060.0, None), (994.0, "-6 s off"), (5.0, "cannot be")])
def test_clock(now: float, words: str | None) -> None:
    problem = goud_preflight.clock_problem(now, 1000.0, 5, earliest=100)
    assert problem is None if words is None else problem is not None and words in problem
