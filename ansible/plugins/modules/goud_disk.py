"""Read a data disk: device, content, mounts, and every reason not to touch it. Changes nothing."""

from __future__ import annotations

import json
import mmap
import os
import re
import stat
import struct
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = """
module: goud_disk
short_description: Read a data disk, and every reason not to touch it
description:
  - Waits for the device, reads its size, its signatures, its file system and its mounts. Returns every problem as one
    sentence with its cause and the next step. With O(probe) it also writes a file on the mounted disk, reads it back
    from the device, and removes it.
options:
  device: {description: The device's path, by id., type: path, required: true}
  mount: {description: Where it is, or will be, mounted., type: path, required: true}
  wait_seconds: {description: How long to wait for the device, and for its size., type: int, default: 0}
  expect_bytes: {description: Size that the device must have at least., type: int, default: 0}
  probe: {description: Whether to write and read back on the mounted file system., type: bool, default: false}
"""

MIB = 1 << 20
PROBES = 64
"""Places between the first and the last MiB that are read to tell a blank disk; a copy of a disk shows up in them."""
SLACK = 16 * MIB
"""A file system may end this much before its device: XFS leaves a tail too small for an allocation group."""
SUPPORTED = ("xfs", "ext4")
_POLL_SECONDS = 0.5
_DIVIDED = "divided into"


@dataclass
class Disk:
    """What was read of it. Sizes are bytes; `filesystem_bytes` is known of a mounted file system only."""

    device: str
    present: bool = False
    real: str = ""
    kind: str = ""
    bytes: int = 0
    blank: bool = False
    signatures: list[dict[str, Any]] = field(default_factory=list)
    filesystem: str = ""
    uuid: str = ""
    mounts: list[str] = field(default_factory=list)
    mounted: bool = False
    filesystem_bytes: int = 0
    free_bytes: int = 0
    usable_bytes: int = 0


def run(*command: str) -> str:
    """Return the output of a program that must succeed."""
    result = subprocess.run(command, check=False, capture_output=True, text=True, env=os.environ | {"LC_ALL": "C"})
    if result.returncode != 0:
        raise OSError(f"{' '.join(command)} failed: {result.stderr.strip() or f'exit {result.returncode}'}")
    return result.stdout


def size_of(path: Path) -> int:
    """Return a block device's size as the kernel has it now; 0 when there is no medium."""
    try:
        handle = os.open(path, os.O_RDONLY)
    except OSError:
        return 0
    try:
        return os.lseek(handle, 0, os.SEEK_END)
    finally:
        os.close(handle)


def rescan(path: Path) -> None:
    """Ask the driver to read the size again, where it has to be asked (SCSI)."""
    with suppress(OSError):
        (Path("/sys/class/block") / path.resolve().name / "device/rescan").write_text("1")


def is_block(path: Path) -> bool:
    """Return whether the path leads to a block device."""
    try:
        return stat.S_ISBLK(path.stat().st_mode)
    except OSError:
        return False


