"""The present history as the repository states it, without a key, and whether a source of blocks continues it.

Manifests and headers of segments name hashes at some heights. Blocks are linked by hashes, so a source that has the
same block at one height has the same blocks below, and two histories part at one height only.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Protocol

from goud_backup.codec.encoding import SEALED
from goud_backup.codec.sealing import Opener
from goud_backup.errors import Damaged, Missing, OtherHistory, SourceError
from goud_backup.repository.forks import Fork, abandoned_backups
from goud_backup.repository.manifest import Manifest
from goud_backup.repository.repository import Repository
from goud_backup.repository.segments import Header, Reference, holes
from goud_node.errors import WrongChain


class Source(Protocol):
    """A chain that is compared with what is stored."""

    def reach(self) -> int:
        """The height of its last block. Raises SourceError."""
        ...

    def digest(self, height: int) -> str | None:
        """The hash of a block, in hex; None where it has none. Raises SourceError."""
        ...


@dataclass(frozen=True)
class Anchor:
    """A block that the repository names; `origin` says where."""

    height: int
    digest: str
    origin: str


Anchors = dict[str, tuple[Anchor, ...]]
"""By the key of a manifest, which is written once: what was read of it before need not be read again."""


@dataclass(frozen=True)
class Parting:
    """Both histories have block `shared`, the highest that is known to be; `differs` is the lowest known not to be."""

    shared: int
    differs: int | None


class History:
    """Some backups and segments of the present history; `all_of` has them all."""

    def __init__(
        self,
        repository: Repository,
        anchors: Iterable[Anchor],
        segments: Sequence[Reference],
        opener: Opener | None = None,
    ) -> None:
        self._repository = repository
        self._opener = opener
        self.segments = segments
        self.newest = max(segments, key=lambda one: (one.last, -one.first, one.name), default=None)
        genesis = Anchor(0, repository.config.genesis.block().hash.hex(), "the genesis document")
        self._anchors = {0: genesis} | {anchor.height: anchor for anchor in anchors}
        self._ends = {one.last: one for one in segments}
        self._begins = {one.first - 1: one for one in segments}
        self._headers: dict[str, Header] = {}

    @classmethod
    def since(cls, repository: Repository, newest: Manifest | None) -> History:
        """What every backup names, and what was shipped after the newest one."""
        start = 1 if newest is None else newest.chain.certified_height + 1
        forks = repository.forks()
        return cls(repository, recorded(repository, forks, {}), repository.segments(since=start, forks=forks))

    def header(self, segment: Reference) -> Header:
        """Raises Damaged, WrongChain."""
        if segment.key not in self._headers:
            self._headers[segment.key] = self._repository.segment_header(segment)
        return self._headers[segment.key]

    def anchor(self, height: int) -> Anchor | None:
        """None where nothing names the block of this height."""
        if height in self._anchors:
            return self._anchors[height]
        if (segment := self._ends.get(height)) is not None:
            return Anchor(height, self.header(segment).last_hash, segment.key)
        if (segment := self._begins.get(height)) is not None:
            return Anchor(height, self.header(segment).previous_hash, segment.key)
        return None

    @property
    def anchors(self) -> tuple[Anchor, ...]:
        """The blocks that manifests name, and the first of all."""
        return tuple(self._anchors.values())

    @property
    def top(self) -> int:
        """The greatest height that anything stored names."""
        return max(*self._anchors, *self._ends, 0)

    def require(self, source: Source) -> None:
        """Raises OtherHistory unless the source continues what is stored or is a part of it; SourceError when nothing
        that can be read here says so.
        """
        reach = source.reach()
        # The highest ones that the source has say it of those below: blocks are linked by hashes.
        for height in {_highest(self._anchors, reach), _highest(self._ends, reach)} - {0}:
            anchor = self.anchor(height)
            if anchor is not None and source.digest(height) != anchor.digest:
                raise self._refused(source, anchor)
        if reach < self.top:
            self._require_part(source, reach)

    def _require_part(self, source: Source, reach: int) -> None:
        whole = all_of(self._repository, self._opener)
        parting = whole.parting(source)
        if parting.differs is not None:
            raise self._refused(source, whole.anchor(parting.differs))
        if parting.shared < reach:
            raise SourceError(
                f"The source ends at block {reach} and block {self.top} is stored already; what is stored is known "
                f"to be of the same history up to block {parting.shared} only. Let the node catch up and try again. If "
                "it was restored to an earlier block, say so with `goud-backup fork`."
            )

    def parting(self, source: Source) -> Parting:
        """Where the source's history and the one stored part, as closely as can be read here."""
        reach = source.reach()
        heights = sorted(height for height in {*self._anchors, *self._ends, *self._begins} if 0 < height <= reach)

        def differs(height: int) -> bool:
            anchor = self.anchor(height)
            return anchor is not None and source.digest(height) != anchor.digest

        position = bisect_left(heights, True, key=differs)
        found = Parting([0, *heights][position], heights[position] if position < len(heights) else None)
        for segment in self.segments:
            if segment.first <= found.shared + 1 <= segment.last and found.shared < reach:
                found = self._within(segment, source, reach, found)
        return found

    def _within(self, segment: Reference, source: Source, reach: int, found: Parting) -> Parting:
        if self._opener is None and self.header(segment).encoding.startswith(SEALED):
            return found
        _, pairs = self._repository.read_segment(segment, self._opener)
        blocks = [block for block, _ in pairs if found.shared < block.height <= reach]
        position = bisect_left(blocks, True, key=lambda block: source.digest(block.height) != block.hash.hex())
        return Parting(
            blocks[position - 1].height if position else found.shared,
            blocks[position].height if position < len(blocks) else found.differs,
        )

    def _refused(self, source: Source, anchor: Anchor | None) -> OtherHistory:
        shared = all_of(self._repository, self._opener).parting(source).shared
        digest = source.digest(shared) if shared else self._anchors[0].digest
        where = "" if anchor is None else f"Block {anchor.height} of the source is not the one in {anchor.origin}. "
        return OtherHistory(
            f"{where}The source does not continue what is stored, so nothing was stored. The last block that both are "
            f"known to have is {shared}. If the chain was restored to an earlier block and went on in another way, say "
            f"so: `goud-backup fork --height {shared} --hash {digest}` keeps what was stored. If it was "
            "not, compare the nodes."
        )


