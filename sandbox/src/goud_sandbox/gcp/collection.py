"""One collection of resources behind ``/compute/v1/projects/p/<place>/<collection>``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import ClassVar

from goud_sandbox.documents import Document
from goud_sandbox.gcp.base import Base, Scope, fingerprint
from goud_sandbox.gcp.errors import ApiError, already_exists, stale
from goud_sandbox.gcp.operations import Operations, Plan

Query = Mapping[str, str]
Action = Callable[[Scope, str, Document, Query], Document]


class Collection:
    """Answers list, get, insert, delete and patch; subclasses say what is special."""

    name: ClassVar[str]
    kind: ClassVar[str]
    scope: ClassVar[str]

    def __init__(self, base: Base, operations: Operations) -> None:
        self.base = base
        self.operations = operations
        self.actions: dict[str, Action] = {}
        self.reads: dict[str, Action] = {}
        self.define()

    def define(self) -> None:
        """Register actions (POST …/name/action) and reads (GET …/name/read)."""

    def key(self, scope: Scope, name: str) -> str:
        """The resource's key."""
        return f"{scope.path}/{self.name}/{name}"

    def need(self, scope: Scope, name: str) -> Document:
        """The resource or 404."""
        return self.base.need(self.key(scope, name))

    def insert(self, scope: Scope, body: Document, query: Query) -> Document:
        """Make a resource; an operation."""
        with self.base.documents.lock:
            name = str(body.get("name", ""))
            if self.base.find(self.key(scope, name)):
                raise already_exists(self.key(scope, name))
            document = self.base.new(scope, self.name, self.kind, body)
            plan = self.make(scope, document, query)
        return self.operations.start(scope, "insert", self.key(scope, name), plan)

    def make(self, scope: Scope, document: Document, query: Query) -> Plan:
        """Check and save the new resource; what the operation has to do."""
        raise ApiError(
            501, "notImplemented", f"{self.name}.insert is not part of the sandbox ({scope.path}, {document}, {query})"
        )

    def delete(self, scope: Scope, name: str) -> Document:
        """Remove a resource; an operation."""
        with self.base.documents.lock:
            document = self.need(scope, name)
            plan = self.unmake(scope, document)
        return self.operations.start(scope, "delete", self.key(scope, name), plan)

    def unmake(self, scope: Scope, document: Document) -> Plan:
        """Refuse what is in use; what the operation has to do."""
        return Plan(begin=[(self.key(scope, document["name"]), None)])

    def patch(self, scope: Scope, name: str, body: Document) -> Document:
        """Change fields; an operation."""
        raise ApiError(
            501, "notImplemented", f"{self.name}.patch is not part of the sandbox ({scope.path}/{name}, {body})"
        )

    def update(self, scope: Scope, name: str, values: Document, kind: str = "update") -> Document:
        """Set fields at once; an operation that ends when the room followed."""
        key = self.key(scope, name)
        self.base.change(key, values)
        return self.operations.start(scope, kind, key, Plan())

    def set_labels(self, scope: Scope, name: str, body: Document, _: Query) -> Document:
        """Replace the labels; 412 when the fingerprint is not the present one."""
        document = self.need(scope, name)
        labels = body.get("labels") or {}
        if body.get("labelFingerprint") != fingerprint(document.get("labels", {})):
            raise stale("Labels")
        values = {"labels": labels, "labelFingerprint": fingerprint(labels)}
        return self.update(scope, name, values, "setLabels")
