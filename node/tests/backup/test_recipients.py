"""Whoever a backup is made for can restore it alone, however the recipients have changed before."""

from __future__ import annotations

import itertools
import shutil
from pathlib import Path

import pyrage
import pytest

from goud_backup import restore as restoring
from goud_backup.codec.sealing import Opener
from goud_backup.errors import WrongIdentity

from .support import backup, grow, make_repository, restore

A, B = (pyrage.x25519.Identity.generate() for _ in range(2))
PUBLIC = {A: str(A.to_public()), B: str(B.to_public())}
GROUPS = ([A], [B], [A, B])


@pytest.mark.parametrize(("before", "after"), list(itertools.permutations(GROUPS, 2)))
def test_each_recipient_can_restore_alone(tmp_path: Path, before: list[object], after: list[object]) -> None:
    data, cache = tmp_path / "data", tmp_path / "cache"
    repository = make_repository(tmp_path / "r", [PUBLIC[one] for one in before])
    grow(data, 20, size=3000)
    backup(repository, data, cache, [PUBLIC[one] for one in before])
    grow(data, 5)
    backup(repository, data, cache, [PUBLIC[one] for one in after])
    for identity in (A, B):
        tools = restoring.Tools(Opener([identity]))
        if identity in after:
            assert restore(repository, tmp_path / "out", None, tools).height == 25
            shutil.rmtree(tmp_path / "out")
        else:
            with pytest.raises(WrongIdentity):
                restore(repository, tmp_path / "out", None, tools)


def test_the_same_recipients_in_another_order_store_nothing_anew(tmp_path: Path) -> None:
    data, cache, recipients = tmp_path / "data", tmp_path / "cache", list(PUBLIC.values())
    repository = make_repository(tmp_path / "r", recipients)
    grow(data, 20)
    backup(repository, data, cache, recipients)
    assert backup(repository, data, cache, recipients[::-1]).totals["new_objects"] == 0
