"""Locks that name their holder and end with it.

A lock is one object, taken and renewed by conditional writes; a store is asked once a process whether it honours them.
It is not believed to be dead because a clock says so: either its process is known to be gone (same machine), or the
object was watched, by a clock that never jumps, for longer than a living holder would leave it unrenewed.
"""

from __future__ import annotations

import logging
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Annotated, Any, Final, Self
from weakref import WeakSet

from msgspec import Meta
from msgspec.structs import asdict as fields

from goud_backup.errors import Damaged, Locked, LockLost, Missing, PreconditionFailed, TargetError, UnsafeStore
from goud_backup.repository.layout import LOCKS
from goud_backup.repository.manifest import canonical
from goud_backup.repository.records import fetch
from goud_backup.targets import Target
from goud_node.documents import Document, Line, Malformed, Seconds, shaped

_log = logging.getLogger(__name__)

BACKUP: Final = "backup"
"""Held by whoever adds or removes backups: create, import, prune."""
SHIP: Final = "ship"
"""Held by whoever adds or removes segments: ship, prune."""
RENEW_SECONDS: Final = 15.0
EXPIRY_SECONDS: Final = 60.0
_FREE: Final = {"free": True}
_probed: WeakSet[Target] = WeakSet()
"""Stores that have refused, in this process, what a condition forbids."""


@dataclass(frozen=True)
class Holder:
    """Who holds a lock. `token` is new for every taking; `renewed` is Unix time by the holder's clock."""

    token: str
    purpose: str
    host: str
    pid: int
    process: str
    since: str
    renewed: float

    def __str__(self) -> str:
        return f"{self.purpose} on {self.host}, process {self.pid}, since {self.since}"


class _Written(Document):
    token: Line
    purpose: Line
    host: Line
    pid: int
    process: Annotated[str, Meta(pattern=r"^([!-~]+ [!-~]+ [0-9]{1,9} [!-~]+)?\Z", max_length=1000)]
    since: Line
    renewed: Seconds


