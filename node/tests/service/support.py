"""Running the command line, in this process or as one of its own."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import httpx
import pytest

from goud_node import cli
from goud_node.settings import Settings


class MakeSettings(Protocol):
    """The fixture `make_settings`: an initialised node, ready to be served."""

    def __call__(self, node_id: str = "node1", **overrides: Any) -> Settings: ...


def environment(settings: Settings, **overrides: str) -> dict[str, str]:
    """The GOUD_ variables that give these settings."""
    found: dict[str, str] = {}
    for name in settings.model_fields_set:
        value = getattr(settings, name)
        if value not in (None, ()):
            found[f"GOUD_{name.upper()}"] = str(value)
    return found | overrides


def run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: str, **variables: str
) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of `goud-node <arguments>`, run in this process."""
    with monkeypatch.context() as patch:
        for name, value in variables.items():
            patch.setenv(name, value)
        patch.setattr(sys, "argv", ["goud-node", *arguments])
        code = 0
        try:
            cli.main()
        except SystemExit as end:
            code = int(end.code or 0)
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])


class Process:
    """`goud-node serve` as a process of its own."""

    def __init__(self, variables: Mapping[str, str], log: Path) -> None:
        self.url = f"http://127.0.0.1:{variables['GOUD_HTTP_PORT']}"
        self.peer_url = f"http://127.0.0.1:{variables['GOUD_PEER_PORT']}"
        self.log = log
        with log.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "goud_node.cli", "serve"],
                env={"PATH": os.environ["PATH"], **variables},
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    def wait_ready(self, seconds: float = 30) -> None:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            assert self.process.poll() is None, self.log.read_text()
            try:
                if httpx.get(f"{self.url}/readyz", trust_env=False).status_code == 200:
                    return
            except httpx.TransportError:
                pass
            time.sleep(0.05)
        raise AssertionError(f"not ready: {self.log.read_text()}")

    def terminate(self) -> None:
        self.process.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(30)


@contextmanager
def serving(settings: Settings, log: Path, **overrides: str) -> Iterator[Process]:
    """A node process, ready; killed at the end if it still runs."""
    ports = {"GOUD_HTTP_PORT": str(free_port()), "GOUD_PEER_PORT": str(free_port())}
    process = Process(environment(settings) | ports | overrides, log)
    try:
        process.wait_ready()
        yield process
    finally:
        if process.process.poll() is None:
            process.kill()
