"""The peers file is checked against the genesis document."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from goud_node.chain.genesis import Genesis, Validator
from goud_node.chain.keys import SigningKey
from goud_node.errors import ConfigurationError
from goud_node.peer import directory

KEYS = {name: SigningKey.from_seed(name.encode() * 4).public for name in ("node-001", "node-002", "watcher1")}
GENESIS = Genesis("test", 1, tuple(Validator(name, KEYS[name]) for name in ("node-001", "node-002")))

NO_URLS = [
    *("http://a:b", "http://[::1", "http://a:99999", "http://a:0", "http://\u2603\u200d.x", f"http://{'a' * 70}"),
    *(
        "http://a?b",
        "http://a#b",
        "http://@",
        "http://u@a",
        "http://:9000",
        "http://a..b",
        "http://a\x01",
        "http://\x7f",
    ),
    "http:///",
]
"""What no request can be made of, or what would change the path of each."""


def entry(name: str, **changes: str) -> dict[str, str]:
    return {"node_id": name, "url": f"http://{name}:9000", "public_key": KEYS[name].hex()} | changes


def written(tmp_path: Path, entries: Any) -> Path:
    path = tmp_path / "peers.json"
    path.write_text(entries if isinstance(entries, str) else json.dumps(entries))
    return path


def test_peers_are_read(tmp_path: Path) -> None:
    path = written(tmp_path, [entry("node-001"), entry("node-002", url="http://node-002:9000/"), entry("watcher1")])
    peers = directory.load(path, GENESIS, "node-001")
    assert set(peers) == set(KEYS)
    assert peers["node-002"].url == "http://node-002:9000"
    assert directory.public_keys(peers, GENESIS) == KEYS


def test_no_file_is_no_peers() -> None:
    assert directory.load(None, GENESIS, "node-001") == {}


@pytest.mark.parametrize(
    ("entries", "words"),
    [
        ("not json", "not JSON"),
        ('[{"node_id": "x", "node_id": "y"}]', "twice"),
        ("[" * 5000, "nested more than"),
        ({}, "array"),
        ([{"node_id": "x"}], "url"),
        ([entry("node-001", url="node1")], "url"),
        *(([entry("node-001", url=url)], "url|URL|port") for url in NO_URLS),
        ([entry("node-001", colour="red")], "colour"),
        ([entry("node-001"), entry("node-001")], "twice"),
        ([entry("node-001", public_key="00" * 32)], "another public key"),
        ([entry("node-001", public_key="zz")], "public_key"),
        ([entry("node-001")], "neither a validator"),
    ],
)
def test_a_wrong_file_is_refused_by_name(tmp_path: Path, entries: Any, words: str) -> None:
    path = written(tmp_path, entries)
    with pytest.raises(ConfigurationError, match=words) as caught:
        directory.load(path, GENESIS, "nobody" if "neither" in words else "node-001")
    assert str(path) in str(caught.value)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="No such file"):
        directory.load(tmp_path / "absent", GENESIS, "node-001")
