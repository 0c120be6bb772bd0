"""Secret files: one secret a line, the first in use, the others still accepted, so that rotation has an overlap.

To rotate without a refused token: append the new secret on every node, then move it to the front on every node, and
drop the old one when the longest token life has passed.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import stat
from dataclasses import dataclass
from pathlib import Path

from goud_node.documents import Malformed, read_bytes
from goud_node.errors import ConfigurationError, StoreError, StoreFull
from goud_node.store import durable

_SHORTEST = 32


@dataclass(frozen=True)
class Secret:
    """One secret with the public name (`kid`) that tokens carry."""

    kid: str
    value: bytes


class Keyring:
    """The secrets of one file, in order."""

    def __init__(self, values: list[bytes]) -> None:
        if not values:
            raise ConfigurationError("A keyring needs at least one secret.")
        self._secrets = [Secret(_kid(value), value) for value in values]
        self._by_kid = {secret.kid: secret for secret in self._secrets}

    @property
    def current(self) -> Secret:
        """The one that signs."""
        return self._secrets[0]

    def get(self, kid: str) -> Secret | None:
        """The secret of that name, if it is still accepted."""
        return self._by_kid.get(kid)

    @classmethod
    def load(cls, path: Path, *, generate: bool) -> Keyring:
        """Read the file; with `generate`, write a new secret first when (and only when) there is no file.

        Raises ConfigurationError naming the file: missing, readable by others, empty, or a secret that is too short;
        StoreFull when there is no room for a new one.
        """
        if generate and not os.path.lexists(path):
            _create(path)
        try:
            mode = path.stat().st_mode
            text = read_bytes(path)
        except OSError as error:
            raise ConfigurationError(f"Cannot read the secret file {path}: {error.strerror}.") from error
        except Malformed as error:
            raise ConfigurationError(f"Cannot read the secret file {path}: {error}.") from error
        if mode & (stat.S_IRWXG | stat.S_IRWXO):
            raise ConfigurationError(
                f"The secret file {path} is open to others (mode {stat.S_IMODE(mode):04o}): run `chmod 600 {path}`."
            )
        values = [line.strip() for line in text.splitlines() if line.strip()]
        if not values or any(len(value) < _SHORTEST for value in values):
            raise ConfigurationError(
                f"The secret file {path} needs lines of at least {_SHORTEST} characters: the first is used, "
                "the others are still accepted."
            )
        return cls(values)


def _create(path: Path) -> None:
    """Whole or not at all: an empty file would be refused at every later start."""
    try:
        durable.replace(path, f"{secrets.token_hex(32)}\n".encode("ascii"), 0o600)
    except StoreFull:
        raise
    except StoreError as error:
        raise ConfigurationError(f"Cannot create the secret file {path}: {error}") from error


def _kid(value: bytes) -> str:
    return hashlib.sha256(b"goud-kid-v1\0" + value).hexdigest()[:16]
