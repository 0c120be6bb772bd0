"""Manifests with a right hash and wrong values: what somebody could write who may write to the store."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from goud_backup import restore as restoring
from goud_backup import verify as verifying
from goud_backup.plan import Wish, make
from goud_backup.repository import layout
from goud_backup.repository.repository import Repository
from goud_node.errors import GoudError

from .support import backup, redone

WRONG: tuple[Any, ...] = (
    None,
    True,
    -1,
    0,
    1.5,
    1 << 70,
    "",
    "x",
    "\x00",
    "2026-01-01",
    "../../x",
    [],
    [[]],
    {},
    {"a": {"b": []}},
)


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of every value within a document; of long lists and maps the first two."""
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    few = [item for number, item in enumerate(items) if number < 2 or len(path) == 0 or path == ("chain",)]
    for key, inner in few:
        yield from places(inner, (*path, key))


def changed(document: Any, path: tuple[Any, ...], value: Any) -> Any:
    if not path:
        return value
    copy = dict(document) if isinstance(document, dict) else list(document)
    copy[path[0]] = changed(document[path[0]], path[1:], value)
    return copy


def test_no_value_ends_in_a_traceback(repository: Repository, data: Path, cache: Path, tmp_path: Path) -> None:
    made = backup(repository, data, cache)
    key = layout.manifest_key(made.sequence, made.id)
    document = json.loads(bytes(repository.target.get(key)))
    document.pop("sha256")
    tried = 0
    for path in list(places(document))[1:]:
        for value in WRONG:
            repository.target.put(key, redone(changed(document, path, value)))
            tried += 1
            try:
                plan = make(repository, Wish(), None)
                restoring.plan_document(repository, plan, tmp_path)
                verifying.verify(repository, verifying.Depth(data=False, record=False), restoring.Tools(None))
            except GoudError:
                continue
    assert tried > 500


@pytest.mark.parametrize("raw", [b"[" * 200_000, b"{}", b"[]", b"1", b"", b"\xff", b'{"sha256": 1}'])
def test_what_is_no_manifest_is_damaged(repository: Repository, data: Path, cache: Path, raw: bytes) -> None:
    made = backup(repository, data, cache)
    repository.target.put(layout.manifest_key(made.sequence, made.id), raw)
    with pytest.raises(GoudError, match="manifest"):
        repository.find("latest")
