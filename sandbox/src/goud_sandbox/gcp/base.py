"""What every part of Compute Engine stands on: keys, links, fingerprints, and access to the documents."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import secrets
import time
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from goud_sandbox.documents import Document, Documents
from goud_sandbox.gcp import catalog
from goud_sandbox.gcp.errors import invalid, not_found
from goud_sandbox.settings import Settings

# Answers carry this host even when they were asked for at compute.googleapis.com: so does the real API.
ROOT = "https://www.googleapis.com/compute/v1/"
RESOURCES = "compute"
NAME = re.compile(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?")
GIB = 1 << 30


@dataclass(frozen=True)
class Scope:
    """Where a resource lives: ``place`` is a zone or region, empty for global."""

    project: str
    kind: str
    place: str = ""

    @property
    def path(self) -> str:
        """The key's beginning, without a slash at the end."""
        tail = f"{self.kind}/{self.place}" if self.place else self.kind
        return f"projects/{self.project}/{tail}"

    @property
    def region(self) -> str:
        """The region of a zone or region; empty for global."""
        return self.place.rsplit("-", 1)[0] if self.kind == "zones" else self.place


def now() -> str:
    """RFC 3339 with milliseconds, as Google writes it."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def new_id() -> str:
    """A number nobody else has, in a string."""
    return str(time.time_ns() // 1000 * 1000 + secrets.randbelow(1000))


def project_number(project: str) -> str:
    """The number of a project."""
    return str(int(hashlib.sha256(project.encode()).hexdigest()[:10], 16))


def fingerprint(value: object) -> str:
    """Eight bytes that change with the value."""
    digest = hashlib.sha256(json.dumps(value, sort_keys=True).encode()).digest()
    return base64.urlsafe_b64encode(digest[:8]).decode()


def public(document: Document) -> Document:
    """The document without what only the sandbox knows."""
    return {key: value for key, value in document.items() if not key.startswith("_")}


class Base:
    """Reads and writes resources by key (``projects/p/zones/z/disks/d``)."""

    def __init__(self, documents: Documents, settings: Settings) -> None:
        self.documents = documents
        self.settings = settings

    def key(self, link: str) -> str:
        """The key in a full, partial or short link."""
        match = re.search(r"(projects/[^?]+)$", link)
        if match:
            return match.group(1)
        return f"projects/{self.settings.project}/{link.strip('/')}"

    def find(self, key: str) -> Document | None:
        """The resource, or None."""
        return self.documents.get(RESOURCES, key)

    def need(self, key: str) -> Document:
        """The resource, or 404."""
        document = self.find(key)
        if document is None:
            raise not_found(key)
        return document

    def save(self, document: Document) -> None:
        """Write the resource under its own link's key."""
        self.documents.put(RESOURCES, self.key(document["selfLink"]), document)

    def change(self, key: str, values: Document) -> None:
        """Set fields of a resource that may be gone by now."""
        with self.documents.lock:
            document = self.find(key)
            if document is not None:
                self.save(document | values)

    def all(self, collection: str) -> list[Document]:
        """Every resource of a collection in every place."""
        prefix = f"projects/{self.settings.project}/"
        return [
            document
            for key, document in self.documents.items(RESOURCES, prefix)
            if key.rsplit("/", 2)[-2] == collection
        ]

    def listing(self, scope: Scope, collection: str) -> list[Document]:
        """The resources of one place."""
        return [document for _, document in self.documents.items(RESOURCES, f"{scope.path}/{collection}/")]

    def new(self, scope: Scope, collection: str, kind: str, body: Document) -> Document:
        """A resource with the fields every resource has; its name checked. Not saved yet."""
        name = str(body.get("name", ""))
        if not NAME.fullmatch(name):
            pattern = "(?:[a-z](?:[-a-z0-9]{0,61}[a-z0-9])?)"
            raise invalid("resource.name", name, f"Must be a match of regex '{pattern}'")
        document: Document = {
            **body,
            "kind": kind,
            "id": new_id(),
            "creationTimestamp": now(),
            "name": name,
            "selfLink": f"{ROOT}{scope.path}/{collection}/{name}",
        }
        if scope.kind == "zones":
            document["zone"] = f"{ROOT}projects/{scope.project}/zones/{scope.place}"
        elif scope.kind == "regions":
            document["region"] = f"{ROOT}projects/{scope.project}/regions/{scope.place}"
        return document

    def check_scope(self, scope: Scope) -> None:
        """404 for projects, regions and zones that do not exist."""
        if scope.project != self.settings.project:
            raise not_found(f"projects/{scope.project}")
        places: Iterable[str] = catalog.zones() if scope.kind == "zones" else catalog.REGIONS
        if scope.place and scope.place not in places:
            raise not_found(scope.path)

    def with_label_fingerprint(self, document: Document) -> Document:
        """The document with the fingerprint of its labels."""
        return {**document, "labelFingerprint": fingerprint(document.get("labels", {}))}

    def link(self, key: str) -> str:
        """The full link of a key."""
        return ROOT + key


def number(body: dict[str, Any], field: str) -> int | None:
    """An integer that Google writes as a string; 400 when it is neither."""
    value = body.get(field)
    if value is None:
        return None
    try:
        return int(value)
    except (TypeError, ValueError):
        raise invalid(field, value, "An integer is needed.") from None
