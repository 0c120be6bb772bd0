"""Signed requests and answers between nodes.

Each request carries a JWT of its own: who asks whom, method, path with query, and the hash of the body; it lives for
seconds and is taken once: by this process, and by none that starts later. Each answer carries one too, bound to the
request's id, so that nothing unsigned is read on either side. The signature is Ed25519 in a domain of its own: no token
can serve as a block's signature, or the reverse.

What operates a node (all but GET outside of /peer/) is taken once whatever any clock says: its token repeats a
challenge that the node gave in its present life, a moment ago by the clock that only runs. So no process that starts
later takes it, this one forgets its id only when the challenge has ended, and neither a step of the wall clock nor a
caller's clock that is ahead makes it good again. What nodes ask of each other may be taken twice, and is asked at once.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Final, cast

import jwt
from cachetools import TTLCache
from jwt.algorithms import Algorithm
from msgspec import Meta

from goud_node.chain.keys import SigningKey, verify
from goud_node.clock import running
from goud_node.documents import Document, Malformed, read

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
CHALLENGE: Final = "challenge"
"""Reason of the refusal that asks for a challenge and has one, under the same name."""
_CREATION: Final = "ims"
"""Claim: Unix milliseconds when the token was made. Earlier releases have `iat` only, in whole seconds."""
_CHALLENGE: Final = "chl"


class _Refusal(Document):
    """What is used of a refusal."""

    challenge: Annotated[str, Meta(max_length=200)]


class Refused(Exception):
    """A token that is not accepted; `reason` is a slug for the metric, the message is for the peer.

    `caller` is who made it, when only its time is wrong, or the challenge is missing.
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
        signing_key: SigningKey = key
        return signing_key.sign(self._domain, msg)

    def verify(self, msg: bytes, key: Any, sig: bytes) -> bool:
        public_key: bytes = key
        return verify(public_key, self._domain, msg, sig)

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
    """Who asks, the id that the answer must name, the hash of the body that was signed, and when the token ends.

    `until` is on the clock that only runs: 0 for what has ended already, or has not begun.
    """

    node_id: str
    request_id: str
    digest: str
    until: float = 0


