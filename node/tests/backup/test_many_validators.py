"""Certificates of many validators are larger than their blocks: what is shipped must be read again all the same."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from goud_backup import ship as shipping
from goud_backup.repository import layout
from goud_backup.repository.repository import initialize
from goud_backup.repository.segments import Pair
from goud_backup.targets import open_target
from goud_node.chain.block import build
from goud_node.chain.certificate import Certificate
from goud_node.chain.genesis import Genesis, Validator
from goud_node.chain.keys import SigningKey

_KEYS = {
    f"validator-{number:03d}-{'x' * 40}": SigningKey.from_seed(number.to_bytes(32, "big")) for number in range(100)
}
_GENESIS = Genesis("many", 1_700_000_000_000, tuple(Validator(name, key.public) for name, key in _KEYS.items()))


class Chain:
    """Empty blocks, each certified by all: 11 KB of signatures, which are not the point here and are no real ones."""

    def __init__(self, height: int) -> None:
        name, key = next(iter(_KEYS.items()))
        tip = _GENESIS.block().header
        self.pairs: list[Pair] = []
        for _ in range(height):
            block = build(tip, [], proposer=name, key=key, timestamp_ms=tip.timestamp_ms + 1000)
            tip = block.header
            self.pairs.append((block, Certificate(block.height, block.hash, dict.fromkeys(_KEYS, bytes(64)))))

    def from_height(self, start: int) -> Iterator[Pair]:
        return iter(self.pairs[start - 1 :])

    def reach(self) -> int:
        return len(self.pairs)

    def digest(self, height: int) -> str:
        return self.pairs[height - 1][0].hash.hex()


def test_a_segment_is_never_larger_than_what_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("goud_backup.repository.segments.check_certificate", lambda *_: None)
    repository = initialize(open_target(f"file://{tmp_path}/r"), _GENESIS, encrypted=False)
    chain = Chain(1700)
    assert shipping.ship(repository, chain, ()).last == 1700
    read = [pair for segment in repository.segments() for pair in repository.read_segment(segment, None)[1]]
    assert [block.height for block, _ in read] == list(range(1, 1701))
    assert all(repository.segment_header(segment).size <= layout.MOST_OBJECT for segment in repository.segments())
