"""Disks, machines and snapshots in one form, whichever provider told of them, and what of the wanted is missing."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from datetime import datetime, timedelta
from typing import Any

Resource = Mapping[str, Any]
Inventory = dict[str, dict[str, Any]]

# A larger disk than asked was grown; it is never made smaller.
GROW = "is {size} GB, {target} GB are asked for: expand.yml grows it, with a snapshot first"
GCP_STATES = {"RUNNING": "running", "PROVISIONING": "starting", "STAGING": "starting", "TERMINATED": "stopped"}


def _last(link: Any) -> str:
    return str(link or "").rsplit("/", 1)[-1]


def goud_gcp_disks(disks: Iterable[Resource]) -> Inventory:
    """Google's data disks (boot disks carry another role, or none) by name."""
    return {
        disk["name"]: {
            "name": disk["name"],
            "id": disk["selfLink"],
            "zone": _last(disk["zone"]),
            "size_gb": int(disk["sizeGb"]),
            "type": _last(disk["type"]),
            "state": "ready" if disk["status"] == "READY" else str(disk["status"]).lower(),
            "machine": _last((disk.get("users") or [""])[0]),
            "encrypted": True,
            "schedules": [_last(link) for link in disk.get("resourcePolicies", [])],
        }
        for disk in disks
        if disk.get("labels", {}).get("goud_role") == "data"
    }


def goud_kind_and_name(resource: Resource) -> str:
    """`firewall goud-ssh`, of a resource of Google's."""
    return f"{str(resource['kind']).rsplit('#', 1)[-1]} {resource['name']}"


def goud_disk_plan(
    disks: Iterable[Resource], inventory: Mapping[str, Resource], kind: str, schedule: str
) -> dict[str, Any]:
    """Disks to `create`, to put under the `schedule`, `faults` that nothing here may mend; `sentences` say it all."""
    disks = list(disks)
    create = [disk for disk in disks if disk["name"] not in inventory]
    faults = []
    unscheduled = []
    for disk in disks:
        resource = inventory.get(disk["name"])
        if resource is None:
            continue
        name = disk["name"]
        if resource["zone"] != disk["zone"]:
            faults.append(f"{name} is in {resource['zone']}, not in {disk['zone']}: restore a snapshot of it there")
        if resource["type"] != kind:
            faults.append(f"{name} is of the type {resource['type']}, not {kind}: name its type (cloud_disk_type)")
        if resource["size_gb"] < int(disk["size_gb"]):
            faults.append(f"{name} {GROW.format(size=resource['size_gb'], target=disk['size_gb'])}")
        if not resource["encrypted"]:
            faults.append(f"{name} is not encrypted: restore a snapshot of it to a new disk")
        if schedule and schedule not in resource["schedules"]:
            unscheduled.append(name)
    sentences = [f"{disk['name']}: create, {disk['size_gb']} GB {kind} in {disk['zone']}" for disk in create]
    sentences += [f"{name}: put under the schedule {schedule}" for name in unscheduled]
    return {"create": create, "unscheduled": unscheduled, "faults": faults, "sentences": sentences}


def goud_gcp_machines(instances: Iterable[Resource]) -> Inventory:
    """Google's instances by name."""
    machines: Inventory = {}
    for instance in instances:
        interface = instance["networkInterfaces"][0]
        public_address = (interface.get("accessConfigs") or [{}])[0].get("natIP", "")
        machines[instance["name"]] = {
            "name": instance["name"],
            "id": instance["selfLink"],
            "zone": _last(instance["zone"]),
            "type": _last(instance["machineType"]),
            "state": GCP_STATES.get(instance["status"], str(instance["status"]).lower()),
            "address": public_address or interface["networkIP"],
            "private": interface["networkIP"],
            "disks": [_last(disk["source"]) for disk in instance["disks"] if not disk.get("boot")],
            "protected": bool(instance.get("deletionProtection")),
            "hardened": bool(instance.get("shieldedInstanceConfig", {}).get("enableSecureBoot")),
        }
    return machines


def goud_wanted_machines(machines: Iterable[Resource], cluster: str, types: Mapping[str, str]) -> list[dict[str, Any]]:
    """The machines with `full_name`, `machine_type` and `disk` (the name of their data disk, or empty)."""
    rows = []
    for machine in machines:
        kind = machine.get("machine_type") or types[machine["role"]]
        name = f"{cluster}-{machine['name']}"
        disk = f"{name}-data" if int(machine.get("data_gb") or 0) > 0 else ""
        extra = {"full_name": name, "machine_type": kind, "disk": disk}
        rows.append({**machine, **extra, "kind_path": f"{machine['zone']}/machineTypes/{kind}"})
    return rows


