"""A running node: checkpoints by its operator's call, blocks by its peers' protocol. Nothing stops."""

from __future__ import annotations

import gzip
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import httpx
import pytest

from goud_backup import create as creating
from goud_backup import restore as restoring
from goud_backup import ship as shipping
from goud_backup.errors import SourceError
from goud_backup.node import _MOST_ANSWER, NodeClient
from goud_backup.plan import Wish, make
from goud_backup.repository.repository import Repository, initialize
from goud_backup.source import NodeSource
from goud_backup.targets import open_target
from goud_node.chain import genesis as documents
from goud_node.chain.inspect import inspect
from goud_node.chain.keys import SigningKey

from .cutting import CUTS, Cutter

MakeSettings = Callable[..., Any]
RunNode = Callable[[Any], AbstractContextManager[Any]]


def accounts(live: Any, number: int) -> None:
    with live.client() as client:
        for _ in range(number):
            assert client.post("/api/accounts").status_code == 201


@pytest.mark.parametrize("operator", [False, True])
def test_a_running_node_is_backed_up_and_shipped(
    tmp_path: Path, cache: Path, make_settings: MakeSettings, run_node: RunNode, *, operator: bool
) -> None:
    operators = SigningKey.generate()
    settings = make_settings(operator_public_key=operators.public.hex())
    genesis = documents.load(settings.genesis_file)
    key = operators if operator else SigningKey.load(settings.node_key_file)
    repository: Repository = initialize(open_target(f"file://{tmp_path}/r"), genesis, encrypted=False)
    with run_node(settings) as live:
        client = NodeClient(live.peer_url, "node1", key, genesis, operator=operator)
        accounts(live, 3)
        source = NodeSource(client, settings.data_dir)
        manifest = creating.create(repository, source, creating.Options(cache_dir=cache))
        assert (manifest.source["kind"], manifest.source["node"]) == ("checkpoint", "node1")
        assert not list((settings.data_dir / "checkpoints").iterdir()), "the checkpoint is released"
        again = creating.create(repository, source, creating.Options(cache_dir=cache))
        assert again.totals["new_bytes"] < 20_000, "only what RocksDB rewrites for each checkpoint"
        accounts(live, 4)
        deadline = time.monotonic() + 20
        while client.status()["certified"] < client.status()["height"]:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        shipped = shipping.ship(repository, shipping.NodeBlocks(client), ())
        height = int(client.status()["height"])
        assert shipped.last == height
        assert shipping.ship(repository, shipping.NodeBlocks(client), ()).blocks == 0
        client.close()
    (tmp_path / "out").mkdir()
    plan = make(repository, Wish(), None)
    assert restoring.restore(repository, plan, tmp_path / "out", restoring.Tools(None)).height == height
    assert inspect(tmp_path / "out", genesis).ok


