"""Buckets of Cloud Storage: settings, retention, policies."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from goud_sandbox.documents import Document, Documents
from goud_sandbox.gcp import conditions
from goud_sandbox.gcp.base import new_id, now
from goud_sandbox.gcp.errors import ApiError
from goud_sandbox.gcp.iam import Iam

BUCKETS, OBJECTS = "storage-bucket", "storage-object"
ROOT = "https://www.googleapis.com/storage/v1/b/"
NAME = re.compile(r"[a-z0-9][a-z0-9._-]{1,61}[a-z0-9]")
FIXED = {
    "kind",
    "id",
    "name",
    "selfLink",
    "projectNumber",
    "timeCreated",
    "updated",
    "metageneration",
    "etag",
    "location",
}
Query = Mapping[str, str]


def unmet() -> ApiError:
    """412 for a precondition that does not hold."""
    message = "At least one of the pre-conditions you specified did not hold."
    return ApiError(412, "conditionNotMet", message)


def check(query: Query, prefix: str, present: int | None) -> None:
    """``if<prefix>Match`` and ``if<prefix>NotMatch`` against the present number; None (nothing exists) counts as 0."""
    number = present or 0
    match, other = query.get(f"if{prefix}Match"), query.get(f"if{prefix}NotMatch")
    if match is not None and int(match) != number:
        raise unmet()
    if other is not None and int(other) == number:
        raise ApiError(304, "notModified", "Not Modified")


def merge(before: Document, patch: Document) -> Document:
    """JSON merge patch: null removes, objects merge, the rest replaces."""
    after = dict(before)
    for key, value in patch.items():
        if value is None:
            after.pop(key, None)
        elif isinstance(value, dict) and isinstance(after.get(key), dict):
            after[key] = merge(after[key], value)
        else:
            after[key] = value
    return after


def moment(time: str) -> datetime:
    """A time as Google writes it."""
    return datetime.fromisoformat(time.replace("Z", "+00:00"))


class Buckets:
    """Buckets with preconditions on their metageneration."""

    def __init__(self, documents: Documents, iam: Iam, project: str) -> None:
        self.documents = documents
        self.iam = iam
        self.project = project

    def allow(self, caller: str, permission: str, bucket: str, name: str = "") -> None:
        """403 unless the bucket's or the project's policy gives the caller the permission, for the object if named."""
        resource = conditions.object_name(bucket, name) if name else conditions.bucket_name(bucket)
        self.iam.require(caller, permission, f"buckets/{bucket}", f"projects/{self.project}", name=resource)

    def get(self, name: str) -> Document:
        """The bucket, or 404."""
        bucket = self.documents.get(BUCKETS, name)
        if bucket is None:
            raise ApiError(404, "notFound", "The specified bucket does not exist.")
        return bucket

    def all(self, prefix: str = "") -> list[Document]:
        """Every bucket whose name starts with ``prefix``."""
        return [bucket for _, bucket in self.documents.items(BUCKETS, prefix)]

    def create(self, body: Document) -> Document:
        """Make a bucket; 409 when the name is taken."""
        name = str(body.get("name", ""))
        if not NAME.fullmatch(name):
            raise ApiError(400, "invalid", f"Invalid bucket name: '{name}'")
        if self.documents.get(BUCKETS, name):
            message = "Your previous request to create the named bucket succeeded and you already own it."
            raise ApiError(409, "conflict", message)
        bucket = {
            **{key: value for key, value in body.items() if value is not None},
            "kind": "storage#bucket",
            "id": name,
            "selfLink": ROOT + name,
            "projectNumber": new_id()[:12],
            "metageneration": "1",
            "location": str(body.get("location") or "US").upper(),
            "timeCreated": now(),
            "updated": now(),
            "etag": "CAE=",
        }
        bucket["locationType"] = "region" if "-" in bucket["location"] else "multi-region"
        bucket.setdefault("storageClass", "STANDARD")
        bucket.setdefault("softDeletePolicy", {"retentionDurationSeconds": "604800", "effectiveTime": now()})
        uniform = bucket.setdefault("iamConfiguration", {})
        uniform.setdefault("uniformBucketLevelAccess", {"enabled": False})
        uniform.setdefault("publicAccessPrevention", "inherited")
        self._retention(bucket)
        self.documents.put(BUCKETS, name, bucket)
        return bucket

    def update(self, name: str, body: Document, query: Query, *, replace: bool) -> Document:
        """Change (or replace) the settings; a locked retention may only grow."""
        with self.documents.lock:
            before = self.get(name)
            check(query, "Metageneration", int(before["metageneration"]))
            changes = {key: value for key, value in body.items() if key not in FIXED}
            fixed = {key: value for key, value in before.items() if key in FIXED}
            after = fixed | changes if replace else merge(before, changes)
            self._keep_lock(before, after)
            self._retention(after)
            after |= {"metageneration": str(int(before["metageneration"]) + 1), "updated": now()}
            self.documents.put(BUCKETS, name, after)
        return after

    @staticmethod
    def _retention(bucket: Document) -> None:
        policy: dict[str, Any] | None = bucket.get("retentionPolicy")
        if policy is not None:
            policy["retentionPeriod"] = str(policy.get("retentionPeriod", "0"))
            policy.setdefault("effectiveTime", now())

    @staticmethod
    def _keep_lock(before: Document, after: Document) -> None:
        policy = before.get("retentionPolicy") or {}
        if not policy.get("isLocked"):
            return
        new = after.get("retentionPolicy")
        if new is None or int(new.get("retentionPeriod", 0)) < int(policy["retentionPeriod"]):
            message = f"Cannot reduce retention duration of a locked Retention Policy for bucket '{before['name']}'."
            raise ApiError(403, "forbidden", message)
        new["isLocked"] = True

    def lock(self, name: str, query: Query) -> Document:
        """Lock the retention policy for good; the metageneration must be named."""
        if "ifMetagenerationMatch" not in query:
            raise ApiError(400, "required", "Required parameter: ifMetagenerationMatch")
        policy = self.get(name).get("retentionPolicy")
        if not policy:
            raise ApiError(400, "invalid", f"Bucket '{name}' has no retention policy.")
        return self.update(name, {"retentionPolicy": policy | {"isLocked": True}}, query, replace=False)

    def delete(self, name: str, query: Query) -> None:
        """Remove an empty bucket."""
        bucket = self.get(name)
        check(query, "Metageneration", int(bucket["metageneration"]))
        if self.documents.items(OBJECTS, f"{name}\n"):
            raise ApiError(409, "conflict", "The bucket you tried to delete is not empty.")
        self.documents.delete(BUCKETS, name)

    def retention_end(self, bucket: Document, creation_time: str) -> datetime | None:
        """When the retention policy lets an object go that was created then; None without a policy."""
        policy = bucket.get("retentionPolicy")
        if not policy:
            return None
        return datetime.fromtimestamp(moment(creation_time).timestamp() + int(policy["retentionPeriod"]), UTC)
