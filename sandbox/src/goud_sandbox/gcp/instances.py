"""Instances: making and deleting them."""

from __future__ import annotations

from typing import Any

from typing_extensions import override

from goud_sandbox.documents import Document
from goud_sandbox.gcp import catalog
from goud_sandbox.gcp.base import Base, Scope, fingerprint, new_id, now
from goud_sandbox.gcp.collection import Collection, Query
from goud_sandbox.gcp.disks import Disks, is_boot, room_disk
from goud_sandbox.gcp.errors import ApiError, in_use, invalid, quota
from goud_sandbox.gcp.networks import Addresses, default_link
from goud_sandbox.gcp.operations import Change, Operations, Plan

ALIVE = {"PROVISIONING", "STAGING", "RUNNING"}
SHIELDED = {"enableSecureBoot": False, "enableVtpm": True, "enableIntegrityMonitoring": True}


def room_machine(document: Document) -> str:
    """The machine's id in the machine room."""
    return f"gcp-{document['zone'].rsplit('/', 1)[-1]}-{document['name']}"


def set_metadata(metadata: Document | None) -> Document:
    """Metadata as Google gives it back."""
    items = list((metadata or {}).get("items") or [])
    keys = [item["key"] for item in items]
    if len(keys) != len(set(keys)):
        raise invalid("metadata.items", keys, "Every key may occur once.")
    return {"kind": "compute#metadata", "fingerprint": fingerprint(items), **({"items": items} if items else {})}


def set_tags(tags: Document | None) -> Document:
    """Tags as Google gives them back."""
    items = sorted((tags or {}).get("items") or [])
    return {"fingerprint": fingerprint(items), **({"items": items} if items else {})}


