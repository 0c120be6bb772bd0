"""The peer application: blocks and status for peers, submissions for the proposer, and the operator's calls."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import APIRouter, Depends, FastAPI, Query, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import Response

from goud_node import clock, problems
from goud_node.chain import encoding
from goud_node.chain.genesis import Genesis
from goud_node.chain.ledger import Epoch, Ledger
from goud_node.errors import StoreError, StoreFull
from goud_node.peer.checkpoints import OperatorCheckpoints
from goud_node.peer.signing import SignedExchange
from goud_node.peer.tokens import OPERATOR, Caller, Signer, Verifier
from goud_node.problems import ProblemError
from goud_node.replica.replica import Replica
from goud_node.shutdown import CutShort
from goud_node.telemetry import Metrics

CBOR = "application/cbor"
MAX_BLOCKS = 512
MAX_ANSWER_BYTES = 4 * 1024 * 1024
"""An answer ends early beyond this, so that neither side's memory grows with what is asked for."""


@dataclass
class PeerContext:
    """The node as its peers and its operator see it."""

    node_id: str
    genesis: Genesis
    ledger: Ledger
    replica: Replica
    checkpoints: OperatorCheckpoints
    verifier: Verifier
    signer: Signer
    metrics: Metrics
    version: str


class CheckpointRequest(BaseModel):
    """All optional: an id is made, and the node's default life applies."""

    model_config = ConfigDict(extra="forbid")

    id: str | None = Field(default=None, pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$")
    ttl_seconds: float | None = Field(default=None, gt=0, le=7 * 24 * 3600)


def create_peer_app(context: PeerContext) -> FastAPI:
    """The application for the peer port."""
    app = FastAPI(title="Goud Chain peer", docs_url=None, redoc_url=None, openapi_url=None)
    app.state.context = context
    app.include_router(peers)
    app.include_router(operator)
    problems.install(app)
    app.add_middleware(SignedExchange, verifier=context.verifier, signer=context.signer, metrics=context.metrics)
    app.add_middleware(CutShort)
    return app


def _context(request: Request) -> PeerContext:
    context: PeerContext = request.app.state.context
    return context


async def _operator(request: Request) -> None:
    """Only the node's own key (the command line beside it) and the operator's key may operate it."""
    caller: Caller = request.state.caller
    if caller.node_id not in (_context(request).node_id, OPERATOR):
        raise ProblemError(
            403, "forbidden", f"{caller.node_id} may not operate this node: use its own key or the operator's."
        )


Node = Annotated[PeerContext, Depends(_context)]
peers = APIRouter(prefix="/peer")
operator = APIRouter(prefix="/operator", dependencies=[Depends(_operator)])


@peers.get("/blocks")
async def blocks(
    context: Node,
    start: Annotated[int, Query(ge=1)],
    limit: Annotated[int, Query(ge=1, le=MAX_BLOCKS)],
    epoch: Annotated[str | None, Query(max_length=256)] = None,
) -> Response:
    """Certified blocks from `start`, as far as they are consecutive, as canonical CBOR.

    [epoch, [[block, certificate], ...]] when the request names the epoch it wants (the encoded epoch in hexadecimal);
    only the inner list for a release that does not.
    """
    own_epoch = context.ledger.epoch
    if context.replica.status.epoch is None or own_epoch is None:
        # A certificate does not say its epoch: a chain that a restore has left behind would look as good as any.
        raise ProblemError(
            503,
            "unavailable",
            f"{context.node_id} is not part of the common epoch and serves no blocks. Ask another node.",
            headers=problems.retry_after(1),
        )
    if epoch is not None and epoch != own_epoch.encode().hex():
        raise ProblemError(
            409, "other-epoch", f"{context.node_id} is in epoch {own_epoch}. Ask a node of your own epoch."
        )
    content = await asyncio.to_thread(
        _encode_blocks, context.ledger, start, limit, None if epoch is None else own_epoch
    )
    return Response(content, media_type=CBOR)


@peers.get("/proof")
async def proof(context: Node) -> Response:
    """The highest certified block with its certificate, as canonical CBOR: [[block, certificate]].

    It shows that the chain has begun, and nothing about an epoch: so it is served outside of any.
    """
    height = context.ledger.certified_height
    content = (
        await asyncio.to_thread(_encode_blocks, context.ledger, height, 1, None) if height > 0 else encoding.encode([])
    )
    return Response(content, media_type=CBOR)


@peers.get("/status")
async def status(context: Node) -> Response:
    """Where this node stands."""
    return JSONResponse(_status(context))


@peers.post("/submissions")
async def submissions(request: Request, context: Node) -> Response:
    """Submit an encoded transaction on behalf of a peer; 503 `not-leader` unless this node leads."""
    receipt = await context.replica.submit(await request.body(), forward=False)
    return JSONResponse(
        {
            "height": receipt.height,
            "index": receipt.index,
            "transaction_id": receipt.transaction_id,
            "block_hash": receipt.block_hash.hex(),
        }
    )


@operator.get("/status")
async def operator_status(context: Node) -> Response:
    """Where this node stands, for its operator."""
    return JSONResponse(_status(context))


@operator.post("/checkpoints", status_code=201)
async def create_checkpoint(context: Node, body: CheckpointRequest | None = None) -> Response:
    """Make a checkpoint; it expires unless it is released before."""
    request = body or CheckpointRequest()
    try:
        checkpoint = await context.checkpoints.create(request.id, request.ttl_seconds)
    except StoreFull:
        raise
    except StoreError as error:
        raise ProblemError(409, error.code, str(error)) from error
    return JSONResponse(checkpoint.document(), 201)


@operator.get("/checkpoints")
async def list_checkpoints(context: Node) -> Response:
    """Live checkpoints."""
    checkpoints = await context.checkpoints.listed()
    entries = [
        {"id": checkpoint.id, "path": str(checkpoint.path), "expires": checkpoint.expires_at}
        for checkpoint in checkpoints
    ]
    return JSONResponse({"checkpoints": entries})


@operator.delete("/checkpoints/{checkpoint_id}", status_code=204)
async def release_checkpoint(checkpoint_id: str, context: Node) -> Response:
    """Remove a checkpoint."""
    if not await context.checkpoints.release(checkpoint_id):
        raise ProblemError(404, "not-found", f"There is no checkpoint {checkpoint_id}: it was released or has expired.")
    return Response(status_code=204)


@operator.post("/drain")
async def drain(context: Node) -> Response:
    """Answer /readyz with 503 from now on, and do not campaign."""
    context.replica.drain()
    return JSONResponse(_status(context))


@operator.post("/undrain")
async def undrain(context: Node) -> Response:
    """Take part again."""
    context.replica.undrain()
    return JSONResponse(_status(context))


@operator.post("/hand-over")
async def hand_over(context: Node) -> Response:
    """Give up the lead; `handed_over` is false when no other node took it."""
    if len(context.genesis.validators) < 2:
        raise ProblemError(409, "single-node", "This chain has one validator: nobody else can take the lead.")
    handed_over = await context.replica.hand_over()
    return JSONResponse({"handed_over": handed_over, **_status(context)})


@operator.post("/start-epoch")
async def start_epoch(context: Node) -> Response:
    """Begin a new agreement epoch from this node's tip, after a restore."""
    number = await context.replica.start_epoch()
    return JSONResponse({"started_epoch": number, **_status(context)})


def _encode_blocks(ledger: Ledger, start: int, limit: int, epoch: Epoch | None) -> bytes:
    pairs: list[list[bytes]] = []
    size = 0
    for height in range(start, min(start + limit - 1, ledger.certified_height) + 1):
        raw, certificate = ledger.raw_block(height), ledger.certificate(height)
        if raw is None or certificate is None or size > MAX_ANSWER_BYTES:
            break
        pairs.append([raw, certificate.encode()])
        size += sum(map(len, pairs[-1]))
    return encoding.encode(pairs if epoch is None else [epoch.encode(), pairs])


def _status(context: PeerContext) -> dict[str, Any]:
    replica_status = context.replica.status
    return {
        "node_id": context.node_id,
        "chain_id": context.genesis.chain_id,
        "version": context.version,
        "role": replica_status.role,
        "proposer": replica_status.proposer,
        "epoch": replica_status.epoch,
        "height": replica_status.height,
        "certified": replica_status.certified,
        "tip_hash": context.ledger.tip.hash.hex(),
        "lag": replica_status.lag,
        "quorum": replica_status.quorum,
        "synced": replica_status.synced,
        "draining": replica_status.draining,
        "halted": replica_status.halted,
        "clock_ms": clock.wall_ms(),
    }
