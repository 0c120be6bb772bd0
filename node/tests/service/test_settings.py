"""Settings: documented in full, and mistyped ones are refused by name."""

from __future__ import annotations

import pytest

from goud_node import settings
from goud_node.settings import InvalidSettings, Settings


def test_every_setting_is_described() -> None:
    for name, field in Settings.model_fields.items():
        assert field.description, name
        assert len(field.description) > 20, name
        assert field.description[0].isupper() or field.description.startswith(("debug", "text", "etcd")), name
        assert field.description.endswith("."), name


def test_the_table_has_every_setting() -> None:
    rows = settings.markdown().splitlines()
    assert len(rows) == len(Settings.model_fields) + 2
    assert any(row.startswith("| `GOUD_NODE_ID` | required |") for row in rows)
    assert any(row.startswith("| `GOUD_DATA_DIR` | `/data` |") for row in rows)
    assert any(row.startswith("| `GOUD_DATA_MUST_BE_MOUNT` | `true` |") for row in rows)


def test_defaults_need_a_node_id_only(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InvalidSettings, match="GOUD_NODE_ID: is required"):
        settings.load()
    monkeypatch.setenv("GOUD_NODE_ID", "node1")
    loaded = settings.load()
    assert (loaded.http_port, loaded.peer_port, str(loaded.data_dir)) == (8080, 9000, "/data")
    assert str(loaded.jwt_secret_path) == "/data/jwt_secret"
    assert loaded.http_host == loaded.peer_host == "127.0.0.1"


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("GOUD_HTP_PORT", "1", "did you mean GOUD_HTTP_PORT"),
        ("GOUD_NODE_IDD", "x", "did you mean GOUD_NODE_ID"),
        ("goud_zzzzzzzzzzzz", "x", "goud-node settings"),
        ("GOUD_HTTP_PORT", "many", "GOUD_HTTP_PORT"),
        ("GOUD_HTTP_PORT", "70000", "GOUD_HTTP_PORT"),
        ("GOUD_SCHEMA_POLICY", "guess", "GOUD_SCHEMA_POLICY"),
        ("GOUD_ETCD_CA_FILE", "/x", "all three or none"),
        ("GOUD_NODE_ID", "no spaces", "GOUD_NODE_ID"),
        ("GOUD_MAX_COLLECTION_BYTES", "9999999", "GOUD_MAX_COLLECTION_BYTES"),
    ],
)
def test_what_is_wrong_is_named(monkeypatch: pytest.MonkeyPatch, name: str, value: str, words: str) -> None:
    monkeypatch.setenv("GOUD_NODE_ID", "node1")
    monkeypatch.setenv(name, value)
    with pytest.raises(InvalidSettings, match=words):
        settings.load()


def test_endpoints_are_separated_by_commas(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GOUD_NODE_ID", "node1")
    monkeypatch.setenv("GOUD_ETCD_ENDPOINTS", "etcd1:2379, etcd2:2379,")
    assert settings.load().etcd_endpoints == ("etcd1:2379", "etcd2:2379")


def test_an_empty_variable_is_an_absent_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GOUD_NODE_ID", "node1")
    monkeypatch.setenv("GOUD_OPERATOR_PUBLIC_KEY", "")
    assert settings.load().operator_public_key is None
