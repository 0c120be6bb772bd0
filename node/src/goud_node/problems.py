"""Every error of the HTTP interfaces as RFC 9457 problem details.

503 means that it surely did not happen and may be retried after `Retry-After`; 504 means that the outcome of a write
is unknown, so it may only be repeated with the same Idempotency-Key.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any, Final, cast
from urllib.parse import quote

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.types import Scope

from goud_node import errors

MEDIA_TYPE: Final = "application/problem+json"
TYPE_PREFIX: Final = "urn:goud-chain:problem:"
_log = logging.getLogger(__name__)


class Problem(BaseModel):
    """RFC 9457 problem details, with the stable slug `code` and, where it applies, further members."""

    model_config = ConfigDict(extra="allow")

    type: str = Field(description="Identifies the kind of problem: urn:goud-chain:problem:<code>.")
    title: str = Field(description="The kind of problem in a few words.")
    status: int = Field(description="The HTTP status code.")
    detail: str = Field(description="What happened, why, and what to do next.")
    instance: str = Field(description="The path of the request.")
    code: str = Field(description="Stable slug of the kind of problem.")


class ProblemError(Exception):
    """Raised by handlers to answer with a problem; `extensions` become members of the document."""

    def __init__(
        self, status: int, code: str, detail: str, *, headers: Mapping[str, str] | None = None, **extensions: Any
    ) -> None:
        super().__init__(detail)
        self.status, self.code, self.detail = status, code, detail
        self.headers = dict(headers or {})
        self.extensions = extensions


_TITLES: Final = {
    "bad-request": "The request is malformed",
    "malformed-json": "The body is not JSON",
    "invalid-request": "The request has invalid fields",
    "unauthorized": "Authentication is required",
    "forbidden": "The caller may not do this",
    "not-found": "There is nothing at this address",
    "method-not-allowed": "The method is not allowed here",
    "content-too-large": "The content is too large",
    "headers-too-large": "The headers are too large",
    "request-timeout": "The request was not complete in time",
    "unavailable": "The node cannot do this now",
    "no-quorum": "The cluster has no quorum",
    "coordination-full": "The coordination service is out of space",
    "draining": "The node is being drained",
    "not-leader": "The node is not the proposer",
    "not-ready": "The node is not ready",
    "behind": "The node has not reached that height yet",
    "outcome-unknown": "The outcome of the write is unknown",
    "disk-full": "The disk is full",
    "idempotency-conflict": "The idempotency key was used for other content",
    "already-exists": "It exists already",
    "invalid-transaction": "The transaction is invalid",
    "invalid-cursor": "The cursor is invalid",
    "internal-error": "The node failed to handle the request",
}

# The most specific class first: the first match decides.
_STATUS: Final[tuple[tuple[type[errors.GoudError], int, str | None], ...]] = (
    (errors.IdempotencyConflict, 422, None),
    (errors.AlreadyExists, 409, None),
    (errors.InvalidTransaction, 422, None),
    (errors.InvalidCursor, 400, None),
    (errors.Unavailable, 503, None),
    (errors.OutcomeUnknown, 504, None),
    (errors.StoreFull, 507, "disk-full"),
)

_FRAMEWORK: Final = {
    400: "bad-request",
    401: "unauthorized",
    404: "not-found",
    405: "method-not-allowed",
    413: "content-too-large",
}


def instance_of(scope: Scope) -> str:
    """The request's path as a URI reference."""
    return quote(cast(str, scope["path"]), safe="/:@!$&'()*+,;=~-._")


def respond(
    scope: Scope, status: int, code: str, detail: str, *, headers: Mapping[str, str] | None = None, **extensions: Any
) -> Response:
    """A problem document for the request in `scope`."""
    document = {
        "type": TYPE_PREFIX + code,
        "title": _TITLES.get(code) or HTTPStatus(status).phrase,
        "status": status,
        "detail": detail,
        "instance": instance_of(scope),
        "code": code,
        **extensions,
    }
    body = json.dumps(document, ensure_ascii=False).encode("utf-8", "replace")
    return Response(body, status, headers=dict(headers or {}), media_type=MEDIA_TYPE)


