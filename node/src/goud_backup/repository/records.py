"""Documents beside the manifests: each read bounded and strict, and refused by its name."""

from __future__ import annotations

import logging
import re
from typing import Final, Literal, NotRequired, TypedDict, TypeVar

from goud_backup.errors import Damaged, Missing
from goud_backup.repository import layout
from goud_backup.targets import Target, whole
from goud_node.documents import MOST_BYTES, MOST_LISTING, Digest, Document, Line, Malformed, read

__all__ = ["MOST_LISTING", "Check", "Latest", "fetch", "parse", "read_checks"]

_log = logging.getLogger(__name__)

T = TypeVar("T")


class Latest(Document):
    """latest.json: for people and other tools."""

    id: Line
    sha256: Line


class Check(TypedDict):
    """The last verification of a backup: how deep it looked, what it found, and when.

    `damaged` names objects whose bytes were wrong, which a list of the store cannot show: any backup may need them.
    """

    ok: bool
    level: Literal["listing", "data", "deep"]
    at: Line
    damaged: NotRequired[list[Digest]]


_FORM: Final = re.compile(rb'"format":\s*"(goud-backup/[0-9]{1,9})"')
_REMEDY: Final = "Run `goud-backup verify`: it writes it anew."


def fetch(target: Target, key: str, shape: type[T], remedy: str, most: int = MOST_BYTES) -> T:
    """The document at a key. Raises Missing, and Damaged that says what is wrong and what to do."""
    return parse(whole(target, key, most), f"{key} in {target.url}", shape, remedy, most)


def parse(raw: bytes | bytearray, name: str, shape: type[T], remedy: str, most: int = MOST_BYTES) -> T:
    """Raises Damaged, LaterFormat."""
    try:
        return read(raw, shape, most)
    except Malformed as error:
        require_known_format(raw, name)
        raise Damaged(f"{name} is damaged: {error}. {remedy}") from error


def require_known_format(raw: bytes | bytearray, name: str) -> None:
    """Of a document that is none of ours. Raises LaterFormat where it says that a later release wrote it."""
    # By its bytes: what could not be read is not read again, in as much memory.
    for form in _FORM.findall(raw):
        layout.require_known(form.decode(), name)


def read_checks(target: Target, unreadable: dict[str, str] | None) -> dict[str, Check]:
    """The last verification of each backup, by id.

    Raises Damaged for one that cannot be read, as it may have said that its backup is damaged; with `unreadable` it is
    noted there, by key. One of a backup that is gone is passed over: nobody would write it anew.
    """
    records: dict[str, Check] = {}
    for key in [stat.key for stat in target.list(layout.CHECKS)]:
        backup_id = layout.checked(key)
        if backup_id is None:
            continue
        try:
            records[backup_id] = fetch(target, key, Check, _REMEDY, MOST_LISTING)
        except Missing:
            continue  # removed since it was listed
        except Damaged as error:
            if not _has_backup(target, backup_id):
                _log.warning("%s cannot be read; its backup is gone, so `goud-backup prune` removes it", key)
                continue
            if unreadable is None:
                raise
            unreadable[key] = str(error)
    return records


def _has_backup(target: Target, backup_id: str) -> bool:
    names = (layout.manifest_parts(stat.key) for stat in target.list(layout.MANIFESTS))
    return any(parts is not None and parts[1] == backup_id for parts in names)
