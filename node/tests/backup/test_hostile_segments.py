"""Segments that were made to hurt are refused by name, in little memory: a few KB may unpack to anything."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from goud_node.chain import encoding
from goud_node.chain.certificate import MOST_BYTES, Certificate
from goud_node.errors import InvalidBlock

from .hostile_segments import DIRECT, PAYLOADS, repeated

MOST_MB = 200
"""Two segments as they are unpacked, and what the program needs itself."""


@pytest.fixture(scope="module")
def ends() -> dict[str, dict[str, object]]:
    """What came of each, in a process of its own."""
    command = [sys.executable, "-m", "backup.hostile_segments"]
    folder = Path(__file__).parents[1]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600, cwd=folder)
    assert done.returncode == 0, done.stderr
    return {line["name"]: line for line in map(json.loads, done.stdout.splitlines())}


@pytest.mark.parametrize("name", [*PAYLOADS, *DIRECT])
def test_each_is_refused(ends: dict[str, dict[str, object]], name: str) -> None:
    end = ends[name]
    assert str(end["end"]).startswith(("damaged: segments/", "invalid-block: ")), end
    assert int(str(end["peak_mb"])) < MOST_MB, end


def test_what_is_decoded_holds_few_values_and_lies_flat() -> None:
    most = encoding.MOST_VALUES
    assert len(encoding.decode(encoding.encode([0] * (most - 1)))) == most - 1
    for raw in (repeated(b"\x00", most), repeated(b"\x40", 2 * most), b"\x81" * 20 + b"\x80"):
        with pytest.raises(encoding.NotCanonical):
            encoding.decode(raw)
    long = encoding.encode([bytes(100_000), "x" * 100_000, {"a": 1 << 63}, -70_000])
    assert encoding.encode(encoding.decode(long)) == long


def test_a_certificate_of_the_most_validators_is_read() -> None:
    signatures = {f"{number:063d}": bytes(64) for number in range(1000)}
    whole = Certificate(1, bytes(32), signatures)
    assert Certificate.decode(whole.encode()) == whole
    with pytest.raises(InvalidBlock, match="the limit is"):
        Certificate.decode(bytes(MOST_BYTES + 1))
