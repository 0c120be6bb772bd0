"""A command in a container: an exit code that the engine does not tell is no success, and lost output is no answer."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.community.docker.plugins.module_utils._api.errors import NotFound
from ansible_collections.community.docker.plugins.module_utils.common_api import RequestException

import documentation
import goud_exec

ROOT = documentation.ROOT
FILES = [name for name in documentation.tracked() if name.startswith(("ansible/", "roles/", "molecule/"))]
TASKS = [name for name in FILES if name.endswith(".yml") and re.search(r"/(tasks|handlers|playbooks)/", name)]
# No alarm is no output: what the member's status says of alarms is read beside it.
MAY_BE_EMPTY = {"_coordination_alarm_answer"}


class Engine:
    """What the module asks of the engine's client; `codes` are the exit codes that it tells, one after the other."""

    def __init__(self, *codes: int | None) -> None:
        self.codes = list(codes)

    def post_json_to_json(self, _path: str, container: str, data: dict[str, Any]) -> dict[str, str]:
        assert (container, data["Cmd"]) == ("etcd1", ["etcdctl", "put"])
        return {"Id": "x"}

    def post_json_to_stream(self, *_words: str, **_options: Any) -> tuple[bytes, None]:
        return b"OK\n", None

    def get_json(self, _path: str, _identity: str) -> dict[str, Any]:
        return {"ExitCode": self.codes.pop(0) if len(self.codes) > 1 else self.codes[0]}


@pytest.mark.parametrize(
    ("codes", "patience", "code"), [((0,), 0, 0), ((3,), 0, 3), ((None, None, 0), 10, 0), ((None, 1), 10, 1)]
)
def test_the_engine_is_asked_until_it_knows_the_exit_code(codes: tuple[int | None], patience: int, code: int) -> None:
    result = goud_exec.run(Engine(*codes), "etcd1", ["etcdctl", "put"], None, patience)
    assert result == {"changed": True, "rc": code, "stdout": "OK", "stderr": ""}


def test_no_exit_code_is_a_failure() -> None:
    result = goud_exec.run(Engine(None), "etcd1", ["etcdctl", "put"], None, 0)
    assert (result["failed"], result["rc"]) == (True, -1)
    assert "`etcdctl put` in etcd1" in result["msg"]


class Forgetful(Engine):
    """It was started anew after the command, or the connection to it breaks: at the place of `fault`."""

    def __init__(self, place: str, fault: Exception) -> None:
        super().__init__(0)
        self.place, self.fault = place, fault

    def post_json_to_stream(self, *words: str, **options: Any) -> tuple[bytes, None]:
        if self.place == "start":
            raise self.fault
        return super().post_json_to_stream(*words, **options)

    def post_json_to_stream_socket(self, *_words: str, **_options: Any) -> Any:
        raise self.fault

    def get_json(self, _path: str, _identity: str) -> dict[str, Any]:
        raise self.fault


BREAKS = [RequestException("broken"), ConnectionResetError(104, "reset"), BrokenPipeError(32, "broken"), TimeoutError()]


@pytest.mark.parametrize(
    ("place", "stdin", "fault"),
    [
        ("inspect", None, NotFound("no such exec")),
        *[("inspect", None, fault) for fault in BREAKS],
        *[("start", stdin, fault) for stdin in (None, "a line") for fault in BREAKS],
    ],
)
def test_a_command_that_the_engine_forgot_may_have_been_carried_out(
    place: str, stdin: str | None, fault: Exception
) -> None:
    result = goud_exec.run(Forgetful(place, fault), "etcd1", ["etcdctl", "put"], stdin, 0)
    assert (result["failed"], result["rc"]) == (True, -1)
    assert "may have been carried out" in result["msg"]


def tasks(node: Any) -> Iterator[dict[str, Any]]:
    """Every mapping of a document that may be a task."""
    if isinstance(node, list):
        for item in node:
            yield from tasks(item)
    elif isinstance(node, dict):
        yield node
        for name in ("tasks", "pre_tasks", "block", "rescue", "always"):
            yield from tasks(node.get(name))


def commands(name: str) -> list[dict[str, Any]]:
    """The tasks of a file that run something in a container."""
    return [task for task in tasks(yaml.safe_load((ROOT / name).read_text())) if "goud_exec" in task]


def test_nothing_takes_a_missing_exit_code_for_success() -> None:
    assert not [name for name in TASKS if "docker_container_exec" in (ROOT / name).read_text()]


def test_an_empty_answer_is_no_answer_wherever_it_is_read() -> None:
    """The engine loses what a command wrote, now and then on a busy machine: the task asks again, or fails."""
    sources = {name: (ROOT / name).read_text() for name in TASKS}
    careless = []
    for name in TASKS:
        for task in commands(name):
            answer = task.get("register", "")
            role = Path(name).parts[1]
            read = answer and any(f"{answer}.stdout" in text for other, text in sources.items() if role in other)
            judged = f"{answer}.stdout" in f"{task.get('until', '')} {task.get('failed_when', '')}"
            if read and not judged and answer not in MAY_BE_EMPTY:
                careless.append(f"{name}: {task['name']}")
    assert not careless


def test_there_are_commands_to_judge() -> None:
    assert sum(len(commands(name)) for name in TASKS) > 10
