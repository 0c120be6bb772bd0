"""What a provider wants from the machine room. Plain values; no provider's words in them.

Sizes are bytes, addresses are dotted IPv4, ids are unique in the sandbox and safe in file and container names.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal


@dataclass(frozen=True)
class Subnet:
    """A range of addresses that machines share: one bridge."""

    id: str
    cidr: str


@dataclass(frozen=True)
class Disk:
    """A block device. ``source`` is the disk or snapshot it is copied from when it is made."""

    id: str
    size: int
    source: str | None = None


@dataclass(frozen=True)
class Snapshot:
    """A copy of a disk, taken once, when the room first sees it."""

    id: str
    disk: str


@dataclass(frozen=True)
class Attachment:
    """A disk in a machine under the provider's ``/dev/disk/by-id`` names."""

    disk: str
    links: tuple[str, ...]


@dataclass(frozen=True)
class Machine:
    """A container that boots systemd. ``external`` is its own loopback address on this host.

    ``startup_script`` runs at every boot, ``first_boot_script`` at the first one; ``hosts`` are names with their
    addresses in its ``/etc/hosts``.
    """

    id: str
    hostname: str
    subnet: str
    address: str
    external: str | None
    running: bool
    aliases: tuple[str, ...] = ()
    users: Mapping[str, tuple[str, ...]] = field(default_factory=lambda: MappingProxyType({}))
    attachments: tuple[Attachment, ...] = ()
    startup_script: str = ""
    first_boot_script: str = ""
    incarnation: str = ""
    hosts: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Door:
    """A link-local address and port at which machines find a service; ``bridge_port`` is its port at their bridge."""

    address: str
    port: int
    bridge_port: int


@dataclass(frozen=True)
class Rule:
    """A firewall rule for new connections; the lowest priority number wins, deny before allow among equals.

    ``machines`` are the addresses it protects, ``peers`` the other side. No ``ports`` means every port of the protocol,
    protocol ``all`` means everything.
    """

    priority: int
    allow: bool
    direction: Literal["in", "out"]
    machines: tuple[str, ...]
    peers: tuple[str, ...]
    protocol: str = "all"
    ports: tuple[str, ...] = ()


@dataclass(frozen=True)
class Desired:
    """Everything that should be true. ``cut_off`` are ids of machines without a network."""

    subnets: tuple[Subnet, ...] = ()
    disks: tuple[Disk, ...] = ()
    snapshots: tuple[Snapshot, ...] = ()
    machines: tuple[Machine, ...] = ()
    rules: tuple[Rule, ...] = ()
    cut_off: frozenset[str] = frozenset()

    def union(self, other: Desired) -> Desired:
        """Both providers' wishes in one."""
        return Desired(
            self.subnets + other.subnets,
            self.disks + other.disks,
            self.snapshots + other.snapshots,
            self.machines + other.machines,
            self.rules + other.rules,
            self.cut_off | other.cut_off,
        )
