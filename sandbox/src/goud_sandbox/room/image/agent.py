"""Inside a machine: what udev and the cloud's guest agent do on a real one.

Reads ``/var/lib/goud-cloud/machine.json`` (written by the machine room, read-only here) and keeps true: device nodes,
``/dev/disk/by-id`` and ``by-uuid`` links, users with their authorized keys, SSH host keys, the start-up script.
Runs on the machine's own Python, with the standard library only.
"""

from __future__ import annotations

import json
import os
import pwd
import socket
import stat
import subprocess
import time
from pathlib import Path
from typing import Any

MACHINE = Path("/var/lib/goud-cloud/machine.json")
BY_ID = Path("/dev/disk/by-id")
BY_UUID = Path("/dev/disk/by-uuid")
KEYS_MARK = "# Added by the cloud"
INTERVAL_SECONDS = 0.25
LOOP_MAJOR = 7


def notify_ready() -> None:
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.connect("\0" + address[1:] if address.startswith("@") else address)
        sock.sendall(b"READY=1")


def link(path: Path, target: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_symlink() and path.readlink() == Path(target):
        return
    path.unlink(missing_ok=True)
    path.symlink_to(target)


def drop_links(folder: Path, keep: set[str]) -> None:
    if folder.is_dir():
        for entry in folder.iterdir():
            if entry.name not in keep:
                entry.unlink(missing_ok=True)


def node(minor: int) -> Path:
    """Make the block device node unless it exists."""
    path = Path(f"/dev/loop{minor}")
    if not path.exists():
        os.mknod(path, 0o660 | stat.S_IFBLK, os.makedev(LOOP_MAJOR, minor))
    return path


def uuid_of(path: Path) -> str | None:
    probe = subprocess.run(
        ["blkid", "-p", "-o", "value", "-s", "UUID", str(path)], capture_output=True, text=True, check=False
    )
    return probe.stdout.strip() or None


class Devices:
    """Device nodes and links; probes a device again only when its first blocks changed."""

    def __init__(self) -> None:
        self.nodes: set[Path] = set()
        self.probes: dict[Path, tuple[bytes, str | None]] = {}

    def sync(self, devices: list[dict[str, Any]]) -> None:
        ids: set[str] = set()
        uuids: set[str] = set()
        nodes: set[Path] = set()
        for device in devices:
            path = node(int(device["minor"]))
            nodes.add(path)
            for name in device["links"]:
                link(BY_ID / name, f"../../{path.name}")
                ids.add(name)
            uuid = self.uuid(path)
            if uuid:
                link(BY_UUID / uuid, f"../../{path.name}")
                uuids.add(uuid)
        drop_links(BY_ID, ids)
        drop_links(BY_UUID, uuids)
        for path in self.nodes - nodes:
            path.unlink(missing_ok=True)
            self.probes.pop(path, None)
        self.nodes = nodes

    def uuid(self, path: Path) -> str | None:
        try:
            with path.open("rb") as handle:
                head = handle.read(4096)
        except OSError:  # no medium yet, or taken away: no file system either way
            return None
        probe = self.probes.get(path)
        if probe is None or probe[0] != head:
            self.probes[path] = (head, uuid_of(path))
        return self.probes[path][1]


def ensure_user(name: str) -> pwd.struct_passwd:
    try:
        return pwd.getpwnam(name)
    except KeyError:
        subprocess.run(["useradd", "--create-home", "--shell", "/bin/bash", name], check=True)
    if name != "root":
        rule = Path(f"/etc/sudoers.d/cloud-{name}")
        rule.write_text(f"{name} ALL=(ALL:ALL) NOPASSWD:ALL\n")
        rule.chmod(0o440)
    return pwd.getpwnam(name)


def sync_user(name: str, keys: list[str]) -> None:
    """Keys the cloud gave stand below the mark; lines a person added above it stay."""
    user = ensure_user(name)
    folder = Path(user.pw_dir) / ".ssh"
    folder.mkdir(mode=0o700, exist_ok=True)
    path = folder / "authorized_keys"
    before = path.read_text() if path.exists() else ""
    own = before.split(KEYS_MARK)[0]
    after = own + "".join(line + "\n" for line in [KEYS_MARK, *keys])
    if after != before:
        path.write_text(after)
    path.chmod(0o600)
    for item in (folder, path):
        os.chown(item, user.pw_uid, user.pw_gid)


def forget_keys(name: str) -> None:
    """The metadata names this user no longer: the account stays, its keys do not."""
    path = Path(pwd.getpwnam(name).pw_dir) / ".ssh" / "authorized_keys"
    if path.exists():
        path.write_text(path.read_text().split(KEYS_MARK)[0])


def run_script(script: str, path: Path) -> None:
    """Start it unless its file says that it was started: in /run at every boot, elsewhere once."""
    if script and not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(script)
        path.chmod(0o700)
        subprocess.Popen(["systemd-run", f"--unit={path.name}", "--collect", str(path)])


def host_keys() -> None:
    if not list(Path("/etc/ssh").glob("ssh_host_*_key")):
        subprocess.run(["ssh-keygen", "-A"], check=True)


def main() -> None:
    host_keys()
    devices = Devices()
    last_text = ""
    users: set[str] = set()
    ready = False
    while True:
        text = MACHINE.read_text()
        document = json.loads(text)
        devices.sync(document["devices"])
        if text != last_text:
            for name, keys in document["users"].items():
                sync_user(name, keys)
            for name in users - set(document["users"]):
                forget_keys(name)
            users = set(document["users"])
            last_text = text
        if not ready:
            notify_ready()
            ready = True
        run_script(document.get("startup_script", ""), Path("/run/cloud-startup-script"))
        run_script(document.get("first_boot_script", ""), Path("/var/lib/cloud/cloud-user-script"))
        time.sleep(INTERVAL_SECONDS)


if __name__ == "__main__":
    main()
