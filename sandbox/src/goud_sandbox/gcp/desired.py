"""From Compute Engine's resources to what the machine room should make true."""

from __future__ import annotations

from goud_sandbox.documents import Document
from goud_sandbox.gcp.base import Base
from goud_sandbox.gcp.disks import device_bytes, is_boot, room_disk, room_snapshot
from goud_sandbox.gcp.instances import ALIVE, room_machine
from goud_sandbox.gcp.metadata import HOST
from goud_sandbox.gcp.networks import room_subnet
from goud_sandbox.room.model import Attachment, Desired, Disk, Machine, Rule, Snapshot, Subnet
from goud_sandbox.settings import METADATA_ADDRESS

FAULTS = "fault-machine"
PULLED = "fault-disk"


def desired(base: Base) -> Desired:
    """The whole wish, from the documents alone."""
    with base.documents.lock:
        instances = [document for document in base.all("instances") if document.get("disks")]
        disks = {document["selfLink"]: document for document in base.all("disks")}
        pulled_disks = {key for key, _ in base.documents.items(PULLED)}
        subnets = {document["selfLink"]: document for document in base.all("subnetworks")}
        snapshots = {document["selfLink"]: document for document in base.all("snapshots")}
        project = base.find(f"projects/{base.settings.project}") or {}
        return Desired(
            subnets=tuple(Subnet(room_subnet(subnet), subnet["ipCidrRange"]) for subnet in subnets.values()),
            disks=tuple(_disk(disk, snapshots) for disk in disks.values() if not is_boot(disk)),
            snapshots=tuple(Snapshot(room_snapshot(s), s["_room"]) for s in snapshots.values() if s.get("_room")),
            machines=tuple(
                _machine(
                    instance,
                    disks,
                    subnets,
                    pulled_disks=pulled_disks,
                    project=project,
                    project_name=base.settings.project,
                )
                for instance in instances
            ),
            rules=tuple(rule for firewall in base.all("firewalls") for rule in _rules(firewall, instances)),
            cut_off=frozenset(key for key, fault in base.documents.items(FAULTS) if fault.get("partitioned")),
        )


def _disk(document: Document, snapshots: dict[str, Document]) -> Disk:
    snapshot = snapshots.get(document.get("sourceSnapshot", ""))
    source = room_snapshot(snapshot) if snapshot and snapshot.get("_room") else None
    return Disk(room_disk(document), device_bytes(document), source)


def _machine(
    document: Document,
    disks: dict[str, Document],
    subnets: dict[str, Document],
    *,
    pulled_disks: set[str],
    project: Document,
    project_name: str,
) -> Machine:
    interface = document["networkInterfaces"][0]
    zone, name = document["zone"].rsplit("/", 1)[-1], document["name"]
    configs = interface.get("accessConfigs", [])
    metadata = {item["key"]: str(item["value"]) for item in document["metadata"].get("items", [])}
    return Machine(
        id=room_machine(document),
        hostname=name,
        subnet=room_subnet(subnets[interface["subnetwork"]]),
        address=interface["networkIP"],
        external=configs[0]["natIP"] if configs else None,
        running=document["status"] in ALIVE,
        aliases=(f"{name}.{zone}.c.{project_name}.internal", f"{name}.c.{project_name}.internal"),
        users=_users(metadata, project),
        attachments=tuple(
            Attachment(room_disk(disks[line["source"]]), _links(line["deviceName"]))
            for line in document["disks"]
            if line["source"] in disks
            and not is_boot(disks[line["source"]])
            and room_disk(disks[line["source"]]) not in pulled_disks
        ),
        startup_script=metadata.get("startup-script", ""),
        incarnation=document["id"],
        hosts=((HOST, METADATA_ADDRESS),),  # as Google's images have it
    )


def _links(device: str) -> tuple[str, ...]:
    return (f"google-{device}", f"scsi-0Google_PersistentDisk_{device}")


def _users(metadata: dict[str, str], project: Document) -> dict[str, tuple[str, ...]]:
    """Users and their keys from ``ssh-keys`` lines (``user:type key comment``)."""
    texts = [metadata.get("ssh-keys", "")]
    if metadata.get("block-project-ssh-keys", "").lower() != "true":
        items = project.get("commonInstanceMetadata", {}).get("items", [])
        texts += [item["value"] for item in items if item["key"] == "ssh-keys"]
    users: dict[str, tuple[str, ...]] = {}
    for line in "\n".join(texts).splitlines():
        name, colon, key = line.strip().partition(":")
        if colon and key:
            users[name] = (*users.get(name, ()), key)
    return users


def _rules(document: Document, instances: list[Document]) -> list[Rule]:
    if document.get("disabled"):
        return []
    members = [instance for instance in instances if instance["networkInterfaces"][0]["network"] == document["network"]]
    inward = document["direction"] == "INGRESS"
    targets = [instance for instance in members if _applies(instance, document, "target")]
    peers = list(document.get("sourceRanges" if inward else "destinationRanges", []))
    if inward and (document.get("sourceTags") or document.get("sourceServiceAccounts")):
        peers += [_address(instance) + "/32" for instance in members if _applies(instance, document, "source")]
    return [
        Rule(
            priority=int(document["priority"]),
            allow=bool(document.get("allowed")),
            direction="in" if inward else "out",
            machines=tuple(_address(instance) for instance in targets),
            peers=tuple(peers),
            protocol=entry["IPProtocol"],
            ports=tuple(str(port) for port in entry.get("ports", [])),
        )
        for entry in document.get("allowed") or document.get("denied", [])
    ]


def _address(instance: Document) -> str:
    return str(instance["networkInterfaces"][0]["networkIP"])


def _applies(instance: Document, rule: Document, side: str) -> bool:
    """Whether the rule's tags or service accounts name the instance; no names on the target side mean all."""
    tags, accounts = rule.get(f"{side}Tags") or [], rule.get(f"{side}ServiceAccounts") or []
    if not tags and not accounts:
        return side == "target"
    emails = {account["email"] for account in instance.get("serviceAccounts") or []}
    return bool(set(tags) & set(instance["tags"].get("items", [])) or set(accounts) & emails)
