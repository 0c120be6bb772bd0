"""Encryption to age recipients: a host needs only public keys to write, and nobody reads without an identity.

A process makes one random data key, wraps it once as an age file, and puts that age file in front of everything it
seals: every object carries the key that opens it, so there is no key store to lose. Bulk data is AES-256-GCM in frames,
under a key derived for each object.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from hashlib import sha256
from pathlib import Path
from threading import Lock
from typing import Final

import pyrage
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from goud_backup.errors import Damaged, WrongIdentity
from goud_node.errors import ConfigurationError

MAGIC: Final = b"goudage1"
FRAME: Final = 1024 * 1024
_TAG: Final = 16
_SALT: Final = 32
_INFO: Final = b"goud-backup object v1"


class Sealer:
    """Seals bytes to `recipients` (age1… strings). Safe to use from several threads."""

    def __init__(self, recipients: Sequence[str]) -> None:
        """Raises ConfigurationError for a recipient that is not one."""
        self._key = os.urandom(32)
        wrapped = pyrage.encrypt(self._key, [_recipient(text) for text in recipients])
        self._head = MAGIC + len(wrapped).to_bytes(4, "big") + wrapped

    def seal(self, plain: bytes | bytearray | memoryview) -> bytearray:
        """Head, salt and frames; about 600 bytes and 16 per MiB longer than `plain`."""
        view = memoryview(plain)
        salt = os.urandom(_SALT)
        cipher = AESGCM(_object_key(self._key, salt))
        frames = max(1, -(-len(view) // FRAME))
        start = len(self._head) + _SALT
        sealed = bytearray(start + len(view) + frames * _TAG)
        sealed[:start] = self._head + salt
        room = memoryview(sealed)
        for number in range(frames):
            part = view[number * FRAME : (number + 1) * FRAME]
            end = start + len(part) + _TAG
            cipher.encrypt_into(_nonce(number, last=number == frames - 1), part, None, room[start:end])
            start = end
        return sealed


class Opener:
    """Opens what was sealed to one of the identities. Safe to use from several threads."""

    def __init__(self, identities: Sequence[pyrage.x25519.Identity]) -> None:
        self._identities = list(identities)
        self._keys: dict[bytes, bytes] = {}
        self._lock = Lock()

    def open(self, sealed: bytes | bytearray | memoryview, name: str) -> bytearray:
        """The plain bytes. Raises WrongIdentity, or Damaged naming `name`."""
        view = memoryview(sealed)
        if bytes(view[:8]) != MAGIC or len(view) < 12:
            raise Damaged(f"{name} is not a sealed object: it does not begin with {MAGIC.decode()}.")
        start = 12 + int.from_bytes(view[8:12], "big")
        cipher = AESGCM(_object_key(self._data_key(bytes(view[12:start]), name), bytes(view[start : start + _SALT])))
        body = view[start + _SALT :]
        frames = max(1, -(-len(body) // (FRAME + _TAG)))
        if len(body) - (frames - 1) * (FRAME + _TAG) < _TAG:
            raise Damaged(f"{name} is cut short.")
        plain = bytearray(len(body) - frames * _TAG)
        room, at = memoryview(plain), 0
        for number in range(frames):
            part = body[number * (FRAME + _TAG) : (number + 1) * (FRAME + _TAG)]
            end = at + len(part) - _TAG
            try:
                cipher.decrypt_into(_nonce(number, last=number == frames - 1), part, None, room[at:end])
            except InvalidTag:
                raise Damaged(f"{name} is damaged or cut short: frame {number} does not authenticate.") from None
            at = end
        return plain

    def _data_key(self, wrapped: bytes, name: str) -> bytes:
        label = sha256(wrapped).digest()
        with self._lock:
            known = self._keys.get(label)
            if known is not None:
                return known
            if not self._identities:
                raise WrongIdentity(
                    f"{name} is encrypted. Give the file with the age identity by --identity "
                    "or GOUD_BACKUP_IDENTITY_FILE."
                )
            try:
                key: bytes = pyrage.decrypt(wrapped, self._identities)
            except pyrage.DecryptError as error:
                raise WrongIdentity(
                    f"{name} was encrypted to other recipients than the given identities ({error}). Give the identity "
                    "that belongs to the recipients of this repository."
                ) from error
            self._keys[label] = key
            return key


def load_identities(path: Path | None) -> list[pyrage.x25519.Identity]:
    """The age identities of a file, one a line, `#` begins a comment. Raises ConfigurationError naming the file."""
    if path is None:
        return []
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"Cannot read the identity file {path}: {error}.") from error
    identities = []
    for line in lines:
        text = line.strip()
        if text and not text.startswith("#"):
            try:
                identities.append(pyrage.x25519.Identity.from_str(text))
            except pyrage.IdentityError as error:
                # The line itself is a secret: it never appears in a message.
                raise ConfigurationError(f"{path} holds a line that is not an age identity: {error}.") from error
    if not identities:
        raise ConfigurationError(f"{path} holds no age identity (AGE-SECRET-KEY-1…).")
    return identities


def check_recipients(recipients: Iterable[str]) -> tuple[str, ...]:
    """The recipients in order, each once. Raises ConfigurationError for a text that is none."""
    texts = sorted(set(recipients))
    for text in texts:
        _recipient(text)
    return tuple(texts)


def _recipient(text: str) -> pyrage.x25519.Recipient:
    try:
        return pyrage.x25519.Recipient.from_str(text)
    except pyrage.RecipientError as error:
        shown = "a private key (never give one here)" if text.upper().startswith("AGE-SECRET") else repr(text)
        raise ConfigurationError(f"{shown} is not an age recipient (age1…): {error}.") from error


def _object_key(key: bytes, salt: bytes) -> bytes:
    return HKDF(SHA256(), 32, salt, _INFO).derive(key)


def _nonce(number: int, *, last: bool) -> bytes:
    # The flag of the last frame makes a cut at a frame's end visible; the counter makes an exchange of frames visible.
    return number.to_bytes(11, "big") + bytes([last])
