"""Which block was the last at a time: in as few reads as possible, and never an earlier one without a word.

Each block's time is after that of the block before it, so one clock that was ahead moves every later block to the
millisecond after it: between such blocks, times say nothing about when they were made.
"""

from __future__ import annotations

import logging
import time
from bisect import bisect_right
from collections.abc import Sequence
from datetime import UTC, datetime
from itertools import pairwise
from typing import Final

from goud_backup.codec.sealing import Opener
from goud_backup.errors import NotVerified, OutOfReach, WrongIdentity
from goud_backup.repository.manifest import Manifest
from goud_backup.repository.repository import Repository
from goud_backup.repository.segments import Header, Reference, cover, runs

_log = logging.getLogger(__name__)

AROUND: Final = 3
"""So many blocks before and after the answer say whether times can be trusted there."""
_AHEAD_MS: Final = 60_000
"""Clocks that differ by less are usual."""


def last_at(
    repository: Repository,
    manifests: Sequence[Manifest],
    references: Sequence[Reference],
    to_ms: int,
    opener: Opener | None,
) -> int | Manifest:
    """Its height, 0 when every block is later; or the backup in whose blocks it has to be looked up.

    Raises OutOfReach where blocks are missing or times are wrong, NotVerified when times go backwards.
    """
    return _Search(repository, manifests, references, opener).at(to_ms)


class _Search:
    def __init__(
        self,
        repository: Repository,
        manifests: Sequence[Manifest],
        references: Sequence[Reference],
        opener: Opener | None,
    ) -> None:
        self._repository = repository
        self._manifests = manifests
        self._opener = opener
        # Of segments that overlap, as few as hold every block; heights, and so times, ascend.
        self._pieces = [piece for first, _ in runs(references) for piece in cover(references, first)]
        self._headers: dict[str, Header] = {}

    def at(self, to_ms: int) -> int | Manifest:
        position = bisect_right(self._pieces, to_ms, key=lambda piece: self._header(piece).last_ms)
        before = self._pieces[position - 1] if position else None
        after = self._pieces[position] if position < len(self._pieces) else None
        if after is not None and self._header(after).first_ms <= to_ms:
            times = self._times(after)
            height = max(height for height, ms in times.items() if ms <= to_ms)
            require_trust(times, height, int(time.time() * 1000), to_ms)
            return height
        low, high = 0 if before is None else before.last, None if after is None else after.first
        if high is not None and low >= high:
            raise NotVerified(
                f"Block {high} is in two segments with two times: see `goud-backup verify` of {self._repository.url}."
            )
        return self._last_between(low, high, to_ms, [piece for piece in (before, after) if piece is not None])

    def _last_between(self, low: int, high: int | None, to_ms: int, pieces: Sequence[Reference]) -> int | Manifest:
        """Block `low` is not later, block `high` is (None: nothing that was shipped is later)."""
        low = max([low, *(manifest.chain.height for manifest in self._manifests if manifest.chain.tip_ms <= to_ms)])
        if high is not None and low >= high - 1:
            times = {height: ms for piece in pieces for height, ms in self._readable_times(piece).items()}
            require_trust(times, low, int(time.time() * 1000), to_ms)
            return low
        later = [manifest for manifest in self._manifests if manifest.chain.tip_ms > to_ms]
        if later:
            return min(later, key=lambda manifest: manifest.chain.height)
        if high is None:
            return low
        raise OutOfReach(
            f"Blocks {low + 1} to {high - 1} are not in {self._repository.url}, so which block was the last at "
            f"{text(to_ms)} is not known. Give --to-height: {low} is surely not later, {high} is."
        )

    def _header(self, segment: Reference) -> Header:
        if segment.key not in self._headers:
            self._headers[segment.key] = self._repository.segment_header(segment)
        return self._headers[segment.key]

    def _times(self, segment: Reference) -> dict[int, int]:
        _, pairs = self._repository.read_segment(segment, self._opener)
        return {block.height: block.header.timestamp_ms for block, _ in pairs}

    def _readable_times(self, segment: Reference) -> dict[int, int]:
        """What a header says is enough to find the block, and to see that it is later than today."""
        header = self._header(segment)
        try:
            return self._times(segment)
        except WrongIdentity:
            return {header.first: header.first_ms, header.last: header.last_ms}


def require_trust(times: dict[int, int], height: int, known_ms: int, to_ms: int) -> None:
    """Whether `height` is the last block at `to_ms` by clocks, too; `times` are those of blocks around it.

    Raises OutOfReach when the next block's time had not come at `known_ms`, when the block existed already. Warns where
    times were only counted on.
    """
    following = times.get(height + 1)
    if following is not None and following > known_ms + _AHEAD_MS:
        raise OutOfReach(
            f"The times in this chain are wrong from block {height + 1} on: it says {text(following)}, a time that had "
            f"not come when it was stored. Block {height} is the last that says a time up to {text(to_ms)}, and later "
            "blocks may have been made before it. Give --to-height (`GET /api/blocks` shows what is in a block)."
        )
    series = [times[neighbour] for neighbour in range(height - AROUND, height + AROUND + 1) if neighbour in times]
    steps = [later - earlier for earlier, later in pairwise(series)]
    if any(step == next_step == 1 for step, next_step in pairwise(steps)):
        _log.warning(
            "block %d is the last that says a time up to %s, but blocks around it are one millisecond apart: a clock "
            "was wrong there, so their times cannot be trusted; if in doubt give --to-height",
            height,
            text(to_ms),
        )


def text(milliseconds: int) -> str:
    """A time as people read it; one that no calendar has, as a number."""
    try:
        return datetime.fromtimestamp(milliseconds / 1000, UTC).isoformat(timespec="milliseconds")
    except (ValueError, OverflowError, OSError):
        return f"{milliseconds} ms after 1970"
