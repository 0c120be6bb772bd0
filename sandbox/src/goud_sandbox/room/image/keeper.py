"""Inside the keeper: loop devices on sparse files, with root's hands.

``keeper.py <command> [arguments]`` prints one JSON document; a refusal goes to standard error with exit 1.
Sizes are bytes. Disks are files ``/disks/<name>.img``; a device is found by its file's inode, because the path a
loop device remembers means nothing in another mount namespace. Standard library only.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import stat
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

DISKS = Path("/disks")
LOOP_MAJOR = 7
LOOP_SET_FD, LOOP_CLR_FD, LOOP_SET_STATUS64, LOOP_GET_STATUS64, LOOP_SET_CAPACITY = (
    0x4C00,
    0x4C01,
    0x4C04,
    0x4C05,
    0x4C07,
)
LOOP_CTL_GET_FREE = 0x4C82
BLKGETSIZE64, BLKFLSBUF = 0x80081272, 0x1261
INFO = struct.Struct("=QQQQQIIII64s64s32sQQ")
SIZE_LIMIT = 4  # the field of INFO
SECTOR = 512


def image(name: str) -> Path:
    if not name or "/" in name or name.startswith("."):
        raise ValueError(f"{name!r} is not a name for a disk")
    return DISKS / f"{name}.img"


def node(minor: int) -> Path:
    path = Path(f"/dev/loop{minor}")
    if not path.exists():
        os.mknod(path, 0o660 | stat.S_IFBLK, os.makedev(LOOP_MAJOR, minor))
    return path


def status(minor: int) -> tuple[object, ...] | None:
    """What the kernel knows of this loop device; None when it holds no file."""
    with node(minor).open("rb") as device:
        buffer = bytearray(INFO.size)
        try:
            fcntl.ioctl(device, LOOP_GET_STATUS64, buffer)
        except OSError as error:
            if error.errno == errno.ENXIO:
                return None
            raise
    return INFO.unpack(buffer)


def minors() -> list[int]:
    """Loop devices that hold a file, of anybody."""
    return [int(path.name[4:]) for path in Path("/sys/block").glob("loop*") if (path / "loop").is_dir()]


def device_number(device: int) -> int:
    major, minor = os.major(device), os.minor(device)
    return (minor & 0xFF) | (major << 8) | ((minor & ~0xFF) << 12)


def loop_minors() -> dict[tuple[int, int], list[int]]:
    table: dict[tuple[int, int], list[int]] = {}
    for minor in minors():
        info = status(minor)
        if info and not info[SIZE_LIMIT]:  # a device with a limit was pulled out and only waits for its last user
            table.setdefault((int(str(info[0])), int(str(info[1]))), []).append(minor)
    return table


def identity(path: Path) -> tuple[int, int]:
    metadata = path.stat()
    return device_number(metadata.st_dev), metadata.st_ino


def minor_of(name: str) -> int | None:
    return next(iter(loop_minors().get(identity(image(name)), [])), None)


def capacity(minor: int) -> int:
    with node(minor).open("rb") as device:
        buffer = bytearray(8)
        fcntl.ioctl(device, BLKGETSIZE64, buffer)
    return int(struct.unpack("=Q", buffer)[0])


def flush(minor: int) -> None:
    with node(minor).open("rb+", buffering=0) as device:
        os.fsync(device.fileno())


def create(name: str, size: str) -> dict[str, int]:
    with image(name).open("xb") as file:
        file.truncate(int(size))
    return {"bytes": int(size)}


def copy(source: str, target: str, size: str = "0") -> dict[str, int]:
    minor = minor_of(source)
    if minor is not None:
        flush(minor)
    partial = image(target).with_suffix(".partial")
    subprocess.run(["cp", "--sparse=always", "--reflink=auto", str(image(source)), str(partial)], check=True)
    if int(size) > partial.stat().st_size:
        os.truncate(partial, int(size))
    partial.rename(image(target))
    metadata = image(target).stat()
    return {"bytes": metadata.st_size, "stored": metadata.st_blocks * SECTOR}


def delete(name: str) -> dict[str, bool]:
    image(name).unlink(missing_ok=True)
    return {"deleted": True}


def attach(name: str) -> dict[str, int]:
    for _ in range(20):  # loop numbers are shared with everybody: somebody may take ours in between
        minor = minor_of(name)
        if minor is not None:
            return {"minor": minor}
        with Path("/dev/loop-control").open("rb") as control:
            minor = fcntl.ioctl(control, LOOP_CTL_GET_FREE)
        with image(name).open("rb+") as backing, node(minor).open("rb+") as device:
            try:
                fcntl.ioctl(device, LOOP_SET_FD, backing.fileno())
            except OSError as error:
                if error.errno != errno.EBUSY:
                    raise
                time.sleep(0.05)
    raise RuntimeError(f"no free loop device for disk {name} after 20 tries")


def limit(minor: int, size: int) -> None:
    info = list(status(minor) or ())
    info[SIZE_LIMIT] = size
    with node(minor).open("rb+") as device:
        fcntl.ioctl(device, LOOP_SET_STATUS64, INFO.pack(*info))


def detach(name: str) -> dict[str, bool]:
    """Pull the disk out: a mounted one gets I/O errors from here on, as with a real cloud."""
    for minor in loop_minors().get(identity(image(name)), []):
        flush(minor)
        limit(minor, SECTOR)
        with node(minor).open("rb") as device:
            fcntl.ioctl(device, LOOP_CLR_FD)  # when somebody still holds it, the kernel clears it on the last close
    return {"detached": True}


def grow(name: str, size: str) -> dict[str, int]:
    path = image(name)
    if int(size) < path.stat().st_size:
        raise ValueError(f"disk {name} holds {path.stat().st_size} bytes and cannot shrink to {size}")
    os.truncate(path, int(size))
    for minor in loop_minors().get(identity(path), []):
        with node(minor).open("rb+") as device:
            fcntl.ioctl(device, LOOP_SET_CAPACITY)
    return {"bytes": path.stat().st_size}


def listing() -> dict[str, dict[str, int | None]]:
    attachments = loop_minors()
    disks: dict[str, dict[str, int | None]] = {}
    for path in sorted(DISKS.glob("*.img")):
        minor = next(iter(attachments.get(identity(path), [])), None)
        disks[path.stem] = {
            "bytes": path.stat().st_size,
            "minor": minor,
            "capacity": None if minor is None else capacity(minor),
        }
    return disks


def corrupt(name: str, offset: str, length: str) -> dict[str, int]:
    """Random bytes over a range, behind the back of whoever mounted it."""
    minor = minor_of(name)
    if minor is not None:
        flush(minor)
    with image(name).open("rb+") as file:
        file.seek(int(offset))
        file.write(os.urandom(int(length)))
        os.fsync(file.fileno())
    if minor is not None:
        with node(minor).open("rb+") as device:
            fcntl.ioctl(device, BLKFLSBUF)
    return {"corrupted": int(length)}


def freeze(pid: str, mount: str) -> dict[str, bool]:
    subprocess.run(["nsenter", "-t", pid, "-m", "fsfreeze", "--freeze", mount], check=True, capture_output=True)
    return {"frozen": True}


def thaw(pid: str, mount: str) -> dict[str, bool]:
    subprocess.run(["nsenter", "-t", pid, "-m", "fsfreeze", "--unfreeze", mount], check=True, capture_output=True)
    return {"frozen": False}


def mounts(pid: str, minor: str) -> list[str]:
    """Where the process's mount namespace has the device mounted."""
    device = f"{LOOP_MAJOR}:{minor}"
    lines = Path(f"/proc/{pid}/mountinfo").read_text().splitlines()
    return [line.split()[4] for line in lines if line.split()[2] == device]