def wait(path: Path, minimum: int, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
    """Wait until the device exists and is at least as large as the minimum; what is missing shows in the reading."""
    deadline = clock() + seconds
    while not (is_block(path) and size_of(path) >= max(minimum, 1)):
        if clock() >= deadline:
            return
        rescan(path)
        time.sleep(_POLL_SECONDS)


def kind_of(name: str, sys: Path = Path("/sys/class/block")) -> str:
    """Return `disk` for a whole disk, else what the device is."""
    folder = (sys / name).resolve()
    if (folder / "partition").exists():
        return "a partition"
    if (folder / "dm").is_dir():
        return "a mapped device (LVM, encryption)"
    if (folder / "md").is_dir():
        return "a RAID array"
    holders = sorted(path.name for path in (folder / "holders").glob("*"))
    if holders:
        return f"part of {', '.join(holders)}"
    parts = sorted(path.parent.name for path in folder.glob(f"{name}*/partition"))
    if parts:
        return f"{_DIVIDED} {', '.join(parts)}"
    return "disk"


def signatures(path: Path) -> list[dict[str, Any]]:
    """Return everything libblkid recognises: file systems, partition tables, RAID, LVM, swap, encryption."""
    text = run("wipefs", "--no-act", "--json", str(path))
    return list(json.loads(text)["signatures"]) if text.strip() else []


def samples(size: int) -> Iterator[tuple[int, int]]:
    """Return (offset, length) of what is read to tell a blank disk: both ends, and places between."""
    if size <= 2 * MIB + PROBES * mmap.PAGESIZE:
        yield 0, size
        return
    yield 0, MIB
    step = (size - 2 * MIB) // PROBES
    for number in range(PROBES):
        yield MIB + (number * step) // mmap.PAGESIZE * mmap.PAGESIZE, mmap.PAGESIZE
    yield size - MIB, MIB


def is_blank(path: Path, size: int) -> bool:
    """Return whether the samples hold zeros only."""
    with path.open("rb", buffering=0) as device:
        for offset, length in samples(size):
            device.seek(offset)
            remaining = length
            while remaining:
                block = device.read(min(remaining, MIB))
                if not block or any(block):
                    return False
                remaining -= len(block)
    return True


def mounts_of(number: int, mountinfo: str) -> list[str]:
    """Return where a device is mounted as a whole, from the text of /proc/self/mountinfo.

    A folder of it that is bound elsewhere, such as a container's volume, is a use of the mount and not another one.
    """
    device = f"{os.major(number)}:{os.minor(number)}"
    rows = (line.split() for line in mountinfo.splitlines())
    return sorted({_unescaped(row[4]) for row in rows if len(row) > 4 and row[2] == device and row[3] == "/"})


def _unescaped(text: str) -> str:
    return re.sub(r"\\(\d{3})", lambda match: chr(int(match[1], 8)), text)


def filesystem_bytes(kind: str, device: Path, mount: str) -> int:
    """Return the size of a mounted file system, from its own superblock and not from what is left after its log."""
    if kind == "xfs":
        match = re.search(r"^data\s+=\s+bsize=(\d+)\s+blocks=(\d+)", run("xfs_info", mount), re.MULTILINE)
        if match is None:
            raise OSError(f"xfs_info {mount} does not tell the size of its data section")
        return int(match[1]) * int(match[2])
    with device.open("rb") as handle:
        handle.seek(1024)
        block = handle.read(1024)
    low, shift, high = (struct.unpack_from("<I", block, offset)[0] for offset in (4, 24, 0x150))
    wide = struct.unpack_from("<I", block, 0x60)[0] & 0x80
    return int((low | (high << 32 if wide else 0)) << (10 + shift))


def read(device: str, mount: str) -> Disk:
    """Read everything there is to know."""
    path = Path(device)
    disk = Disk(device)
    if not is_block(path):
        return disk
    real = path.resolve()
    disk.present, disk.real, disk.bytes, disk.kind = True, str(real), size_of(path), kind_of(real.name)
    if disk.bytes == 0:
        return disk
    disk.mounts = mounts_of(path.stat().st_rdev, Path("/proc/self/mountinfo").read_text())
    disk.mounted = mount in disk.mounts
    disk.signatures = signatures(path)
    types = {str(entry["type"]) for entry in disk.signatures}
    if len(types) == 1 and types <= set(SUPPORTED):
        disk.filesystem = types.pop()
        disk.uuid = str(disk.signatures[0].get("uuid") or "")
    disk.blank = not disk.signatures and is_blank(path, disk.bytes)
    if disk.mounted and disk.filesystem:
        disk.filesystem_bytes = filesystem_bytes(disk.filesystem, path, mount)
        about = os.statvfs(mount)
        disk.free_bytes = about.f_bavail * about.f_frsize
        disk.usable_bytes = about.f_blocks * about.f_frsize
    return disk


def problems(disk: Disk, mount: str, minimum: int, seconds: int) -> list[str]:
    """Return one sentence for every reason not to go on."""
    if not disk.present:
        return [_absent(disk.device, seconds)]
    if disk.bytes == 0:
        return [f"{disk.device} ({disk.real}) has no medium: it was pulled out; attach the disk again"]
    divided = disk.kind.startswith(_DIVIDED) and bool(disk.signatures)  # its partition table tells more
    sentences = [] if disk.kind == "disk" or divided else [_not_whole(disk)]
    if disk.bytes < minimum:
        sentences.append(
            f"block device: {disk.device} ({disk.real}) has {disk.bytes} bytes after {seconds} s, not {minimum}"
            " (the cloud says it resized the disk, this machine does not see it): look at it in the cloud's console;"
            " a reboot makes the machine read it again"
        )
    if divided or (disk.kind == "disk" and not disk.blank and not disk.filesystem):
        sentences.append(_foreign(disk))
    other_mounts = [place for place in disk.mounts if place != mount]
    if other_mounts:
        sentences.append(
            f"{disk.device} ({disk.real}) is mounted on {', '.join(other_mounts)}, and not only on {mount}:"
            " unmount it there, or set data_disk_mount"
        )
    if disk.filesystem_bytes > disk.bytes:
        sentences.append(
            f"file system: the {disk.filesystem} on {disk.device} has {disk.filesystem_bytes} bytes, its device only"
            f" {disk.bytes}: the device was made smaller. Stop using it and restore a snapshot"
        )
    return sentences + mount_point_problems(disk, Path(mount))


def _absent(device: str, seconds: int) -> str:
    path = Path(device)
    if path.exists():
        return f"{device} is not a block device: data_disk_device names the wrong thing"
    names = sorted(entry.name for entry in path.parent.iterdir()) if path.parent.is_dir() else []
    return (
        f"{device} did not appear within {seconds} s: attach the disk, or set data_disk_device."
        f" In {path.parent} there is: {', '.join(names) or 'nothing'}"
    )


def _not_whole(disk: Disk) -> str:
    return f"{disk.device} ({disk.real}) is {disk.kind}, not a free whole disk: name the whole disk in data_disk_device"


def _foreign(disk: Disk) -> str:
    if not disk.signatures:
        return (
            f"{disk.device} ({disk.real}) is not blank and holds nothing that is recognised: somebody's data may be"
            f" on it. Look at it; if it may go: blkdiscard -z {disk.device}"
        )
    names = [
        str(entry["type"]) + (f" (label {entry['label']})" if entry.get("label") else "") for entry in disk.signatures
    ]
    listing = ", ".join(dict.fromkeys(names))
    return (
        f"{disk.device} ({disk.real}) has a foreign signature: {listing}. It is not formatted. If its data may go:"
        f" wipefs --all {disk.device} && blkdiscard -z {disk.device}"
    )


def mount_point_problems(disk: Disk, mount: Path, mountinfo: str | None = None) -> list[str]:
    """Return what is wrong with the folder that the disk is mounted on."""
    text = Path("/proc/self/mountinfo").read_text() if mountinfo is None else mountinfo
    places = {_unescaped(line.split()[4]): line.split() for line in text.splitlines() if line}
    if disk.mounted:
        return []
    if str(mount) in places:
        number = places[str(mount)][2]
        return [f"something else is mounted on {mount} (device {number}): unmount it, or set data_disk_mount"]
    if mount.is_symlink() or (mount.exists() and not mount.is_dir()):
        return [f"{mount} is not a folder: remove it, or set data_disk_mount"]
    if mount.is_dir() and any(mount.iterdir()):
        return [
            f"{mount} holds files of the root disk, which the mount would hide: move them away, or set data_disk_mount"
        ]
    return []


def probe(mount: Path) -> str | None:
    """Write on the disk, read it back from the device and not from memory, and remove it; or say what went wrong."""
    path = mount / f".goud-probe-{os.getpid()}"
    data = os.urandom(mmap.PAGESIZE)
    try:
        handle = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
        try:
            os.write(handle, data)
            os.fsync(handle)
        finally:
            os.close(handle)
        handle = os.open(path, os.O_RDONLY | os.O_DIRECT)
        try:
            with mmap.mmap(-1, mmap.PAGESIZE) as buffer:
                os.readv(handle, [buffer])
                content = bytes(buffer)
        finally:
            os.close(handle)
    except OSError as error:
        return f"{mount} cannot be written and read back ({error.strerror or error}): look at journalctl -k"
    finally:
        with suppress(OSError):
            path.unlink()
    if content != data:
        return f"{mount} gives back something else than was written: the disk is damaged, replace it"
    return None


def main() -> None:
    """Wait, read, judge."""
    module = AnsibleModule(
        argument_spec={
            "device": {"type": "path", "required": True},
            "mount": {"type": "path", "required": True},
            "wait_seconds": {"type": "int", "default": 0},
            "expect_bytes": {"type": "int", "default": 0},
            "probe": {"type": "bool", "default": False},
        },
        supports_check_mode=True,
    )
    parameters = module.params
    wait(Path(parameters["device"]), parameters["expect_bytes"], parameters["wait_seconds"])
    try:
        disk = read(parameters["device"], parameters["mount"])
        sentences = problems(disk, parameters["mount"], parameters["expect_bytes"], parameters["wait_seconds"])
    except OSError as error:
        disk, sentences = Disk(parameters["device"]), [f"{parameters['device']} cannot be read: {error}"]
    if parameters["probe"] and not sentences:
        sentence = (
            probe(Path(parameters["mount"]))
            if disk.mounted
            else f"{disk.device} is not mounted on {parameters['mount']}"
        )
        sentences += [sentence] if sentence else []
    slack = disk.bytes - disk.filesystem_bytes
    module.exit_json(changed=False, disk=asdict(disk), problems=sentences, growable=disk.mounted and slack > SLACK)


if __name__ == "__main__":
    main()
