"""Operations that take time: PENDING, RUNNING, DONE, as clients must live with.

An operation is a document with everything it still has to do (its ``_plan``), so a service that restarts in the middle
finishes what it answered for. The end comes only after the machine room made it true, or with the room's error.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from goud_sandbox.documents import Document
from goud_sandbox.gcp.base import ROOT, Base, Scope, new_id, now
from goud_sandbox.gcp.errors import not_found

log = logging.getLogger(__name__)

OPERATIONS = "compute-operation"
Change = tuple[str, Document | None]  # key of a resource, fields to set; None deletes it
Settle = Callable[..., str | None]


@dataclass(frozen=True)
class Plan:
    """What an operation does: ``begin`` before the room is asked, ``end`` after it succeeded, ``undo`` when it failed.

    ``names`` are those of the room whose errors are this operation's errors.
    """

    begin: list[Change] = field(default_factory=list)
    end: list[Change] = field(default_factory=list)
    undo: list[Change] = field(default_factory=list)
    names: list[str] = field(default_factory=list)


class Operations:
    """Starts operations and runs each in a thread of its own."""

    def __init__(self, base: Base, settle: Settle) -> None:
        self._base = base
        self._settle = settle
        self.slow_seconds = 0.0

    def start(self, scope: Scope, kind: str, target: str, plan: Plan) -> Document:
        """Register the operation and let it run; the document a client gets."""
        operation = self._new(scope, kind, target)
        operation["_plan"] = [plan.begin, plan.end, plan.undo, plan.names]
        self._save(operation)
        self._launch(operation)
        return self.answer(operation)

    def pretend(self, scope: Scope, kind: str, target: str) -> Document:
        """A lie: an operation that is done and did nothing."""
        operation = self._new(scope, kind, target)
        operation.update(status="DONE", progress=100, startTime=now(), endTime=now())
        self._save(operation)
        return self.answer(operation)

    def get(self, scope: Scope, name: str) -> Document:
        """The operation, or 404."""
        key = f"{scope.path}/operations/{name}"
        operation = self._base.documents.get(OPERATIONS, key)
        if operation is None:
            raise not_found(key)
        return self.answer(operation)

    def wait(self, scope: Scope, name: str, seconds: float = 120.0) -> Document:
        """The operation when it is done, or as it is after ``seconds``."""
        deadline = time.monotonic() + seconds
        while True:
            operation = self.get(scope, name)
            if operation["status"] == "DONE" or time.monotonic() > deadline:
                return operation
            time.sleep(0.05)

    def listing(self, scope: Scope) -> list[Document]:
        """Operations of one place."""
        return [self.answer(op) for _, op in self._base.documents.items(OPERATIONS, f"{scope.path}/operations/")]

    def resume(self) -> None:
        """After a restart: go on with whatever was not done."""
        for _, operation in self._base.documents.items(OPERATIONS):
            if operation["status"] != "DONE":
                self._launch(operation)

    @staticmethod
    def answer(operation: Document) -> Document:
        """The document without the plan."""
        return {key: value for key, value in operation.items() if not key.startswith("_")}

    def _new(self, scope: Scope, kind: str, target: str) -> Document:
        identity = new_id()
        name = f"operation-{identity}"
        operation: Document = {
            "kind": "compute#operation",
            "id": identity,
            "name": name,
            "operationType": kind,
            "targetLink": ROOT + target,
            "status": "PENDING",
            "progress": 0,
            "insertTime": now(),
            "user": "operator",
            "selfLink": f"{ROOT}{scope.path}/operations/{name}",
        }
        target_document = self._base.find(target)
        if target_document:
            operation["targetId"] = target_document["id"]
        if scope.place:
            field_name = "zone" if scope.kind == "zones" else "region"
            operation[field_name] = f"{ROOT}projects/{scope.project}/{scope.kind}/{scope.place}"
        return operation

    def _save(self, operation: Document) -> None:
        self._base.documents.put(OPERATIONS, self._base.key(operation["selfLink"]), operation)

    def _launch(self, operation: Document) -> None:
        threading.Thread(target=self._run, args=(dict(operation),), name=operation["name"], daemon=True).start()

    def _run(self, operation: Document) -> None:
        begin, end, undo, names = operation["_plan"]
        pause = self._base.settings.operation_seconds / 2
        time.sleep(pause)
        operation.update(status="RUNNING", startTime=now(), progress=10)
        self._save(operation)
        self._apply(begin)
        error = self._settle(*names)
        time.sleep(pause + self.slow_seconds)
        self._apply(undo if error else end)
        if error:
            log.error("%s of %s failed: %s", operation["operationType"], operation["targetLink"], error)
            self._settle()
            operation.update(_failure(error))
        operation.update(status="DONE", progress=100, endTime=now())
        self._save(operation)

    def _apply(self, changes: list[Any]) -> None:
        with self._base.documents.lock:
            for key, values in changes:
                if values is None:
                    self._base.documents.delete("compute", key)
                else:
                    self._base.change(key, values)


def _failure(error: str) -> Document:
    return {
        "error": {"errors": [{"code": "INTERNAL_ERROR", "message": error}]},
        "httpErrorStatusCode": 500,
        "httpErrorMessage": "INTERNAL SERVER ERROR",
    }
