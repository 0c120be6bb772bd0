"""API keys and the encryption of what accounts store.

An API key is `goud_<account id>_<secret>`. The chain holds a hash of the secret only; the data key is derived from the
secret itself, so what is stored can be read with the API key (or a token made from it) and with nothing else.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
from dataclasses import dataclass
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

_PREFIX: Final = "goud"
_NONCE: Final = 12
_KEY: Final = 32


class Undecryptable(Exception):
    """The ciphertext does not belong to this key and place."""


@dataclass(frozen=True)
class ApiKey:
    """The two parts of an API key."""

    account_id: str
    secret: str

    @classmethod
    def generate(cls) -> ApiKey:
        return cls(secrets.token_hex(12), secrets.token_urlsafe(32))

    @classmethod
    def parse(cls, text: str) -> ApiKey | None:
        """The key in `text`, or None when it does not have that form."""
        parts = text.split("_", 2)
        if len(parts) != 3 or parts[0] != _PREFIX or not parts[1] or not parts[2] or not text.isascii():
            return None
        return cls(parts[1], parts[2])

    def __str__(self) -> str:
        return f"{_PREFIX}_{self.account_id}_{self.secret}"

    @property
    def key_hash(self) -> bytes:
        """32 bytes for the chain. The secret has 256 random bits, so a plain hash cannot be searched."""
        return hashlib.sha256(b"goud-api-key-v1\0" + str(self).encode()).digest()

    def matches(self, key_hash: bytes) -> bool:
        """Whether the account's stored hash is that of this key, in constant time."""
        return hmac.compare_digest(self.key_hash, key_hash)

    def data_key(self, salt: bytes) -> bytes:
        """32 bytes that encrypt what the account stores."""
        return derive(self.secret.encode(), b"goud-data-key-v1", salt)


def derive(secret: bytes, purpose: bytes, salt: bytes | None = None) -> bytes:
    """A 32-byte key of `secret` for one purpose (HKDF-SHA256)."""
    return HKDF(algorithm=SHA256(), length=_KEY, salt=salt, info=purpose).derive(secret)


def seal(key: bytes, plaintext: bytes, *context: str) -> bytes:
    """Nonce and AES-256-GCM ciphertext, bound to `context` (who, what, which field)."""
    nonce = os.urandom(_NONCE)
    return nonce + AESGCM(key).encrypt(nonce, plaintext, _associated_data(context))


def unseal(key: bytes, ciphertext: bytes, *context: str) -> bytes:
    """The plaintext of `seal` with the same key and context. Raises Undecryptable."""
    try:
        return AESGCM(key).decrypt(ciphertext[:_NONCE], ciphertext[_NONCE:], _associated_data(context))
    except (InvalidTag, ValueError) as error:
        raise Undecryptable("the ciphertext does not belong to this key and place") from error


def fingerprint(key: bytes, *parts: bytes) -> bytes:
    """32 bytes that tell whether two requests had the same content, and tell nothing without the key."""
    mac = hmac.new(derive(key, b"goud-fingerprint-v1"), digestmod=hashlib.sha256)
    for part in parts:
        mac.update(len(part).to_bytes(8, "big") + part)
    return mac.digest()


def _associated_data(context: tuple[str, ...]) -> bytes:
    # Lengths first: ("ab", "c") and ("a", "bc") must not be the same context.
    encodings = [part.encode() for part in context]
    return b"".join(len(part).to_bytes(2, "big") + part for part in encodings)
