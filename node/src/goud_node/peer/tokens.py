"""Signed requests and answers between nodes.

Each request carries a JWT of its own: who asks whom, method, path with query, and the hash of the body; it lives for
seconds and is taken once: by this process, and by none that starts later. Each answer carries one too, bound to the
request's id, so that nothing unsigned is read on either side. The signature is Ed25519 in a domain of its own: no token
can serve as a block's signature, or the reverse.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, cast

import jwt
from cachetools import TTLCache
from jwt.algorithms import Algorithm

from goud_node.chain.keys import SigningKey, verify
from goud_node.clock import running

DOMAIN_REQUEST: Final = b"goud-peer-request-v1"
DOMAIN_ANSWER: Final = b"goud-peer-answer-v1"
OPERATOR: Final = "operator"
"""The issuer name of the operator's own key."""
ANSWER_HEADER: Final = "goud-answer"

LIFETIME_SECONDS: Final = 30
LEEWAY_SECONDS: Final = 10
"""Clocks of two nodes may differ by this much."""
_REPLAY_ENTRIES: Final = 200_000
_LONGEST_ID: Final = 64
_MADE: Final = "ims"
"""Claim: Unix milliseconds when the token was made. Earlier releases have `iat` only, in whole seconds."""


class Refused(Exception):
    """A token that is not accepted; `reason` is a slug for the metric, the message is for the peer.

    `caller` is who made it, when only its time is wrong.
    """

    def __init__(self, reason: str, message: str, caller: Caller | None = None) -> None:
        super().__init__(message)
        self.reason = reason
        self.caller = caller


class _DomainSignature(Algorithm):
    """Ed25519 over the domain and the signing input, as keys.py frames it."""

    def __init__(self, domain: bytes) -> None:
        self._domain = domain

    def prepare_key(self, key: Any) -> Any:
        return key

    def sign(self, msg: bytes, key: Any) -> bytes:
        signing: SigningKey = key
        return signing.sign(self._domain, msg)

    def verify(self, msg: bytes, key: Any, sig: bytes) -> bool:
        public: bytes = key
        return verify(public, self._domain, msg, sig)

    @staticmethod
    def to_jwk(key_obj: Any, as_dict: bool = False) -> Any:
        raise NotImplementedError("peer keys are exchanged in the genesis and peers files")

    @staticmethod
    def from_jwk(jwk: str | dict[str, Any]) -> Any:
        raise NotImplementedError("peer keys are exchanged in the genesis and peers files")


def _signatures(name: str, domain: bytes) -> jwt.PyJWS:
    # An object of its own knows this one algorithm, so neither "none" nor any other can be asked for.
    jws = jwt.PyJWS(algorithms=[])
    jws.register_algorithm(name, _DomainSignature(domain))
    return jws


_REQUEST_ALG: Final = "goud-request-ed25519"
_ANSWER_ALG: Final = "goud-answer-ed25519"
_REQUESTS: Final = _signatures(_REQUEST_ALG, DOMAIN_REQUEST)
_ANSWERS: Final = _signatures(_ANSWER_ALG, DOMAIN_ANSWER)


@dataclass(frozen=True, slots=True)
class Caller:
    """A verified request: who asks, and the id that the answer must name."""

    node_id: str
    request_id: str


class Signer:
    """Signs this node's requests and answers."""

    def __init__(self, key: SigningKey, issuer: str, clock: Callable[[], float] = time.time) -> None:
        self._key = key
        self._issuer = issuer
        self._clock = clock

    def request(self, audience: str, method: str, target: str, body: bytes) -> tuple[str, str]:
        """The token for a request to node `audience`, and the request's id. `target` is path and query."""
        request_id = secrets.token_hex(16)
        claims = self._claims(audience, request_id)
        claims |= {"mth": method, "tgt": target, "bod": _digest(body)}
        return _encode(_REQUESTS, _REQUEST_ALG, claims, self._key), request_id

    def answer(self, audience: str, request_id: str, status: int, body: bytes) -> str:
        """The token for the answer to that request."""
        claims = self._claims(audience, request_id)
        claims |= {"sts": status, "bod": _digest(body)}
        return _encode(_ANSWERS, _ANSWER_ALG, claims, self._key)

    def _claims(self, audience: str, request_id: str) -> dict[str, Any]:
        now = self._clock()
        return {
            "iss": self._issuer,
            "aud": audience,
            "iat": int(now),
            "exp": int(now) + LIFETIME_SECONDS,
            "jti": request_id,
            _MADE: int(now * 1000),
        }


