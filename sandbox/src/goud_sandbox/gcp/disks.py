"""Disks, snapshots and the schedules that make them."""

from __future__ import annotations

from collections.abc import Callable

from typing_extensions import override

from goud_sandbox.documents import Document
from goud_sandbox.gcp import catalog
from goud_sandbox.gcp.base import GIB, ROOT, Base, Scope, fingerprint, number
from goud_sandbox.gcp.collection import Collection, Query
from goud_sandbox.gcp.errors import already_exists, in_use, invalid, quota
from goud_sandbox.gcp.operations import Operations, Plan

MIN_GB = {"hyperdisk-balanced": 4}
MAX_GB = 65536


def room_disk(document: Document) -> str:
    """The disk's id in the machine room."""
    return f"gcp-disk-{document['zone'].rsplit('/', 1)[-1]}-{document['name']}"


def room_snapshot(document: Document) -> str:
    """The snapshot's id in the machine room."""
    return f"gcp-snapshot-{document['name']}"


def is_boot(document: Document) -> bool:
    """Boot disks are the container's own file system; the room has no device for them."""
    return "sourceImage" in document


def device_bytes(document: Document) -> int:
    """The size the device really gets: a lie told by a fault leaves it behind the API's."""
    return int(document.get("_deviceSizeGb") or document["sizeGb"]) * GIB


class Disks(Collection):
    """Zonal persistent disks."""

    name, kind, scope = "disks", "compute#disk", "zones"

    def __init__(self, base: Base, operations: Operations) -> None:
        self.lie: Callable[[str], bool] = lambda _: False
        super().__init__(base, operations)

    def define(self) -> None:
        """What can be done to a disk."""
        self.actions = {
            "resize": self.resize,
            "createSnapshot": self.create_snapshot,
            "setLabels": self.set_labels,
            "addResourcePolicies": self.add_policies,
            "removeResourcePolicies": self.remove_policies,
        }

    @override
    def make(self, scope: Scope, document: Document, query: Query) -> Plan:
        """Check type, source, size and quota, and save."""
        source = self._source(document, query)
        self._size(document, source)
        self._type(scope, document)
        document |= {"status": "CREATING", "physicalBlockSizeBytes": str(document.get("physicalBlockSizeBytes", 4096))}
        self.check_quota(scope, document["type"], int(document["sizeGb"]))
        for policy in document.get("resourcePolicies", []):
            self.base.need(self.base.key(policy))
        self.base.save(self.base.with_label_fingerprint(document))
        key = self.key(scope, document["name"])
        return Plan(end=[(key, {"status": "READY"})], undo=[(key, None)], names=[f"disk:{room_disk(document)}"])

    def _source(self, document: Document, query: Query) -> Document | None:
        image = document.get("sourceImage") or query.get("sourceImage")
        if image:
            public_image = catalog.find_image(str(image))
            document["sourceImage"], document["sourceImageId"] = public_image["selfLink"], public_image["id"]
            return public_image
        if not document.get("sourceSnapshot"):
            return None
        link = str(document["sourceSnapshot"])
        snapshot = self.base.need(self.base.key(link if "/" in link else f"global/snapshots/{link}"))
        if snapshot["status"] != "READY":
            raise invalid("resource.sourceSnapshot", link, "The snapshot is not ready.")
        document["sourceSnapshot"], document["sourceSnapshotId"] = snapshot["selfLink"], snapshot["id"]
        return snapshot

    @staticmethod
    def _size(document: Document, source: Document | None) -> None:
        least = int((source or {}).get("diskSizeGb", 1))
        size = number(document, "sizeGb")
        if size is None:
            size = least if source else 500
        if source and size < least:
            raise invalid(
                "resource.sizeGb", size, f"Requested disk size cannot be smaller than the source's size ({least} GB)."
            )
        if not 1 <= size <= MAX_GB:
            raise invalid("resource.sizeGb", size, f"Disk size must be between 1 and {MAX_GB} GB.")
        document["sizeGb"] = str(size)

    @staticmethod
    def _type(scope: Scope, document: Document) -> None:
        name = str(document.get("type") or "pd-standard").rsplit("/", 1)[-1]
        document["type"] = catalog.disk_type(scope.project, scope.place, name)["selfLink"]

    def check_quota(self, scope: Scope, disk_type: str, more_gb: int) -> None:
        """403 when the region's total of solid state disks would pass the project's limit."""
        if disk_type.rsplit("/", 1)[-1] not in catalog.SSD_TYPES:
            return
        limit = self.base.settings.quota_ssd_gb
        if self.ssd_gb(scope.region) + more_gb > limit:
            raise quota("SSD_TOTAL_GB", limit, scope.region)

    def ssd_gb(self, region: str) -> int:
        """Gigabytes of solid state disks in a region."""
        return sum(
            int(disk["sizeGb"])
            for disk in self.base.all("disks")
            if disk["zone"].rsplit("/", 1)[-1].startswith(region)
            and disk["type"].rsplit("/", 1)[-1] in catalog.SSD_TYPES
        )

    @override
    def unmake(self, scope: Scope, document: Document) -> Plan:
        """A disk in a machine stays."""
        key = self.key(scope, document["name"])
        if document.get("users"):
            raise in_use("disk", key, self.base.key(document["users"][0]))
        self.base.change(key, {"status": "DELETING"})
        return Plan(begin=[(key, None)])

    def resize(self, scope: Scope, name: str, body: Document, _: Query) -> Document:
        """Grow; a smaller size is refused."""
        document = self.need(scope, name)
        size, before = number(body, "sizeGb"), int(document["sizeGb"])
        if size is None:
            raise invalid("sizeGb", None, "A size is needed.")
        if size < before:
            raise invalid("sizeGb", size, f"New disk size '{size}' GB must be larger than existing size '{before}' GB.")
        if size > MAX_GB:
            raise invalid("sizeGb", size, f"Disk size must not be larger than {MAX_GB} GB.")
        self.check_quota(scope, document["type"], size - before)
        key = self.key(scope, name)
        values: Document = {"sizeGb": str(size)}
        if self.lie(key):
            values["_deviceSizeGb"] = document.get("_deviceSizeGb") or str(before)
        else:
            values["_deviceSizeGb"] = None
        plan = Plan(begin=[(key, values)], undo=[(key, {"sizeGb": str(before)})], names=[f"disk:{room_disk(document)}"])
        return self.operations.start(scope, "resizeDisk", key, plan)

    def create_snapshot(self, scope: Scope, name: str, body: Document, _: Query) -> Document:
        """A snapshot of the disk as it is when the operation runs."""
        disk = self.need(scope, name)
        world = Scope(scope.project, "global")
        with self.base.documents.lock:
            key = f"{world.path}/snapshots/{body.get('name', '')}"
            if self.base.find(key):
                raise already_exists(key)
            fields: Document = {
                field: body[field] for field in ("name", "description", "labels", "storageLocations") if field in body
            }
            document = self.base.new(world, "snapshots", "compute#snapshot", fields)
            document |= {
                "status": "CREATING",
                "diskSizeGb": disk["sizeGb"],
                "sourceDisk": disk["selfLink"],
                "sourceDiskId": disk["id"],
                "storageBytes": "0",
                "storageBytesStatus": "UPDATING",
                "_room": None if is_boot(disk) else room_disk(disk),
            }
            document.setdefault("storageLocations", [scope.region])
            self.base.save(self.base.with_label_fingerprint(document))
        plan = Plan(
            end=[(key, {"status": "READY", "storageBytesStatus": "UP_TO_DATE"})],
            undo=[(key, None)],
            names=[f"snapshot:{room_snapshot(document)}"],
        )
        return self.operations.start(scope, "createSnapshot", self.key(scope, name), plan) | {
            "targetLink": ROOT + self.key(scope, name)
        }

    def add_policies(self, scope: Scope, name: str, body: Document, _: Query) -> Document:
        """Put the disk under snapshot schedules."""
        document = self.need(scope, name)
        links = [self.base.need(self.base.key(link))["selfLink"] for link in body.get("resourcePolicies", [])]
        if any(link.split("/regions/")[1].split("/")[0] != scope.region for link in links):
            raise invalid("resourcePolicies", links, "Must be in the disk's region.")
        if len(set(document.get("resourcePolicies", []) + links)) > 1:
            raise invalid("resourcePolicies", links, "A disk can have one snapshot schedule.")
        return self.update(scope, name, {"resourcePolicies": links}, "addResourcePolicies")

    def remove_policies(self, scope: Scope, name: str, body: Document, _: Query) -> Document:
        """Take the disk from snapshot schedules."""
        keys = {self.base.key(link) for link in body.get("resourcePolicies", [])}
        rest = [link for link in self.need(scope, name).get("resourcePolicies", []) if self.base.key(link) not in keys]
        return self.update(scope, name, {"resourcePolicies": rest}, "removeResourcePolicies")


