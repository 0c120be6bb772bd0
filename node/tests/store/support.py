"""Databases to damage, and a private mount namespace to run children in."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from goud_node.store import FRESH_KEY, Batch, Family, RocksStore


def filled(path: Path, *, rows: int = 2000, rounds: int = 2, tail: int = 200) -> dict[bytes, bytes]:
    """A database with `rounds` flushed files of incompressible rows and `tail` rows in the log; closed uncleanly.

    Returns every row of BLOCKS. The log survives because the copy is taken while the database is open.
    """
    source = path.with_name("source")
    store = RocksStore.create(source)
    expected: dict[bytes, bytes] = {}
    try:
        # What the first ledger does: from here on an empty database is a lost one.
        begun = Batch()
        begun.delete(Family.METADATA, FRESH_KEY)
        store.write(begun)
        for number in range(rounds):
            expected |= put_rows(store, number * rows, rows)
            store.flush()
        expected |= put_rows(store, rounds * rows, tail)
        subprocess.run(["cp", "-r", str(source), str(path)], check=True)
    finally:
        store.close()
    return expected


def put_rows(store: RocksStore, start: int, count: int) -> dict[bytes, bytes]:
    rows = {number.to_bytes(8, "big"): os.urandom(200) for number in range(start, start + count)}
    # Ten rows a batch, so that the log holds many records.
    items = list(rows.items())
    for first in range(0, len(items), 10):
        batch = Batch()
        for key, value in items[first : first + 10]:
            batch.put(Family.BLOCKS, key, value)
        store.write(batch)
    return rows


def largest(path: Path, pattern: str) -> Path:
    return max(path.glob(pattern), key=lambda file: file.stat().st_size)


def flip(file: Path, offset: int) -> None:
    data = bytearray(file.read_bytes())
    data[offset] ^= 0x40
    file.write_bytes(data)


def in_mount_namespace(script: str, program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a Python program after a shell script in a mount namespace of its own; nothing is left mounted."""
    rootless = [] if os.geteuid() == 0 else ["--map-root-user"]
    shell = f'{script}\nexec "$@"'
    result = subprocess.run(
        ["unshare", "--mount", *rootless, "sh", "-ec", shell, "sh", sys.executable, "-c", program, *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert "unshare" not in result.stderr, f"this test needs mount namespaces: {result.stderr}"
    return result
