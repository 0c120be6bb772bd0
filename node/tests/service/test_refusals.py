"""A node that must not start says why in one sentence, ends with the code of that reason, and changes nothing."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from goud_node.chain import genesis as genesis_document
from goud_node.chain.genesis import Genesis, Validator
from goud_node.chain.keys import SigningKey
from goud_node.cli import exits
from goud_node.service import identity
from goud_node.settings import Settings
from goud_node.store import SCHEMA_KEY, Batch, Family, RocksStore

from .support import MakeSettings, environment, run

pytestmark = pytest.mark.programs

Outcome = tuple[int, str]
Serve = Callable[..., Outcome]


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Serve:
    def attempt(settings: Settings, **overrides: str) -> Outcome:
        code, out, err = run(monkeypatch, capsys, "serve", **environment(settings, **overrides))
        assert out == ""
        assert "Traceback" not in err
        (sentence,) = [line for line in err.splitlines() if line.startswith("goud-node: ")]
        return code, sentence

    return attempt


def contents(directory: Path) -> dict[str, bytes]:
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def refused(outcome: Outcome, code: str, *words: str) -> None:
    number, sentence = outcome
    assert number == exits.CODES[code][0], sentence
    assert sentence.startswith(f"goud-node: {code}: ")
    for word in words:
        assert word in sentence


def test_an_empty_volume(make_settings: MakeSettings, serve: Serve, tmp_path: Path) -> None:
    settings = make_settings()
    empty = tmp_path / "empty"
    empty.mkdir()
    refused(serve(settings, GOUD_DATA_DIR=str(empty)), "uninitialized-volume", str(empty), "goud-node init")
    assert list(empty.iterdir()) == []


def test_a_missing_directory(make_settings: MakeSettings, serve: Serve, tmp_path: Path) -> None:
    absent = tmp_path / "absent"
    refused(serve(make_settings(), GOUD_DATA_DIR=str(absent)), "configuration", str(absent))
    assert not absent.exists()


def test_a_directory_that_should_be_a_mount(make_settings: MakeSettings, serve: Serve) -> None:
    refused(serve(make_settings(), GOUD_DATA_MUST_BE_MOUNT="true"), "configuration", "not a mount point")


def test_a_volume_of_another_chain(make_settings: MakeSettings, serve: Serve) -> None:
    mine, other = make_settings("node1"), make_settings("node2")
    before = contents(other.data_dir)
    outcome = serve(mine, GOUD_DATA_DIR=str(other.data_dir))
    refused(outcome, "wrong-chain", genesis_document.load(other.genesis_file).chain_id)
    assert contents(other.data_dir) == before


def test_a_damaged_database_names_the_file(make_settings: MakeSettings, serve: Serve) -> None:
    settings = make_settings()
    manifest = next(settings.database_dir.glob("MANIFEST-*"))
    damaged = bytearray(manifest.read_bytes())
    damaged[len(damaged) // 2] ^= 0xFF
    manifest.write_bytes(bytes(damaged))
    refused(serve(settings), "corrupt-store", "backup")


def test_a_database_without_current(make_settings: MakeSettings, serve: Serve) -> None:
    settings = make_settings()
    (settings.database_dir / "CURRENT").unlink()
    before = sorted(path.name for path in settings.database_dir.glob("*.sst"))
    refused(serve(settings), "corrupt-store", "CURRENT", "backup")
    assert sorted(path.name for path in settings.database_dir.glob("*.sst")) == before


def test_another_schema_version(make_settings: MakeSettings, serve: Serve) -> None:
    settings = make_settings()
    store = RocksStore.open(settings.database_dir)
    batch = Batch()
    batch.put(Family.METADATA, SCHEMA_KEY, b"99")
    store.write(batch)
    store.close()
    refused(serve(settings), "schema-mismatch", "99")
    RocksStore.open(settings.database_dir).close()


def test_a_database_in_use(make_settings: MakeSettings, serve: Serve) -> None:
    settings = make_settings()
    holder = RocksStore.open(settings.database_dir)
    try:
        number, sentence = serve(settings)
        assert number == exits.CODES["store"][0]
        assert "in use by another process" in sentence
    finally:
        holder.close()


@pytest.mark.parametrize("port", ["GOUD_HTTP_PORT", "GOUD_PEER_PORT"])
def test_a_port_in_use(make_settings: MakeSettings, serve: Serve, port: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        number = str(taken.getsockname()[1])
        refused(serve(make_settings(), **{port: number}), "port-in-use", number, port)


def test_an_address_this_machine_does_not_have(make_settings: MakeSettings, serve: Serve) -> None:
    refused(serve(make_settings(), GOUD_HTTP_HOST="192.0.2.1"), "configuration", "192.0.2.1", "GOUD_HTTP_PORT")


def test_a_key_of_another_node(make_settings: MakeSettings, serve: Serve) -> None:
    mine, other = make_settings("node1"), make_settings("node2")
    outcome = serve(mine, GOUD_NODE_KEY_FILE=str(other.node_key_file))
    refused(outcome, "wrong-key", SigningKey.load(other.node_key_file).public.hex(), "node1")


def test_a_name_nobody_knows(make_settings: MakeSettings, serve: Serve) -> None:
    refused(serve(make_settings(), GOUD_NODE_ID="node9"), "configuration", "node9", "GOUD_NODE_ID")


def test_an_unknown_setting(make_settings: MakeSettings, serve: Serve) -> None:
    refused(serve(make_settings(), GOUD_HTP_PORT="1"), "configuration", "GOUD_HTTP_PORT")


@pytest.mark.parametrize("variable", ["GOUD_GENESIS_FILE", "GOUD_NODE_KEY_FILE", "GOUD_PEERS_FILE"])
def test_a_missing_file(make_settings: MakeSettings, serve: Serve, tmp_path: Path, variable: str) -> None:
    absent = str(tmp_path / "absent")
    refused(serve(make_settings(), **{variable: absent}), "configuration", absent)


def test_a_configured_secret_is_not_made_up(make_settings: MakeSettings, serve: Serve, tmp_path: Path) -> None:
    absent = tmp_path / "absent"
    refused(serve(make_settings(), GOUD_JWT_SECRET_FILE=str(absent)), "configuration", str(absent))
    assert not absent.exists()


def test_several_validators_without_etcd(make_settings: MakeSettings, serve: Serve, tmp_path: Path) -> None:
    settings = make_settings()
    own = SigningKey.load(settings.node_key_file).public
    two = Genesis("two", 1, (Validator("node1", own), Validator("node2", SigningKey.generate().public)))
    genesis_document.dump(two, tmp_path / "two.json")
    outcome = serve(settings, GOUD_GENESIS_FILE=str(tmp_path / "two.json"))
    refused(outcome, "configuration", "GOUD_ETCD_ENDPOINTS", "2 validators")


def test_an_observer_without_etcd(make_settings: MakeSettings, serve: Serve, tmp_path: Path) -> None:
    settings = make_settings()
    watcher = SigningKey.generate()
    watcher.save(tmp_path / "watcher.key")
    peers = [{"node_id": "watcher", "url": "http://watcher:9000", "public_key": watcher.public.hex()}]
    (tmp_path / "peers.json").write_text(json.dumps(peers))
    variables = {
        "GOUD_NODE_ID": "watcher",
        "GOUD_NODE_KEY_FILE": str(tmp_path / "watcher.key"),
        "GOUD_PEERS_FILE": str(tmp_path / "peers.json"),
    }
    refused(serve(settings, **variables), "configuration", "observer", "GOUD_ETCD_ENDPOINTS", "GOUD_STANDALONE")


def test_an_observer_alone_serves_what_is_there(
    make_settings: MakeSettings, tmp_path: Path, run_node: Callable[..., AbstractContextManager[Any]]
) -> None:
    """A drill's node: no key of the chain's, no etcd; it reads the copy and orders nothing."""
    settings = make_settings()
    with run_node(settings) as live, live.client() as client:
        assert client.post("/api/accounts").status_code == 201
        tip = client.get("/health").json()["latest_block"]
    watcher = SigningKey.generate()
    watcher.save(tmp_path / "watcher.key")
    peers = [{"node_id": "watcher", "url": "http://127.0.0.1:1", "public_key": watcher.public.hex()}]
    (tmp_path / "peers.json").write_text(json.dumps(peers))
    change = {"node_id": "watcher", "node_key_file": tmp_path / "watcher.key", "peers_file": tmp_path / "peers.json"}
    alone = settings.model_copy(update={**change, "standalone": True, "submit_deadline_seconds": 0.5})
    assert not identity.load(alone).validator
    with run_node(alone, role="observer") as live, live.client() as client:
        assert client.get("/health").json()["latest_block"] == tip
        assert client.get(f"/api/blocks/{tip['height']}").json()["hash"] == tip["hash"]
        assert client.post("/api/accounts").status_code == 503
        assert client.get("/health").json()["latest_block"] == tip


def test_after_every_refusal_the_same_volume_serves(
    make_settings: MakeSettings, serve: Serve, run_node: Callable[[Settings], AbstractContextManager[Any]]
) -> None:
    settings = make_settings()
    serve(settings, GOUD_NODE_ID="node9")
    serve(settings, GOUD_JWT_SECRET_FILE="/nonexistent/secret")
    with run_node(settings) as live:
        assert live.node.replica.status.role == "proposer"


def test_exit_codes_are_distinct_and_documented() -> None:
    numbers = [number for number, _ in exits.CODES.values()]
    assert len(set(numbers)) == len(numbers)
    assert all(number > 2 for number in numbers)
    assert all(f"**{number}**" in exits.epilog() for number in numbers)
