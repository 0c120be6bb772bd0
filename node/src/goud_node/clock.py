"""Clocks of this machine: the one that only runs, and the one that people and other machines see."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Final

_BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")


def running() -> float:
    """Seconds that have passed, sleep of the machine included; no step of the wall clock changes it."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def wall_ms() -> int:
    """Unix time in milliseconds, as far as this machine knows it."""
    return int(time.time() * 1000)


def boot_id() -> str:
    """Names this run of the kernel: figures of `running` can be compared within one only."""
    return _BOOT_ID.read_text(encoding="ascii").strip()