def _machine_faults(machine: Resource, instance: Resource) -> list[str]:
    name = machine["full_name"]
    faults = []
    if instance["zone"] != machine["zone"]:
        faults.append(f"{name} is in {instance['zone']}, not in {machine['zone']}: a machine cannot move; rebuild it")
    if instance["type"] != machine["machine_type"]:
        faults.append(
            f"{name} is a {instance['type']}, not a {machine['machine_type']}: stop it, change its type in the "
            "console, one machine after the other, or ask for the type that it has"
        )
    if not instance["hardened"]:
        faults.append(f"{name} was not made by this role (no secure boot, or the old metadata service): rebuild it")
    return faults


def goud_machine_plan(
    machines: Iterable[Resource],
    instances: Mapping[str, Resource],
    disks: Mapping[str, Resource],
    protected: bool,
    edge_address: str = "",
) -> dict[str, Any]:
    """Machines to `create`, `start`, `protect` and give their `address`, disks to `attach`; `sentences` say all of it.

    `faults` are what nothing here may mend.
    """
    create, start, attach, protect, address, faults = [], [], [], [], [], []
    for machine in machines:
        name = machine["full_name"]
        instance = instances.get(name)
        disk = disks.get(machine["disk"], {}) if machine["disk"] else {}
        holder = disk.get("machine", "")
        if holder and holder != name:
            faults.append(f"{machine['disk']} is attached to {holder}, it belongs to {name}: detach it there first")
        if machine["role"] == "edge" and edge_address and (instance or {}).get("address") != edge_address:
            address.append(machine)
        if instance is None:
            create.append(machine)
            continue
        faults += _machine_faults(machine, instance)
        if instance["state"] == "stopped":
            start.append(machine)
        if instance["protected"] != protected:
            protect.append(machine)
        if machine["disk"] and not holder:
            attach.append(machine)
    sentences = [
        f"{machine['full_name']}: create, {machine['machine_type']} in {machine['zone']}" for machine in create
    ]
    sentences += [f"{machine['full_name']}: start" for machine in start]
    sentences += [f"{machine['full_name']}: {'protect from' if protected else 'allow'} deletion" for machine in protect]
    sentences += [
        f"{machine['full_name']}: give the address {edge_address}" for machine in address if machine not in create
    ]
    sentences += [f"{machine['disk']}: attach to {machine['full_name']}" for machine in attach]
    plan = {"create": create, "start": start, "attach": attach, "protect": protect, "address": address}
    return plan | {"faults": faults, "sentences": sentences}


def goud_gcp_snapshots(snapshots: Iterable[Resource]) -> list[dict[str, Any]]:
    """Google's snapshots, newest first."""
    return _newest(
        [
            {
                "name": snapshot["name"],
                "id": snapshot["selfLink"],
                "disk": _last(snapshot.get("sourceDisk")),
                "size_gb": int(snapshot["diskSizeGb"]),
                "time": snapshot["creationTimestamp"],
                "state": "complete" if snapshot["status"] == "READY" else str(snapshot["status"]).lower(),
                "scheduled": bool(snapshot.get("autoCreated")),
            }
            for snapshot in snapshots
        ]
    )


