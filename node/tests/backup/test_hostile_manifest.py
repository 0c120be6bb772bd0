"""Manifests with a right hash and wrong values: what somebody could write who may write to the store."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import pyrage
import pytest
from rich.console import Console

from goud_backup import restore as restoring
from goud_backup import verify as verifying
from goud_backup.cli import terminal
from goud_backup.cli.making import summary
from goud_backup.codec.sealing import Sealer
from goud_backup.errors import SourceError
from goud_backup.plan import Wish, make
from goud_backup.repository import layout
from goud_backup.repository.manifest import canonical, dump, sealed
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
    backup_manifest = backup(repository, data, cache)
    key = layout.manifest_key(backup_manifest.sequence, backup_manifest.id)
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


ODD_TEXTS = ["\ud800", "\x1b[2J", "\x1b]0;title\x07", "a\nb", "\x00", "\x7f", "\x9b2J"]
SHOWN = [("source", "node"), ("source", "host"), ("versions", "python"), ("chain", "tip_hash"), ("started",), ("id",)]


@pytest.mark.parametrize("text", ODD_TEXTS)
def test_no_text_commands_a_terminal(repository: Repository, data: Path, cache: Path, text: str) -> None:
    """It is shown, exported and printed: neither as a value nor as a name."""
    backup_manifest = backup(repository, data, cache)
    key = layout.manifest_key(backup_manifest.sequence, backup_manifest.id)
    document = json.loads(bytes(repository.target.get(key)))
    names = [{**document, part: {**document[part], text: 1}} for part in ("keys", "totals")]
    for odd in [*(changed(document, path, text) for path in SHOWN), *names]:
        repository.target.put(key, redone(odd))
        assert list(repository.manifests().bad) == [key]
        assert repository.manifests().bad[key].isprintable()


@pytest.mark.parametrize("text", ["[/x]", "[link=http://x]node1", "[bold]", "\\[", ":smile:"])
def test_a_text_is_shown_as_it_is(
    repository: Repository, data: Path, cache: Path, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    backup_manifest = backup(repository, data, cache)
    key = layout.manifest_key(backup_manifest.sequence, backup_manifest.id)
    document = json.loads(bytes(repository.target.get(key)))
    repository.target.put(key, redone(changed(document, ("source", "node"), text)))
    (row,) = [summary(one, kept=False, verified=text) for one in repository.manifests().good]
    shows: list[Callable[[], None]] = [
        lambda: terminal.rows(text, ("id", "height", "node", "verified"), [row]),
        lambda: terminal.document(text, {**row, text: [text]}),
    ]
    for show in shows:
        console = Console(file=StringIO(), width=300)
        monkeypatch.setattr(terminal, "_console", console)
        show()
        assert console.file.getvalue().count(text) >= 3  # type: ignore[attr-defined]  # it is a StringIO


@pytest.mark.parametrize("field", ["format", "sha256", "id", "repository"])
def test_what_is_wrong_is_not_repeated_at_length(repository: Repository, data: Path, cache: Path, field: str) -> None:
    backup_manifest = backup(repository, data, cache)
    key = layout.manifest_key(backup_manifest.sequence, backup_manifest.id)
    document = json.loads(bytes(repository.target.get(key)))
    for value in ("\x1b]0;x\x07" + "B" * 1_000_000, "B" * 9000, ["\x1b" * 100_000]):
        raw = canonical({**document, field: value}) if field == "sha256" else redone({**document, field: value})
        repository.target.put(key, raw)
        for problem in repository.manifests().bad.values():
            assert problem.isprintable()
            assert len(problem) < 500


@pytest.mark.parametrize("raw", [b"[" * 200_000, b"{}", b"[]", b"1", b"", b"\xff", b'{"sha256": 1}'])
def test_what_is_no_manifest_is_damaged(repository: Repository, data: Path, cache: Path, raw: bytes) -> None:
    backup_manifest = backup(repository, data, cache)
    repository.target.put(layout.manifest_key(backup_manifest.sequence, backup_manifest.id), raw)
    with pytest.raises(GoudError, match="manifest"):
        repository.find("latest")


@pytest.mark.parametrize("encrypted", [False, True])
def test_no_list_of_files_is_written_that_nobody_could_read(
    repository: Repository, data: Path, cache: Path, *, encrypted: bool
) -> None:
    """Sealed, it has been compressed: the manifest around it says nothing of how long it is."""
    backup_manifest = backup(repository, data, cache)
    entry = backup_manifest.listing(None)[0]
    files = tuple(replace(entry, path=f"rocksdb/{number:06d}.sst") for number in range(90_000))
    sealer = Sealer([str(pyrage.x25519.Identity.generate().to_public())]) if encrypted else None
    with pytest.raises(SourceError, match="could not be read again"):
        dump(sealed(replace(backup_manifest, files=files), sealer))
