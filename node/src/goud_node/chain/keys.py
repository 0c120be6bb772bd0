"""Ed25519 keys of validators, with one domain per kind of statement so that no signature can serve as another."""

from __future__ import annotations

import os
from functools import lru_cache
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from goud_node.documents import read_bytes
from goud_node.errors import ConfigurationError

DOMAIN_BLOCK = b"goud-block-v1"
"""The proposer says: I made this block. Signed message: the header's hash."""
DOMAIN_PERSISTED = b"goud-persisted-v1"
"""A validator says: this block is durable on my disk. Signed message: the header's hash."""
DOMAIN_CHECKED = b"goud-checked-v1"
"""A validator says: I have checked every signature of this chain. Signed message: a record in a backup repository."""

PUBLIC_KEY_BYTES = 32
SIGNATURE_BYTES = 64


class SigningKey:
    """A validator's private key. It never leaves this object except through `save`."""

    def __init__(self, private_key: Ed25519PrivateKey) -> None:
        self._private_key = private_key
        self.public: bytes = private_key.public_key().public_bytes_raw()

    @classmethod
    def generate(cls) -> SigningKey:
        return cls(Ed25519PrivateKey.generate())

    @classmethod
    def from_seed(cls, seed: bytes) -> SigningKey:
        """The key of a 32-byte seed: the same seed gives the same key (tests and models)."""
        return cls(Ed25519PrivateKey.from_private_bytes(seed))

    @classmethod
    def load(cls, path: Path) -> SigningKey:
        """Read a PKCS#8 PEM file. Raises ConfigurationError naming the file."""
        try:
            private_key = serialization.load_pem_private_key(read_bytes(path), password=None)
        except OSError as error:
            raise ConfigurationError(
                f"Cannot read the node key {path}: {error.strerror}. Create one with `goud-node keygen`."
            ) from error
        except (ValueError, TypeError) as error:
            raise ConfigurationError(
                f"{path} is not an unencrypted PEM private key ({error}). Create one with `goud-node keygen`."
            ) from error
        if not isinstance(private_key, Ed25519PrivateKey):
            raise ConfigurationError(f"{path} holds a key that is not Ed25519. Create one with `goud-node keygen`.")
        return cls(private_key)

    def save(self, path: Path) -> None:
        """Write a PEM file, mode 0600. An existing file is never replaced: ConfigurationError."""
        pem = self._private_key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError as error:
            raise ConfigurationError(
                f"{path} exists already and a key is never overwritten: move it aside or choose another file."
            ) from error
        except OSError as error:
            raise ConfigurationError(f"Cannot create the key file {path}: {error.strerror}.") from error
        with os.fdopen(descriptor, "wb") as file:
            file.write(pem)
            file.flush()
            os.fsync(file.fileno())

    def sign(self, domain: bytes, message: bytes) -> bytes:
        """64 bytes over `message` in `domain`."""
        return self._private_key.sign(_frame(domain, message))


def verify(public_key: bytes, domain: bytes, message: bytes, signature: bytes) -> bool:
    """Whether `signature` is that of the 32-byte key `public_key` over `message` in `domain`."""
    try:
        _public_key(public_key).verify(signature, _frame(domain, message))
    except (InvalidSignature, ValueError):
        return False
    return True


@lru_cache(maxsize=256)
def _public_key(public_key: bytes) -> Ed25519PublicKey:
    return Ed25519PublicKey.from_public_bytes(public_key)


def _frame(domain: bytes, message: bytes) -> bytes:
    # Domains hold no zero byte, so (domain, message) cannot be split in two ways.
    return domain + b"\0" + message