class Verifier:
    """Accepts requests and answers of known keys that are meant for this node."""

    def __init__(
        self,
        node_id: str,
        keys: Mapping[str, bytes],
        clock: Callable[[], float] = time.time,
        *,
        entries: int = _REPLAY_ENTRIES,
        running: Callable[[], float] = running,
        since: float | None = None,
    ) -> None:
        """`keys` maps issuers to raw Ed25519 public keys. `since` is when this life began; now, if it is not given."""
        self._node_id = node_id
        self._keys = dict(keys)
        self._clock = clock
        self._running, self._since = running, running() if since is None else since
        self._seen: TTLCache[str, None] = TTLCache(
            entries, ttl=LIFETIME_SECONDS + 2 * LEEWAY_SECONDS, timer=time.monotonic
        )

    def request(self, token: str | None, method: str, target: str, body: bytes) -> Caller:
        """Who made this request. Raises Refused; a token is accepted once."""
        claims = self._verified(_REQUESTS, _REQUEST_ALG, token)
        self._check_times(claims)
        self._check_made_in_this_life(claims)
        if (claims.get("mth"), claims.get("tgt")) != (method, target):
            raise Refused("altered", "The token was made for another request.")
        _same_body(claims, body)
        self._once(str(claims["jti"]))
        return _caller(claims)

    def answer(self, token: str | None, issuer: str, request_id: str, status: int, body: bytes) -> None:
        """Check the answer of node `issuer` to that request. Raises Refused.

        No clock is compared: the request's id is new, so whoever signed it did so after the request was made.
        """
        claims = self._verified(_ANSWERS, _ANSWER_ALG, token)
        if (claims["iss"], claims["jti"], claims.get("sts")) != (issuer, request_id, status):
            raise Refused("altered", "The answer was made for another request.")
        _same_body(claims, body)

    def _verified(self, jws: jwt.PyJWS, algorithm: str, token: str | None) -> dict[str, Any]:
        if not token:
            raise Refused("unsigned", "The request is not signed: nothing unsigned is read here.")
        claims = _unverified(jws, token)
        public = self._keys.get(str(claims.get("iss")))
        if public is None:
            raise Refused("unknown", f"Node {claims.get('iss')!r} is not known here.")
        try:
            jws.decode_complete(token, public, algorithms=[algorithm])
        except jwt.InvalidTokenError as error:
            raise Refused("forged", "The signature is not that of the node it names.") from error
        if claims.get("aud") != self._node_id:
            raise Refused("audience", f"The token is meant for {claims.get('aud')!r}, this is {self._node_id!r}.")
        request = claims.get("jti")
        if not isinstance(request, str) or not isinstance(claims.get("iss"), str):
            raise Refused("malformed", "The token names no request.")
        if len(request) > _LONGEST_ID:
            # Ids are remembered until their tokens expire, so their length is a bound of memory.
            raise Refused("malformed", f"The token's id has {len(request)} characters; {_LONGEST_ID} are enough.")
        return claims

    def _check_times(self, claims: Mapping[str, Any]) -> None:
        issued, expires, now = claims.get("iat"), claims.get("exp"), self._clock()
        if type(issued) is not int or type(expires) is not int or expires - issued > LIFETIME_SECONDS:
            raise Refused("malformed", f"A token must say when it was made and live at most {LIFETIME_SECONDS} s.")
        if issued > now + LEEWAY_SECONDS:
            raise Refused(
                "future", "The token was made in the future: check the clocks of both nodes.", _caller(claims)
            )
        if expires + LEEWAY_SECONDS <= now:
            raise Refused("expired", "The token has expired: check the clocks of both nodes.", _caller(claims))

    def _check_made_in_this_life(self, claims: Mapping[str, Any]) -> None:
        """What was seen before a restart is forgotten, so nothing older than this process is taken.

        Compared by age: a step of the wall clock after the start refuses nobody.
        """
        made_ms = claims.get(_MADE, claims["iat"] * 1000)
        if type(made_ms) is not int or made_ms // 1000 != claims["iat"]:
            raise Refused("malformed", "The token contradicts itself about the time when it was made.")
        # Both clocks are read in whole milliseconds here.
        if self._clock() * 1000 - made_ms > (self._running() - self._since) * 1000 + 1:
            raise Refused("restarted", "The token was made before this node started: make a new request.")

    def _once(self, request_id: str) -> None:
        if request_id in self._seen:
            raise Refused("replayed", "This request was received before.")
        self._seen.expire()
        if len(self._seen) >= self._seen.maxsize:
            # Forgetting a live id would let it be replayed: rather refuse than forget.
            raise Refused("overload", "Too many requests to remember: retry in a moment.")
        self._seen[request_id] = None


def _caller(claims: Mapping[str, Any]) -> Caller:
    return Caller(str(claims["iss"]), str(claims["jti"]))


def _encode(jws: jwt.PyJWS, algorithm: str, claims: Mapping[str, Any], key: SigningKey) -> str:
    payload = json.dumps(claims, separators=(",", ":")).encode()
    # The library names the key types of its own algorithms; ours takes our key.
    return jws.encode(payload, cast(Any, key), algorithm=algorithm)


def _unverified(jws: jwt.PyJWS, token: str) -> dict[str, Any]:
    """The claims as they stand: only good for finding the key to verify them with."""
    try:
        claims = json.loads(jws.decode_complete(token, options={"verify_signature": False})["payload"])
    except (jwt.InvalidTokenError, ValueError, RecursionError) as error:
        raise Refused("malformed", "The token cannot be read.") from error
    if not isinstance(claims, dict):
        raise Refused("malformed", "The token carries no claims.")
    return claims


def _digest(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()


def _same_body(claims: Mapping[str, Any], body: bytes) -> None:
    if not hmac.compare_digest(str(claims.get("bod")), _digest(body)):
        raise Refused("altered", "The body is not the one that was signed.")
