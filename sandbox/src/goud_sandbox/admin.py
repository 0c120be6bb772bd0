"""The sandbox's own API on loopback: its state, and orders for faults. Roles and playbooks never call it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import Annotated, Any

from fastapi import Body, FastAPI, Request, Response
from fastapi.responses import JSONResponse

from goud_sandbox.apifaults import ApiFault, ApiFaults
from goud_sandbox.documents import Document
from goud_sandbox.errors import SandboxError
from goud_sandbox.room.faults import Faults
from goud_sandbox.room.keeper import Keeper
from goud_sandbox.room.reconcile import Room

STATUS_SECONDS = 20.0
JsonBody = Annotated[dict[str, Any], Body()]


def application(
    room: Room,
    keeper: Keeper,
    faults: Faults,
    api_faults: ApiFaults,
    *,
    tick: Callable[[], list[str]],
    advance: Callable[[float], str],
) -> FastAPI:
    """The application behind the admin port."""
    app = FastAPI(title="goud-sandbox", docs_url=None, redoc_url=None)
    app.add_exception_handler(SandboxError, _refusal)
    app.add_exception_handler(Exception, _surprise)
    _state_routes(app, room, keeper, api_faults, tick)

    @app.post("/clock/advance")
    def clock(body: JsonBody) -> Document:
        return {"aws": advance(float(body.get("seconds", 0)))}

    _fault_routes(app, faults)
    return app


def _state_routes(
    app: FastAPI, room: Room, keeper: Keeper, api_faults: ApiFaults, tick: Callable[[], list[str]]
) -> None:
    @app.get("/status")
    def status() -> Document:
        room.first_pass.wait(STATUS_SECONDS)  # a service that has just started does not yet know its machines
        return {
            "machines": {
                name: asdict(machine) | {"external": room.addresses.get(name, machine.external)}
                for name, machine in sorted(room.machines.items())
            },
            "disks": {name: asdict(image) for name, image in keeper.disks().items()},
            "errors": room.errors,
            "api_faults": [asdict(fault) for fault in api_faults.orders()],
        }

    @app.post("/schedules/run")
    def run_schedules() -> Document:
        return {"snapshots": tick()}

    @app.put("/faults/api/{identity}")
    def order(identity: str, body: JsonBody) -> Document:
        try:
            fault = ApiFault(**(body | {"id": identity}))
            api_faults.order(fault)
        except (TypeError, ValueError) as error:
            raise SandboxError(f"fault {identity!r} does not make sense: {error}") from error
        return asdict(fault)

    @app.delete("/faults/api")
    def clear_all() -> Document:
        api_faults.clear()
        return {}

    @app.delete("/faults/api/{identity}")
    def clear(identity: str) -> Document:
        api_faults.clear(identity)
        return {}


def _fault_routes(app: FastAPI, faults: Faults) -> None:
    @app.post("/faults/machines/{machine}/{kind}")
    def machine(machine: str, kind: str) -> Document:
        orders: dict[str, Callable[[], None]] = {
            "kill": lambda: faults.kill(machine),
            "reset": lambda: faults.reset(machine),
            "partition": lambda: faults.partition(machine, cut=True),
            "heal": lambda: faults.partition(machine, cut=False),
        }
        if kind not in orders:
            raise SandboxError(f"{kind!r} is not a fault of a machine: use one of {', '.join(orders)}")
        orders[kind]()
        return {"machine": machine, "fault": kind}

    @app.post("/faults/disks/{disk}/{kind}")
    def disk(disk: str, kind: str, body: JsonBody | None = None) -> Document:
        options = body or {}
        offset, length = int(options.get("offset", 0)), int(options.get("length", 1 << 20))
        orders: dict[str, Callable[[], Document | None]] = {
            "corrupt": lambda: faults.corrupt(disk, offset, length),
            "detach": lambda: faults.pull(disk, out=True),
            "reattach": lambda: faults.pull(disk, out=False),
            "fill": lambda: faults.fill(disk, int(options.get("leave_bytes", 0))),
            "unfill": lambda: faults.unfill(disk),
        }
        if kind not in orders:
            raise SandboxError(f"{kind!r} is not a fault of a disk: use one of {', '.join(orders)}")
        return {"disk": disk, "fault": kind} | (orders[kind]() or {})


async def _surprise(_: Request, error: Exception) -> Response:
    """The log has the whole story; the caller at least a sentence."""
    return JSONResponse({"error": f"the sandbox could not answer ({type(error).__name__}: {error}): see its log"}, 500)


async def _refusal(_: Request, error: Exception) -> Response:
    return JSONResponse({"error": str(error)}, 422)
