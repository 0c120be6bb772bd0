"""Who the peers are: the peers file, checked against the genesis document."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import httpx
from msgspec import Meta

from goud_node.chain.genesis import Genesis
from goud_node.documents import FEW, MOST_LISTING, Digest, Document, Malformed, read_file
from goud_node.errors import ConfigurationError
from goud_node.exchange import address_of


class _Entry(Document, forbid_unknown_fields=True):
    node_id: Annotated[str, Meta(min_length=1, max_length=63)]
    url: Annotated[str, Meta(pattern=r"^https?://[^/\s?#@]+/?\Z")]
    public_key: Digest


_Entries = Annotated[list[_Entry], FEW]


@dataclass(frozen=True, slots=True)
class Peer:
    """One other node: base URL of its peer interface, and its raw Ed25519 public key."""

    node_id: str
    url: str
    public_key: bytes


def load(path: Path | None, genesis: Genesis, node_id: str) -> dict[str, Peer]:
    """The nodes of the peers file by id, this node's own entry included when it exists; {} without a file.

    Raises ConfigurationError: unreadable, malformed, a URL of no server, a node named twice, or a validator with a key
    that is not the genesis document's.
    """
    if path is None:
        return {}
    try:
        entries = read_file(path, _Entries, MOST_LISTING)
    except OSError as error:
        raise ConfigurationError(f"Cannot read the peers file {path}: {error.strerror}.") from error
    except Malformed as error:
        raise ConfigurationError(f"The peers file {path} is wrong: {error}.") from error
    peers: dict[str, Peer] = {}
    for entry in entries:
        try:
            address_of(entry.url)
        except httpx.UnsupportedProtocol as error:
            raise ConfigurationError(
                f"The peers file {path} has no usable URL of {entry.node_id}: {error}. Write such as http://node2:9000."
            ) from error
        validator = genesis.validator(entry.node_id)
        public_key = bytes.fromhex(entry.public_key)
        if entry.node_id in peers:
            raise ConfigurationError(f"The peers file {path} names {entry.node_id} twice.")
        if validator is not None and validator.public_key != public_key:
            raise ConfigurationError(
                f"The peers file {path} gives {entry.node_id} another public key than the genesis document: "
                "write both from the same keys."
            )
        peers[entry.node_id] = Peer(entry.node_id, entry.url.rstrip("/"), public_key)
    own_entry = peers.get(node_id)
    if own_entry is None and genesis.validator(node_id) is None:
        raise ConfigurationError(
            f"{node_id} is neither a validator of the genesis document nor in the peers file {path}: correct "
            "GOUD_NODE_ID or add the node."
        )
    return peers


def public_keys(peers: dict[str, Peer], genesis: Genesis) -> dict[str, bytes]:
    """Every key this node accepts signatures of, by node id."""
    keys = {validator.node_id: validator.public_key for validator in genesis.validators}
    return keys | {peer.node_id: peer.public_key for peer in peers.values()}
