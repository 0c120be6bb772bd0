"""What a repository, a file or a node says may be shown; none of it commands the terminal."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import pytest

from goud_backup.repository import layout
from goud_backup.repository.repository import Repository

from .command import Command
from .support import KEYS, backup

HOSTILE = "\x1b]0;taken\x07\x1b[31mred\x9b2J\u202e"


class Answer(BaseHTTPRequestHandler):
    """Refuses, in words of its own."""

    def do_GET(self) -> None:
        body = HOSTILE.encode()
        self.send_response(401)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Nothing."""


@contextmanager
def answering() -> Iterator[str]:
    with HTTPServer(("127.0.0.1", 0), Answer) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


def marks(folder: Path) -> None:
    document = {"format": layout.FORMAT, "marks": {f"objects/{HOSTILE}": [1, 1, "x"]}}
    (folder / "marks.json").write_text(json.dumps(document))


def manifest(folder: Path) -> None:
    (folder / "manifests" / f"{HOSTILE}.json").write_bytes(b"x")


def fork(folder: Path) -> None:
    (folder / "forks").mkdir()
    (folder / "forks" / f"{HOSTILE}.json").write_bytes(b"x")


@pytest.mark.parametrize("spoil", [marks, manifest, fork])
@pytest.mark.parametrize("terminal", [True, False])
def test_no_verb_shows_control_characters(
    goud_backup: Command, monkeypatch: pytest.MonkeyPatch, spoil: Callable[[Path], None], terminal: bool
) -> None:
    goud_backup("init")
    goud_backup("create")
    spoil(goud_backup.folder / "repository")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: terminal, raising=False)
    for verb in (["prune", "--dry-run"], ["prune"], ["list"], ["status"], ["verify"], ["create"]):
        _, text = goud_backup._run(verb)
        assert not set("\x07\x9b\u202e") & set(text + goud_backup.error), verb
        assert "\x1b[31m" not in text + goud_backup.error


def test_nor_what_a_node_answers(goud_backup: Command, tmp_path: Path) -> None:
    goud_backup("init")
    KEYS["node1"].save(tmp_path / "node.key")
    with answering() as url:
        options = ["--own-key", "--node-url", url, "--node", "node1", "--key", str(tmp_path / "node.key")]
        goud_backup.code("ship", *options)
    assert "taken" in goud_backup.error
    assert not set("\x07\x9b\u202e\x1b") & set(goud_backup.error)


def test_nor_what_is_logged(repository: Repository, chain: Path, cache: Path, goud_backup: Command) -> None:
    backup(repository, chain, cache)
    root = logging.getLogger()
    handlers, root.handlers = root.handlers, []
    try:
        goud_backup.code("list")
        logging.getLogger("goud_backup.anything").warning("the node says %s", HOSTILE)
        text = goud_backup._capsys.readouterr().err
    finally:
        root.handlers = handlers
    assert "taken" in text
    assert not set("\x07\x9b\u202e\x1b") & set(text)
