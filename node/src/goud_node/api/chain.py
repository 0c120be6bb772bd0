"""The chain itself: blocks, validators, peers, statistics, and each account's audit log."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

from fastapi import APIRouter, Path, Query
from fastapi.responses import JSONResponse
from starlette.responses import Response

from goud_node import problems
from goud_node.api import schemas
from goud_node.api.auth import Caller
from goud_node.api.collections import PAGE, Cursor, Limit
from goud_node.api.context import Reached
from goud_node.api.strict import StrictRoute
from goud_node.chain.block import Block
from goud_node.chain.ledger import Ledger
from goud_node.chain.transactions import AccountCreate, decode_trusted
from goud_node.problems import ProblemError

router = APIRouter(prefix="/api", tags=["chain"], route_class=StrictRoute)

_PAGE_BYTES = 8 * 1024 * 1024
"""A page of blocks ends early beyond this many bytes read, so that a request's memory is bounded."""
_MAX_HEIGHT = 2**53


@router.get("/blocks", response_model=schemas.BlockPage, responses=problems.documented(422, 503))
async def blocks(
    context: Reached,
    start: Annotated[
        int | None, Query(ge=0, le=_MAX_HEIGHT, description="First height; the newest page without it.")
    ] = None,
    limit: Annotated[int, Query(ge=1, le=100, description="Blocks on the page, at most.")] = 20,
) -> Response:
    """Headers of consecutive blocks."""
    first = max(0, context.ledger.height - limit + 1) if start is None else start
    summaries = await asyncio.to_thread(_page, context.ledger, first, limit)
    next_start = first + len(summaries)
    has_more = bool(summaries) and next_start <= context.ledger.height
    return JSONResponse({"blocks": summaries, "next_start": next_start if has_more else None})


@router.get("/blocks/{height}", response_model=schemas.BlockDetail, responses=problems.documented(404, 422, 503))
async def block(height: Annotated[int, Path(ge=0, le=_MAX_HEIGHT)], context: Reached) -> Response:
    """One block: header, a summary of each transaction, and its certificate."""
    content = context.ledger.block(height)
    if content is None:
        raise ProblemError(404, "not-found", f"The chain on this node ends at height {context.ledger.height}.")
    certificate = context.ledger.certificate(height)
    signatures = None if certificate is None else {name: sig.hex() for name, sig in certificate.signatures.items()}
    return JSONResponse(
        {
            **_summary(content, context.ledger),
            "signature": content.signature.hex(),
            "transactions": [_transaction(height, index, raw) for index, raw in enumerate(content.transactions)],
            "certificate": signatures,
        }
    )


@router.get("/validators", response_model=schemas.ValidatorList, responses=problems.documented(422, 503))
async def validators(context: Reached) -> Response:
    """Who may propose and countersign blocks, by the genesis document."""
    reachable = {view.node_id for view in context.peers.views() if view.reachable} | {context.settings.node_id}
    proposer = context.replica.status.proposer
    return JSONResponse(
        {
            "chain_id": context.genesis.chain_id,
            "quorum": context.genesis.quorum,
            "validators": [
                {
                    "node_id": validator.node_id,
                    "public_key": validator.public_key.hex(),
                    "proposer": validator.node_id == proposer,
                    "reachable": validator.node_id in reachable,
                }
                for validator in context.genesis.validators
            ],
        }
    )


@router.get("/peers", response_model=schemas.PeerList, responses=problems.documented(422, 503))
async def peers(context: Reached) -> Response:
    """What each peer answered last."""
    return JSONResponse(
        {
            "peers": [
                {
                    "node_id": view.node_id,
                    "reachable": view.reachable,
                    "height": view.height,
                    "answered_ms": view.answered_ms,
                    "round_trip_ms": view.round_trip_ms,
                }
                for view in context.peers.views()
            ]
        }
    )


@router.get("/stats", response_model=schemas.Stats, responses=problems.documented(422, 503))
async def stats(context: Reached) -> Response:
    """Counters of the whole chain, kept with every block."""
    state = context.ledger.state
    return JSONResponse(
        {
            "chain_length": state.height + 1,
            "certified_height": state.certified_height,
            "accounts": state.accounts,
            "collections": state.collections,
            "transactions": state.transactions,
            "payload_bytes": state.payload_bytes,
        }
    )


@router.get(
    "/audit", tags=["accounts"], response_model=schemas.AuditPage, responses=problems.documented(400, 401, 422, 503)
)
async def audit(caller: Caller, context: Reached, cursor: Cursor = None, limit: Limit = PAGE) -> Response:
    """What changed the chain on the caller's behalf, newest first."""
    page = context.ledger.audit(caller.account_id, cursor, limit)
    entries = [
        {
            "action": row.action,
            "subject_id": row.subject_id,
            "timestamp_ms": row.timestamp_ms,
            "height": row.height,
            "index": row.index,
        }
        for row in page.items
    ]
    return JSONResponse({"entries": entries, "next_cursor": page.next_cursor})


def _page(ledger: Ledger, start: int, limit: int) -> list[dict[str, Any]]:
    summaries: list[dict[str, Any]] = []
    size = 0
    for height in range(start, min(start + limit, ledger.height + 1)):
        block = ledger.block(height)
        if block is None or size > _PAGE_BYTES:
            break
        summaries.append(_summary(block, ledger))
        size += summaries[-1]["size"]
    return summaries


def _summary(block: Block, ledger: Ledger) -> dict[str, Any]:
    header = block.header
    return {
        "height": header.height,
        "hash": header.hash.hex(),
        "previous": header.previous.hex(),
        "timestamp_ms": header.timestamp_ms,
        "proposer": header.proposer or None,
        "root": header.root.hex(),
        "count": header.count,
        "schema": header.schema,
        "size": len(block.encode()),
        "certified": header.height <= ledger.certified_height,
    }


def _transaction(height: int, index: int, raw: bytes) -> dict[str, Any]:
    if height == 0:
        return {"index": index, "kind": "genesis", "id": "genesis", "size": len(raw)}
    transaction = decode_trusted(raw)
    kind = "account.create" if isinstance(transaction, AccountCreate) else "collection.put"
    return {"index": index, "kind": kind, "id": transaction.transaction_id, "size": len(raw)}
