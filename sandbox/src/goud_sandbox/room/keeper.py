"""The service's side of the keeper: typed calls into the container that has root's hands."""

from __future__ import annotations

import json
import threading
from dataclasses import dataclass
from typing import Any

from goud_sandbox.errors import KeeperError
from goud_sandbox.room.engine import Engine

PROGRAM = ["python3", "/usr/local/lib/goud-cloud/keeper.py"]
ATTEMPTS = 3


@dataclass(frozen=True)
class Image:
    """A disk as the keeper sees it. ``minor`` is its loop device when it is in a machine; sizes are bytes."""

    size: int
    minor: int | None
    capacity: int | None


class Keeper:
    """Disks on loop devices and the firewall. Every method returns when it has taken effect, or raises KeeperError."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._lock = threading.Lock()

    def _call(self, command: str, *arguments: str | int, feed: str = "") -> Any:
        line = [*PROGRAM, command, *(str(argument) for argument in arguments)]
        if feed:
            # The SDK's exec has no standard input that ends; the shell gives it one.
            line = ["sh", "-c", 'printf %s "$0" | "$@"', feed, *line]
        with self._lock:
            for _ in range(ATTEMPTS):
                code, out, err = self._engine.execute(self._engine.keeper(), line)
                if code != 0:
                    raise KeeperError(f"the keeper refused: {err.strip() or f'exit {code}'}")
                if out.strip():  # on a busy engine an answer gets lost now and then; every command may be repeated
                    return json.loads(out)
        raise KeeperError(f"the keeper did not answer to {command} in {ATTEMPTS} attempts: see `docker logs`")

    def disks(self) -> dict[str, Image]:
        """Disks and snapshots by id."""
        return {
            name: Image(int(document["bytes"]), document["minor"], document["capacity"])
            for name, document in self._call("listing").items()
        }

    def create(self, disk: str, size: int) -> None:
        """A blank sparse disk."""
        self._call("create", disk, size)

    def copy(self, source: str, target: str, size: int = 0) -> None:
        """A sparse copy, enlarged to ``size`` when that is more."""
        self._call("copy", source, target, size)

    def delete(self, disk: str) -> None:
        """Remove the file; the disk must be out of its machine."""
        self._call("delete", disk)

    def attach(self, disk: str) -> int:
        """Put the disk on a loop device; its minor number. Repeats are harmless."""
        return int(self._call("attach", disk)["minor"])

    def detach(self, disk: str) -> None:
        """Take the disk off its loop device, mounted or not: whoever still uses it gets I/O errors."""
        self._call("detach", disk)

    def grow(self, disk: str, size: int) -> None:
        """Enlarge the file and the device under a running machine."""
        self._call("grow", disk, size)

    def corrupt(self, disk: str, offset: int, length: int) -> None:
        """Random bytes over a range."""
        self._call("corrupt", disk, offset, length)

    def mounts(self, pid: int, minor: int) -> list[str]:
        """Mount points of the device in that process's namespace."""
        return [str(path) for path in self._call("mounts", pid, minor)]

    def freeze(self, pid: int, mount: str) -> None:
        """Freeze the file system: everything it acknowledged is on the device, and nothing more goes there."""
        self._call("freeze", pid, mount)

    def thaw(self, pid: int, mount: str) -> None:
        """Undo ``freeze``."""
        self._call("thaw", pid, mount)

    def firewall(self, rules: str) -> None:
        """Replace the table in one transaction."""
        self._call("firewall", feed=rules)