def firewall() -> dict[str, bool]:
    """Load the rules on standard input as one transaction."""
    bridge = Path("/proc/sys/net/bridge/bridge-nf-call-iptables")
    if not bridge.exists():
        raise RuntimeError("bridge traffic cannot be filtered: load the kernel module br_netfilter and try again")
    if bridge.read_text().strip() != "1":
        bridge.write_text("1")
    rules = sys.stdin.read()
    process = subprocess.run(["nft", "-f", "-"], input=rules, text=True, capture_output=True, check=False)
    if process.returncode:
        raise RuntimeError(f"nft refused the rules: {process.stderr.strip()}")
    return {"loaded": True}


COMMANDS: dict[str, Callable[..., object]] = {
    command.__name__: command
    for command in (create, copy, delete, attach, detach, grow, corrupt, freeze, thaw, mounts, firewall, listing)
}


def main() -> int:
    name, *arguments = sys.argv[1:]
    try:
        result = COMMANDS[name](*arguments)
    except (OSError, ValueError, RuntimeError, subprocess.CalledProcessError) as error:
        detail = getattr(error, "stderr", None)
        sys.stderr.write(f"{name} {' '.join(arguments)}: {error} {detail or ''}\n")
        return 1
    json.dump(result, sys.stdout)
    return 0


if __name__ == "__main__":
    sys.exit(main())
