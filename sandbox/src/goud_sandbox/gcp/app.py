"""Google's API host: one application for every ``*.googleapis.com``."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Awaitable, Callable
from pathlib import Path

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from goud_sandbox.apifaults import ApiFaults
from goud_sandbox.documents import Document, Documents
from goud_sandbox.gcp import compute, dns, iam, metadata, storage
from goud_sandbox.gcp.base import Base, Scope
from goud_sandbox.gcp.desired import desired
from goud_sandbox.gcp.errors import ApiError
from goud_sandbox.gcp.instances import ALIVE, room_machine
from goud_sandbox.gcp.operations import Operations
from goud_sandbox.room.model import Desired
from goud_sandbox.settings import Settings

log = logging.getLogger(__name__)

CHANGES = {"POST", "PUT", "PATCH", "DELETE"}
COMPUTE = re.compile(r"/compute/v1/(?P<key>projects/[^/]+/(?P<place>global|(?:zones|regions)/[^/]+)/.+)")
Next = Callable[[Request], Awaitable[Response]]


class Google:
    """The provider: its resources, its wishes for the room, and its application."""

    def __init__(
        self,
        documents: Documents,
        settings: Settings,
        faults: ApiFaults,
        *,
        operator_token: str,
        objects: Path,
        settle: Callable[..., str | None],
    ) -> None:
        self.base = Base(documents, settings)
        self.faults = faults
        self.operations = Operations(self.base, settle)
        self.compute = compute.Compute(self.base, self.operations)
        self.compute.disks.lie = lambda key: bool(faults.take("POST", f"/{key}/resize", {"lie_device"}))
        self.iam = iam.Iam(documents, operator_token)
        self.dns = dns.Dns(documents)
        self.storage = storage.Storage(documents, objects, self.iam, settings.project)
        self.metadata = metadata.Metadata(self.base, self.iam).answer
        self.app = self._application(settings)

    def desired(self) -> Desired:
        """What the machine room should make true."""
        return desired(self.base)

    def on_power_off(self, machine: str) -> None:
        """A machine went down by itself: its instance is TERMINATED."""
        for instance in self.base.all("instances"):
            if room_machine(instance) == machine and instance["status"] in ALIVE:
                self.base.change(self.base.key(instance["selfLink"]), {"status": "TERMINATED"})

    def _application(self, settings: Settings) -> FastAPI:
        app = FastAPI(title="Google Cloud in a box", docs_url=None, redoc_url=None, openapi_url=None)
        app.include_router(compute.router(self.compute))
        app.include_router(iam.router(self.iam, settings.project))
        app.include_router(dns.router(self.dns))
        app.include_router(storage.router(self.storage))
        app.middleware("http")(self._before)
        app.add_exception_handler(ApiError, _refusal)
        app.add_exception_handler(HTTPException, _unknown_route)
        app.add_exception_handler(RequestValidationError, _malformed)
        return app

    async def _before(self, request: Request, proceed: Next) -> Response:
        """Faults first, then who is calling, then the call."""
        path, method = request.url.path, request.method
        for fault in self.faults.take(method, f"{request.headers.get('host', '')}{path}", {"fail", "slow", "lie"}):
            if fault.kind == "fail":
                return _answer(ApiError(fault.status, fault.reason, fault.message))
            if fault.kind == "slow":
                await asyncio.sleep(fault.seconds)
            if fault.kind == "lie" and method in CHANGES:
                return JSONResponse(self._pretend(method, path))
        try:
            if path != "/token":
                request.state.caller = self.iam.caller(request.headers.get("authorization"))
                self._admit(request.state.caller, method, path)
        except ApiError as error:
            return _answer(error)
        answer = await proceed(request)
        if route := request.scope.get("route"):
            # What is covered of the API is counted from these lines (README); what has no answer is warned of.
            log.info("answered %s %s%s (%s): %d", method, request.url.hostname, path, route.path, answer.status_code)
        return answer

    def _admit(self, caller: str, method: str, path: str) -> None:
        """Service accounts may use storage as its policies say, and the rest as the project's roles say."""
        if caller == iam.OPERATOR or "/storage/v1/" in path:
            return
        service = "compute" if path.startswith("/compute/") else "dns" if path.startswith("/dns/") else "iam"
        project = f"projects/{self.base.settings.project}"
        for binding in self.iam.policy(project)["bindings"]:
            role = str(binding["role"])
            is_reader = method == "GET" and role in {"roles/viewer", f"roles/{service}.viewer"}
            if f"serviceAccount:{caller}" in binding["members"] and (
                is_reader or role in iam.EVERYTHING - {"roles/storage.admin"} or role == f"roles/{service}.admin"
            ):
                return
        raise ApiError(403, "forbidden", f"{caller} may not {method} {path}.")

    def _pretend(self, method: str, path: str) -> Document:
        match = COMPUTE.match(path)
        if not match:
            return {}
        kind, _, place = match["place"].partition("/")
        scope = Scope(self.base.settings.project, kind, place)
        verb = {"POST": path.rsplit("/", 1)[-1], "DELETE": "delete"}.get(method, "update")
        key = match["key"].removesuffix(f"/{verb}")
        return self.operations.pretend(scope, "resizeDisk" if verb == "resize" else verb, key)


def _answer(error: ApiError) -> JSONResponse:
    headers = {"Retry-After": "1"} if error.status in {429, 503} else {}
    return JSONResponse(error.document(), error.status, headers)


async def _refusal(request: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)  # noqa: S101 -- registered for this class only
    if "not part of the sandbox" in str(error):
        log.warning("not part of the sandbox: %s %s", request.method, request.url)
    return _answer(error)


async def _unknown_route(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101 -- registered for this class only
    log.warning("not part of the sandbox: %s %s", request.method, request.url)
    call = f"{request.method} {request.url.path}"
    return _answer(ApiError(error.status_code, "notFound", f"{call} is not part of the sandbox."))


async def _malformed(_: Request, error: Exception) -> Response:
    return _answer(ApiError(400, "parseError", f"Parse Error: {error}"))
