"""The public application: routers, middleware, problem details, and a truthful OpenAPI document."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from goud_node import __version__, problems
from goud_node.api import accounts, chain, collections, events, probes
from goud_node.api.context import Context
from goud_node.api.events import Broadcaster
from goud_node.api.middleware import BodyLimit, RequestMetrics
from goud_node.shutdown import CutShort

BODY_SLACK = 64 * 1024
"""A request may be larger than its collection: the label, the field names, white space."""


def create_app(context: Context, broadcaster: Broadcaster) -> FastAPI:
    """The application that serves this node."""
    app = _application()
    app.state.context = context
    app.state.broadcaster = broadcaster
    app.add_middleware(BodyLimit, limit=context.settings.max_collection_bytes + BODY_SLACK)
    app.add_middleware(CutShort)
    app.add_middleware(RequestMetrics, metrics=context.metrics, draining=lambda: context.replica.status.draining)
    return app


def openapi_document() -> dict[str, Any]:
    """The OpenAPI document, without a node."""
    return _application().openapi()


def _application() -> FastAPI:
    # The interactive pages load scripts from the internet; the document itself is what clients need.
    app = FastAPI(title="Goud Chain node", version=__version__, docs_url=None, redoc_url=None)
    for module in (probes, accounts, collections, chain, events):
        app.include_router(module.router)
    problems.install(app)
    app.openapi = lambda: _document(app)  # type: ignore[method-assign]  # FastAPI's documented way to extend it
    return app


def _document(app: FastAPI) -> dict[str, Any]:
    if app.openapi_schema is None:
        document = get_openapi(
            title=app.title,
            version=app.version,
            description="A replicated chain of encrypted collections. Every error is an RFC 9457 problem document. "
            "503 means that nothing happened and the request may be repeated after Retry-After; 504 means that a "
            "write's outcome is unknown: repeat it with the same Idempotency-Key.",
            routes=app.routes,
        )
        schemas = document.setdefault("components", {}).setdefault("schemas", {})
        schemas["Problem"] = problems.Problem.model_json_schema()
        app.openapi_schema = document
    return app.openapi_schema
