"""Docker Engine as the machine room's building: one image, one keeper, bridges and machines."""

from __future__ import annotations

import contextlib
import hashlib
import ipaddress
import shutil
import tempfile
from dataclasses import dataclass
from functools import cached_property
from importlib import resources
from pathlib import Path
from typing import Any, cast

import docker
from docker import DockerClient
from docker.errors import APIError, BuildError, DockerException, ImageNotFound, NotFound
from docker.models.containers import Container

from goud_sandbox.errors import EngineError
from goud_sandbox.room.firewall import gateway
from goud_sandbox.room.model import Machine, Subnet
from goud_sandbox.settings import LABEL, Home, Settings

IMAGE = "goud-sandbox-machine"
RELAY = "/usr/local/lib/goud-cloud/relay.py"
DOCKER_VOLUME = "/var/lib/docker"
SECURITY = ["seccomp=unconfined", "apparmor=unconfined"]
DISKS, MACHINE = "/disks", "/var/lib/goud-cloud"  # what a keeper and a machine mount of the sandbox's folder


@dataclass(frozen=True)
class MachineState:
    """A machine as Docker sees it. ``exit_code`` tells a reboot (129) from a power-off (130) once it is down."""

    id: str
    running: bool
    exit_code: int
    incarnation: str
    subnet: str
    external: str


