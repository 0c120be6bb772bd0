"""Verbs in processes of their own, killed without warning at a chosen step: before or after the n-th change.

Reads lines of VERB, STEP and FOLDER, and answers each with the exit status; every one runs in a fork of this process,
which has imported everything and opened nothing. Steps count the changes of the target, or of the live file system.
"""

from __future__ import annotations

import os
import signal
import sys
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from goud_backup import create as creating
from goud_backup import prune, swap
from goud_backup import restore as restoring
from goud_backup import ship as shipping
from goud_backup.codec.encoding import Bytes
from goud_backup.plan import Wish, make
from goud_backup.repository.repository import open_repository
from goud_backup.repository.retention import Policy
from goud_backup.source import DirectorySource
from goud_backup.targets import Stat, Target, open_target
from goud_backup.upload import units

_RESERVE_BYTES = 65_536


class Countdown:
    """Kills this process at the step; odd steps before the change, even ones after it."""

    def __init__(self, step: int) -> None:
        self._left = step

    def around(self, change: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
        self._tick()
        result = change(*arguments, **named)
        self._tick()
        return result

    def _tick(self) -> None:
        self._left -= 1
        if self._left == 0:
            os.kill(os.getpid(), signal.SIGKILL)


class Fragile:
    """A target whose changes count."""

    def __init__(self, target: Target, countdown: Countdown) -> None:
        self._target = target
        self._countdown = countdown
        self.url = target.url
        self.get, self.stat, self.list = target.get, target.stat, target.list
        self.create, self.close = target.create, target.close
        self.now, self.unfinished = target.now, target.unfinished
        self.independent_clock = target.independent_clock

    def put(self, key: str, data: Bytes, **more: Any) -> Stat:
        stat: Stat = self._countdown.around(self._target.put, key, data, **more)
        return stat

    def delete(self, key: str) -> None:
        self._countdown.around(self._target.delete, key)

    def reserve(self, size: int) -> int:
        reserved: int = self._countdown.around(self._target.reserve, min(size, _RESERVE_BYTES))
        return reserved


def serve() -> None:
    for line in sys.stdin:
        verb, step, folder = line.split()
        child = os.fork()
        if child == 0:
            status = 1
            try:
                run(verb, int(step), Path(folder))
                status = 0
            except BaseException:
                traceback.print_exc()
                raise
            finally:
                os._exit(status)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


def run(verb: str, step: int, folder: Path) -> None:
    countdown = Countdown(step)
    target = open_target(f"file://{folder / 'repository'}")
    if verb == "restore":
        for module, name in ((os, "pwrite"), (os, "fsync"), (os, "mkdir"), (os, "rename"), (os, "replace")):
            change = getattr(module, name)
            setattr(module, name, lambda *a, _change=change, **k: countdown.around(_change, *a, **k))
        exchange = swap._atomically
        swap._atomically = lambda *a: countdown.around(exchange, *a)
        plain = open_repository(target)
        restoring.restore(plain, make(plain, Wish(), None), folder / "live", restoring.Tools(None))
        return
    repository = open_repository(Fragile(target, countdown))
    if verb == "create":
        # Many small objects, so that there are many moments to die at.
        vars(creating)["units"] = partial(units, part=8_192, pack=2_048)
        creating.create(repository, DirectorySource(folder / "data"), creating.Options(cache_dir=folder / "cache"))
    elif verb == "ship":
        blocks = shipping.DirectoryBlocks(folder / "data", repository.config.genesis)
        shipping.ship(repository, blocks, (), segment_bytes=3_000)
    elif verb == "prune":
        prune.prune(repository, Policy(days=0), grace=0)


if __name__ == "__main__":
    serve()