def _newest(snapshots: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return sorted(snapshots, key=lambda snapshot: datetime.fromisoformat(snapshot["time"]), reverse=True)


def goud_prunable(snapshots: Iterable[Resource], keep_last: int, keep_days: int, now: str) -> list[Resource]:
    """Snapshots (newest first) that the policy lets go: those taken by hand, never a disk's newest complete one.

    The schedule removes its own; those of AWS Backup cannot be removed otherwise.
    """
    cutoff = datetime.fromisoformat(now) - timedelta(days=int(keep_days))
    counts: dict[str, int] = {}
    prunable = []
    for snapshot in snapshots:
        if snapshot["state"] != "complete" or snapshot.get("scheduled"):
            continue
        counts[snapshot["disk"]] = counts.get(snapshot["disk"], 0) + 1
        if counts[snapshot["disk"]] > max(1, int(keep_last)) and datetime.fromisoformat(snapshot["time"]) < cutoff:
            prunable.append(snapshot)
    return prunable


def goud_disk_rows(disks: Iterable[Resource], inventory: Mapping[str, Resource]) -> list[dict[str, Any]]:
    """A row for the report per wanted disk."""
    rows = []
    for disk in disks:
        resource = inventory.get(disk["name"])
        rows.append(
            {
                "part": "disk",
                "name": disk["name"],
                "zone": disk["zone"],
                "size": f"{resource['size_gb']} GB" if resource else f"{disk['size_gb']} GB",
                "state": resource["state"] if resource else "planned",
                "machine": resource["machine"] if resource else "",
            }
        )
    return rows


def goud_machine_rows(machines: Iterable[Resource], instances: Mapping[str, Resource]) -> list[dict[str, Any]]:
    """A row for the report per wanted machine."""
    rows = []
    for machine in machines:
        instance = instances.get(machine["full_name"], {})
        rows.append(
            {
                "part": machine["name"],
                "zone": machine["zone"],
                "address": instance.get("address", ""),
                "private": instance.get("private", ""),
                "disk": machine["disk"],
                "state": instance.get("state", "planned"),
            }
        )
    return rows


def goud_join_disks(machines: Iterable[Resource], disks: Iterable[Resource]) -> list[dict[str, Any]]:
    """The machines' rows with the size and state of their disk; a machine without its disk is not well."""
    disk_by_name = {disk["name"]: disk for disk in disks}
    rows = []
    for machine in machines:
        disk = disk_by_name.get(machine["disk"])
        row = dict(machine)
        if disk:
            row["disk"] = f"{disk['name']}, {disk['size']}"
            if machine["state"] == "running" and not disk["name"].startswith(f"{disk['machine']}-"):
                row["state"] = "disk missing"
        rows.append(row)
    return rows


def goud_snapshot_row(snapshot: Resource) -> dict[str, str]:
    """A snapshot's row for the report."""
    return {
        "snapshot": snapshot["name"],
        "disk": snapshot["disk"],
        "size": f"{snapshot['size_gb']} GB",
        "time": snapshot["time"],
        "by": "schedule" if snapshot["scheduled"] else "hand",
        "state": snapshot["state"],
    }


def goud_gcp_host_keys(machines: Iterable[Resource], attributes: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What goud_host_keys wants, from Google's guest attributes by machine name."""
    entries = []
    for machine in machines:
        items = ((attributes.get(machine["name"]) or {}).get("queryValue") or {}).get("items", [])
        keys = [f"{item['key']} {item['value']}" for item in items]
        entries.append({"alias": machine["name"], "address": machine["address"], "keys": keys})
    return entries


def goud_gcp_refused(machines: Iterable[Resource], offer: Mapping[str, Any], region: str) -> list[str]:
    """One sentence for each zone and kind of machine that Google does not have, and for a quota without room."""
    machines = list(machines)
    description = offer.get("region")
    if not description:
        return [f"Google has no region {region}: see `gcloud compute regions list` (cloud_region)."]
    zones = {_last(link) for link in description.get("zones", [])}
    refusals = [
        f"Google has no zone {zone} in {region} (there are {', '.join(sorted(zones))}): correct cloud_zones."
        for zone in sorted({machine["zone"] for machine in machines} - zones)
    ]
    if refusals:
        return refusals
    missing = sorted(
        {(machine["machine_type"], machine["zone"]) for machine in machines if not offer.get(machine["kind_path"])}
    )
    refusals = [
        f"Google has no machine type {kind} in {zone}: name another (cloud_vm_node_type)." for kind, zone in missing
    ]
    instance_names = {instance["name"] for instance in offer.get("instances") or []}
    disk_names = {disk["name"] for disk in offer.get("disks") or []}
    cpus = sum(
        int((offer.get(machine["kind_path"]) or {}).get("guestCpus", 0))
        for machine in machines
        if machine["full_name"] not in instance_names
    )
    space = sum(
        int(machine["data_gb"]) for machine in machines if machine["disk"] and machine["disk"] not in disk_names
    )
    for metric, demand in (("CPUS", cpus), ("SSD_TOTAL_GB", space)):
        quota = next((entry for entry in description.get("quotas", []) if entry["metric"] == metric), None)
        if quota and demand and quota["usage"] + demand > quota["limit"]:
            refusals.append(
                f"The quota {metric} of {region} has no room: {quota['limit']:g} are allowed, {quota['usage']:g} used, "
                f"{demand} more needed. Ask for a larger one (IAM & Admin, Quotas), or for less."
            )
    return refusals


class FilterModule:
    """Registers the filters above."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        functions = (
            goud_disk_plan, goud_disk_rows, goud_gcp_disks, goud_gcp_host_keys, goud_gcp_machines, goud_gcp_refused,
            goud_gcp_snapshots, goud_join_disks, goud_kind_and_name, goud_machine_plan, goud_machine_rows,
            goud_prunable, goud_snapshot_row, goud_wanted_machines,
        )  # fmt: skip
        return {function.__name__: function for function in functions}
