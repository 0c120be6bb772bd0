"""Whether what is stored of the present history is one chain: each height has one hash, wherever it is named."""

from __future__ import annotations

import logging
from collections.abc import Container, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise

from goud_backup.codec.sealing import Opener
from goud_backup.errors import Damaged, Missing, WrongIdentity
from goud_backup.repository.history import History
from goud_backup.repository.repository import Repository
from goud_backup.repository.segments import Header, Reference, overlapping
from goud_node.errors import WrongChain

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Look:
    """What was read of a segment. `blocks`: the hashes of those of its blocks that are named elsewhere, by height; None
    where they were not read.
    """

    header: Header
    blocks: Mapping[int, str] | None = None


@dataclass(frozen=True)
class Fault:
    """`thing` does not fit `other` at `height`; each is the key of a segment, or names a backup."""

    thing: str
    other: str
    message: str
    height: int


def heights(segments: Sequence[Reference]) -> set[int]:
    """Those of the blocks that segments name: where others hold the same ones, hashes tell whether they fit."""
    return {height for segment in segments for height in (segment.first - 1, segment.last)}


def named(history: History) -> set[int]:
    """The heights of all blocks that backups and segments name."""
    return {anchor.height for anchor in history.anchors} | heights(history.segments)


def look(repository: Repository, segment: Reference, compared: Container[int], opener: Opener | None) -> Look:
    """Raises Missing, Damaged, WrongIdentity, WrongChain, naming the segment."""
    header, pairs = repository.check_segment(segment, opener)
    blocks = {block.height: block.hash.hex() for block, _ in pairs if block.height in compared}
    return Look(header, blocks if pairs else None)


def warn_of_sealed(history: History, looks: Mapping[str, Look]) -> None:
    """Tell which segments that overlap could not be compared, as their blocks are sealed and there is no key."""
    shared = overlapping(history.segments)
    ends = heights(shared)
    closed = [
        segment.key
        for segment in shared
        if segment.key in looks
        and looks[segment.key].blocks is None
        and any(segment.first <= height < segment.last for height in ends)
    ]
    if closed:
        more = f" and {len(closed) - 1} more" if len(closed) > 1 else ""
        _log.warning(
            "%s%s overlaps other segments and is sealed, so whether they hold the same blocks was not compared: "
            "verify with --identity",
            closed[0],
            more,
        )


def require_one(repository: Repository, segments: Sequence[Reference], upto: int, opener: Opener | None) -> None:
    """Raises Damaged where segments that overlap hold different blocks up to `upto`, as far as can be read here: which
    of them a restore would take, nothing but their lengths decides.
    """
    shared = overlapping(segment for segment in segments if segment.first <= upto)
    compared = heights(shared) | {upto}
    looks: dict[str, Look] = {}
    for segment in shared:
        # What cannot be read stops whoever needs it; that another one is read instead is what overlapping is for.
        with suppress(Missing, Damaged, WrongIdentity, WrongChain):
            looks[segment.key] = look(repository, segment, compared, opener)
    for fault in faults(History(repository, (), shared), looks):
        if fault.height <= upto:
            below = min(segment.first for segment in shared) - 1
            raise Damaged(
                f"{fault.thing} does not fit what else is stored. {fault.message} Without that, `goud-backup restore "
                f"--to-height {below}` restores what is below them."
            )


def faults(history: History, looks: Mapping[str, Look]) -> Iterator[Fault]:
    """Each thing that does not fit the others, and why. `looks` are by the key of the segment."""
    names = [(anchor.height, anchor.digest, anchor.origin) for anchor in history.anchors]
    present = [(segment, looks[segment.key]) for segment in history.segments if segment.key in looks]
    for segment, look in present:
        header = look.header
        ends = ((header.last, header.last_hash), (header.first - 1, header.previous_hash))
        names += [(height, digest, segment.key) for height, digest in (*ends, *(look.blocks or {}).items())]
    digests: dict[int, tuple[str, str]] = {}
    for height, digest, thing in names:
        known, origin = digests.setdefault(height, (digest, thing))
        if known != digest:
            remedy = "If the chain was restored to an earlier block, say so with `goud-backup fork`."
            message = f"It names another block {height} than {origin}: two histories are mixed. {remedy}"
            yield Fault(thing, origin, message, height)
    for (before, former_look), (segment, look) in pairwise(present):
        if before.last < segment.first and former_look.header.last_ms >= look.header.first_ms:
            message = f"It begins at a time that is not after the end of {before.key}."
            yield Fault(segment.key, before.key, message, segment.first)
