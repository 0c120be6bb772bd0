"""Disks, machines and snapshots in one form, whichever provider told of them, and what of the wanted is missing."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from datetime import datetime, timedelta
from typing import Any

Resource = Mapping[str, Any]
Found = dict[str, dict[str, Any]]

# A larger disk than asked was grown; it is never made smaller.
GROW = "is {have} GB, {want} GB are asked for: expand.yml grows it, with a snapshot first"
GCP_STATES = {"RUNNING": "running", "PROVISIONING": "starting", "STAGING": "starting", "TERMINATED": "stopped"}


def _last(link: Any) -> str:
    return str(link or "").rsplit("/", 1)[-1]


def goud_gcp_disks(disks: Iterable[Resource]) -> Found:
    """Google's data disks (boot disks carry another role, or none) by name."""
    return {
        one["name"]: {
            "name": one["name"],
            "id": one["selfLink"],
            "zone": _last(one["zone"]),
            "size_gb": int(one["sizeGb"]),
            "type": _last(one["type"]),
            "state": "ready" if one["status"] == "READY" else str(one["status"]).lower(),
            "machine": _last((one.get("users") or [""])[0]),
            "encrypted": True,
            "schedules": [_last(link) for link in one.get("resourcePolicies", [])],
        }
        for one in disks
        if one.get("labels", {}).get("goud_role") == "data"
    }


def goud_kind_and_name(one: Resource) -> str:
    """`firewall goud-ssh`, of a resource of Google's."""
    return f"{str(one['kind']).rsplit('#', 1)[-1]} {one['name']}"


def goud_disk_plan(
    wanted: Iterable[Resource], found: Mapping[str, Resource], kind: str, schedule: str
) -> dict[str, Any]:
    """Disks to `create`, those to put under the `schedule`, `faults` that nothing here may mend; all of it `told`."""
    wanted = list(wanted)
    create = [one for one in wanted if one["name"] not in found]
    faults = []
    unscheduled = []
    for one in wanted:
        there = found.get(one["name"])
        if there is None:
            continue
        name = one["name"]
        if there["zone"] != one["zone"]:
            faults.append(f"{name} is in {there['zone']}, not in {one['zone']}: restore a snapshot of it there")
        if there["type"] != kind:
            faults.append(f"{name} is of the type {there['type']}, not {kind}: name its type (cloud_disk_type)")
        if there["size_gb"] < int(one["size_gb"]):
            faults.append(f"{name} {GROW.format(have=there['size_gb'], want=one['size_gb'])}")
        if not there["encrypted"]:
            faults.append(f"{name} is not encrypted: restore a snapshot of it to a new disk")
        if schedule and schedule not in there["schedules"]:
            unscheduled.append(name)
    told = [f"{one['name']}: create, {one['size_gb']} GB {kind} in {one['zone']}" for one in create]
    told += [f"{name}: put under the schedule {schedule}" for name in unscheduled]
    return {"create": create, "unscheduled": unscheduled, "faults": faults, "told": told}


def goud_gcp_machines(instances: Iterable[Resource]) -> Found:
    """Google's instances by name."""
    found: Found = {}
    for one in instances:
        interface = one["networkInterfaces"][0]
        outside = (interface.get("accessConfigs") or [{}])[0].get("natIP", "")
        found[one["name"]] = {
            "name": one["name"],
            "id": one["selfLink"],
            "zone": _last(one["zone"]),
            "type": _last(one["machineType"]),
            "state": GCP_STATES.get(one["status"], str(one["status"]).lower()),
            "address": outside or interface["networkIP"],
            "private": interface["networkIP"],
            "disks": [_last(disk["source"]) for disk in one["disks"] if not disk.get("boot")],
            "protected": bool(one.get("deletionProtection")),
            "hardened": bool(one.get("shieldedInstanceConfig", {}).get("enableSecureBoot")),
        }
    return found


def goud_wanted_machines(machines: Iterable[Resource], cluster: str, types: Mapping[str, str]) -> list[dict[str, Any]]:
    """The machines with `full_name`, `machine_type` and `disk` (the name of their data disk, or empty)."""
    found = []
    for one in machines:
        kind = one.get("machine_type") or types[one["role"]]
        name = f"{cluster}-{one['name']}"
        disk = f"{name}-data" if int(one.get("data_gb") or 0) > 0 else ""
        extra = {"full_name": name, "machine_type": kind, "disk": disk}
        found.append({**one, **extra, "kind_path": f"{one['zone']}/machineTypes/{kind}"})
    return found


