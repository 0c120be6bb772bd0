"""The `chain_id` marker: a node only serves a volume that says it belongs to the node's chain.

A mounted-over or mistyped path once gave a healthy, empty node. Here an empty directory is an error, and only the
explicit `goud-node init` makes it a volume.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Protocol

from goud_node.documents import Malformed, read_bytes
from goud_node.errors import ConfigurationError, UninitializedVolume, WrongChain
from goud_node.store import durable

MARKER = "chain_id"
DATABASE = "rocksdb"
CHECKPOINTS = "checkpoints"
_MOST_BYTES = 100
"""A chain's id has far fewer."""


class HasChainId(Protocol):
    """A genesis document, seen from the layer below it."""

    @property
    def chain_id(self) -> str: ...


def database_path(data_dir: Path) -> Path:
    return data_dir / DATABASE


def initialize(data_dir: Path, genesis: HasChainId) -> None:
    """Mark a new volume as this chain's; again is harmless. Creates the last component of `data_dir` if need be.

    Raises WrongChain for another chain's marker or for a database without a marker, ConfigurationError when the
    directory cannot be made.
    """
    try:
        data_dir.mkdir(exist_ok=True)
    except OSError as error:
        raise ConfigurationError(f"Cannot create the data directory {data_dir}: {error.strerror}.") from error
    marker_chain = read(data_dir, genesis.chain_id)
    if marker_chain is None:
        _refuse_unmarked_data(data_dir)
        durable.replace(data_dir / MARKER, f"{genesis.chain_id}\n".encode())
    elif marker_chain != genesis.chain_id:
        raise _other_chain(data_dir, marker_chain, genesis.chain_id)


def require(data_dir: Path, chain_id: str, must_be_mount: bool, *, writable: bool = True) -> None:
    """Prove that `data_dir` is this chain's volume before anything is opened or written; `writable`: and can be.

    Raises ConfigurationError (missing, or no mount when one is expected), UninitializedVolume (empty), WrongChain.
    """
    if not data_dir.is_dir():
        raise ConfigurationError(f"The data directory {data_dir} does not exist. Mount the volume or correct the path.")
    if must_be_mount and not data_dir.is_mount():
        raise ConfigurationError(
            f"{data_dir} is not a mount point, so the volume is not mounted there and writes would be lost with the "
            "container. Mount it, or set GOUD_DATA_MUST_BE_MOUNT=false if a plain directory is meant."
        )
    marker_chain = read(data_dir, chain_id)
    if marker_chain is None:
        _refuse_unmarked_data(data_dir)
        raise UninitializedVolume(
            f"{data_dir} has no {MARKER} marker and no database: a new volume, or not the one you meant. "
            "If it is new, run `goud-node init` once; otherwise mount the right volume."
        )
    if marker_chain != chain_id:
        raise _other_chain(data_dir, marker_chain, chain_id)
    if writable and not os.access(data_dir, os.W_OK):
        if os.statvfs(data_dir).f_flag & os.ST_RDONLY:
            raise ConfigurationError(
                f"{data_dir} is on a read-only file system, and even who only reads takes the database's lock there. "
                "Mount it writable, or copy it."
            )
        raise ConfigurationError(f"{data_dir} is not writable for user id {os.geteuid()}. Change its owner.")


def read(data_dir: Path, expected: str) -> str | None:
    """The chain that a volume says it belongs to; None for one without a marker.

    Raises ConfigurationError for a marker that says nothing; `expected` is what it should say.
    """
    path = data_dir / MARKER
    try:
        raw = read_bytes(path, _MOST_BYTES)
        marked = raw.decode().strip()
    except FileNotFoundError:
        return None
    except (OSError, Malformed, UnicodeDecodeError) as error:
        raise _unreadable(path, str(error), expected) from error
    if not marked or not marked.isprintable():
        raise _unreadable(path, f"{raw[:40]!r} is not the id of a chain", expected)
    return marked


def _unreadable(path: Path, cause: str, expected: str) -> ConfigurationError:
    return ConfigurationError(
        f"Cannot read the marker {path}: {cause}. Nothing was changed. If this is the right volume, write {expected} "
        "into it; otherwise mount the right volume."
    )


def _refuse_unmarked_data(data_dir: Path) -> None:
    if database_path(data_dir).exists():
        raise WrongChain(
            f"{data_dir} holds a database but no {MARKER} marker, so its chain is unknown. If it is this chain's, "
            f"restore the marker file from a backup; otherwise mount the right volume. Nothing was changed."
        )


def _other_chain(data_dir: Path, marker_chain: str, chain_id: str) -> WrongChain:
    return WrongChain(
        f"{data_dir} belongs to chain {marker_chain}, this node to {chain_id}. Mount the right volume or give the "
        "right genesis document. Nothing was changed."
    )
