"""Calls to a running node's signed peer interface: checkpoints, and certified blocks."""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import dataclass
from typing import Any, Final

import httpx
from msgspec.structs import asdict as fields

from goud_backup.errors import SourceError
from goud_backup.repository.segments import Pair
from goud_node.chain import encoding
from goud_node.chain.block import Block
from goud_node.chain.certificate import Certificate
from goud_node.chain.genesis import Genesis
from goud_node.chain.keys import SigningKey
from goud_node.documents import Digest, Document, Line, Malformed, Number, printable, read, shaped
from goud_node.errors import InvalidBlock
from goud_node.exchange import request_of, whole
from goud_node.peer.tokens import ANSWER_HEADER, OPERATOR, Refused, Signer, Verifier, challenge_of

_log = logging.getLogger(__name__)

_MOST_BLOCKS: Final = 512
_ATTEMPTS: Final = 6
_PAUSE: Final = 0.2
_MOST_ANSWER: Final = 8 * 1024 * 1024
"""A node sends blocks until they exceed 4 MiB, with their certificates."""
_RATE: Final = 32 * 1024
"""Bytes a second that an answer has on average, once it has begun: half of what the slowest link has that is used."""
_CUT: Final = (httpx.RemoteProtocolError, httpx.ReadError)
"""A connection that broke after it was there. An answer is signed as a whole, so it is asked for again as a whole."""


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint as the node describes it; `path` is the node's own view of its file system."""

    id: str
    path: str
    height: int
    tip_hash: str


class _CheckpointAnswer(Document):
    """What the node says of a checkpoint; it says more."""

    id: Line
    path: Line
    height: Number
    tip_hash: Digest


class _Reach(Document):
    certified: Number


