"""From EC2's resources to what the machine room should make true. The room's ids are EC2's own.

A VPC is one bridge: its subnets reach each other whatever their zones, and security groups decide the rest.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Literal

from moto.ec2.models import EC2Backend

from goud_sandbox.aws.instances import Guest
from goud_sandbox.aws.progress import backends, guests
from goud_sandbox.aws.volumes import EbsSnapshot, EbsVolume
from goud_sandbox.documents import Documents
from goud_sandbox.room.model import Attachment, Desired, Disk, Machine, Rule, Snapshot, Subnet

FAULTS, PULLED = "fault-machine", "fault-disk"
GIB = 1 << 30
USER = "admin"  # of Debian's images
EXISTS = {"pending", "running", "stopping", "stopped"}
RUNS = {"pending", "running"}
EVERYWHERE = "0.0.0.0/0"
ALLOW, REFUSE = 1000, 2000


def desired(documents: Documents) -> Desired:
    """The whole wish, of every region."""
    pulled_disks = {key for key, _ in documents.items(PULLED)}
    cut_off = frozenset(key for key, fault in documents.items(FAULTS) if fault.get("partitioned"))
    wish = Desired(cut_off=cut_off)
    for backend in backends():
        wish = wish.union(_region(backend, pulled_disks))
    return wish


def _region(backend: EC2Backend, pulled_disks: set[str]) -> Desired:
    alive = [guest for guest in guests(backend) if guest.state in EXISTS]
    volumes = [volume for volume in backend.volumes.values() if isinstance(volume, EbsVolume) and not volume.boot]
    snapshots = [
        snapshot for snapshot in backend.snapshots.values() if isinstance(snapshot, EbsSnapshot) and not snapshot.boot
    ]
    copies = {snapshot.id for snapshot in snapshots}
    vpcs = sorted({str(guest.vpc_id) for guest in alive})
    return Desired(
        subnets=tuple(Subnet(vpc, backend.vpcs[vpc].cidr_block) for vpc in vpcs),
        disks=tuple(
            Disk(volume.id, volume.device_gib * GIB, volume.snapshot_id if volume.snapshot_id in copies else None)
            for volume in volumes
        ),
        snapshots=tuple(Snapshot(snapshot.id, snapshot.source) for snapshot in snapshots),
        machines=tuple(_machine(backend, guest, pulled_disks) for guest in alive),
        rules=tuple(_rules(alive)),
    )


def _machine(backend: EC2Backend, guest: Guest, pulled_disks: set[str]) -> Machine:
    key = backend.key_pairs.get(guest.key_name or "")
    volumes = [backend.volumes.get(block.volume_id) for _, block in guest.get_block_device_mapping]
    disks = [
        volume
        for volume in volumes
        if isinstance(volume, EbsVolume) and not volume.boot and volume.id not in pulled_disks
    ]
    name = str(guest.private_dns_name)
    return Machine(
        id=guest.id,
        hostname=name.split(".", 1)[0],
        subnet=str(guest.vpc_id),
        address=str(guest.private_ip),
        external=guest.public_ip if guest.state in RUNS else guest.published,
        running=guest.state in RUNS,
        aliases=(name,),
        users={USER: (key.public_key.strip(),) if key else ()},
        attachments=tuple(Attachment(volume.id, _links(volume.id)) for volume in disks),
        first_boot_script=guest.script,
        incarnation=guest.id,
    )


def _links(volume: str) -> tuple[str, ...]:
    name = f"nvme-Amazon_Elastic_Block_Store_{volume.replace('-', '')}"
    return (name, f"{name}_1")


# security groups -----------------------------------------------------------------------------------------------


def _rules(alive: list[Guest]) -> Iterator[Rule]:
    members: dict[str, list[str]] = {}
    groups: dict[str, Any] = {}
    for guest in alive:
        for group in _groups(guest):
            members.setdefault(group.id, []).append(str(guest.private_ip))
            groups[group.id] = group
    for identity, group in groups.items():
        for rule in group.ingress_rules:
            yield from _rule(rule, "in", members[identity], members)
    for guest in alive:  # outward everything is open, unless every group of the machine says otherwise
        outward = [rule for group in _groups(guest) for rule in group.egress_rules]
        if any(rule.ip_protocol == "-1" and rule.cidr_ipv4 == EVERYWHERE for rule in outward):
            continue
        own_address = [str(guest.private_ip)]
        for rule in outward:
            yield from _rule(rule, "out", own_address, members)
        yield Rule(REFUSE, allow=False, direction="out", machines=tuple(own_address), peers=(EVERYWHERE,))


def _groups(guest: Guest) -> list[Any]:
    groups = {group.id: group for nic in guest.nics.values() for group in nic.group_set}
    return [groups[identity] for identity in sorted(groups)]


def _rule(
    rule: Any, direction: Literal["in", "out"], machines: Iterable[str], members: dict[str, list[str]]
) -> Iterator[Rule]:
    peers = [str(rule.cidr_ipv4)] if rule.cidr_ipv4 else []
    peers += [f"{address}/32" for address in members.get(str(rule.source_group.get("GroupId")), [])]
    if not peers:
        return
    protocol = "all" if rule.ip_protocol == "-1" else str(rule.ip_protocol)
    yield Rule(
        priority=ALLOW,
        allow=True,
        direction=direction,
        machines=tuple(machines),
        peers=tuple(peers),
        protocol=protocol,
        ports=_ports(rule) if protocol in {"tcp", "udp"} else (),
    )


def _ports(rule: Any) -> tuple[str, ...]:
    first, last = int(rule.from_port or 0), int(rule.to_port or 0)
    if first <= 0 and last in {-1, 0, 65535}:
        return ()
    return (str(first),) if first == last else (f"{first}-{last}",)
