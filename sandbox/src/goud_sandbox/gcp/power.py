"""What can be done to an instance that exists."""

from __future__ import annotations

from collections.abc import Callable

from goud_sandbox.documents import Document
from goud_sandbox.gcp.base import ROOT, Scope, now
from goud_sandbox.gcp.collection import Query
from goud_sandbox.gcp.disks import is_boot, room_disk
from goud_sandbox.gcp.errors import ApiError, invalid, stale
from goud_sandbox.gcp.instances import ALIVE, SHIELDED, Instances, room_machine, set_metadata, set_tags
from goud_sandbox.gcp.operations import Change, Plan


class PoweredInstances(Instances):
    """With their actions. ``console`` and ``host_keys`` look into the machine; ``kill`` is the reset button."""

    console: Callable[[str], str] = staticmethod(lambda _: "")
    host_keys: Callable[[str], dict[str, str]] = staticmethod(lambda _: {})
    kill: Callable[[str], None] = staticmethod(lambda _: None)

    def define(self) -> None:
        """Actions by their names in the API."""
        self.actions = {
            "start": self.start,
            "stop": self.stop,
            "reset": self.reset,
            "setLabels": self.set_labels,
            "setMetadata": self.put_metadata,
            "setTags": self.put_tags,
            "setMachineType": self.set_machine_type,
            "setDeletionProtection": self.set_deletion_protection,
            "setScheduling": self.set_scheduling,
            "setServiceAccount": self.set_service_account,
            "updateShieldedInstanceConfig": self.set_shielded,
            "attachDisk": self.attach_disk,
            "detachDisk": self.detach_disk,
            "setDiskAutoDelete": self.set_auto_delete,
        }
        self.actions["addAccessConfig"] = self.actions["deleteAccessConfig"] = self.fixed_address
        self.reads = {"serialPort": self.serial_port, "getGuestAttributes": self.guest_attributes}

    # power -----------------------------------------------------------------------------------------------------

    def start(self, scope: Scope, name: str, _: Document, __: Query) -> Document:
        """Start; harmless when it runs."""
        document, key = self.need(scope, name), self.key(scope, name)
        if document["status"] in ALIVE:
            return self.operations.start(scope, "start", key, Plan())
        self.machine_type(scope, document)
        self.base.change(key, {"status": "STAGING", "lastStartTimestamp": now()})
        target = f"machine:{room_machine(document)}"
        plan = Plan(end=[(key, {"status": "RUNNING"})], undo=[(key, {"status": "TERMINATED"})], names=[target])
        return self.operations.start(scope, "start", key, plan)

    def stop(self, scope: Scope, name: str, _: Document, __: Query) -> Document:
        """Stop in order; harmless when it is stopped."""
        document, key = self.need(scope, name), self.key(scope, name)
        if document["status"] == "TERMINATED":
            return self.operations.start(scope, "stop", key, Plan())
        self.base.change(key, {"status": "STOPPING"})
        target = f"machine:{room_machine(document)}"
        end = {"status": "TERMINATED", "lastStopTimestamp": now()}
        plan = Plan(end=[(key, end)], undo=[(key, {"status": "RUNNING"})], names=[target])
        return self.operations.start(scope, "stop", key, plan)

    def reset(self, scope: Scope, name: str, _: Document, __: Query) -> Document:
        """The power button: processes die at once and the machine boots again."""
        document, key = self.need(scope, name), self.key(scope, name)
        if document["status"] != "RUNNING":
            raise ApiError(400, "resourceNotReady", f"The resource '{key}' is not ready")
        self.kill(room_machine(document))
        return self.operations.start(scope, "reset", key, Plan(names=[f"machine:{room_machine(document)}"]))

    def _needs_stopped(self, scope: Scope, name: str, field: str) -> None:
        if self.need(scope, name)["status"] != "TERMINATED":
            raise ApiError(400, "resourceInUse", f"{field} can only be changed while the instance is TERMINATED.")

    # fields ----------------------------------------------------------------------------------------------------

    def put_metadata(self, scope: Scope, name: str, body: Document, _: Query) -> Document:
        """Replace the metadata; keys and users follow in the machine."""
        if body.get("fingerprint") != self.need(scope, name)["metadata"]["fingerprint"]:
            raise stale("Metadata")
        return self.update(scope, name, {"metadata": set_metadata(body)}, "setMetadata")

    def put_tags(self, scope: Scope, name: str, body: Document, _: Query) -> Document:
        """Replace the network tags; the firewall follows."""
        if body.get("fingerprint") != self.need(scope, name)["tags"]["fingerprint"]:
            raise stale("Tags")
        return self.update(scope, name, {"tags": set_tags(body)}, "setTags")

    def set_machine_type(self, scope: Scope, name: str, body: Document, _: Query) -> Document:
        """Only while stopped."""
        self._needs_stopped(scope, name, "The machine type")
        document = self.need(scope, name) | {"machineType": body.get("machineType")}
        return self.update(scope, name, {"machineType": self.machine_type(scope, document)}, "setMachineType")

    def set_deletion_protection(self, scope: Scope, name: str, _: Document, query: Query) -> Document:
        """``?deletionProtection=``; the parameter left out means true."""
        protection = query.get("deletionProtection", "true").lower() == "true"
        self.need(scope, name)
        return self.update(scope, name, {"deletionProtection": protection}, "setDeletionProtection")

    def set_scheduling(self, scope: Scope, name: str, body: Document, _: Query) -> Document:
        """Kept; the sandbox has no host maintenance."""
        document = self.need(scope, name)
        return self.update(scope, name, {"scheduling": document["scheduling"] | body}, "setScheduling")

    def set_service_account(self, scope: Scope, name: str, body: Document, _: Query) -> Document:
        """Only while stopped."""
        self._needs_stopped(scope, name, "The service account")
        account = {"email": body.get("email"), "scopes": body.get("scopes", [])}
        return self.update(scope, name, {"serviceAccounts": [account] if body.get("email") else []})

    def set_shielded(self, scope: Scope, name: str, body: Document, _: Query) -> Document:
        """Only while stopped."""
        self._needs_stopped(scope, name, "The shielded instance configuration")
        changes = {key: value for key, value in body.items() if key in SHIELDED and value is not None}
        config = self.need(scope, name)["shieldedInstanceConfig"] | changes
        return self.update(scope, name, {"shieldedInstanceConfig": config}, "updateShieldedInstanceConfig")

    # disks -----------------------------------------------------------------------------------------------------

    def attach_disk(self, scope: Scope, name: str, body: Document, _: Query) -> Document:
        """Put a free disk of the zone into the machine, running or not."""
        document, key = self.need(scope, name), self.key(scope, name)
        disk_key = self.base.key(str(body.get("source", "")))
        with self.base.documents.lock:
            disk = self.free(disk_key, scope)
            indexes = {attachment["index"] for attachment in document["disks"]}
            index = next(number for number in range(len(indexes) + 1) if number not in indexes)
            line = self.attachment(disk, body | {"boot": False}, index)
            if line["deviceName"] in {attachment["deviceName"] for attachment in document["disks"]}:
                raise invalid("deviceName", line["deviceName"], "The device name is already in use on the instance.")
            self.base.change(disk_key, self.holder_fields(document["selfLink"]))
            self.base.change(key, {"disks": [*document["disks"], line]})
        names = [f"machine:{room_machine(document)}", *([] if is_boot(disk) else [f"disk:{room_disk(disk)}"])]
        undo: list[Change] = [(disk_key, {"users": []}), (key, {"disks": document["disks"]})]
        return self.operations.start(scope, "attachDisk", key, Plan(names=names, undo=undo))

    def detach_disk(self, scope: Scope, name: str, _: Document, query: Query) -> Document:
        """Pull a disk out, mounted or not: the real cloud does not ask either."""
        document, key = self.need(scope, name), self.key(scope, name)
        device = query.get("deviceName", "")
        line = next((attachment for attachment in document["disks"] if attachment["deviceName"] == device), None)
        if line is None:
            raise invalid("deviceName", device, f"No attached disk found with device name '{device}'.")
        if line["boot"] and document["status"] != "TERMINATED":
            raise ApiError(400, "resourceInUse", "The boot disk can only be detached while the instance is TERMINATED.")
        rest = [attachment for attachment in document["disks"] if attachment is not line]
        begin: list[Change] = [
            (key, {"disks": rest}),
            (self.base.key(line["source"]), {"users": [], "lastDetachTimestamp": now()}),
        ]
        return self.operations.start(scope, "detachDisk", key, Plan(begin=begin))

    def set_auto_delete(self, scope: Scope, name: str, _: Document, query: Query) -> Document:
        """``?deviceName=…&autoDelete=``."""
        document, device = self.need(scope, name), query.get("deviceName", "")
        lines = [dict(attachment) for attachment in document["disks"]]
        for line in lines:
            if line["deviceName"] == device:
                line["autoDelete"] = query.get("autoDelete", "").lower() == "true"
                return self.update(scope, name, {"disks": lines}, "setDiskAutoDelete")
        raise invalid("deviceName", device, f"No attached disk found with device name '{device}'.")

    def fixed_address(self, scope: Scope, name: str, _: Document, __: Query) -> Document:
        """A container's published address cannot change."""
        message = f"The sandbox gives {self.key(scope, name)} its external address when it is made, and for good."
        raise ApiError(501, "notImplemented", message)

    # looking in ------------------------------------------------------------------------------------------------

    def serial_port(self, scope: Scope, name: str, _: Document, __: Query) -> Document:
        """What the machine's console said."""
        document = self.need(scope, name)
        contents = self.console(room_machine(document))
        return {
            "kind": "compute#serialPortOutput",
            "selfLink": f"{document['selfLink']}/serialPort",
            "contents": contents,
            "start": "0",
            "next": str(len(contents)),
        }

    def guest_attributes(self, scope: Scope, name: str, _: Document, query: Query) -> Document:
        """SSH host keys under ``hostkeys/``, when the metadata enables guest attributes."""
        document = self.need(scope, name)
        items = {item["key"]: str(item["value"]).lower() for item in document["metadata"].get("items", [])}
        if items.get("enable-guest-attributes") != "true":
            raise ApiError(403, "forbidden", f"Guest attributes are not enabled on '{self.key(scope, name)}'.")
        path = query.get("queryPath", "hostkeys/").strip("/")
        entries = [
            {"namespace": "hostkeys", "key": kind, "value": value}
            for kind, value in sorted(self.host_keys(room_machine(document)).items())
            if path in {"hostkeys", f"hostkeys/{kind}"}
        ]
        if not entries:
            raise ApiError(404, "notFound", f"The resource '{path}' of type 'Guest Attribute' was not found.")
        return {
            "kind": "compute#guestAttributes",
            "selfLink": f"{ROOT}{self.key(scope, name)}/guestAttributes/",
            "queryPath": f"{path}/",
            "queryValue": {"items": entries},
        }
