"""What the public interface needs of the node, in one place; the composition root fills it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Protocol

from fastapi import Depends, Header, Request

from goud_node.api.tokens import Tokens
from goud_node.chain.genesis import Genesis
from goud_node.chain.ledger import Ledger
from goud_node.problems import ProblemError, retry_after
from goud_node.replica.replica import Replica
from goud_node.settings import Settings
from goud_node.store.schema import SCHEMA_VERSION
from goud_node.store.space import Room
from goud_node.store.volume import MIB, VolumeMetrics
from goud_node.telemetry import Metrics, Snapshot

_POLL = 0.01


class PeerView(Protocol):
    """What is known of one peer, from its own last answer."""

    @property
    def node_id(self) -> str: ...
    @property
    def reachable(self) -> bool: ...
    @property
    def height(self) -> int | None: ...
    @property
    def answered_ms(self) -> int | None: ...
    @property
    def round_trip_ms(self) -> float | None: ...


class PeerDirectory(Protocol):
    """Live knowledge of the peers; reading it costs nothing."""

    def views(self) -> Sequence[PeerView]: ...


@dataclass
class Context:
    """The node as its public interface sees it."""

    settings: Settings
    genesis: Genesis
    ledger: Ledger
    replica: Replica
    peers: PeerDirectory
    tokens: Tokens
    metrics: Metrics
    volume: Callable[[], VolumeMetrics]
    room: Callable[[], Room]
    version: str
    wall: Callable[[], float] = time.time

    @property
    def live_peers(self) -> int:
        return sum(1 for view in self.peers.views() if view.reachable)

    def snapshot(self) -> Snapshot:
        """The node's state for a scrape."""
        status, state, volume, room = self.replica.status, self.ledger.state, self.volume(), self.room()
        views = self.peers.views()
        return Snapshot(
            node_id=self.settings.node_id,
            chain_id=self.genesis.chain_id,
            version=self.version,
            schema=SCHEMA_VERSION,
            height=state.height,
            certified_height=state.certified_height,
            lag=status.lag,
            epoch=status.epoch or 0,
            proposer=status.proposer,
            quorum=status.quorum,
            synced=status.synced,
            draining=status.draining,
            clock_right=status.clock.state == "right",
            block_ahead=max(0.0, self.ledger.tip.timestamp_ms / 1000 - self.wall()),
            halted=status.halted is not None,
            peers_live=sum(1 for view in views if view.reachable),
            peers_known=len(views),
            cache_hits=self.tokens.hits,
            cache_misses=self.tokens.misses,
            disk_used=volume.disk_used_bytes,
            disk_used_mb=volume.disk_used_bytes // MIB,
            disk_capacity=volume.capacity_bytes,
            disk_free=room.free,
            disk_needed=room.needed,
            disk_full=room.shortage is not None,
            rocksdb_present=volume.rocksdb_present,
            sst_files=volume.sst_file_count,
            accounts=state.accounts,
            collections=state.collections,
        )

    async def reach(self, height: int) -> None:
        """Wait until this node holds `height`. Raises a 503 problem when it does not within the configured time."""
        limit = self.settings.min_height_wait_seconds
        deadline = time.monotonic() + limit
        while self.ledger.height < height:
            if time.monotonic() >= deadline:
                raise ProblemError(
                    503,
                    "behind",
                    f"This node is at height {self.ledger.height} and did not reach {height} within {limit:g} s; "
                    "retry, or ask another node.",
                    headers=retry_after(1),
                    height=self.ledger.height,
                )
            await asyncio.sleep(_POLL)


def context_of(request: Request) -> Context:
    """The context of the application that serves this request."""
    context: Context = request.app.state.context
    return context


async def reached(
    request: Request,
    goud_min_height: Annotated[
        int | None,
        Header(
            ge=0,
            le=2**53,
            description="Answer only once this node holds that height (it waits up to two seconds): send the height "
            "a write answered with to read that write back from any node.",
        ),
    ] = None,
) -> Context:
    """The context, once this node holds the height that the request asks for."""
    context = context_of(request)
    if goud_min_height is not None and goud_min_height > context.ledger.height:
        await context.reach(goud_min_height)
    return context


Reached = Annotated[Context, Depends(reached)]
