"""Liveness, readiness, health and metrics. Every figure is measured; nothing here is a constant."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any, Final

from fastapi import APIRouter, Query, Request
from fastapi.responses import JSONResponse
from starlette.responses import Response

from goud_node import problems
from goud_node.api import schemas
from goud_node.api.context import Context, context_of
from goud_node.api.strict import StrictRoute
from goud_node.errors import GoudError
from goud_node.replica.types import Status
from goud_node.store.schema import SCHEMA_VERSION

router = APIRouter(tags=["operations"], route_class=StrictRoute)

_EXPOSITION: Final = {"text/plain": {"schema": {"type": "string"}}, "application/openmetrics-text": {}}


class Purpose(StrEnum):
    """What a balancer wants to send: everything, or reads only."""

    ALL = "all"
    READS = "reads"


_FOR_READS: Final = ("store", "synced", "draining")


@router.get("/livez", response_model=schemas.Alive, responses=problems.documented(422))
async def livez() -> Response:
    """The process answers."""
    return JSONResponse({"status": "alive"})


@router.get("/readyz", response_model=schemas.Readiness, responses=problems.documented(422, 503))
async def readyz(
    request: Request,
    purpose: Annotated[
        Purpose, Query(alias="for", description="`reads` leaves out what only writes need: quorum and disk space.")
    ] = Purpose.ALL,
) -> Response:
    """Whether requests should be sent here, check by check: 200, or 503 with the same checks."""
    results = checks(context_of(request))
    if purpose is Purpose.READS:
        results = {name: results[name] for name in _FOR_READS}
        status = context_of(request).replica.status
        if not status.quorum and status.epoch is not None and status.lag == 0:
            # Nobody can be ahead of a node that was level when the quorum was lost.
            results["synced"] = _check(True, f"Height {status.height}; nothing is ordered without a quorum.")
    failures = [name for name, check in results.items() if not check["ok"]]
    if "disk" in failures and results["quorum"]["ok"]:
        # What cannot be written cannot be followed: that is no fault of its own.
        failures = [name for name in failures if name != "synced"]
    if not failures:
        return JSONResponse({"status": "ready", "checks": results})
    detail = "; ".join(f"{name}: {results[name]['detail']}" for name in failures)
    return problems.respond(
        request.scope, 503, "not-ready", detail, headers=problems.retry_after(1), failed=failures, checks=results
    )


@router.get("/health", response_model=schemas.Health, responses=problems.documented(422))
async def health(request: Request) -> Response:
    """What this node is and where it stands."""
    context = context_of(request)
    status, tip = context.replica.status, context.ledger.tip
    return JSONResponse(
        {
            "status": _word(status),
            "node_id": context.settings.node_id,
            "chain_id": context.genesis.chain_id,
            "version": context.version,
            "chain_length": tip.height + 1,
            "peer_count": context.live_peers,
            "latest_block": {
                "height": tip.height,
                "hash": tip.hash.hex(),
                "timestamp_ms": tip.timestamp_ms,
                "proposer": tip.proposer or None,
            },
            "certified_height": context.ledger.certified_height,
            "role": status.role,
            "proposer": status.proposer,
            "epoch": status.epoch,
            "lag": status.lag,
            "schema": SCHEMA_VERSION,
            "quorum": status.quorum,
            "synced": status.synced,
            "draining": status.draining,
            "halted": status.halted,
        }
    )


@router.get("/api/metrics", response_model=schemas.MetricsDocument, responses=problems.documented(422))
async def metrics(request: Request) -> Response:
    """The node's main figures as JSON."""
    context = context_of(request)
    snapshot, volume = context.snapshot(), context.volume()
    return JSONResponse(
        {
            "node_id": snapshot.node_id,
            "chain_length": snapshot.chain_length,
            "certified_height": snapshot.certified_height,
            "peer_count": snapshot.peers_live,
            "proposer": snapshot.proposer,
            "epoch": context.replica.status.epoch,
            "lag": snapshot.lag,
            "key_cache_hit_rate": snapshot.cache_hit_rate,
            "volume_metrics": {
                "disk_used_bytes": volume.disk_used_bytes,
                "disk_used_mb": snapshot.disk_used_mb,
                "mount_path": str(volume.mount_path),
                "rocksdb_present": volume.rocksdb_present,
                "sst_file_count": volume.sst_file_count,
                "disk_capacity_bytes": volume.capacity_bytes,
                "disk_free_bytes": snapshot.disk_free,
                "disk_needed_bytes": snapshot.disk_needed,
            },
        }
    )


@router.get(
    "/api/metrics/prometheus",
    response_class=Response,
    responses={200: {"description": "Prometheus exposition", "content": _EXPOSITION}, **problems.documented(422)},
)
async def prometheus(request: Request) -> Response:
    """The same and more for Prometheus, as text or OpenMetrics after the Accept header."""
    body, content_type = context_of(request).metrics.exposition(request.headers.get("accept", ""))
    return Response(body, media_type=None, headers={"Content-Type": content_type})


def checks(context: Context) -> dict[str, dict[str, Any]]:
    """Every readiness check by name: whether it holds, and what was found."""
    status = context.replica.status
    trouble = context.room().trouble
    hint = " Wait while it catches up." if trouble is None else " It follows again once its disk takes writes."
    return {
        "store": _store(context, status),
        "disk": _check(trouble is None, trouble or "There is space."),
        "synced": _check(
            status.synced,
            f"Height {status.height}, {status.lag} behind." + ("" if status.synced else hint),
        ),
        "quorum": _check(
            status.quorum,
            "The ordering service answers." if status.quorum else "The ordering service has no quorum: writes wait.",
        ),
        "clock": _check(status.clock.state != "wrong" or not status.clock.enforced, status.clock.detail),
        "draining": _check(
            not status.draining, "The node is being drained." if status.draining else "The node takes requests."
        ),
    }


def _store(context: Context, status: Status) -> dict[str, Any]:
    if status.halted is not None:
        return _check(False, f"Halted: {status.halted}")
    try:
        has_genesis = context.ledger.raw_block(0) is not None
    except GoudError as error:
        return _check(False, f"The database cannot be read ({error.code}); the log has the cause.")
    return _check(has_genesis, "The database is readable." if has_genesis else "The genesis block cannot be read.")


def _check(ok: bool, detail: str) -> dict[str, Any]:
    return {"ok": ok, "detail": detail}


def _word(status: Status) -> str:
    if status.halted is not None:
        return "halted"
    if status.draining:
        return "draining"
    return "healthy" if status.quorum and status.synced else "degraded"
