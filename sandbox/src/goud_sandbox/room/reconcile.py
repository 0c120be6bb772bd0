"""The reconciler: compares what the providers want with what exists, and closes the gap, again and again.

One pass goes in the order in which things depend on each other; an error stops only what needs the failed thing and is
kept by the thing's name, so that an API's operation can report it.
"""

from __future__ import annotations

import contextlib
import json
import logging
import threading
import time
from collections.abc import Callable, Iterator

from docker.errors import DockerException

from goud_sandbox.errors import KeeperError
from goud_sandbox.room.engine import Engine, MachineState
from goud_sandbox.room.firewall import gateway, render
from goud_sandbox.room.keeper import Image, Keeper
from goud_sandbox.room.model import Desired, Door, Machine
from goud_sandbox.settings import Home

log = logging.getLogger(__name__)

REBOOTED = 129  # the kernel ends a container's init by SIGHUP when its systemd asks for a reboot
STOP_SECONDS = 20
IDLE_SECONDS = 1.0
FULL_PASS_SECONDS = 20.0


class Room:
    """Makes ``desired()`` true. ``errors`` maps ``<kind>:<id>`` to the sentence of the last failure."""

    def __init__(
        self,
        engine: Engine,
        keeper: Keeper,
        home: Home,
        table: str,
        desired: Callable[[], Desired],
        *,
        doors: tuple[Door, ...] = (),
    ) -> None:
        self._engine = engine
        self._keeper = keeper
        self._home = home
        self._table = table
        self._desired = desired
        self._doors = doors
        self._condition = threading.Condition()
        self._requests = 0
        self._completions = 0
        self._stopping = False
        self._last_rules = ""
        self.first_pass = threading.Event()
        self.errors: dict[str, str] = {}
        self.machines: dict[str, MachineState] = {}
        self.addresses: dict[str, str] = {}
        self.bridges: frozenset[str] = frozenset()
        self.disks: dict[str, Image] = {}
        self.on_power_off: Callable[[str], None] = lambda _: None

    # passes ----------------------------------------------------------------------------------------------------

    def settle(self, *names: str) -> str | None:
        """Wait for a pass that starts now or later; the error of the first of ``names`` that has one."""
        with self._condition:
            self._requests += 1
            ticket = self._requests
            self._condition.notify_all()
            while self._completions < ticket and not self._stopping:
                self._condition.wait(1.0)
        return next((self.errors[name] for name in names if name in self.errors), None)

    def run(self) -> None:
        """Reconcile until ``stop``."""
        last_full = 0.0
        before: Desired | None = None
        while not self._stopping:
            with self._condition:
                if self._completions >= self._requests:
                    self._condition.wait(IDLE_SECONDS)
                ticket = self._requests
            pending = self._completions < ticket
            try:
                desired = self._desired()
                if pending or desired != before or time.monotonic() - last_full > FULL_PASS_SECONDS or self.errors:
                    self.reconcile(desired)
                    last_full, before = time.monotonic(), desired
                else:
                    self._watch(desired)
            except (DockerException, KeeperError, OSError) as error:
                log.exception("a pass failed")
                self.errors["room:"] = str(error)
            self.first_pass.set()
            with self._condition:
                self._completions = ticket
                self._condition.notify_all()

    def stop(self) -> None:
        """End ``run`` after the pass that is under way."""
        with self._condition:
            self._stopping = True
            self._condition.notify_all()

    @contextlib.contextmanager
    def _guard(self, name: str) -> Iterator[None]:
        try:
            yield
        except (DockerException, KeeperError, OSError) as error:
            log.exception("%s", name)
            self.errors[name] = str(error)
        else:
            self.errors.pop(name, None)

    def reconcile(self, desired: Desired) -> None:
        """One full pass."""
        self.errors.clear()
        self.machines = self._engine.machines()
        self.disks = self._keeper.disks()
        self._remove_machines(desired)
        self._make_subnets(desired)
        self._make_images(desired)
        self._detach(desired)
        for machine in desired.machines:
            with self._guard(f"machine:{machine.id}"):
                self._machine(machine)
        with self._guard("firewall:"):
            self._firewall(desired)
        self._relay(desired)
        self._remove_rest(desired)
        self.machines = self._engine.machines()

    def _watch(self, desired: Desired) -> None:
        """The cheap look between passes: machines that went down by themselves."""
        self.machines = self._engine.machines()
        for machine in desired.machines:
            state = self.machines.get(machine.id)
            if machine.running and state and not state.running:
                self._handle_exit(machine, state)

    def _handle_exit(self, machine: Machine, state: MachineState) -> None:
        if state.exit_code == REBOOTED:
            log.info("machine %s rebooted", machine.id)
            self._start(machine)
        else:
            log.info("machine %s went down with exit code %d", machine.id, state.exit_code)
            self._mark(machine, running=False)
            self.on_power_off(machine.id)

    # machines --------------------------------------------------------------------------------------------------

    def _machine(self, machine: Machine) -> None:
        state = self.machines.get(machine.id)
        if state is None:
            self._write_metadata(machine, {})
            self._engine.create(machine)
        if machine.running and (state is None or not state.running):
            if state is not None and self._was_running(machine):
                self._handle_exit(machine, state)
            else:
                self._start(machine)
        elif not machine.running and state is not None and state.running:
            self._engine.container(machine.id).stop(timeout=STOP_SECONDS)
            self._mark(machine, running=False)
        else:
            self._devices(machine)

    def _start(self, machine: Machine) -> None:
        self._devices(machine)
        self._engine.container(machine.id).start()
        self._mark(machine, running=True)

    def _devices(self, machine: Machine) -> None:
        minors = {a.disk: self._keeper.attach(a.disk) for a in machine.attachments if self._needs_device(a.disk)}
        for attachment in machine.attachments:
            image = self.disks.get(attachment.disk)
            if attachment.disk not in minors and image and image.minor is not None:
                minors[attachment.disk] = image.minor
        self._write_metadata(machine, minors)

    def _needs_device(self, disk: str) -> bool:
        image = self.disks.get(disk)
        return image is None or image.minor is None

    def _write_metadata(self, machine: Machine, minors: dict[str, int]) -> None:
        """What the guest agent reads; replaced in one step, and only when it changed."""
        folder = self._home.machines / machine.id
        folder.mkdir(parents=True, exist_ok=True)
        text = json.dumps(
            {
                "hostname": machine.hostname,
                "users": {name: list(keys) for name, keys in machine.users.items()},
                "devices": [
                    {"links": list(a.links), "minor": minors[a.disk]} for a in machine.attachments if a.disk in minors
                ],
                "startup_script": machine.startup_script,
                "first_boot_script": machine.first_boot_script,
            },
            indent=2,
        )
        path = folder / "machine.json"
        if not path.exists() or path.read_text() != text:
            partial = path.with_suffix(".partial")
            partial.write_text(text)
            partial.rename(path)

    def _mark(self, machine: Machine, *, running: bool) -> None:
        """Remember on disk that we started it: a service that restarts must know a fallen machine from a new one."""
        mark = self._home.machines / machine.id / "started"
        if running:
            mark.touch()
        else:
            mark.unlink(missing_ok=True)

    def _was_running(self, machine: Machine) -> bool:
        return (self._home.machines / machine.id / "started").exists()

    def note_start(self, machine: str, *, forget: bool) -> None:
        """A provider starts a machine that fell: it is not to be taken for one that fell just now."""
        if forget:
            (self._home.machines / machine / "started").unlink(missing_ok=True)

    def _remove_machines(self, desired: Desired) -> None:
        keep = {machine.id: machine.incarnation for machine in desired.machines}
        for identity, state in list(self.machines.items()):
            if keep.get(identity) != state.incarnation:
                with self._guard(f"machine:{identity}"):
                    self._engine.remove(identity)
                    folder = self._home.machines / identity
                    for name in ("machine.json", "started"):
                        (folder / name).unlink(missing_ok=True)
                    del self.machines[identity]

    # networks and firewall -------------------------------------------------------------------------------------

    def _make_subnets(self, desired: Desired) -> None:
        present = self._engine.subnets()
        for subnet in desired.subnets:
            if subnet.id not in present:
                with self._guard(f"subnet:{subnet.id}"):
                    self._engine.create_subnet(subnet)
        self.bridges = frozenset(
            gateway(subnet) for subnet in desired.subnets if f"subnet:{subnet.id}" not in self.errors
        )

    def _firewall(self, desired: Desired) -> None:
        rules = render(self._table, desired, self._doors)
        if rules != self._last_rules:
            self._keeper.firewall(rules)
            self._last_rules = rules

    def _relay(self, desired: Desired) -> None:
        """Addresses that machines got after they were made: Docker publishes only those a container is made with."""
        self.addresses = {machine.id: machine.external or "" for machine in desired.machines}
        bindings = {identity: state.external for identity, state in self._engine.machines().items()}
        entries = [
            (machine.external, port, machine.address, port)
            for machine in desired.machines
            if machine.running and machine.external and bindings.get(machine.id) != machine.external
            for port in self._engine.ports
        ]
        text, path = json.dumps(entries), self._home.relays / "relays.json"
        if (path.read_text() if path.exists() else "[]") != text:
            self._home.relays.mkdir(exist_ok=True)
            partial = path.with_suffix(".partial")
            partial.write_text(text)
            partial.rename(path)

    # disks -----------------------------------------------------------------------------------------------------

    def _make_images(self, desired: Desired) -> None:
        for disk in desired.disks:
            with self._guard(f"disk:{disk.id}"):
                image = self.disks.get(disk.id)
                if image is None and disk.source:
                    self._keeper.copy(disk.source, disk.id, disk.size)
                elif image is None:
                    self._keeper.create(disk.id, disk.size)
                elif image.size < disk.size:
                    self._keeper.grow(disk.id, disk.size)
                    continue
                self.disks.setdefault(disk.id, Image(disk.size, None, None))
        for snapshot in desired.snapshots:
            if snapshot.id not in self.disks:
                with self._guard(f"snapshot:{snapshot.id}"), self._freeze(snapshot.disk, desired):
                    self._keeper.copy(snapshot.disk, snapshot.id)

    @contextlib.contextmanager
    def _freeze(self, disk: str, desired: Desired) -> Iterator[None]:
        """Hold writes to the disk while it is copied, so that the copy is one moment in time."""
        freezes: list[tuple[int, str]] = []
        minor = self.disks[disk].minor if disk in self.disks else None
        holder = next((m.id for m in desired.machines if disk in {a.disk for a in m.attachments}), None)
        try:
            if holder is not None and minor is not None and self._is_up(holder):
                pid = int(self._engine.container(holder).attrs["State"]["Pid"])
                for mount in self._keeper.mounts(pid, minor)[:1]:  # one freeze holds the file system, wherever mounted
                    self._keeper.freeze(pid, mount)
                    freezes.append((pid, mount))
            yield
        finally:
            for pid, mount in freezes:
                self._keeper.thaw(pid, mount)

    def _is_up(self, machine: str) -> bool:
        state = self.machines.get(machine)
        return state is not None and state.running

    def _detach(self, desired: Desired) -> None:
        disks = {attachment.disk for machine in desired.machines for attachment in machine.attachments}
        for identity, image in list(self.disks.items()):
            if image.minor is not None and identity not in disks:
                with self._guard(f"disk:{identity}"):
                    self._keeper.detach(identity)
                    self.disks[identity] = Image(image.size, None, None)

    def _remove_rest(self, desired: Desired) -> None:
        keep = {disk.id for disk in desired.disks} | {snapshot.id for snapshot in desired.snapshots}
        for identity in set(self.disks) - keep:
            with self._guard(f"disk:{identity}"):
                self._keeper.delete(identity)
        for identity in self._engine.subnets() - {subnet.id for subnet in desired.subnets}:
            with self._guard(f"subnet:{identity}"):
                self._engine.remove_subnet(identity)
