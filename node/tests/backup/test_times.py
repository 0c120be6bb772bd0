"""A restore to a time: the true block, or a word that times are wrong."""

from __future__ import annotations

import logging
import time
from pathlib import Path

import pytest

from goud_backup import times
from goud_backup.errors import OutOfReach
from goud_backup.plan import Wish, make
from goud_backup.repository import layout, segments
from goud_backup.repository.repository import Repository

from .support import BLOCK_MS, GENESIS, backup, grow, restore, ship


def at(height: int) -> int:
    """Half a second after that block."""
    return GENESIS.created_ms + height * BLOCK_MS + BLOCK_MS // 2


@pytest.mark.parametrize("backups", [(), (12,), (12, 24)])
def test_segments_that_overlap_or_leave_a_gap(
    repository: Repository, cache: Path, tmp_path: Path, backups: tuple[int, ...]
) -> None:
    """Segments 1 to 10, 11 to 20 (gone again) and 21 to 28, 5 to 10, and perhaps backups in and above the gap."""
    data = tmp_path / "chain"
    for more in (10, 10, 8):
        grow(data, more)
        ship(repository, data, from_genesis=True)
    _overlap(repository, 5)
    for height in backups:
        source = tmp_path / f"at-{height}"
        restore(repository, source, Wish(to_height=height))
        backup(repository, source, cache / str(height))
    gone = next(one for one in repository.segments() if one.first == 11)
    repository.target.delete(gone.key)
    for height in range(1, 28):
        unknown = height >= 10 and not any(height < one or one > 20 for one in backups)
        if unknown:
            with pytest.raises(OutOfReach, match=r"are not in|not be restored"):
                make(repository, Wish(to_ms=at(height)), None)
            continue
        plan = make(repository, Wish(to_ms=at(height)), None)
        if plan.height is not None:
            assert plan.height == height
            continue
        done = restore(repository, tmp_path / f"out-{height}", Wish(to_ms=at(height)))
        assert done.height == height


def _overlap(repository: Repository, first: int) -> None:
    """The blocks from `first` to the end of the first segment, as another shipper may have stored them."""
    _, pairs = repository.read_segment(repository.segments()[0], None)
    repository.put_once(*segments.build(pairs[first - 1 :], None))


@pytest.mark.parametrize(
    ("known", "steps", "said"),
    [
        ([1000, 2000, 3000, 4000, 5000, 6000], None, None),
        ([1000, 2000, 3000, 10**9, 10**9 + 1, 10**9 + 2], OutOfReach, "wrong from block 4 on"),
        ([1000, 2000, 3000, 60_000, 60_001, 60_002], None, "one millisecond apart"),
        ([1000, 1001, 1002, 60_000, 61_000, 62_000], None, "one millisecond apart"),
        ([1000, 2000, 3000], None, None),
    ],
)
def test_times_that_were_only_counted_on(
    known: list[int], steps: type[Exception] | None, said: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    stamps = dict(enumerate(known, 1))
    with caplog.at_level(logging.WARNING):
        if steps is not None:
            with pytest.raises(steps, match=said):
                times.require_trust(stamps, 3, 100_000, 3500)
            return
        times.require_trust(stamps, 3, 100_000, 3500)
    assert (said in caplog.text) if said else not caplog.text


def test_many_small_segments_are_read_ahead(
    repository: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More than one is under way while another is used; how fast that is, scripts/bench_segments.py says."""
    data = tmp_path / "chain"
    grow(data, 40)
    ship(repository, data, segment_bytes=1)
    most = under_way = 0
    read = repository.target.get

    def slow(key: str, *part: int) -> bytes | bytearray:
        nonlocal most, under_way
        under_way += key.startswith(layout.SEGMENTS)
        most = max(most, under_way)
        time.sleep(0.02)
        under_way -= key.startswith(layout.SEGMENTS)
        return read(key, *part)

    monkeypatch.setattr(repository.target, "get", slow)
    assert restore(repository, tmp_path / "again").height == 40
    assert most > 8
