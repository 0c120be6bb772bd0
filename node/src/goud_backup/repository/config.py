"""The configuration of a repository: one document, written once."""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from goud_backup.errors import Damaged
from goud_backup.repository import layout
from goud_node.chain.genesis import Genesis, Validator
from goud_node.errors import ConfigurationError

AGE: Final = "age"
NONE: Final = "none"


@dataclass(frozen=True)
class Config:
    """What never changes: the repository's id, its chain, and whether it is encrypted."""

    id: str
    genesis: Genesis
    encryption: str
    created: str

    @property
    def chain_id(self) -> str:
        return self.genesis.chain_id


def new(genesis: Genesis, *, encrypted: bool, recipients: Iterable[str]) -> bytes:
    """The document of a new repository."""
    document: dict[str, Any] = {
        "format": layout.FORMAT,
        "id": secrets.token_hex(16),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "chain_id": genesis.chain_id,
        "genesis": {
            "name": genesis.name,
            "created_ms": genesis.created_ms,
            "validators": [{"node_id": v.node_id, "public_key": v.public_key.hex()} for v in genesis.validators],
        },
        "encryption": AGE if encrypted else NONE,
        # For people only: whoever may write here could change it, so hosts never encrypt to what it says.
        "recipients": sorted(recipients),
    }
    return json.dumps(document, indent=2, sort_keys=True).encode() + b"\n"


def load(raw: bytes, url: str) -> Config:
    """Raises Damaged."""
    try:
        return _parsed(json.loads(raw))
    except (ValueError, KeyError, TypeError, ConfigurationError) as error:
        raise Damaged(
            f"{layout.CONFIG} in {url} is damaged ({error}). Copy it back from another copy of the repository: "
            "it never changes."
        ) from error


def _parsed(document: dict[str, Any]) -> Config:
    if document["format"] != layout.FORMAT:
        raise ValueError(f"format {document['format']!r}, this version reads {layout.FORMAT}")
    entry = document["genesis"]
    validators = tuple(Validator(v["node_id"], bytes.fromhex(v["public_key"])) for v in entry["validators"])
    genesis = Genesis(entry["name"], entry["created_ms"], validators)
    if genesis.chain_id != document["chain_id"] or document["encryption"] not in {AGE, NONE}:
        raise ValueError("the genesis document is not that of the chain id, or the encryption is unknown")
    return Config(document["id"], genesis, document["encryption"], document["created"])
