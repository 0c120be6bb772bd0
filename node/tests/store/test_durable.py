"""What a small file is after a power cut: its content is on the disk before its name, its name before the answer."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from goud_node.store import durable


@pytest.mark.parametrize("before", [None, b"before"])
def test_content_name_and_answer_become_durable_in_this_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: bytes | None
) -> None:
    path = tmp_path / "small"
    if before is not None:
        path.write_bytes(before)
    synced: list[tuple[int, bytes | None, bytes | None]] = []
    sync = os.fsync

    def content(name: str) -> bytes | None:
        return (tmp_path / name).read_bytes() if (tmp_path / name).exists() else None

    def fsync(descriptor: int) -> None:
        sync(descriptor)
        synced.append((os.fstat(descriptor).st_ino, content("small.tmp"), content("small")))

    monkeypatch.setattr(os, "fsync", fsync)
    durable.replace(path, b"after")
    assert synced == [(path.stat().st_ino, b"after", before), (tmp_path.stat().st_ino, None, b"after")]
