"""One changing verb at a time per environment, on this controller."""

from __future__ import annotations

import fcntl
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any


def holder(path: Path) -> dict[str, Any] | None:
    """Who holds the lock: `verb`, `pid`, `since`; None when nobody does, or when that process is gone."""
    try:
        text = path.read_text(encoding="utf-8")
        record: dict[str, Any] = json.loads(text) if text else {}
        command = Path(f"/proc/{record['pid']}/cmdline").read_bytes()
    except (OSError, ValueError, KeyError):
        return None
    return record if b"ansible" in command else None


def take(path: Path, verb: str, pid: int) -> dict[str, Any] | None:
    """Take the lock for the process `pid`, which holds it as long as it lives; the holder when another has it."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with path.open("a+", encoding="utf-8") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)  # for the moment of looking and writing only
        other = holder(path)
        if other is not None and other["pid"] != pid:
            return other
        handle.truncate(0)
        since = datetime.now(UTC).isoformat(timespec="seconds")
        handle.write(json.dumps({"verb": verb, "pid": pid, "since": since}))
    path.chmod(0o600)
    return None