class NodeClient:
    """One node. With `operator`, the key is the operator's, else it is the node's own."""

    def __init__(self, url: str, node: str, key: SigningKey, genesis: Genesis, *, operator: bool) -> None:
        self.node = node
        self._url = url.rstrip("/")
        self._key = key
        self._issuer = OPERATOR if operator else node
        validator = genesis.validator(node)
        # Answers are checked against the key the chain itself gives the node, whoever asks.
        public = validator.public_key if validator is not None else None if operator else key.public
        self._verifier = None if public is None else Verifier(self._issuer, {node: public})
        # The environment's proxies are for the world outside, never for our own nodes.
        self._transport: httpx.AsyncBaseTransport = httpx.AsyncHTTPTransport(trust_env=False)
        self._runner = asyncio.Runner()

    def status(self) -> dict[str, Any]:
        """The node's height, role, version and chain. Raises SourceError."""
        return self._document("GET", "/operator/status")

    def create_checkpoint(self, ttl_seconds: float) -> Checkpoint:
        """A checkpoint that the node removes by itself after `ttl_seconds`. Raises SourceError."""
        answer = self._document("POST", "/operator/checkpoints", {"ttl_seconds": ttl_seconds}, seconds=180)
        try:
            return Checkpoint(**fields(shaped(answer, _CheckpointAnswer)))
        except Malformed as error:
            raise SourceError(f"{self.node} gave no checkpoint but {answer!r:.300}: {error}.") from error

    def release_checkpoint(self, checkpoint_id: str) -> None:
        """Harmless when it has expired. Raises SourceError."""
        response = self._call("DELETE", f"/operator/checkpoints/{checkpoint_id}", seconds=60)
        if response.is_error and response.status_code != 404:
            raise SourceError(f"{self.node} did not release checkpoint {checkpoint_id}: {_said(response)}")

    def certified_height(self) -> int:
        """The height of its last certified block. Raises SourceError."""
        answer = self.status()
        try:
            return shaped(answer, _Reach).certified
        except Malformed as error:
            raise SourceError(
                f"{self.node} does not say which block is its last certified one: {answer!r:.300} ({error})."
            ) from error

    def blocks(self, start: int, most: int = _MOST_BLOCKS) -> list[Pair]:
        """Certified blocks from `start`, as many as one answer holds; none when there are no more."""
        response = self._call("GET", f"/peer/blocks?start={start}&limit={most}")
        if response.is_error:
            raise SourceError(f"{self.node} gives no blocks ({response.status_code}): {_said(response)}")
        try:
            rows = [encoding.record(row, (bytes, bytes)) for row in encoding.decode(response.content)]
            pairs = [(Block.decode(block), Certificate.decode(certificate)) for block, certificate in rows]
        except (encoding.NotCanonical, InvalidBlock, TypeError) as error:
            raise SourceError(f"{self.node} did not answer with blocks: {error}.") from error
        if [block.height for block, _ in pairs] != list(range(start, start + len(pairs))):
            raise SourceError(f"{self.node} answered with other blocks than those from {start}.")
        return pairs

    def close(self) -> None:
        self._runner.run(self._transport.aclose())
        self._runner.close()

    def _document(
        self, method: str, path: str, body: dict[str, Any] | None = None, *, seconds: float = 30.0
    ) -> dict[str, Any]:
        response = self._call(method, path, body, seconds=seconds)
        try:
            document = read(response.content, dict[str, Any], _MOST_ANSWER)
        except Malformed as error:
            if not response.is_error:
                raise SourceError(f"{self.node} did not answer {path} with a document: {error}.") from error
            document = {"detail": _said(response)}
        if response.is_error:
            detail = printable(f"{document.get('detail', document)!s:.300}")
            raise SourceError(f"{self.node} refused ({response.status_code}): {detail}")
        return document

    def _call(
        self, method: str, path: str, body: dict[str, Any] | None = None, *, seconds: float = 30.0
    ) -> httpx.Response:
        response, request_id = self._answer(method, path, body, seconds)
        if response.status_code == 401 and (challenge := challenge_of(response.content)) is not None:
            response, request_id = self._answer(method, path, body, seconds, challenge)
        if response.status_code == 401:
            raise SourceError(f"{self.node} refuses this key: {_said(response)}. Give its own or the operator's key.")
        if self._verifier is not None:
            try:
                self._verifier.answer(
                    response.headers.get(ANSWER_HEADER), self.node, request_id, response.status_code, response.content
                )
            except Refused as refused:
                raise SourceError(f"What answers at {self._url} is not {self.node}: {refused}") from refused
        return response

    def _answer(
        self, method: str, path: str, body: dict[str, Any] | None, seconds: float, challenge: str | None = None
    ) -> tuple[httpx.Response, str]:
        """The answer, and the id of the request that it is to. What only reads is asked again when that is cut off."""
        attempts = _ATTEMPTS if method == "GET" else 1
        for attempt in range(attempts):
            time.sleep(attempt * _PAUSE)
            # A proof is good for one request, so each attempt has its own.
            signer = Signer(self._key, self._issuer, time.time)
            try:
                request = request_of(method, self._url + path, httpx.Timeout(seconds, connect=3.0), document=body)
                token, request_id = signer.request(self.node, method, path, request.content, challenge)
                request.headers["Authorization"] = f"Bearer {token}"
                # Only all of an answer shows who signed it.
                answer = whole(self._transport, request, _MOST_ANSWER, seconds, ANSWER_HEADER, rate=_RATE)
                return self._runner.run(answer), request_id
            except _CUT as error:
                _log.warning("%s broke off its answer to %s: %s", self.node, path, error)
                cause: httpx.HTTPError = error
            except httpx.HTTPError as error:
                cause = error
                break
        raise SourceError(
            f"{self.node} does not answer at {self._url} ({cause}): is it running, and is this the right port? "
            "A stopped node is backed up by --data-dir alone."
        ) from cause


def _said(answer: httpx.Response) -> str:
    """Its beginning, as it may be shown: nobody has vouched for it, perhaps."""
    return printable(answer.text[:300])
