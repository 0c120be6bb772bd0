"""Who this node is: genesis document, own key and peers, proven to fit together before anything is opened."""

from __future__ import annotations

from dataclasses import dataclass

from goud_node.chain import genesis as genesis_document
from goud_node.chain.genesis import Genesis
from goud_node.chain.keys import SigningKey
from goud_node.errors import ConfigurationError
from goud_node.peer import directory
from goud_node.peer.directory import Peer
from goud_node.settings import Settings


class WrongKey(ConfigurationError):
    """The node's private key is not the one whose public part the cluster knows under this node's name."""

    code = "wrong-key"


@dataclass(frozen=True)
class Identity:
    """`peers` are the other nodes; `keys` all public keys by node id, this node's included."""

    genesis: Genesis
    key: SigningKey
    peers: dict[str, Peer]
    keys: dict[str, bytes]
    validator: bool


def load(settings: Settings) -> Identity:
    """Read and cross-check the three files. Raises ConfigurationError, WrongKey."""
    genesis = genesis_document.load(settings.genesis_file)
    key = SigningKey.load(settings.node_key_file)
    nodes = directory.load(settings.peers_file, genesis, settings.node_id)
    keys = directory.public_keys(nodes, genesis)
    public_key = keys.get(settings.node_id)
    if public_key is None:
        raise ConfigurationError(
            f"{settings.node_id} is not a validator of {settings.genesis_file}, and no peers file names it: "
            "correct GOUD_NODE_ID, or list the node in GOUD_PEERS_FILE to run it as an observer."
        )
    if public_key != key.public:
        raise WrongKey(
            f"The key in {settings.node_key_file} is not that of {settings.node_id}: its public part is "
            f"{key.public.hex()}, the genesis document or the peers file has {public_key.hex()}. "
            "Give the node its own key."
        )
    validator = genesis.validator(settings.node_id) is not None
    _check_ordering(settings, genesis, validator=validator)
    peers = {name: peer for name, peer in nodes.items() if name != settings.node_id}
    return Identity(genesis, key, peers, keys, validator)


def _check_ordering(settings: Settings, genesis: Genesis, *, validator: bool) -> None:
    if settings.etcd_endpoints:
        return
    if not validator and not settings.standalone:
        raise ConfigurationError(
            f"{settings.node_id} is an observer, so it cannot order blocks by itself: set GOUD_ETCD_ENDPOINTS, or "
            "GOUD_STANDALONE=true for a drill that reads a copy of the data."
        )
    if len(genesis.validators) > 1 and not settings.standalone:
        # Each of them would make a history of its own.
        raise ConfigurationError(
            f"The genesis document names {len(genesis.validators)} validators, but GOUD_ETCD_ENDPOINTS is empty: they "
            "would not agree. Set it, or set GOUD_STANDALONE=true for a drill on a copy of the data."
        )
