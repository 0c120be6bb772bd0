"""Whether what is stored of the present history is one chain: each height has one hash, wherever it is named."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise

from goud_backup.repository.history import History
from goud_backup.repository.segments import Header


@dataclass(frozen=True)
class Look:
    """What was read of a segment. `blocks`: the hashes of those of its blocks that a backup names, by height."""

    header: Header
    blocks: Mapping[int, str]


@dataclass(frozen=True)
class Fault:
    """`thing` does not fit `other`; each is the key of a segment, or names a backup."""

    thing: str
    other: str
    message: str


def faults(history: History, looks: Mapping[str, Look]) -> Iterator[Fault]:
    """Each thing that does not fit the others, and why. `looks` are by the key of the segment."""
    names = [(anchor.height, anchor.digest, anchor.origin) for anchor in history.anchors]
    present = [(segment, looks[segment.key]) for segment in history.segments if segment.key in looks]
    for segment, look in present:
        header = look.header
        ends = ((header.last, header.last_hash), (header.first - 1, header.previous_hash))
        names += [(height, digest, segment.key) for height, digest in (*ends, *look.blocks.items())]
    digests: dict[int, tuple[str, str]] = {}
    for height, digest, thing in names:
        known, origin = digests.setdefault(height, (digest, thing))
        if known != digest:
            remedy = "If the chain was restored to an earlier block, say so with `goud-backup fork`."
            message = f"It names another block {height} than {origin}: two histories are mixed. {remedy}"
            yield Fault(thing, origin, message)
    for (before, former_look), (segment, look) in pairwise(present):
        if before.last < segment.first and former_look.header.last_ms >= look.header.first_ms:
            message = f"It begins at a time that is not after the end of {before.key}."
            yield Fault(segment.key, before.key, message)
