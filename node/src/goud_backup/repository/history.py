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
from goud_backup.repository.segments import Header, Reference, check, holes, overlapping
from goud_node.documents import Digest, Line, Number
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

    height: Number
    digest: Digest
    origin: Line


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
        self.newest = max(segments, key=lambda segment: (segment.last, -segment.first, segment.name), default=None)
        genesis = Anchor(0, repository.config.genesis.block().hash.hex(), "the genesis document")
        self.anchors = (genesis, *anchors)
        """The first block of all, and those that manifests name."""
        self._anchors = {anchor.height: anchor for anchor in self.anchors}
        self._ends = {segment.last: segment for segment in segments}
        self._begins = {segment.first - 1: segment for segment in segments}
        self._headers: dict[str, Header] = {}

    @classmethod
    def since(cls, repository: Repository, newest: Manifest | None, known: Anchors) -> History:
        """What every backup names, and what was shipped after the newest one; `known` as in `recorded`."""
        forks = repository.forks()
        segments = repository.segments(since=_after(newest), forks=forks)
        return cls(repository, recorded(repository, forks, known), segments)

    def require_shipped_since(self, source: Source, newest: Manifest | None) -> None:
        """Look again, after a backup was stored: whoever ships has looked at what there was before it.

        Raises OtherHistory where segments that are new are not of the source's history, SourceError where nothing that
        can be read here says whether they are.
        """
        keys = {segment.key for segment in self.segments}
        shipped = [segment for segment in self._repository.segments(since=_after(newest)) if segment.key not in keys]
        if not shipped:
            return
        reach = source.reach()
        whole = History(self._repository, self.anchors, [*self.segments, *shipped], self._opener)
        # What begins above the source's tip follows what ends below it: who shipped it has seen to that.
        neighbours = [segment for segment in shipped if segment.first <= reach + 1]
        History(self._repository, (), neighbours, self._opener).require_known(source, reach, whole)

    def require_known(self, source: Source, height: int, whole: History) -> None:
        """Raises OtherHistory, by what is known as a `whole`, unless the source has the very blocks that are named or
        held here, up to `height`; SourceError where that cannot be told.
        """
        if self.top == 0:
            return
        self._require_each(source, height, whole)
        parting = self.parting(source)
        if parting.differs is not None:
            raise whole.refused(source, self.anchor(parting.differs), parting.differs)
        if parting.shared < min(height, self.top):
            raise SourceError(
                f"Blocks up to {self.top} were stored by another run meanwhile, and nothing that can be read here says "
                f"whether they are of this source's history above block {parting.shared}. Let the node catch up and "
                "try again. If it was restored to an earlier block, say so with `goud-backup fork`."
            )

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

    def require_whole(self, origin: str) -> None:
        """Raises Damaged where that is a segment here which is not what was written: rot in its header must not pass
        for another history, whose way out would abandon good backups. Needs no key.
        """
        for segment in self.segments:
            if segment.key == origin:
                check(self._repository.raw_segment(segment), segment)

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
                raise all_of(self._repository, self._opener).refused(source, anchor, height)
        if reach < self.top:
            self._require_part(source, reach)
        else:
            self._require_each(source, reach, self)

    def _require_part(self, source: Source, reach: int) -> None:
        whole = all_of(self._repository, self._opener)
        parting = whole.parting(source)
        # Segments by themselves, too: a run that was killed may have left some beside a backup of another history.
        for split in (parting, History(self._repository, (), whole.segments, self._opener).parting(source)):
            if split.differs is not None:
                raise whole.refused(source, whole.anchor(split.differs), split.differs)
        whole._require_each(source, reach, whole)
        if parting.shared < reach:
            raise SourceError(
                f"The source ends at block {reach} and block {self.top} is stored already; what is stored is known "
                f"to be of the same history up to block {parting.shared} only. Let the node catch up and try again. If "
                "it was restored to an earlier block, say so with `goud-backup fork`."
            )

    def _require_each(self, source: Source, reach: int, whole: History) -> None:
        """Raises OtherHistory where a segment that overlaps another, or goes on above `reach`, is not of the source's
        history: asked by height, one hides the other. SourceError where it is sealed, so that it cannot tell.
        """
        beyond = [segment for segment in self.segments if segment.first - 1 <= reach < segment.last]
        for segment in {segment.key: segment for segment in [*overlapping(self.segments), *beyond]}.values():
            height = min(segment.last, reach)
            if height < segment.first - 1:
                continue
            digest = self._digest(segment, height)
            if digest is None:
                raise SourceError(
                    f"The source ends at block {reach}, inside {segment.key}, which is sealed: nothing that can be "
                    "read here says whether both have the same block there. Let the node catch up and try again. If "
                    "it was restored to an earlier block, say so with `goud-backup fork`."
                )
            if source.digest(height) != digest:
                raise whole.refused(source, Anchor(height, digest, segment.key), height)

    def _digest(self, segment: Reference, height: int) -> Digest | None:
        """The hash of a block by this very segment; None where that is sealed and there is no key."""
        header = self.header(segment)
        ends = {header.last: header.last_hash, header.first - 1: header.previous_hash}
        if height in ends:
            return ends[height]
        if self._is_closed(header):
            return None
        _, pairs = self._repository.read_segment(segment, self._opener)
        return pairs[height - header.first][0].hash.hex()

    def _is_closed(self, header: Header) -> bool:
        return self._opener is None and header.encoding.startswith(SEALED)

    def parting(self, source: Source, below: int | None = None) -> Parting:
        """Where the source's history and the one stored part, as closely as can be read here; not above `below`.

        Where two histories are mixed, what lies above says nothing of what lies below.
        """
        reach = source.reach() if below is None else min(source.reach(), below)
        heights = sorted(height for height in {*self._anchors, *self._ends, *self._begins} if 0 < height <= reach)

        def differs(height: int) -> bool:
            anchor = self.anchor(height)
            if anchor is None or source.digest(height) == anchor.digest:
                return False
            self.require_whole(anchor.origin)
            return True

        position = bisect_left(heights, True, key=differs)
        parting = Parting([0, *heights][position], heights[position] if position < len(heights) else None)
        if parting.shared == reach:
            return parting
        around = [segment for segment in self.segments if segment.first <= parting.shared + 1 <= segment.last]
        within = (self._within(segment, source, reach, parting) for segment in around)
        # Of segments that overlap, the one that parts lowest says where.
        return min((part for part in within if part is not None), key=lambda part: part.shared, default=parting)

    def _within(self, segment: Reference, source: Source, reach: int, parting: Parting) -> Parting | None:
        """None where it is sealed and there is no key."""
        if self._is_closed(self.header(segment)):
            return None
        _, pairs = self._repository.read_segment(segment, self._opener)
        blocks = [block for block, _ in pairs if parting.shared < block.height <= reach]
        position = bisect_left(blocks, True, key=lambda block: source.digest(block.height) != block.hash.hex())
        return Parting(
            blocks[position - 1].height if position else parting.shared,
            blocks[position].height if position < len(blocks) else parting.differs,
        )

    def refused(self, source: Source, anchor: Anchor | None, below: int | None = None) -> OtherHistory:
        """The refusal, with the way out. `below`: a height at which the two are known to differ.

        Raises Damaged where a segment that says so is not whole.
        """
        if anchor is not None:
            self.require_whole(anchor.origin)
        shared = self.parting(source, None if below is None else below - 1).shared
        digest = source.digest(shared) if shared else self._anchors[0].digest
        where = "" if anchor is None else f"Block {anchor.height} of the source is not the one in {anchor.origin}. "
        return OtherHistory(
            f"{where}The source does not continue what is stored, so nothing was stored. The last block that both are "
            f"known to have is {shared}. If the chain was restored to an earlier block and went on in another way, say "
            f"so: `goud-backup fork --height {shared} --hash {digest}` keeps what was stored. If it was "
            "not, compare the nodes."
        )


def _after(newest: Manifest | None) -> int:
    """The first block that is not in the newest backup together with its certificate."""
    return 1 if newest is None else newest.chain.certified_height + 1


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
    for key in known.keys() - set(present):
        del known[key]
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
            f"{max(segment.last for segment in segments)}: segments are gone. Run `goud-backup ship` from a node that "
            f"has these blocks; without one, `goud-backup restore --to-height {first - 1}` restores what is before "
            "them."
        )


def anchors_of(manifest: Manifest) -> tuple[Anchor, ...]:
    chain, origin = manifest.chain, f"backup {manifest.id}"
    return Anchor(chain.certified_height, chain.certified_hash, origin), Anchor(chain.height, chain.tip_hash, origin)