def all_of(repository: Repository, opener: Opener | None = None) -> History:
    """Everything of the present history whose manifest can be read."""
    forks = repository.forks()
    return History(repository, recorded(repository, forks, {}), repository.segments(forks=forks), opener)


def recorded(repository: Repository, forks: Sequence[Fork], known: Anchors) -> list[Anchor]:
    """What the backups of the present history name, oldest first: a later one may be of a node that lags.

    Only those that are not in `known` are read, and added there. Verification tells of one that cannot be read.
    """
    past = abandoned_backups(forks)
    present = [key for _, backup_id, key in repository.manifest_keys() if backup_id not in past]
    for key in present:
        if key not in known:
            with suppress(Missing, Damaged, WrongChain):
                known[key] = anchors_of(repository.read_manifest(key))
    for gone in known.keys() - set(present):
        del known[gone]
    return [anchor for key in present for anchor in known.get(key, ())]


def _highest(heights: Iterable[int], reach: int) -> int:
    return max((height for height in heights if height <= reach), default=0)


def require_no_hole(repository: Repository, start: int, segments: Sequence[Reference]) -> None:
    """Raises Damaged naming the first range of blocks from `start` on that is missing below the highest segment."""
    missing = holes(segments, start)
    if missing:
        first, last = missing[0]
        raise Damaged(
            f"Blocks {first} to {last} are missing from {repository.url}, although what was shipped reaches block "
            f"{max(one.last for one in segments)}: segments are gone. Run `goud-backup ship` from a node that has "
            f"these blocks; without one, `goud-backup restore --to-height {first - 1}` restores what is before them."
        )


def anchors_of(manifest: Manifest) -> tuple[Anchor, ...]:
    chain, origin = manifest.chain, f"backup {manifest.id}"
    return Anchor(chain.certified_height, chain.certified_hash, origin), Anchor(chain.height, chain.tip_hash, origin)