def test_a_failed_backup_releases_its_checkpoint(
    tmp_path: Path, cache: Path, make_settings: MakeSettings, run_node: RunNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = make_settings()
    genesis = documents.load(settings.genesis_file)
    repository = initialize(open_target(f"file://{tmp_path}/r"), genesis, encrypted=False)
    with run_node(settings) as live:
        accounts(live, 2)
        client = NodeClient(live.peer_url, "node1", SigningKey.load(settings.node_key_file), genesis, operator=False)

        def broken(*_: object) -> None:
            raise SourceError("the disk is gone")

        monkeypatch.setattr(repository, "put_object", broken)
        with pytest.raises(SourceError, match="disk is gone"):
            creating.create(repository, NodeSource(client, settings.data_dir), creating.Options(cache_dir=cache))
        assert not list((settings.data_dir / "checkpoints").iterdir())
        client.close()


def test_a_node_that_dies_after_its_checkpoint_does_not_spoil_the_backup(
    tmp_path: Path, make_settings: MakeSettings, run_node: RunNode, caplog: pytest.LogCaptureFixture
) -> None:
    settings = make_settings()
    genesis = documents.load(settings.genesis_file)
    repository = initialize(open_target(f"file://{tmp_path}/r"), genesis, encrypted=False)
    key = SigningKey.load(settings.node_key_file)
    with run_node(settings) as live:
        accounts(live, 2)
        client = NodeClient(live.peer_url, "node1", key, genesis, operator=False)
        source = NodeSource(client, settings.data_dir).open(genesis)
        snapshot = source.__enter__()
    assert (snapshot.database / "CURRENT").is_file()
    source.__exit__(None, None, None)
    assert "expires by itself" in caplog.text
    client.close()
    assert repository.manifest_keys() == []


def test_who_is_asked_must_be_who_answers(make_settings: MakeSettings, run_node: RunNode, tmp_path: Path) -> None:
    settings = make_settings()
    genesis = documents.load(settings.genesis_file)
    with run_node(settings) as live:
        stranger = NodeClient(live.peer_url, "node1", SigningKey.generate(), genesis, operator=False)
        with pytest.raises(SourceError, match="refuses this key"):
            stranger.status()
        stranger.close()
        mine = NodeClient(live.peer_url, "node1", SigningKey.load(settings.node_key_file), genesis, operator=False)
        elsewhere = tmp_path / "elsewhere"
        make_settings("node2")
        with (
            pytest.raises(SourceError, match="must be that node's volume"),
            NodeSource(mine, _copy_marker(settings.data_dir, elsewhere)).open(genesis),
        ):
            pass
        mine.close()
    gone = NodeClient("http://127.0.0.1:9", "node1", SigningKey.generate(), genesis, operator=False)
    with pytest.raises(SourceError, match="--data-dir alone"):
        gone.status()
    gone.close()


@pytest.mark.parametrize("where", CUTS)
def test_a_node_whose_answer_breaks_off_is_asked_again(
    tmp_path: Path, make_settings: MakeSettings, run_node: RunNode, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    monkeypatch.setattr("goud_backup.node._PAUSE", 0.0)
    settings = make_settings()
    genesis = documents.load(settings.genesis_file)
    repository = initialize(open_target(f"file://{tmp_path}/r"), genesis, encrypted=False)
    cutter = Cutter()
    with run_node(settings) as live, cutter.serving(live.peer_url) as url:
        accounts(live, 3)
        client = NodeClient(url, "node1", SigningKey.load(settings.node_key_file), genesis, operator=False)
        deadline = time.monotonic() + 20
        while client.status()["certified"] < client.status()["height"]:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        cutter.cut = lambda _, body: CUTS[where](body) if len(cutter.cuts) % 6 < 5 else cutter.cuts.append("whole")
        assert shipping.ship(repository, shipping.NodeBlocks(client), ()).last == client.status()["height"]
        assert len(cutter.cuts) > 6
        cutter.cut = lambda _, body: CUTS[where](body)
        before = cutter.requests
        with pytest.raises(SourceError, match="does not answer"):
            client.blocks(1)
        assert cutter.requests - before == 6
        calls: list[httpx.Request] = []

        async def broken_off(request: httpx.Request) -> httpx.Response:
            calls.append(request)
            raise httpx.ReadError("broken off")

        monkeypatch.setattr(client._transport, "handle_async_request", broken_off)
        with pytest.raises(SourceError, match="does not answer"):
            client.create_checkpoint(60)
        assert len(calls) == 1, "what changes something is asked for once"
        client.close()


def _copy_marker(data_dir: Path, folder: Path) -> Path:
    folder.mkdir()
    (folder / "chain_id").write_bytes((data_dir / "chain_id").read_bytes())
    return folder


@pytest.mark.parametrize("encoding", ["identity", "gzip"])
def test_an_answer_of_any_length_is_given_up(
    make_settings: MakeSettings, monkeypatch: pytest.MonkeyPatch, encoding: str
) -> None:
    """Whoever holds the node's address could fill the memory before anybody looks at a signature."""
    settings = make_settings()
    sent = 0

    async def flood() -> AsyncIterator[bytes]:
        nonlocal sent
        piece = gzip.compress(bytes(1 << 20)) if encoding == "gzip" else bytes(1 << 16)
        for _ in range(20_000):
            sent += len(piece)
            yield piece

    def answer(_: httpx.Request) -> httpx.Response:
        return httpx.Response(200, headers={"content-encoding": encoding}, content=flood())

    key = SigningKey.load(settings.node_key_file)
    client = NodeClient("http://node1", "node1", key, documents.load(settings.genesis_file), operator=False)
    monkeypatch.setattr(client, "_transport", httpx.MockTransport(answer))
    for call in (client.status, lambda: client.blocks(1), lambda: client.create_checkpoint(1)):
        with pytest.raises(SourceError, match="longer than"):
            call()
    assert sent <= 3 * (_MOST_ANSWER + (1 << 17)), sent
    client.close()


def answer_of(status: int, body: bytes, headers: dict[bytes, bytes] | None = None) -> httpx.Response:
    """One whose body has yet to be read, as a transport gives it."""

    async def content() -> AsyncIterator[bytes]:
        yield body

    return httpx.Response(status, headers=headers, content=content())


WRONG_ANSWERS: dict[str, bytes] = {
    "twice": b'{"certified": 1, "certified": 2, "id": "x", "id": "y"}',
    "text": b'{"certified": "7", "id": "x", "path": "/x", "height": "7", "tip_hash": "00"}',
    "below zero": b'{"certified": -7, "id": "x", "path": "/x", "height": -7, "tip_hash": "00"}',
    "a list": b"[1]",
    "deep": b"[" * 100_000,
    "not text": b"\xff",
}


@pytest.mark.parametrize("body", WRONG_ANSWERS.values(), ids=WRONG_ANSWERS)
def test_a_document_of_another_kind_is_no_answer(
    make_settings: MakeSettings, monkeypatch: pytest.MonkeyPatch, body: bytes
) -> None:
    settings = make_settings()
    key = SigningKey.load(settings.node_key_file)
    client = NodeClient("http://node1", "node1", key, documents.load(settings.genesis_file), operator=False)
    monkeypatch.setattr(client, "_verifier", None)
    monkeypatch.setattr(client, "_transport", httpx.MockTransport(lambda _: answer_of(200, body)))
    for call in (client.certified_height, lambda: client.create_checkpoint(1)):
        with pytest.raises(SourceError, match="node1"):
            call()
    client.close()


@pytest.mark.parametrize("location", ["http:a", "http://[", "http://\u2603\u200d.x", "/other"])
def test_nothing_of_an_answer_leads_elsewhere_or_comes_with_later_requests(
    make_settings: MakeSettings, monkeypatch: pytest.MonkeyPatch, location: str
) -> None:
    """It comes before anybody knows who gave it."""
    settings = make_settings()
    key = SigningKey.load(settings.node_key_file)
    client = NodeClient("http://node1", "node1", key, documents.load(settings.genesis_file), operator=False)
    cookies: list[str | None] = []

    def answer(request: httpx.Request) -> httpx.Response:
        cookies.append(request.headers.get("cookie"))
        return answer_of(302, b"", headers={b"Location": location.encode(), b"Set-Cookie": b"a=b; Path=/"})

    monkeypatch.setattr(client, "_transport", httpx.MockTransport(answer))
    for call in (client.status, lambda: client.blocks(1), lambda: client.create_checkpoint(1)):
        with pytest.raises(SourceError, match="node1"):
            call()
    assert cookies == [None] * 3
    client.close()


@pytest.mark.parametrize(
    "url", ["http://a:b", "http://[::1", "http://a:99999", f"http://{'a' * 70}", "http://a\x01", "a:1"]
)
def test_an_address_that_is_none_is_a_sentence(make_settings: MakeSettings, url: str) -> None:
    genesis = documents.load(make_settings().genesis_file)
    client = NodeClient(url, "node1", SigningKey.generate(), genesis, operator=False)
    with pytest.raises(SourceError, match="does not answer"):
        client.status()
    client.close()


@pytest.mark.parametrize("status", [401, 403, 500])
@pytest.mark.parametrize("shape", ["%s", '{"detail": "%s", "id": "%s", "certified": "%s"}'], ids=["text", "document"])
def test_no_answer_commands_the_terminal(
    make_settings: MakeSettings, monkeypatch: pytest.MonkeyPatch, status: int, shape: str
) -> None:
    settings = make_settings()
    key = SigningKey.load(settings.node_key_file)
    client = NodeClient("http://node1", "node1", key, documents.load(settings.genesis_file), operator=False)
    monkeypatch.setattr(client, "_verifier", None)
    body = shape.replace("%s", "\\u001b[2J\\n\x9b\u202e" if shape != "%s" else "\x1b[2J\n\x9b\u202e").encode()
    monkeypatch.setattr(client, "_transport", httpx.MockTransport(lambda _: answer_of(status, body)))
    for call in (
        client.certified_height,
        lambda: client.blocks(1),
        lambda: client.create_checkpoint(1),
        lambda: client.release_checkpoint("a"),
    ):
        with pytest.raises(SourceError) as caught:
            call()
        assert str(caught.value).isprintable()
    client.close()
