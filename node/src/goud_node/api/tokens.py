"""Session tokens: HS256 JWTs that carry the account's data key, wrapped so that any node of the cluster can serve."""

from __future__ import annotations

import base64
import binascii
import hashlib
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import jwt
from cachetools import LRUCache

from goud_node.api import vault
from goud_node.api.secrets import Keyring

_ISSUER: Final = "goud-chain"
_ALGORITHM: Final = "HS256"
_REQUIRED: Final = ["exp", "iat", "iss", "jti", "sub"]


class InvalidToken(Exception):
    """The token cannot be accepted; the message says why without helping a forger."""


@dataclass(frozen=True, slots=True)
class Principal:
    """Who a request is from. `expires` is Unix time in seconds."""

    account_id: str
    data_key: bytes
    expires: int


class Tokens:
    """Issues and verifies tokens; verified ones are kept in a bounded cache."""

    def __init__(
        self,
        signing_keys: Keyring,
        wrapping_keys: Keyring,
        *,
        ttl: int,
        cache_size: int,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._signing_keys = signing_keys
        self._wrapping_keys = wrapping_keys
        self._ttl = ttl
        self._clock = clock
        self._cache: LRUCache[bytes, Principal] = LRUCache(cache_size)
        self.hits = 0
        self.misses = 0

    def issue(self, account_id: str, data_key: bytes) -> tuple[str, int]:
        """A token and its expiry in Unix seconds."""
        now = int(self._clock())
        expiry = now + self._ttl
        jti = secrets.token_hex(16)
        wrapping_secret = self._wrapping_keys.current
        ciphertext = vault.seal(vault.derive(wrapping_secret.value, b"goud-wrap-v1"), data_key, account_id, jti)
        claims = {
            "iss": _ISSUER,
            "sub": account_id,
            "iat": now,
            "exp": expiry,
            "jti": jti,
            "wk": f"{wrapping_secret.kid}.{base64.urlsafe_b64encode(ciphertext).decode()}",
        }
        signing_secret = self._signing_keys.current
        return jwt.encode(
            claims, signing_secret.value, algorithm=_ALGORITHM, headers={"kid": signing_secret.kid}
        ), expiry

    def verify(self, token: str) -> Principal:
        """Who the token speaks for. Raises InvalidToken."""
        if not token.isascii():
            raise InvalidToken("The token is malformed or its signature is wrong.")
        digest = hashlib.sha256(token.encode()).digest()
        principal = self._cache.get(digest)
        if principal is not None:
            self.hits += 1
            if principal.expires <= self._clock():
                del self._cache[digest]
                raise InvalidToken("The token has expired: make a new one with POST /api/sessions.")
            return principal
        self.misses += 1
        principal = self._open(self._claims(token))
        self._cache[digest] = principal
        return principal

    def _claims(self, token: str) -> dict[str, Any]:
        try:
            kid = jwt.get_unverified_header(token).get("kid")
            secret = self._signing_keys.get(kid) if isinstance(kid, str) else None
            if secret is None:
                raise InvalidToken("The token was signed with a key this node does not accept.")
            claims: dict[str, Any] = jwt.decode(
                token,
                secret.value,
                algorithms=[_ALGORITHM],
                issuer=_ISSUER,
                options={"require": _REQUIRED, "verify_exp": False, "verify_iat": False},
            )
        except jwt.InvalidTokenError as error:
            raise InvalidToken("The token is malformed or its signature is wrong.") from error
        # The library looks at the wall clock; ours may be a test's, and the cache must agree with it.
        if not isinstance(claims["exp"], int) or claims["exp"] <= self._clock():
            raise InvalidToken("The token has expired: make a new one with POST /api/sessions.")
        return claims

    def _open(self, claims: dict[str, Any]) -> Principal:
        account_id = str(claims["sub"])
        kid, _, text = str(claims.get("wk", "")).partition(".")
        secret = self._wrapping_keys.get(kid)
        if secret is None:
            raise InvalidToken("The token was wrapped with a session secret this node does not accept.")
        try:
            ciphertext = base64.urlsafe_b64decode(text)
            key = vault.unseal(vault.derive(secret.value, b"goud-wrap-v1"), ciphertext, account_id, str(claims["jti"]))
        except (vault.Undecryptable, binascii.Error, ValueError) as error:
            raise InvalidToken("The token carries no usable data key.") from error
        return Principal(account_id, key, claims["exp"])
