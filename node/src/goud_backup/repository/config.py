"""The configuration of a repository: one document, written once."""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, Literal

from goud_backup.errors import Damaged
from goud_backup.repository import layout
from goud_backup.repository.records import require_known_format
from goud_node.chain.genesis import MOST_BYTES, Genesis, Written
from goud_node.documents import Document, Line, read
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
            "validators": [
                {"node_id": validator.node_id, "public_key": validator.public_key.hex()}
                for validator in genesis.validators
            ],
        },
        "encryption": AGE if encrypted else NONE,
        # For people only: whoever may write here could change it, so hosts never encrypt to what it says.
        "recipients": sorted(recipients),
    }
    return json.dumps(document, indent=2, sort_keys=True).encode() + b"\n"


class _Written(Document):
    format: Line
    id: Line
    created: Line
    chain_id: Line
    genesis: Written
    encryption: Literal["age", "none"]


def load(raw: bytes, url: str) -> Config:
    """Raises Damaged, LaterFormat."""
    try:
        return _config(read(raw, _Written, MOST_BYTES))
    except (ValueError, ConfigurationError) as error:
        require_known_format(raw, f"{layout.CONFIG} in {url}")
        raise Damaged(
            f"{layout.CONFIG} in {url} is damaged ({error}). Copy it back from another copy of the repository: "
            "it never changes."
        ) from error


def _config(written: _Written) -> Config:
    if written.format != layout.FORMAT:
        raise ValueError(f"format {written.format!r}, this version reads {layout.FORMAT}")
    genesis = written.genesis.genesis()
    if genesis.chain_id != written.chain_id:
        raise ValueError("the genesis document is not that of the chain id")
    return Config(written.id, genesis, written.encryption, written.created)