class Engine:
    """Creates and removes what carries this sandbox's label, and nothing else."""

    def __init__(self, settings: Settings, home: Home) -> None:
        self._settings = settings
        self._home = home
        self.prefix = f"goud-sandbox-{settings.name}-"

    @cached_property
    def client(self) -> DockerClient:
        """The engine's client; an ``EngineError`` when it does not answer."""
        try:
            client = docker.from_env()
            client.ping()
        except DockerException as error:
            raise EngineError(f"Docker Engine does not answer ({error}): start it and try again") from error
        return client

    @property
    def labels(self) -> dict[str, str]:
        """The label of everything this sandbox makes."""
        return {LABEL: self._settings.name}

    @property
    def ports(self) -> tuple[int, ...]:
        """TCP ports of a machine that its external address has."""
        return self._settings.published_ports

    def name(self, identity: str) -> str:
        """Container, network and volume names."""
        return self.prefix + identity

    # image -----------------------------------------------------------------------------------------------------

    def image(self) -> str:
        """Name of the machine image, built when its inputs changed. Seconds to half a minute the first time."""
        source = resources.files("goud_sandbox.room") / "image"
        files = {item.name: item.read_bytes() for item in source.iterdir() if item.is_file()}
        digest = hashlib.sha256(b"".join(name.encode() + files[name] for name in sorted(files))).hexdigest()[:16]
        tag = f"{IMAGE}:{digest}"
        try:
            self.client.images.get(tag)
        except ImageNotFound:
            self._build(tag, files)
        return tag

    def _build(self, tag: str, files: dict[str, bytes]) -> None:
        folder = Path(tempfile.mkdtemp(prefix="goud-sandbox-"))
        try:
            for name, content in files.items():
                (folder / name).write_bytes(content)
            self.client.images.build(path=str(folder), tag=tag, rm=True, labels={LABEL: "image"})
        except (BuildError, APIError) as error:
            raise EngineError(
                f"the machine image cannot be built: {error}. It needs debian:trixie-slim "
                "(scripts/base-image makes it) and a Debian mirror"
            ) from error
        finally:
            shutil.rmtree(folder)

    # whose it is -----------------------------------------------------------------------------------------------

    def other_folder(self) -> Path | None:
        """The folder of another sandbox that has this one's name on this engine; None when there is no such sandbox.

        Containers tell it by what they mount, as those of a cluster do (docs/decisions/0027).
        """
        root = self._home.root.resolve()
        label = f"{LABEL}={self._settings.name}"
        for container in self.client.containers.list(all=True, filters={"label": label}):
            folders = {mount.get("Destination"): Path(mount.get("Source", "/")) for mount in container.attrs["Mounts"]}
            folder = folders.get(DISKS) or (folders[MACHINE].parent if MACHINE in folders else None)
            if folder is not None and folder.parent.resolve() != root:
                return folder.parent
        return None

    # containers ------------------------------------------------------------------------------------------------

    def _create(self, name: str, host: dict[str, Any], **options: Any) -> Container:
        """A container with nearly all of root's powers."""
        api = self.client.api
        host_config = api.create_host_config(
            cap_add=["ALL"],
            cap_drop=["SYS_RESOURCE"],  # not granted everywhere; Docker refuses the whole container then
            security_opt=SECURITY,
            device_cgroup_rules=["a *:* rwm"],
            **host,
        )
        host_config |= {"MaskedPaths": [], "ReadonlyPaths": []}  # what the client calls systempaths=unconfined
        answer = api.create_container(self.image(), name=name, host_config=host_config, detach=True, **options)
        return self.client.containers.get(answer["Id"])

    def keeper(self) -> Container:
        """The container with the host's network and process ids that handles loop devices and the firewall."""
        name = self.name("keeper")
        try:
            container = self.client.containers.get(name)
        except NotFound:
            for folder in (self._home.disks, self._home.relays):
                folder.mkdir(parents=True, exist_ok=True)
            binds = [f"{self._home.disks}:{DISKS}:rw", f"{self._home.relays}:/relays:ro", "/dev:/dev:rw"]
            host = {"binds": binds, "network_mode": "host", "pid_mode": "host", "init": True}
            container = self._create(name, host, command=["python3", RELAY], labels=self.labels, stop_signal="SIGKILL")
        if container.status != "running":
            container.start()
        return container

    def machines(self) -> dict[str, MachineState]:
        """Machines by id, running or not."""
        machines: dict[str, MachineState] = {}
        label = f"{LABEL}={self._settings.name}"
        for container in self.client.containers.list(all=True, filters={"label": [label, f"{LABEL}.machine"]}):
            labels, state = container.labels, container.attrs["State"]
            identity = labels[f"{LABEL}.machine"]
            machines[identity] = MachineState(
                identity,
                bool(state["Running"]),
                int(state["ExitCode"]),
                labels[f"{LABEL}.incarnation"],
                labels[f"{LABEL}.subnet"],
                labels[f"{LABEL}.external"],
            )
        return machines

    def container(self, identity: str) -> Container:
        """The machine's container."""
        return self.client.containers.get(self.name(identity))

    def create(self, machine: Machine) -> None:
        """Make the machine's container; it does not run yet."""
        api, network, volume = self.client.api, self.name(machine.subnet), self.name(f"{machine.id}-docker")
        self.client.volumes.create(volume, labels=self.labels)
        ports = list(self._settings.published_ports) if machine.external else []
        host = {
            "binds": [
                "/sys/fs/cgroup:/sys/fs/cgroup:rw",
                f"{self._home.machines / machine.id}:{MACHINE}:ro",
                f"{volume}:{DOCKER_VOLUME}:rw",
            ],
            "cgroupns": "host",
            "tmpfs": {"/run": "", "/run/lock": ""},
            "network_mode": network,
            "extra_hosts": dict(machine.hosts),
            "port_bindings": {port: (machine.external, port) for port in ports},
        }
        endpoint = api.create_endpoint_config(
            ipv4_address=machine.address, aliases=[machine.hostname, *machine.aliases]
        )
        networking: dict[str, Any] = {"EndpointsConfig": {network: endpoint}}
        legacy = self.client.info().get("CgroupVersion", "1") == "1"
        labels = self.labels | {
            f"{LABEL}.machine": machine.id,
            f"{LABEL}.incarnation": machine.incarnation,
            f"{LABEL}.subnet": machine.subnet,
            f"{LABEL}.external": machine.external or "",
        }
        self._create(
            self.name(machine.id),
            host,
            hostname=machine.hostname,
            labels=labels,
            ports=ports,
            tty=True,
            networking_config=networking,
            environment={"SYSTEMD_CGROUP_ENABLE_LEGACY_FORCE": "1"} if legacy else {},
        )

    def remove(self, identity: str) -> None:
        """Remove the machine's container with its boot volume; no error when there is none."""
        with contextlib.suppress(NotFound):
            self.container(identity).remove(force=True, v=True)
        with contextlib.suppress(NotFound):
            self.client.volumes.get(self.name(f"{identity}-docker")).remove()

    @staticmethod
    def execute(container: Container, command: list[str]) -> tuple[int, str, str]:
        """Run a program in a container: exit code, standard output, standard error."""
        code, streams = container.exec_run(command, demux=True)
        out, err = (bytes(stream or b"").decode(errors="replace") for stream in cast("tuple[bytes, bytes]", streams))
        return int(code or 0), out, err

    def within(self, machine: str, *command: str) -> tuple[int, str, str]:
        """Run a program in a machine, as ``execute`` does."""
        return self.execute(self.container(machine), list(command))

    # networks --------------------------------------------------------------------------------------------------

    def subnets(self) -> set[str]:
        """Ids of the bridges that exist."""
        networks = self.client.networks.list(filters={"label": f"{LABEL}={self._settings.name}"})
        return {str(network.name).removeprefix(self.prefix) for network in networks}

    def create_subnet(self, subnet: Subnet) -> None:
        """Make the bridge for a range; its own address is the first."""
        range_ = str(ipaddress.ip_network(subnet.cidr))
        pool = docker.types.IPAMPool(subnet=range_, gateway=gateway(subnet))
        self.client.networks.create(
            self.name(subnet.id), driver="bridge", ipam=docker.types.IPAMConfig(pool_configs=[pool]), labels=self.labels
        )

    def remove_subnet(self, identity: str) -> None:
        """Remove the bridge; no error when there is none."""
        for network in self.client.networks.list(names=[self.name(identity)]):
            if network.name == self.name(identity):
                network.remove()

    # everything ------------------------------------------------------------------------------------------------

    def remove_everything(self) -> None:
        """Containers, volumes and networks of this sandbox; the image stays."""
        filters: dict[str, str | list[str] | bool] = {"label": f"{LABEL}={self._settings.name}"}
        for container in self.client.containers.list(all=True, filters=filters):
            container.remove(force=True, v=True)
        for volume in self.client.volumes.list(filters=filters):
            volume.remove(force=True)
        for network in self.client.networks.list(filters=filters):
            network.remove()
