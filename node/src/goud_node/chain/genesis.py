"""The genesis document: the name, the birth and the validators of a chain. Its hash is the chain's identity."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Annotated, Final

from msgspec import Meta

from goud_node.chain import encoding
from goud_node.chain.block import NO_HASH, Block, Header, merkle_root
from goud_node.chain.keys import PUBLIC_KEY_BYTES
from goud_node.documents import FEW, Document, Line, Malformed, read_file
from goud_node.errors import ConfigurationError

MOST_BYTES: Final = 1024 * 1024
"""Most bytes of a genesis document as JSON."""
_NODE_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")


@dataclass(frozen=True)
class Validator:
    """A node whose signature counts. `public_key` is a raw Ed25519 key of 32 bytes."""

    node_id: str
    public_key: bytes


@dataclass(frozen=True)
class Validators:
    """Those whose signatures count at a height."""

    members: tuple[Validator, ...]

    def __len__(self) -> int:
        return len(self.members)

    @property
    def quorum(self) -> int:
        """How many make a majority."""
        return len(self.members) // 2 + 1

    def get(self, node_id: str) -> Validator | None:
        return self._by_id.get(node_id)

    @cached_property
    def _by_id(self) -> dict[str, Validator]:
        return {validator.node_id: validator for validator in self.members}


@dataclass(frozen=True)
class Genesis:
    """Immutable. Raises ConfigurationError on construction when the document makes no sense."""

    name: str
    created_ms: int
    validators: tuple[Validator, ...]

    def __post_init__(self) -> None:
        ids = [validator.node_id for validator in self.validators]
        keys = {validator.public_key for validator in self.validators}
        if not ids:
            raise ConfigurationError("The genesis document names no validator: nobody could propose a block.")
        if len(set(ids)) != len(ids) or len(keys) != len(ids):
            raise ConfigurationError("The genesis document names a validator or a public key twice.")
        for validator in self.validators:
            if not _NODE_ID.fullmatch(validator.node_id):
                raise ConfigurationError(
                    f"The genesis document has the node id {validator.node_id!r}: "
                    "use 1 to 63 letters, digits, dots, dashes and underscores."
                )
            if len(validator.public_key) != PUBLIC_KEY_BYTES:
                raise ConfigurationError(
                    f"The public key of {validator.node_id} has {len(validator.public_key)} bytes; Ed25519 has 32."
                )
        if self.created_ms < 0:
            raise ConfigurationError("The genesis document was created before 1970: created_ms is negative.")

    @cached_property
    def document(self) -> bytes:
        """Canonical CBOR of the whole document."""
        validators = [[validator.node_id, validator.public_key] for validator in self.validators]
        return encoding.encode(["goud-genesis", 1, self.name, self.created_ms, validators])

    @cached_property
    def chain_id(self) -> str:
        return "goud-" + sha256(self.document).hexdigest()[:16]

    @property
    def quorum(self) -> int:
        """Validators that make a majority."""
        return self._constant.quorum

    def validators_at(self, height: int) -> Validators:
        """Whose signatures count for the block of this height. Today a constant: the document's, at every height."""
        del height
        return self._constant

    def validator(self, node_id: str) -> Validator | None:
        return self._constant.get(node_id)

    @cached_property
    def _constant(self) -> Validators:
        return Validators(self.validators)

    @cached_property
    def _block(self) -> Block:
        header = Header(
            chain_id=self.chain_id,
            height=0,
            previous=NO_HASH,
            timestamp_ms=self.created_ms,
            proposer="",
            root=merkle_root([self.document]),
            count=1,
        )
        return Block(header, (self.document,), b"")

    def block(self) -> Block:
        """Height 0: nobody proposed it, nobody signed it, its one transaction is this document."""
        return self._block


class _Validator(Document):
    node_id: Line
    public_key: Annotated[str, Meta(pattern=r"^([0-9a-fA-F]{2})*\Z", max_length=1000)]


class Written(Document, forbid_unknown_fields=True):
    """The document as JSON, keys in hex."""

    # Whatever it has: the name of a chain that exists cannot be changed.
    name: Annotated[str, Meta(max_length=10_000)]
    created_ms: Annotated[int, Meta(gt=-(1 << 53), lt=1 << 53)]
    validators: Annotated[list[_Validator], FEW]

    def genesis(self) -> Genesis:
        """Raises ConfigurationError when it makes no sense."""
        members = tuple(
            Validator(validator.node_id, bytes.fromhex(validator.public_key)) for validator in self.validators
        )
        return Genesis(self.name, self.created_ms, members)


def dump(genesis: Genesis, path: Path) -> None:
    """Write the document as JSON, keys in hex. An existing file is never replaced: ConfigurationError."""
    document = {
        "name": genesis.name,
        "created_ms": genesis.created_ms,
        "validators": [
            {"node_id": validator.node_id, "public_key": validator.public_key.hex()} for validator in genesis.validators
        ],
    }
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(json.dumps(document, indent=2) + "\n")
    except FileExistsError as error:
        raise ConfigurationError(
            f"{path} exists already and a genesis document is never overwritten: move it aside first."
        ) from error
    except OSError as error:
        raise ConfigurationError(f"Cannot create {path}: {error.strerror}.") from error


def load(path: Path) -> Genesis:
    """Read a JSON genesis document. Raises ConfigurationError naming the file and what is wrong in it."""
    try:
        return read_file(path, Written, MOST_BYTES).genesis()
    except OSError as error:
        raise ConfigurationError(f"Cannot read the genesis document {path}: {error.strerror}.") from error
    except Malformed as error:
        raise ConfigurationError(f"The genesis document {path} is incomplete or mistyped: {error}.") from error