class Lock:
    """A context manager. Raises Locked, naming the holder, unless the lock is free within `wait` seconds."""

    def __init__(
        self,
        target: Target,
        name: str,
        purpose: str,
        *,
        wait: float = 0.0,
        renew: float = RENEW_SECONDS,
        expiry: float = EXPIRY_SECONDS,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._target = target
        self._key = f"{LOCKS}{name}.json"
        self._wait = wait
        self._renew = renew
        self._expiry = expiry
        self._sleep = sleep
        stamp = datetime.now(UTC).isoformat(timespec="seconds")
        self._me = Holder(
            secrets.token_hex(8), purpose, socket.gethostname(), os.getpid(), process_identity(), stamp, time.time()
        )
        self._version: str | None = None
        self._before: str | None = None
        self._renewed_at = 0.0
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None
        self._loss: str | None = None

    def __enter__(self) -> Self:
        self._take()
        self._probe()
        self._thread = threading.Thread(target=self._keep, name=f"lock {self._key}", daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        if self._thread is not None:
            self._thread.join()
        if self._loss is None:
            try:
                self._write(None, self._version)
            except PreconditionFailed:
                # Removed by force after the last check: what was written by then was written under the lock.
                _log.warning("the lock %s was removed by somebody else before it was released", self._key)
            except TargetError:
                # The work itself is done or has failed for its own reason; a lock left behind expires.
                if kind is None:
                    raise

    def check(self, *, certain: bool = False) -> None:
        """Raises LockLost unless the lock is still ours: call it before a write that must not race.

        `certain` asks the store even when the lock was renewed a moment ago: call it so after such a write.
        """
        if self._loss is None and (certain or _now() - self._renewed_at > self._renew):
            self._renew_once()
        if self._loss is not None:
            raise LockLost(f"The lock {self._key} was lost while this process worked: {self._loss}. Run it again.")

    def _take(self) -> None:
        deadline = _now() + self._wait
        while True:
            holder, version = read_holder(self._target, self._key)
            if holder is None or self._is_dead(holder, version):
                self._before = version
                try:
                    self._write(self._me, version)
                except PreconditionFailed:
                    if self._is_mine():
                        return
                    continue
                return
            if _now() >= deadline:
                raise Locked(
                    f"{self._target.url} is locked by {holder}. Wait until it is done; if it died on another machine, "
                    f"the lock is free {self._expiry:.0f} s after its last sign of life, or `goud-backup unlock`."
                )
            self._sleep(min(1.0, max(0.05, deadline - _now())))

    def _probe(self) -> None:
        """Ask for what must be refused, once a process and store: some answer 200 whatever the condition says."""
        if self._target in _probed:
            return
        try:
            self._require_refusal(if_absent=True)
            before = self._before
            if before is None:
                before = self._version
                self._write(self._me, before)
            self._require_refusal(if_version=before)
        except BaseException:
            self._give_back()
            raise
        _probed.add(self._target)

    def _require_refusal(self, *, if_absent: bool = False, if_version: str | None = None) -> None:
        try:
            self._target.put(self._key, canonical(asdict(self._me)), if_absent=if_absent, if_version=if_version)
        except PreconditionFailed:
            return
        raise UnsafeStore(
            f"{self._target.url} does not honour conditional writes: it took {self._key} a second time although "
            f"{'it existed' if if_absent else 'it had changed'}. Two hosts could hold its lock at once, so nothing "
            "is written there. Use a store that refuses such a write, or a version of this one that does."
        )

    def _give_back(self) -> None:
        """Leave the store as it was found, as far as it lets us."""
        with suppress(TargetError):
            if self._before is None:
                self._target.delete(self._key)
            else:
                self._target.put(self._key, canonical(_FREE))

    def _is_dead(self, holder: Holder, version: str | None) -> bool:
        if is_gone(holder):
            return True
        if abs(time.time() - holder.renewed) < self._expiry:
            return False
        # Its last sign of life seems old. Clocks differ and jump: watch whether it is renewed.
        self._sleep(2 * self._renew)
        again = self._target.stat(self._key)
        return again is not None and again.version == version

    def _is_mine(self) -> bool:
        # A conditional write that was repeated after a lost answer fails against itself.
        holder, version = read_holder(self._target, self._key)
        if holder is None or holder.token != self._me.token:
            return False
        self._version, self._renewed_at = version, _now()
        return True

    def _write(self, holder: Holder | None, version: str | None) -> None:
        self._me = replace(self._me, renewed=time.time())
        document = canonical(asdict(self._me) if holder is not None else _FREE)
        if version is None:
            stat = self._target.put(self._key, document, if_absent=True)
        else:
            stat = self._target.put(self._key, document, if_version=version)
        self._version, self._renewed_at = stat.version, _now()

    def _keep(self) -> None:
        while not self._ended.wait(self._renew):
            self._renew_once()
            if self._loss is not None:
                return

    def _renew_once(self) -> None:
        try:
            if not self._renew_or_find():
                self._loss = "somebody took it over"
        except Exception as error:  # noqa: BLE001  # a thread that ended would renew nothing, and say nothing
            if _now() - self._renewed_at > self._expiry:
                self._loss = f"it could not be renewed ({error})"

    def _renew_or_find(self) -> bool:
        try:
            self._write(self._me, self._version)
        except PreconditionFailed:
            return self._is_mine()
        return True


def read_holder(target: Target, key: str) -> tuple[Holder | None, str | None]:
    """Who holds the lock (None: nobody) and the version of its object (None: there is none).

    One that cannot be read protects nobody, or no host could work on the repository any more.
    """
    for _ in range(5):
        before = target.stat(key)
        if before is None:
            return None, None
        try:
            holder = _holder(fetch(target, key, dict[str, Any], "Nobody has to do anything."))
        except Missing:
            continue
        except (Damaged, Malformed) as error:
            _log.warning("%s protects nobody and is taken as free: %s", key, error)
            holder = None
        after = target.stat(key)
        if after is not None and after.version == before.version:
            return holder, before.version
    raise TargetError(f"{key} in {target.url} changes all the time. Try again.")


def _holder(document: dict[str, Any]) -> Holder | None:
    return None if document == _FREE else Holder(**fields(shaped(document, _Written)))


def process_identity() -> str:
    """What no other process has had since this machine booted: boot, namespace, pid, start time."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        namespace = Path("/proc/self/ns/pid").readlink()
        return f"{boot} {namespace} {os.getpid()} {_start_time(os.getpid())}"
    except OSError:
        return ""


def is_gone(holder: Holder) -> bool:
    """True only when it is certain: the process ran where this one runs, and is no more."""
    mine = process_identity().split()
    parts = holder.process.split()
    if len(parts) != 4 or len(mine) != 4 or parts[:2] != mine[:2]:
        return False
    pid = int(parts[2])
    try:
        return _start_time(pid) != parts[3]
    except OSError:
        return not _exists(pid)


def _exists(pid: int) -> bool:
    """Whether there is such a process, also one that /proc hides from us (hidepid, ProtectProc)."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _now() -> float:
    """Seconds by a clock that nobody sets and that goes on while the machine sleeps."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def _start_time(pid: int) -> str:
    text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    fields = text.rpartition(")")[2].split()
    # A zombie has ended; only its parent has not looked yet.
    return "ended" if fields[0] in "ZX" else fields[19]
