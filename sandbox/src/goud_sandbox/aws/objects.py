"""Bytes of S3 objects: files, so that they take no memory and outlive the service."""

from __future__ import annotations

import json
import re
import threading
from pathlib import Path
from typing import Any
from uuid import uuid4
from xml.sax.saxutils import unescape

from moto.iam.access_control import IAMPolicy, PermissionResult
from moto.s3 import models
from moto.s3.models import FakeBucket, FakeKey, S3Backend
from moto.s3.responses import S3Response

_folder = Path()


class Bytes:
    """One object's content with the methods moto uses of a file; opens the file only to read or write."""

    def __init__(self, *_: Any, **__: Any) -> None:
        self.path = _folder / uuid4().hex
        self._position = 0

    def seek(self, position: int) -> None:
        """Go to a byte."""
        self._position = position

    def read(self, size: int = -1) -> bytes:
        """From here on."""
        if not self.path.exists():
            return b""
        with self.path.open("rb") as file:
            file.seek(self._position)
            block = file.read(size)
        self._position += len(block)
        return block

    def truncate(self) -> None:
        """Empty it; moto truncates only at its start."""
        self.path.write_bytes(b"")

    def write(self, content: bytes) -> None:
        """The whole content."""
        self.path.write_bytes(content)
        self._position = len(content)

    def close(self) -> None:
        """Nothing is open."""


class Files:
    """In place of the module ``tempfile`` in moto's S3."""

    SpooledTemporaryFile = Bytes


def _state(key: FakeKey) -> dict[str, Any]:
    return {name: value for name, value in vars(key).items() if name != "lock"}


def _revive(key: FakeKey, state: dict[str, Any]) -> None:
    vars(key).update(state)
    key.lock = threading.Lock()


def _dispose(key: FakeKey, garbage: bool = False) -> None:
    """An object that was removed loses its file; one that only left memory keeps it."""
    if not garbage:
        content = vars(key).get("_value_buffer")
        if isinstance(content, Bytes):
            content.path.unlink(missing_ok=True)
    key.disposed = True


def _lock_configuration(backend: S3Backend, bucket_name: str) -> tuple[bool, str | None, int | None, int | None]:
    """The default retention in days or in years; moto tells the other as 0, S3 not at all."""
    enabled, mode, days, years = MOTO_LOCK_CONFIGURATION(backend, bucket_name)
    return enabled, mode, days or None, years or None


def _authorize(response: S3Response, bucket_name: str | None = None, key_name: str | None = None) -> None:
    """A batch of deletions is allowed when each of them is; moto asks for the right to the bucket as such.

    Looking whether a bucket exists takes the right to list it; there is no right of that name.
    """
    if response.data.get("Action") == "HeadBucket":
        response.data["Action"] = "ListBucket"
    if response.data.get("Action") == "DeleteObject" and key_name is None:
        for key in KEYS.findall(bytes(response.raw_body)):
            MOTO_AUTHORIZE(response, bucket_name=bucket_name, key_name=unescape(key.decode()))
    else:
        MOTO_AUTHORIZE(response, bucket_name=bucket_name, key_name=key_name)


def _permission(bucket: FakeBucket, action: str, resource: str) -> PermissionResult:
    """What the bucket's policy says, by the statements that hold; moto takes every condition for one that does.

    The endpoint stands for Amazon's, which is reached by TLS. Statements with any other condition do not count.
    """
    if not bucket.policy:
        return PermissionResult.NEUTRAL
    document = json.loads(bucket.policy)
    statements = document.get("Statement") or []
    matches = [
        statement
        for statement in ([statements] if isinstance(statements, dict) else statements)
        if _holds(statement.get("Condition"))
    ]
    if not matches:
        return PermissionResult.NEUTRAL
    return IAMPolicy(json.dumps(document | {"Statement": matches})).is_action_permitted(action, resource)


def _holds(condition: dict[str, Any] | None) -> bool:
    return not condition or str(condition).lower() == str({"bool": {"aws:securetransport": "true"}})


KEYS = re.compile(rb"<Key>([^<]*)</Key>")
MOTO_AUTHORIZE = S3Response._authenticate_and_authorize_s3_action
MOTO_LOCK_CONFIGURATION = S3Backend.get_object_lock_configuration


def install(folder: Path) -> None:
    """Let moto keep content in ``folder``."""
    global _folder  # noqa: PLW0603 -- moto's state is the process's
    folder.mkdir(parents=True, exist_ok=True)
    _folder = folder
    vars(models)["tempfile"] = Files
    for name, function in (("__getstate__", _state), ("__setstate__", _revive), ("dispose", _dispose)):
        type.__setattr__(FakeKey, name, function)
    type.__setattr__(S3Response, "_authenticate_and_authorize_s3_action", _authorize)
    type.__setattr__(FakeBucket, "get_permission", _permission)
    type.__setattr__(S3Backend, "get_object_lock_configuration", _lock_configuration)
