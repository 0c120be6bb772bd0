"""A proxy of the operator's environment holds for packages and providers, never for loopback, nodes, peers or etcd."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from typing import Any

import pytest

import documentation
import goud_variables

ROOT = documentation.ROOT
FILES = documentation.tracked()
CLIENTS = {"Client", "AsyncClient", "request", "stream", "get", "head", "post", "put", "patch", "delete", "options"}
# What is called here is the address of somebody else: a chat's webhook, an address that people configured.
PROVIDERS = {"roles/timers/files/goud_notify.py"}


def tasks(node: Any) -> Iterator[dict[str, Any]]:
    """Every mapping in a document that may be a task, blocks included."""
    if isinstance(node, dict):
        yield node
        for value in node.values():
            yield from tasks(value)
    elif isinstance(node, list):
        for item in node:
            yield from tasks(item)


def proxied_tasks(document: Any) -> list[str]:
    """The tasks that fetch something and would ask a proxy for it."""
    names = []
    for task in tasks(document):
        for word in ("uri", "get_url"):
            options = task.get(f"ansible.builtin.{word}", task.get(word))
            if options is not None and (not isinstance(options, dict) or options.get("use_proxy") is not False):
                names.append(str(task.get("name", word)))
    return names


def proxied_calls(source: str) -> list[int]:
    """The lines that open an HTTP client which reads its proxies from the environment."""
    lines = []
    for call in (node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)):
        name = ast.unparse(call.func)
        if name.endswith(("urlopen", "urlretrieve")):
            lines.append(call.lineno)
        elif name.rpartition(".")[0] == "httpx" and name.rpartition(".")[2] in CLIENTS:
            words = {str(word.arg): ast.unparse(word.value) for word in call.keywords}
            direct = words.get("trust_env") == "False" or "transport" in words  # with a transport it asks no proxy
            lines += [] if direct else [call.lineno]
    return lines


@pytest.mark.parametrize("name", [name for name in FILES if name.endswith((".yml", ".yaml"))])
def test_no_task_asks_a_proxy_for_a_node(name: str) -> None:
    assert not proxied_tasks(goud_variables.read_yaml(ROOT / name))


@pytest.mark.parametrize("name", [name for name in FILES if name.endswith(".py") and name not in PROVIDERS])
def test_no_program_asks_a_proxy_for_a_node(name: str) -> None:
    assert not proxied_calls((ROOT / name).read_text(encoding="utf-8"))


def test_the_rule_sees_what_it_forbids() -> None:
    assert proxied_tasks([{"block": [{"name": "Ask", "ansible.builtin.uri": {"url": "http://node1"}}]}]) == ["Ask"]
    assert proxied_tasks([{"name": "Ask", "uri": {"url": "x", "use_proxy": True}}]) == ["Ask"]
    assert not proxied_tasks([{"name": "Ask", "uri": {"url": "x", "use_proxy": False}}])
    assert proxied_calls("httpx.get('x')\nurllib.request.urlopen('x')\nhttpx.Client(trust_env=True)") == [1, 2, 3]
    assert not proxied_calls("httpx.get('x', trust_env=False)\nhttpx.Request('GET', 'x')\nhttpx.URL('x').get('y')")
    assert not proxied_calls("httpx.Client(transport=httpx.MockTransport(answer))")


def test_the_exceptions_exist() -> None:
    assert all((ROOT / name).is_file() for name in PROVIDERS)
