"""What a machine asks at 169.254.169.254 and what it is told, without any provider's words in it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Union

Call = Callable[[], "Reply"]
Node = Union[str, int, tuple[str, ...], Call, "Tree"]
Tree = dict[str, Node]
NOTHING: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True)
class Question:
    """A request. ``machine`` is the address it came from; the names of ``headers`` are in small letters."""

    machine: str
    method: str
    path: str
    query: Mapping[str, str] = field(default_factory=lambda: NOTHING)
    headers: Mapping[str, str] = field(default_factory=lambda: NOTHING)


@dataclass(frozen=True)
class Reply:
    """An answer."""

    text: str
    status: int = 200
    kind: str = "text/plain"
    headers: Mapping[str, str] = field(default_factory=lambda: NOTHING)


def find(tree: Tree, path: str) -> Node | None:
    """What is at a path; the tree itself for an empty one."""
    node: Node | None = tree
    for part in filter(None, path.split("/")):
        node = node.get(part) if isinstance(node, dict) else None
    return node


def listing(tree: Tree) -> list[str]:
    """Names in a folder; folders end in a slash."""
    return [f"{name}/" if isinstance(node, dict) else name for name, node in sorted(tree.items())]