def _machine_faults(one: Resource, there: Resource) -> list[str]:
    name = one["full_name"]
    faults = []
    if there["zone"] != one["zone"]:
        faults.append(f"{name} is in {there['zone']}, not in {one['zone']}: a machine cannot move; rebuild it")
    if there["type"] != one["machine_type"]:
        faults.append(
            f"{name} is a {there['type']}, not a {one['machine_type']}: stop it, change its type in the "
            "console, one machine after the other, or ask for the type that it has"
        )
    if not there["hardened"]:
        faults.append(f"{name} was not made by this role (no secure boot, or the old metadata service): rebuild it")
    return faults


def goud_machine_plan(
    wanted: Iterable[Resource],
    found: Mapping[str, Resource],
    disks: Mapping[str, Resource],
    protected: bool,
    edge_address: str = "",
) -> dict[str, Any]:
    """Machines to `create`, `start`, `protect` and give their `address`, disks to `attach`; all of it `told`.

    `faults` are what nothing here may mend.
    """
    create, start, attach, protect, address, faults = [], [], [], [], [], []
    for one in wanted:
        name = one["full_name"]
        there = found.get(name)
        disk = disks.get(one["disk"], {}) if one["disk"] else {}
        holder = disk.get("machine", "")
        if holder and holder != name:
            faults.append(f"{one['disk']} is attached to {holder}, it belongs to {name}: detach it there first")
        if one["role"] == "edge" and edge_address and (there or {}).get("address") != edge_address:
            address.append(one)
        if there is None:
            create.append(one)
            continue
        faults += _machine_faults(one, there)
        if there["state"] == "stopped":
            start.append(one)
        if there["protected"] != protected:
            protect.append(one)
        if one["disk"] and not holder:
            attach.append(one)
    told = [f"{one['full_name']}: create, {one['machine_type']} in {one['zone']}" for one in create]
    told += [f"{one['full_name']}: start" for one in start]
    told += [f"{one['full_name']}: {'protect from' if protected else 'allow'} deletion" for one in protect]
    told += [f"{one['full_name']}: give the address {edge_address}" for one in address if one not in create]
    told += [f"{one['disk']}: attach to {one['full_name']}" for one in attach]
    plan = {"create": create, "start": start, "attach": attach, "protect": protect, "address": address}
    return plan | {"faults": faults, "told": told}


def goud_gcp_snapshots(snapshots: Iterable[Resource]) -> list[dict[str, Any]]:
    """Google's snapshots, newest first."""
    return _newest(
        [
            {
                "name": one["name"],
                "id": one["selfLink"],
                "disk": _last(one.get("sourceDisk")),
                "size_gb": int(one["diskSizeGb"]),
                "time": one["creationTimestamp"],
                "state": "complete" if one["status"] == "READY" else str(one["status"]).lower(),
                "scheduled": bool(one.get("autoCreated")),
            }
            for one in snapshots
        ]
    )


