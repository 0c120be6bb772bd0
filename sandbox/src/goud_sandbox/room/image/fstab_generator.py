#!/usr/bin/python3
"""A systemd generator for the lines of /etc/fstab that systemd's own leaves out in containers: those of block devices.

Without udev there are no device units to wait for, so each mount gets a small service that waits for its device link,
as long as a real machine would wait. Everything else is as systemd-fstab-generator does it.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

TAGS = {"UUID": "by-uuid", "LABEL": "by-label"}
DEFAULT_TIMEOUT = "90"


def device(spec: str) -> str | None:
    """The path a line names; None for what is not a block device."""
    tag, equals, value = spec.partition("=")
    if equals and tag in TAGS:
        return f"/dev/disk/{TAGS[tag]}/{value.strip(chr(34))}"
    return spec if spec.startswith("/dev/") else None


def unit_name(path: str) -> str:
    """The unit name of a path."""
    command = ["systemd-escape", "--path", path]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def timeout(options: list[str]) -> str:
    """Seconds (or a span of systemd's) to wait for the device."""
    values = [option.partition("=")[2] for option in options if option.startswith("x-systemd.device-timeout=")]
    return values[-1] if values else DEFAULT_TIMEOUT


def write(folder: Path, source: str, mount_point: str, kind: str, options: list[str]) -> None:
    """The mount unit, the service it waits for, and who wants it."""
    name = unit_name(mount_point)
    wait = f"wait-for-{unit_name(source)}.service"
    plain = [option for option in options if not option.startswith("x-systemd.")]
    (folder / wait).write_text(
        f"[Unit]\nDescription=Wait for {source}\nDefaultDependencies=no\nAfter=guest-agent.service\n"
        "[Service]\nType=oneshot\n"
        f"TimeoutStartSec={timeout(options)}\n"
        f"ExecStart=/bin/sh -c 'until test -b {source}; do sleep 0.2; done'\n"
    )
    nofail = "nofail" in options
    order = "" if nofail else "Before=local-fs.target\n"
    (folder / f"{name}.mount").write_text(
        f"# From /etc/fstab\n[Unit]\nSourcePath=/etc/fstab\nAfter=local-fs-pre.target {wait}\nRequires={wait}\n{order}"
        f"[Mount]\nWhat={source}\nWhere={mount_point}\nType={kind}\nOptions={','.join(plain)}\n"
    )
    if "noauto" in options:
        return
    dependencies = folder / f"local-fs.target.{'wants' if nofail else 'requires'}"
    dependencies.mkdir(exist_ok=True)
    target = dependencies / f"{name}.mount"
    if not target.is_symlink():
        target.symlink_to(folder / f"{name}.mount")


def main() -> None:
    folder = Path(sys.argv[1])
    for line in Path("/etc/fstab").read_text().splitlines():
        fields = line.split("#", 1)[0].split()
        source = device(fields[0]) if len(fields) >= 4 else None
        if source and fields[1].startswith("/") and fields[1] != "/" and fields[2] != "swap":
            write(folder, source, fields[1], fields[2], fields[3].split(","))


if __name__ == "__main__":
    main()