class Signer:
    """Signs this node's requests and answers."""

    def __init__(self, key: SigningKey, issuer: str, clock: Callable[[], float] = time.time) -> None:
        self._key = key
        self._issuer = issuer
        self._clock = clock

    def request(
        self, audience: str, method: str, target: str, body: bytes, challenge: str | None = None
    ) -> tuple[str, str]:
        """The token for a request to node `audience`, and the request's id. `target` is path and query."""
        request_id = secrets.token_hex(16)
        claims = self._claims(audience, request_id)
        claims |= {"mth": method, "tgt": target, "bod": _digest(body)}
        if challenge is not None:
            claims[_CHALLENGE] = challenge
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
            _CREATION: int(now * 1000),
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
        self._running, self._start_time = running, running() if since is None else since
        self._request_ids: TTLCache[str, None] = TTLCache(
            entries, ttl=LIFETIME_SECONDS + 2 * LEEWAY_SECONDS, timer=time.monotonic
        )
        self._life_key = secrets.token_bytes(32)

    def challenge(self) -> str:
        """What the next token that operates this node repeats: good in this life, for as long as a token lives."""
        moment = f"{self._running():.3f}"
        return f"{moment}:{self._seal(moment)}"

    def request(self, token: str | None, method: str, target: str) -> Caller:
        """Who made the request that begins so; its body is to be taken next. Raises Refused."""
        claims = self._verified_claims(_REQUESTS, _REQUEST_ALG, token)
        until = self._running() + self._remaining_seconds(claims)
        self._require_this_life(claims)
        if (claims.get("mth"), claims.get("tgt")) != (method, target):
            raise Refused("altered", "The token was made for another request.")
        caller = _caller(claims, until)
        if method != "GET" and not target.startswith("/peer/"):
            self._require_challenge(claims)
        self._require_new(caller)
        return caller

    def take(self, caller: Caller, body: bytes) -> None:
        """Check the body of that request and use its token up. Raises Refused."""
        _require_same(caller.digest, body)
        self.use_up(caller)

    def use_up(self, caller: Caller) -> None:
        """Take no request of this token any more. Raises Refused when it is used up already, or has ended."""
        self._require_new(caller)
        if self._running() >= caller.until:
            # Its body came for so long that it may have been taken before, and be forgotten.
            raise Refused("expired", "The token expired before the body was complete.", caller)
        if len(self._request_ids) >= self._request_ids.maxsize:
            # Forgetting a live id would let it be replayed: rather refuse than forget.
            raise Refused("overload", "Too many requests to remember: retry in a moment.")
        self._request_ids[caller.request_id] = None

    def answer(self, token: str | None, issuer: str, request_id: str, status: int, body: bytes) -> None:
        """Check the answer of node `issuer` to that request. Raises Refused.

        No clock is compared: the request's id is new, so whoever signed it did so after the request was made.
        """
        claims = self._verified_claims(_ANSWERS, _ANSWER_ALG, token)
        if (claims["iss"], claims["jti"], claims.get("sts")) != (issuer, request_id, status):
            raise Refused("altered", "The answer was made for another request.")
        _require_same(str(claims.get("bod")), body)

    def _verified_claims(self, jws: jwt.PyJWS, algorithm: str, token: str | None) -> dict[str, Any]:
        if not token:
            raise Refused("unsigned", "The request is not signed: nothing unsigned is read here.")
        claims = _unverified_claims(jws, token)
        public_key = self._keys.get(str(claims.get("iss")))
        if public_key is None:
            raise Refused("unknown", f"Node {claims.get('iss')!r} is not known here.")
        try:
            jws.decode_complete(token, public_key, algorithms=[algorithm])
        except jwt.InvalidTokenError as error:
            raise Refused("forged", "The signature is not that of the node it names.") from error
        if claims.get("aud") != self._node_id:
            raise Refused("audience", f"The token is meant for {claims.get('aud')!r}, this is {self._node_id!r}.")
        request_id = claims.get("jti")
        if not isinstance(request_id, str) or not isinstance(claims.get("iss"), str):
            raise Refused("malformed", "The token names no request.")
        if len(request_id) > _LONGEST_ID:
            # Ids are remembered until their tokens expire, so their length is a bound of memory.
            raise Refused("malformed", f"The token's id has {len(request_id)} characters; {_LONGEST_ID} are enough.")
        return claims

    def _remaining_seconds(self, claims: Mapping[str, Any]) -> float:
        """For how many seconds the token is taken: at most those for which it is remembered. Raises Refused."""
        issue_time, expiry, now = claims.get("iat"), claims.get("exp"), self._clock()
        if type(issue_time) is not int or type(expiry) is not int or expiry - issue_time > LIFETIME_SECONDS:
            raise Refused("malformed", f"A token must say when it was made and live at most {LIFETIME_SECONDS} s.")
        if issue_time > now + LEEWAY_SECONDS:
            raise Refused(
                "future", "The token was made in the future: check the clocks of both nodes.", _caller(claims)
            )
        if expiry + LEEWAY_SECONDS <= now:
            raise Refused("expired", "The token has expired: check the clocks of both nodes.", _caller(claims))
        return expiry + LEEWAY_SECONDS - now

    def _require_this_life(self, claims: Mapping[str, Any]) -> None:
        """What was seen before a restart is forgotten, so nothing that is older than this process is taken, as far as
        the clocks tell. Raises Refused.

        Compared by age: a step of the wall clock after the start refuses nobody.
        """
        creation_ms = claims.get(_CREATION, claims["iat"] * 1000)
        if type(creation_ms) is not int or creation_ms // 1000 != claims["iat"]:
            raise Refused("malformed", "The token contradicts itself about the time when it was made.")
        # Both clocks are read in whole milliseconds here.
        if self._clock() * 1000 - creation_ms > (self._running() - self._start_time) * 1000 + 1:
            raise Refused("restarted", "The token was made before this node started: make a new request.")

    def _require_challenge(self, claims: Mapping[str, Any]) -> None:
        """Raises Refused unless the token repeats a challenge of this life, and of a moment ago."""
        challenge = claims.get(_CHALLENGE)
        if challenge is None:
            raise Refused(CHALLENGE, "Repeat the request with the challenge of this answer.", _caller(claims))
        moment, _, seal = str(challenge).partition(":")
        if not hmac.compare_digest(seal.encode(errors="replace"), self._seal(moment).encode()):
            raise Refused("restarted", "The challenge is not of this node's present life: make a new request.")
        if self._running() - float(moment) >= LIFETIME_SECONDS:
            raise Refused("expired", "The challenge has ended: make a new request.")

    def _seal(self, moment: str) -> str:
        return hmac.digest(self._life_key, moment.encode(errors="replace"), "sha256").hex()

    def _require_new(self, caller: Caller) -> None:
        """Raises Refused for what was taken before."""
        if caller.request_id in self._request_ids:
            raise Refused("replayed", "This request was received before.")


def challenge_of(refusal: bytes) -> str | None:
    """The challenge that a node's refusal asks to repeat, if it does."""
    try:
        return read(refusal, _Refusal).challenge
    except Malformed:
        return None


def _caller(claims: Mapping[str, Any], until: float = 0) -> Caller:
    return Caller(str(claims["iss"]), str(claims["jti"]), str(claims.get("bod")), until)


def _encode(jws: jwt.PyJWS, algorithm: str, claims: Mapping[str, Any], key: SigningKey) -> str:
    payload = json.dumps(claims, separators=(",", ":")).encode()
    # The library names the key types of its own algorithms; ours takes our key.
    return jws.encode(payload, cast(Any, key), algorithm=algorithm)


def _unverified_claims(jws: jwt.PyJWS, token: str) -> dict[str, Any]:
    """The claims as they stand: only good for finding the key to verify them with."""
    try:
        return read(jws.decode_complete(token, options={"verify_signature": False})["payload"], dict[str, Any])
    except (jwt.InvalidTokenError, Malformed) as error:
        raise Refused("malformed", "The token cannot be read.") from error


def _digest(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()


def _require_same(digest: str, body: bytes) -> None:
    # As bytes: the comparison takes no other text than ASCII, and a peer may have written any.
    if not hmac.compare_digest(digest.encode(errors="replace"), _digest(body).encode()):
        raise Refused("altered", "The body is not the one that was signed.")