def _newest(snapshots: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return sorted(snapshots, key=lambda one: datetime.fromisoformat(one["time"]), reverse=True)


def goud_prunable(snapshots: Iterable[Resource], keep_last: int, keep_days: int, now: str) -> list[Resource]:
    """Snapshots (newest first) that the policy lets go: those taken by hand, never a disk's newest complete one.

    The schedule removes its own; those of AWS Backup cannot be removed otherwise.
    """
    oldest = datetime.fromisoformat(now) - timedelta(days=int(keep_days))
    kept: dict[str, int] = {}
    found = []
    for one in snapshots:
        if one["state"] != "complete" or one.get("scheduled"):
            continue
        kept[one["disk"]] = kept.get(one["disk"], 0) + 1
        if kept[one["disk"]] > max(1, int(keep_last)) and datetime.fromisoformat(one["time"]) < oldest:
            found.append(one)
    return found


def goud_disk_rows(wanted: Iterable[Resource], found: Mapping[str, Resource]) -> list[dict[str, Any]]:
    """A row for the report per wanted disk."""
    rows = []
    for one in wanted:
        there = found.get(one["name"])
        rows.append(
            {
                "part": "disk",
                "name": one["name"],
                "zone": one["zone"],
                "size": f"{there['size_gb']} GB" if there else f"{one['size_gb']} GB",
                "state": there["state"] if there else "planned",
                "machine": there["machine"] if there else "",
            }
        )
    return rows


def goud_machine_rows(wanted: Iterable[Resource], found: Mapping[str, Resource]) -> list[dict[str, Any]]:
    """A row for the report per wanted machine."""
    rows = []
    for one in wanted:
        there = found.get(one["full_name"], {})
        rows.append(
            {
                "part": one["name"],
                "zone": one["zone"],
                "address": there.get("address", ""),
                "private": there.get("private", ""),
                "disk": one["disk"],
                "state": there.get("state", "planned"),
            }
        )
    return rows


def goud_join_disks(machines: Iterable[Resource], disks: Iterable[Resource]) -> list[dict[str, Any]]:
    """The machines' rows with the size and state of their disk; a machine without its disk is not well."""
    known = {one["name"]: one for one in disks}
    rows = []
    for one in machines:
        disk = known.get(one["disk"])
        row = dict(one)
        if disk:
            row["disk"] = f"{disk['name']}, {disk['size']}"
            if one["state"] == "running" and not disk["name"].startswith(f"{disk['machine']}-"):
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


def goud_gcp_host_keys(machines: Iterable[Resource], told: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What goud_host_keys wants, from Google's guest attributes by machine name."""
    found = []
    for one in machines:
        items = ((told.get(one["name"]) or {}).get("queryValue") or {}).get("items", [])
        keys = [f"{item['key']} {item['value']}" for item in items]
        found.append({"alias": one["name"], "address": one["address"], "keys": keys})
    return found


def goud_gcp_refused(wanted: Iterable[Resource], offer: Mapping[str, Any], region: str) -> list[str]:
    """One sentence for each zone and kind of machine that Google does not have, and for a quota without room."""
    wanted = list(wanted)
    here = offer.get("region")
    if not here:
        return [f"Google has no region {region}: see `gcloud compute regions list` (cloud_region)."]
    zones = {_last(link) for link in here.get("zones", [])}
    found = [
        f"Google has no zone {zone} in {region} (there are {', '.join(sorted(zones))}): correct cloud_zones."
        for zone in sorted({one["zone"] for one in wanted} - zones)
    ]
    if found:
        return found
    missing = sorted({(one["machine_type"], one["zone"]) for one in wanted if not offer.get(one["kind_path"])})
    found = [
        f"Google has no machine type {kind} in {zone}: name another (cloud_vm_node_type)." for kind, zone in missing
    ]
    made = {one["name"] for one in offer.get("instances") or []}
    disks = {one["name"] for one in offer.get("disks") or []}
    cpus = sum(
        int((offer.get(one["kind_path"]) or {}).get("guestCpus", 0)) for one in wanted if one["full_name"] not in made
    )
    space = sum(int(one["data_gb"]) for one in wanted if one["disk"] and one["disk"] not in disks)
    for metric, more in (("CPUS", cpus), ("SSD_TOTAL_GB", space)):
        quota = next((one for one in here.get("quotas", []) if one["metric"] == metric), None)
        if quota and more and quota["usage"] + more > quota["limit"]:
            found.append(
                f"The quota {metric} of {region} has no room: {quota['limit']:g} are allowed, "
                f"{quota['usage']:g} used, {more} more needed. Ask for a larger one (IAM & Admin, Quotas), or for less."
            )
    return found


class FilterModule:
    """Registers the filters above."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        own = (
            goud_disk_plan, goud_disk_rows, goud_gcp_disks, goud_gcp_host_keys, goud_gcp_machines, goud_gcp_refused,
            goud_gcp_snapshots, goud_join_disks, goud_kind_and_name, goud_machine_plan, goud_machine_rows,
            goud_prunable, goud_snapshot_row, goud_wanted_machines,
        )  # fmt: skip
        return {one.__name__: one for one in own}
