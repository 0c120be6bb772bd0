"""Physical faults: machines that die or lose their network, disks that rot, fill up or vanish."""

from __future__ import annotations

from docker.errors import DockerException, NotFound

from goud_sandbox.documents import Document, Documents
from goud_sandbox.errors import SandboxError, UnknownTarget
from goud_sandbox.room.engine import Engine
from goud_sandbox.room.keeper import Keeper
from goud_sandbox.room.reconcile import Room

MACHINES, PULLED = "fault-machine", "fault-disk"
FILLER = ".goud-sandbox-filler"


class Faults:
    """Orders by the room's ids; each returns when it is in effect."""

    def __init__(self, documents: Documents, engine: Engine, keeper: Keeper, room: Room) -> None:
        self._documents = documents
        self._engine = engine
        self._keeper = keeper
        self._room = room

    # machines --------------------------------------------------------------------------------------------------

    def kill(self, machine: str) -> None:
        """SIGKILL to everything in the machine. It stays down until its provider starts it."""
        self._check_machine(machine)
        self._engine.container(machine).kill()
        self._room.settle()

    def reset(self, machine: str) -> None:
        """Kill it and let it boot again."""
        self._check_machine(machine)
        self._room.note_start(machine, forget=True)
        self._engine.container(machine).kill()

    def partition(self, machine: str, *, cut: bool) -> None:
        """Take the machine's network away, established connections included, or give it back."""
        self._check_machine(machine)
        if cut:
            self._documents.put(MACHINES, machine, {"partitioned": True})
        else:
            self._documents.delete(MACHINES, machine)
        error = self._room.settle("firewall:")
        if error:
            raise SandboxError(f"the firewall did not take it: {error}")

    def _check_machine(self, machine: str) -> None:
        if machine not in self._room.machines:
            machines = ", ".join(sorted(self._room.machines)) or "none"
            raise UnknownTarget(f"there is no machine {machine!r} in the room; the machines are: {machines}")

    # disks -----------------------------------------------------------------------------------------------------

    def corrupt(self, disk: str, offset: int, length: int) -> None:
        """Random bytes over a range of the device."""
        self._disk_minor(disk)
        self._keeper.corrupt(disk, offset, length)

    def pull(self, disk: str, *, out: bool) -> None:
        """Take the disk out of its machine behind the API's back, or put it back."""
        self._disk_minor(disk)
        if out:
            self._documents.put(PULLED, disk, {"pulled": True})
        else:
            self._documents.delete(PULLED, disk)
        error = self._room.settle(f"disk:{disk}")
        if error:
            raise SandboxError(f"disk {disk}: {error}")

    def fill(self, disk: str, leave_bytes: int) -> Document:
        """Write a file until the mounted file system has no more than ``leave_bytes`` left; its path."""
        machine, mount = self._mount_point(disk)
        path = f"{mount}/{FILLER}"
        script = (
            "import os,sys;p,leave=sys.argv[1],int(sys.argv[2]);f=open(p,'ab')\n"
            "v=os.statvfs(os.path.dirname(p));n=max(0,v.f_bavail*v.f_frsize-leave)\n"
            "try: os.posix_fallocate(f.fileno(),f.tell(),max(1,n))\n"
            "except OSError:\n"
            "  try:\n"
            "    while True: os.write(f.fileno(),bytes(1<<16))\n"
            "  except OSError: pass\n"
        )
        code, _, problem = self._engine.within(machine, "python3", "-c", script, path, str(leave_bytes))
        if code != 0:
            raise SandboxError(f"disk {disk} could not be filled: {problem.strip()}")
        return {"machine": machine, "path": path}

    def unfill(self, disk: str) -> None:
        """Remove what ``fill`` wrote."""
        machine, mount = self._mount_point(disk)
        self._engine.within(machine, "rm", "-f", f"{mount}/{FILLER}")

    def _mount_point(self, disk: str) -> tuple[str, str]:
        image = self._disk_minor(disk)
        for machine, state in self._room.machines.items():
            if not state.running or image is None:
                continue
            try:
                pid = int(self._engine.container(machine).attrs["State"]["Pid"])
            except (NotFound, DockerException):
                continue
            mounts = self._keeper.mounts(pid, image)
            if mounts:
                return machine, mounts[0]
        raise UnknownTarget(f"disk {disk} is not mounted in any machine: mount it first")

    def _disk_minor(self, disk: str) -> int | None:
        disks = self._keeper.disks()
        if disk not in disks:
            raise UnknownTarget(f"there is no disk {disk!r} in the room; the disks are: {', '.join(disks) or 'none'}")
        return disks[disk].minor