class Snapshots(Collection):
    """Copies of disks; they outlive them."""

    name, kind, scope = "snapshots", "compute#snapshot", "global"

    def define(self) -> None:
        """Labels can change."""
        self.actions = {"setLabels": self.set_labels}

    @override
    def insert(self, scope: Scope, body: Document, query: Query) -> Document:
        """``snapshots.insert``: the same as ``disks.createSnapshot``."""
        key = self.base.key(str(body.get("sourceDisk", "")))
        disk = self.base.need(key)
        zone = Scope(scope.project, "zones", disk["zone"].rsplit("/", 1)[-1])
        return Disks(self.base, self.operations).create_snapshot(zone, disk["name"], body, query)


class ResourcePolicies(Collection):
    """Snapshot schedules; the sandbox's clock runs them when it is told to."""

    name, kind, scope = "resourcePolicies", "compute#resourcePolicy", "regions"

    @override
    def make(self, scope: Scope, document: Document, query: Query) -> Plan:
        """Save."""
        document["status"] = "READY"
        schedule = document.get("snapshotSchedulePolicy", {}).get("schedule", {})
        for entry in schedule.values():
            if isinstance(entry, dict):
                entry.setdefault("duration", "PT14400S")
        document["fingerprint"] = fingerprint(document)
        self.base.save(document)
        return Plan()

    @override
    def unmake(self, scope: Scope, document: Document) -> Plan:
        """A schedule with disks stays."""
        for disk in self.base.all("disks"):
            if document["selfLink"] in disk.get("resourcePolicies", []):
                key = self.key(scope, document["name"])
                raise in_use("resource policy", key, self.base.key(disk["selfLink"]))
        return super().unmake(scope, document)