class Instances(Collection):
    """Virtual machines."""

    name, kind, scope = "instances", "compute#instance", "zones"

    def __init__(self, base: Base, operations: Operations, disks: Disks, addresses: Addresses) -> None:
        self.disks = disks
        self.addresses = addresses
        super().__init__(base, operations)

    # insert ----------------------------------------------------------------------------------------------------

    @override
    def make(self, scope: Scope, document: Document, query: Query) -> Plan:
        """Check everything first, then save the instance, its new disks and what they hold."""
        document["machineType"] = self.machine_type(scope, document)
        specs = self._disks(scope, document)
        interfaces = self._interfaces(scope, document)
        document |= {
            "status": "PROVISIONING",
            "cpuPlatform": "Intel Cascade Lake",
            "metadata": set_metadata(document.get("metadata")),
            "tags": set_tags(document.get("tags")),
            "scheduling": {
                "onHostMaintenance": "MIGRATE",
                "automaticRestart": True,
                "preemptible": False,
                "provisioningModel": "STANDARD",
            }
            | (document.get("scheduling") or {}),
            "shieldedInstanceConfig": SHIELDED | (document.get("shieldedInstanceConfig") or {}),
            "shieldedInstanceIntegrityPolicy": {"updateAutoLearnPolicy": True},
            "networkInterfaces": interfaces,
            "lastStartTimestamp": now(),
            "fingerprint": document["id"],
        }
        for field, value in (("canIpForward", False), ("deletionProtection", False), ("startRestricted", False)):
            document.setdefault(field, value)
        names, undo = self._save(scope, document, specs)
        key = self.key(scope, document["name"])
        return Plan(end=[(key, {"status": "RUNNING"})], undo=[(key, None), *undo], names=names)

    def machine_type(self, scope: Scope, document: Document) -> str:
        """The link of a type that exists and that the quota has room for."""
        name = str(document.get("machineType", "")).rsplit("/", 1)[-1]
        shape = catalog.size(name)
        if shape is None:
            raise invalid("resource.machineType", name, "The machine type does not exist in the zone.")
        total = sum(self.cpus(other) for other in self.base.all("instances") if other["name"] != document["name"])
        if total + shape[0] > self.base.settings.quota_cpus:
            raise quota("CPUS", self.base.settings.quota_cpus, scope.region)
        return str(catalog.machine_type(scope.project, scope.place, name)["selfLink"])

    @staticmethod
    def cpus(document: Document) -> int:
        """Virtual CPUs of an instance that runs; a stopped one needs none."""
        shape = catalog.size(document["machineType"].rsplit("/", 1)[-1])
        return shape[0] if shape and document["status"] in ALIVE else 0

    def _disks(self, scope: Scope, document: Document) -> list[Document]:
        specs: list[Document] = list(document.get("disks") or [])
        if sum(bool(spec.get("boot")) for spec in specs) != 1:
            raise invalid("resource.disks", len(specs), "Exactly one boot disk must be specified.")
        for spec in specs:
            if spec.get("source"):
                self.free(self.base.key(str(spec["source"])), scope)
            elif spec.get("type") == "SCRATCH":
                raise ApiError(501, "notImplemented", "The sandbox has no local solid state disks.")
            elif spec.get("boot") and not (spec.get("initializeParams") or {}).get("sourceImage"):
                raise invalid("resource.disks[0].initializeParams", "", "The boot disk needs a source image or a disk.")
        return specs

    def free(self, key: str, scope: Scope) -> Document:
        """A disk of this zone that no machine has; 400 otherwise."""
        disk = self.base.need(key)
        if disk["zone"].rsplit("/", 1)[-1] != scope.place:
            raise invalid("disk.source", key, "Disk must be in the same zone as the instance.")
        if disk.get("users"):
            raise in_use("disk", key, self.base.key(disk["users"][0]))
        if disk["status"] not in {"READY", "CREATING"}:
            raise ApiError(400, "resourceNotReady", f"The resource '{key}' is not ready")
        return disk

    def _save(self, scope: Scope, document: Document, specs: list[Document]) -> tuple[list[str], list[Change]]:
        names = [f"machine:{room_machine(document)}", "firewall:"]
        undo: list[Change] = []
        attachments = []
        for index, spec in enumerate(specs):
            if spec.get("source"):
                disk = self.base.need(self.base.key(str(spec["source"])))
            else:
                disk = self._new_disk(scope, document, spec, index)
                undo.append((self.base.key(disk["selfLink"]), None))
            if not is_boot(disk):
                names.append(f"disk:{room_disk(disk)}")
            attachments.append(self.attachment(disk, spec, index))
            self.base.change(self.base.key(disk["selfLink"]), self.holder_fields(document["selfLink"]))
            if spec.get("source"):
                undo.append((self.base.key(disk["selfLink"]), {"users": []}))
        document["disks"] = attachments
        self.base.save(self.base.with_label_fingerprint(document))
        for change in self._hold_addresses(document, [document["selfLink"]]):
            self.base.change(change[0], change[1] or {})
        undo += self._hold_addresses(document, [])
        return names, undo

    def _new_disk(self, scope: Scope, document: Document, spec: Document, index: int) -> Document:
        parameters: Document = dict(spec.get("initializeParams") or {})
        name = parameters.get("diskName") or (document["name"] if index == 0 else f"{document['name']}-{index}")
        body = {"name": name, "type": parameters.get("diskType"), "sourceImage": parameters.get("sourceImage")}
        body |= {"sizeGb": parameters.get("diskSizeGb"), "labels": parameters.get("labels", {})}
        disk = self.base.new(scope, "disks", "compute#disk", {k: v for k, v in body.items() if v is not None})
        if self.base.find(self.base.key(disk["selfLink"])):
            raise ApiError(409, "alreadyExists", f"The resource '{self.base.key(disk['selfLink'])}' already exists")
        self.disks.make(scope, disk, {})
        self.base.change(self.base.key(disk["selfLink"]), {"status": "READY"})
        return disk

    @staticmethod
    def holder_fields(instance: str) -> Document:
        """The fields of a disk that goes into a machine."""
        return {"users": [instance], "lastAttachTimestamp": now()}

    @staticmethod
    def attachment(disk: Document, spec: Document, index: int) -> Document:
        """The instance's line about one disk."""
        return {
            "kind": "compute#attachedDisk",
            "type": "PERSISTENT",
            "mode": spec.get("mode") or "READ_WRITE",
            "source": disk["selfLink"],
            "deviceName": spec.get("deviceName") or f"persistent-disk-{index}",
            "index": index,
            "boot": bool(spec.get("boot")),
            "autoDelete": bool(spec.get("autoDelete")),
            "interface": spec.get("interface") or "SCSI",
            "diskSizeGb": disk["sizeGb"],
        }

    # network interfaces ----------------------------------------------------------------------------------------

    def _interfaces(self, scope: Scope, document: Document) -> list[Document]:
        interfaces: list[Document] = list(document.get("networkInterfaces") or [])
        if len(interfaces) != 1:
            raise invalid("resource.networkInterfaces", len(interfaces), "The sandbox's machines have exactly one.")
        interface = interfaces[0]
        subnetwork = self._subnetwork(scope, interface)
        address = self.addresses.internal(subnetwork, interface.get("networkIP"))
        result: Document = {
            "kind": "compute#networkInterface",
            "name": "nic0",
            "network": subnetwork["network"],
            "subnetwork": subnetwork["selfLink"],
            "networkIP": address,
            "stackType": "IPV4_ONLY",
            "fingerprint": new_id(),
        }
        configs = [self.access_config(scope, config) for config in interface.get("accessConfigs") or []]
        return [result | ({"accessConfigs": configs} if configs else {})]

    def _subnetwork(self, scope: Scope, interface: Document) -> Document:
        if interface.get("subnetwork"):
            subnetwork = self.base.need(self.base.key(str(interface["subnetwork"])))
            if subnetwork["region"].rsplit("/", 1)[-1] != scope.region:
                raise invalid("resource.networkInterfaces[0].subnetwork", interface["subnetwork"], "Wrong region.")
            return subnetwork
        link = str(interface.get("network") or default_link(scope.project))
        parent = self.base.need(self.base.key(link))
        region = f"/regions/{scope.region}/"
        for link in parent.get("subnetworks", []):
            if region in link:
                return self.base.need(self.base.key(link))
        raise invalid("resource.networkInterfaces[0]", link, f"The network has no subnetwork in {scope.region}.")

    def access_config(self, scope: Scope, config: dict[str, Any]) -> Document:
        """An external address: the reserved one that was named, or a free one."""
        address = config.get("natIP")
        if address:
            reservation = next((a for a in self.base.all("addresses") if a["address"] == address), None)
            if reservation is None:
                raise invalid("natIP", address, "The address is not reserved in this project.")
            if reservation.get("users"):
                raise in_use("address", self.base.key(reservation["selfLink"]), self.base.key(reservation["users"][0]))
        return {
            "kind": "compute#accessConfig",
            "type": "ONE_TO_ONE_NAT",
            "name": config.get("name") or "External NAT",
            "natIP": address or self.addresses.external(scope.region),
            "networkTier": config.get("networkTier") or "PREMIUM",
        }

    def _hold_addresses(self, document: Document, users: list[str]) -> list[Change]:
        addresses = {c["natIP"] for i in document["networkInterfaces"] for c in i.get("accessConfigs", [])}
        addresses |= {interface["networkIP"] for interface in document["networkInterfaces"]}
        return [
            (self.base.key(address["selfLink"]), {"users": users, "status": "IN_USE" if users else "RESERVED"})
            for address in self.base.all("addresses")
            if address["address"] in addresses
        ]

    # delete ----------------------------------------------------------------------------------------------------

    @override
    def unmake(self, scope: Scope, document: Document) -> Plan:
        """Delete the instance and the disks that say so; the others come free."""
        key = self.key(scope, document["name"])
        if document.get("deletionProtection"):
            message = "Invalid resource usage: 'Resource cannot be deleted if it's protected against deletion.'."
            raise ApiError(400, "resourceInUse", message)
        self.base.change(key, {"status": "STOPPING"})
        begin: list[Change] = [(key, None)]
        for disk in document["disks"]:
            disk_key = self.base.key(disk["source"])
            begin.append((disk_key, None if disk["autoDelete"] else {"users": [], "lastDetachTimestamp": now()}))
        begin += self._hold_addresses(document, [])
        return Plan(begin=begin, names=[f"machine:{room_machine(document)}"])
