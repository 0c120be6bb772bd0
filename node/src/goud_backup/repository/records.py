"""Documents beside the manifests: each read bounded and strict, and refused by its name."""

from __future__ import annotations

from typing import Final, Literal, TypeVar

from pydantic import TypeAdapter
from typing_extensions import TypedDict

from goud_backup.errors import Damaged
from goud_backup.targets import Target, whole
from goud_node.documents import MOST_BYTES, MOST_LISTING, Document, Line, Malformed, read

__all__ = ["CHECK", "LATEST", "MOST_LISTING", "Check", "Latest", "fetch", "parse"]

T = TypeVar("T")


class Latest(Document):
    """latest.json: for people and other tools."""

    id: Line
    sha256: Line


class Check(TypedDict):
    """The last verification of a backup: how deep it looked, what it found, and when."""

    ok: bool
    level: Literal["listing", "data", "deep"]
    at: Line


LATEST: Final = TypeAdapter(Latest)
CHECK: Final = TypeAdapter(Check)


def fetch(target: Target, key: str, shape: TypeAdapter[T], remedy: str, most: int = MOST_BYTES) -> T:
    """The document at a key. Raises Missing, and Damaged that says what is wrong and what to do."""
    return parse(whole(target, key, most), f"{key} in {target.url}", shape, remedy, most)


def parse(raw: bytes | bytearray, name: str, shape: TypeAdapter[T], remedy: str, most: int = MOST_BYTES) -> T:
    """Raises Damaged."""
    try:
        return read(raw, shape, most)
    except Malformed as error:
        raise Damaged(f"{name} is damaged: {error}. {remedy}") from error