def retry_after(seconds: float) -> dict[str, str]:
    """The Retry-After header, in whole seconds."""
    return {"Retry-After": str(max(1, math.ceil(seconds)))}


def from_error(scope: Scope, error: errors.GoudError, **extensions: Any) -> Response:
    """The problem that stands for one of the node's own errors."""
    for kind, status, code in _STATUS:
        if isinstance(error, kind):
            headers = retry_after(error.retry_after) if isinstance(error, errors.Unavailable) else {}
            return respond(scope, status, code or error.code, str(error), headers=headers, **extensions)
    # Messages of the other kinds name files and hosts: they belong in the log, not on the public side.
    _log.error("request %s %s failed: %s", scope.get("method"), scope["path"], error, exc_info=error)
    return respond(scope, 500, "internal-error", f"The node failed ({error.code}); its log has the cause.")


def install(app: FastAPI) -> None:
    """Answer every error of `app`, the framework's included, with problem details."""
    app.add_exception_handler(ProblemError, _on_problem)
    app.add_exception_handler(errors.GoudError, _on_goud_error)
    app.add_exception_handler(RequestValidationError, _on_invalid)
    app.add_exception_handler(HTTPException, _on_framework)
    app.add_exception_handler(Exception, _on_unexpected)


async def _on_problem(request: Request, error: Exception) -> Response:
    problem = cast(ProblemError, error)
    return respond(
        request.scope, problem.status, problem.code, problem.detail, headers=problem.headers, **problem.extensions
    )


async def _on_goud_error(request: Request, error: Exception) -> Response:
    return from_error(request.scope, cast(errors.GoudError, error))


async def _on_invalid(request: Request, error: Exception) -> Response:
    field_errors = [
        {"field": ".".join(str(part) for part in item["loc"]), "reason": str(item["msg"])}
        for item in cast(RequestValidationError, error).errors()
    ]
    if any(item["type"] == "json_invalid" for item in cast(RequestValidationError, error).errors()):
        context = cast(RequestValidationError, error).errors()[0].get("ctx", {})
        return respond(request.scope, 400, "malformed-json", f"The body is not valid JSON: {context.get('error')}.")
    detail = "; ".join(f"{item['field']}: {item['reason']}" for item in field_errors)
    return respond(request.scope, 422, "invalid-request", detail, errors=field_errors)


async def _on_framework(request: Request, error: Exception) -> Response:
    failure = cast(HTTPException, error)
    code = _FRAMEWORK.get(failure.status_code, "bad-request" if failure.status_code < 500 else "internal-error")
    detail = {
        404: "No such route; GET /openapi.json lists them all.",
        405: f"{request.method} is not allowed here; the Allow header lists what is.",
    }.get(failure.status_code, str(failure.detail))
    headers = dict(failure.headers or {})
    if failure.status_code == 405:
        headers["Allow"] = ", ".join(_allowed(request)) or headers.get("Allow", "GET")
    return respond(request.scope, failure.status_code, code, detail, headers=headers)


def _allowed(request: Request) -> list[str]:
    """Every method of the path: the framework's own answer names those of the first route only."""
    template = getattr(request.scope.get("route"), "path_format", None)
    paths = cast(FastAPI, request.app).openapi().get("paths", {})
    return sorted(method.upper() for method in paths.get(template, {}))


async def _on_unexpected(request: Request, error: Exception) -> Response:
    _log.error("unexpected failure of %s %s", request.method, request.url.path, exc_info=error)
    return respond(request.scope, 500, "internal-error", "An unexpected failure; the node's log has the cause.")


def documented(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """OpenAPI entries for the problems a route answers with."""
    content = {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}
    return {status: {"description": HTTPStatus(status).phrase, "content": content} for status in statuses}
