"""Asking the other nodes: certified blocks, heights, and forwarding to the proposer."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

import httpx

from goud_node import clock
from goud_node.chain.ledger import Epoch, Receipt
from goud_node.errors import InvalidBlock, OutcomeUnknown, Unavailable
from goud_node.exchange import request_of
from goud_node.peer.addresses import ByAddress
from goud_node.peer.answers import (
    Answer,
    PeerError,
    TooSlow,
    blocks_of,
    clock_of,
    proposer_error,
    receipt_of,
    standing_of,
)
from goud_node.peer.directory import Peer
from goud_node.peer.tokens import ANSWER_HEADER, Refused, Signer, Verifier
from goud_node.replica.clocks import Reading
from goud_node.replica.types import Served
from goud_node.telemetry import Seldom

_log = logging.getLogger(__name__)

_CONNECT_SECONDS: Final = 1.0
_PART_BYTES: Final = 64 * 1024
_MOST_DOCUMENT_BYTES: Final = 64 * 1024
_MISSES: Final = 2
"""Polls without an answer after which a peer counts as unreachable."""


@dataclass(frozen=True, slots=True)
class _Limits:
    """How long the next part of an answer, and all of it, may take; and how large it may be.

    Where `least_bytes` are given, each part has as many, but for the last one.
    """

    idle_seconds: float
    seconds: float
    most_bytes: int
    least_bytes: int = 0


_STATUS: Final = _Limits(1.0, 2.0, _MOST_DOCUMENT_BYTES)
_PROOF: Final = _Limits(2.0, 5.0, 8 * 1024 * 1024)
# A peer ends its answer after four mebibytes, with the block that passes them. A slow link needs its time for that; a
# peer that drips its answer shall not have it while others may have the blocks.
_FETCH: Final = _Limits(10.0, 120.0, 8 * 1024 * 1024, 256 * 1024)
_MOST_BLOCKS: Final = 512
_FAILED_SECONDS: Final = 300.0
"""How long a peer that gave no usable blocks is asked after the others."""


@dataclass
class View:
    """What is known of one peer, from its last answer; times in milliseconds."""

    node_id: str
    height: int | None = None
    certified: int | None = None
    epoch: int | None = None
    clock: Reading | None = None
    answered_ms: int | None = None
    round_trip_ms: float | None = None
    misses: int = field(default=_MISSES)

    @property
    def reachable(self) -> bool:
        return self.misses < _MISSES


class PeerClient:
    """Implements the replica's Peers, and keeps a live view of each peer."""

    def __init__(
        self,
        peers: Mapping[str, Peer],
        chain_id: str,
        signer: Signer,
        verifier: Verifier,
        *,
        forward_seconds: float,
        transport: httpx.AsyncBaseTransport | None = None,
        wall: Callable[[], float] = time.time,
    ) -> None:
        """`peers` are the others, without this node. `forward_seconds` bounds the wait for a forwarded write."""
        self._peers = dict(peers)
        self._chain_id = chain_id
        self._signer = signer
        self._verifier = verifier
        self._forward_seconds = forward_seconds
        self._wall = wall
        self._views = {name: View(name) for name in sorted(self._peers)}
        self._turn, self._block_count = 0, _MOST_BLOCKS
        self._failure_times: dict[str, float] = {}
        self._refusal_log = Seldom()
        limits = httpx.Limits(max_connections=256, max_keepalive_connections=64, keepalive_expiry=30)
        # The environment's proxies are for the world outside, never for peers.
        self._transport = transport or ByAddress(httpx.AsyncHTTPTransport(limits=limits, trust_env=False))

    def views(self) -> Sequence[View]:
        """Every configured peer."""
        return list(self._views.values())

    async def fetch(self, start: int, limit: int, epoch: Epoch) -> Served | None:
        """See replica.types.Peers: consecutive certified blocks from whichever peer has them."""
        count = min(limit, self._block_count)
        answer, laggards = await self._ask_each(self._order(start), start, count, epoch, _FETCH)
        if laggards and not (answer and answer.pairs):
            # Nobody is faster: it may be the link of this node, so each gets its time, and has less to send.
            self._block_count = count = max(1, count // 4)
            answer = (await self._ask_each(laggards, start, count, epoch, replace(_FETCH, least_bytes=0)))[0] or answer
        else:
            self._block_count = max(self._block_count, 2 * count)
        if answer is None:
            raise Unavailable("No peer answers: check the peer network and GOUD_PEERS_FILE.")
        return answer if answer.pairs else None

    async def _ask_each(
        self, names: Sequence[str], start: int, limit: int, epoch: Epoch, limits: _Limits
    ) -> tuple[Served | None, list[str]]:
        """The first answer with blocks, else any or None; and who was too slow."""
        empty_answer: Served | None = None
        laggards: list[str] = []
        for name in names:
            try:
                answer = await self._blocks(name, start, limit, epoch, limits)
            except (PeerError, InvalidBlock) as error:
                self._failure_times[name] = time.monotonic()
                if isinstance(error, TooSlow):
                    laggards.append(name)
                if self._refusal_log.allows(name):
                    _log.warning("peer %s gave no blocks from height %d: %s", name, start, error)
                continue
            if answer.pairs:
                return answer, laggards
            empty_answer = answer
        return empty_answer, laggards

    async def proof(self, node: str) -> Served | None:
        """See replica.types.Peers. A peer of an earlier release shows none."""
        try:
            answer = await self._ask(node, "GET", "/peer/proof", limits=_PROOF)
            if answer.status != 200:
                return None
            _, pairs = await asyncio.to_thread(blocks_of, answer.body)
        except (PeerError, InvalidBlock) as error:
            if self._refusal_log.allows(node):
                _log.warning("peer %s does not prove what it holds: %s", node, error)
            return None
        return Served(node, None, pairs) if pairs else None

    async def forward(self, leader: str, transaction: bytes) -> Receipt:
        """See replica.types.Peers: have the proposer submit it."""
        if leader not in self._peers:
            raise Unavailable(f"The proposer {leader} is not in the peers file of this node.")
        limits = _Limits(self._forward_seconds, self._forward_seconds, _MOST_DOCUMENT_BYTES)
        try:
            answer = await self._ask(leader, "POST", "/peer/submissions", transaction, limits=limits)
            if answer.status == 200:
                return receipt_of(answer.document())
            document = answer.document()
        except PeerError as error:
            if not error.sent:
                raise Unavailable(f"The proposer {leader} cannot be reached: {error}") from error
            raise OutcomeUnknown(f"The proposer {leader} gave no usable answer: {error}") from error
        raise proposer_error(leader, document)

    async def heights(self) -> Mapping[str, int]:
        """The height of each peer that answers within about a second."""
        answers = await asyncio.gather(*(self._poll(view) for view in self._views.values()))
        return {name: height for name, height in answers if height is not None}

    def clocks(self) -> Mapping[str, Reading]:
        """See replica.types.Peers."""
        return {name: view.clock for name, view in self._views.items() if view.clock is not None}

    async def watch(self, interval: float) -> None:
        """Keep the views fresh until cancelled."""
        while True:
            start = time.monotonic()
            await self.heights()
            await asyncio.sleep(max(0.0, interval - (time.monotonic() - start)))

    async def close(self) -> None:
        await self._transport.aclose()

    def _order(self, start: int) -> list[str]:
        """Reachable peers that did not fail lately and have the height first; among equals another one every time."""
        now = time.monotonic()
        self._turn += 1
        names = sorted(self._peers)
        names = names[self._turn % len(names) :] + names[: self._turn % len(names)] if names else []

        def rank(name: str) -> tuple[bool, bool, bool]:
            view = self._views[name]
            has_failed = now - self._failure_times.get(name, float("-inf")) < _FAILED_SECONDS
            return (not view.reachable, has_failed, (view.certified or 0) < start)

        return sorted(names, key=rank)

    async def _blocks(self, name: str, start: int, limit: int, epoch: Epoch, limits: _Limits) -> Served:
        target = f"/peer/blocks?start={start}&limit={limit}&epoch={epoch.encode().hex()}"
        answer = await self._ask(name, "GET", target, limits=limits)
        if answer.status != 200:
            raise PeerError(f"status {answer.status}: {str(answer.document().get('detail'))[:300]}", sent=True)
        answer_epoch, pairs = await asyncio.to_thread(blocks_of, answer.body)
        if answer_epoch is None:
            await self._same_epoch(name, epoch)
        elif answer_epoch != epoch:
            raise PeerError(f"it serves epoch {answer_epoch}, not epoch {epoch}", sent=True)
        if len(pairs) > limit or any(block.height != height for height, (block, _) in enumerate(pairs, start)):
            raise PeerError("the blocks are not those that were asked for", sent=True)
        return Served(name, answer_epoch, pairs)

    async def _same_epoch(self, name: str, epoch: Epoch) -> None:
        """An earlier release does not name the epoch of its blocks; its status has at least the number."""
        view = self._views[name]
        if view.epoch is None:
            await self._poll(view)
        if view.epoch != epoch.number:
            raise PeerError(f"it is in epoch {view.epoch}, not in epoch {epoch.number}", sent=True)

    async def _poll(self, view: View) -> tuple[str, int | None]:
        start, request_time = time.perf_counter(), clock.running()
        try:
            answer = await self._ask(view.node_id, "GET", "/peer/status", limits=_STATUS)
            document = answer.document()
            height, certified_height, epoch = standing_of(document, self._chain_id)
            view.clock = Reading(clock_of(document), (request_time + clock.running()) / 2)
        except Exception as error:  # noqa: BLE001  # the watch is for all peers: none of them ends it
            if isinstance(error, PeerError) and error.clock_ms is not None:
                view.clock = Reading(error.clock_ms, (request_time + clock.running()) / 2)
            view.misses += 1
            if view.misses == _MISSES:
                _log.warning("peer %s is unreachable: %s", view.node_id, error)
            return view.node_id, None
        if not view.reachable:
            _log.info("peer %s answers at height %d", view.node_id, height)
        view.height, view.certified, view.epoch, view.misses = height, certified_height, epoch, 0
        view.answered_ms = int(self._wall() * 1000)
        view.round_trip_ms = round((time.perf_counter() - start) * 1000, 3)
        return view.node_id, height

    async def _ask(self, name: str, method: str, target: str, body: bytes = b"", *, limits: _Limits) -> Answer:
        token, request_id = self._signer.request(name, method, target, body)
        headers = {
            "Authorization": f"Bearer {token}",
            "Content-Type": "application/octet-stream",
        }
        timeout = httpx.Timeout(limits.idle_seconds, connect=_CONNECT_SECONDS)
        url = self._peers[name].url + target
        try:
            request = request_of(method, url, timeout, headers=headers, content=body)
            async with asyncio.timeout(limits.seconds):
                response, content = await self._read(request, limits)
        except PeerError:
            raise
        except (httpx.UnsupportedProtocol, httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout) as error:
            raise PeerError(f"no connection ({error!r})", sent=False) from error
        except TimeoutError as error:
            raise TooSlow("its answer did not come in time", sent=True) from error
        except Exception as error:  # whatever one peer's answer makes the library raise must not end this node
            raise PeerError(f"the connection broke ({error!r:.300})", sent=True) from error
        answer, refusal = Answer(response.status_code, content), None
        try:
            self._verifier.answer(response.headers.get(ANSWER_HEADER), name, request_id, answer.status, answer.body)
        except Refused as error:
            refusal = error
        if answer.status == 401:
            # Refused before it was read: signed only if this node's key is known there, and its clock is what is wrong.
            clock_ms = clock_of(answer.document()) if refusal is None else None
            reason = content[:300].decode(errors="replace")
            # Whoever is on the way can answer so to a write that has been taken, or have it taken afterwards.
            raise PeerError(f"it refuses this node: {reason}", sent=True, clock_ms=clock_ms)
        if refusal is not None:
            raise PeerError(f"its answer is not signed by it: {refusal}", sent=True) from refusal
        return answer

    async def _read(self, request: httpx.Request, limits: _Limits) -> tuple[httpx.Response, bytes]:
        """The whole answer. Raises PeerError when it is larger than any that a peer would give, TimeoutError."""
        async with asyncio.timeout(limits.idle_seconds if limits.least_bytes else None) as timeout:
            response = await self._transport.handle_async_request(request)
            try:
                if "content-encoding" in response.headers:
                    # Nobody was asked to compress, and what it unpacks to has no bound.
                    raise PeerError("its answer is compressed", sent=True)
                content, target_size = bytearray(), limits.least_bytes
                async for part in response.aiter_bytes(_PART_BYTES):
                    content += part
                    if len(content) > limits.most_bytes:
                        raise PeerError(f"its answer is larger than {limits.most_bytes} bytes", sent=True)
                    if limits.least_bytes and len(content) >= target_size:
                        target_size = len(content) + limits.least_bytes
                        timeout.reschedule(asyncio.get_running_loop().time() + limits.idle_seconds)
                return response, bytes(content)
            finally:
                await response.aclose()
