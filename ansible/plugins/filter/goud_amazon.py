"""Amazon's resources, as boto3 gives them, in the form of every provider (goud_resources)."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from typing import Any

Resource = Mapping[str, Any]
STATES = {"running": "running", "pending": "starting", "stopped": "stopped"}
HOST_KEYS = re.compile(r"-----BEGIN SSH HOST KEY KEYS-----\s*(.*?)-----END SSH HOST KEY KEYS-----", re.DOTALL)
DATA_DEVICE = "/dev/sdf"
SCHEDULED = "aws:backup:source-resource"  # the tag of what AWS Backup makes


def tags(one: Resource) -> dict[str, str]:
    """A resource's tags as a mapping."""
    return {str(tag["Key"]): str(tag["Value"]) for tag in one.get("Tags") or ()}


def goud_aws_instances(reservations: Iterable[Resource]) -> list[Resource]:
    """The instances that are there; those that are gone stay listed for an hour."""
    gone = {"terminated", "shutting-down"}
    return [one for held in reservations for one in held["Instances"] if one["State"]["Name"] not in gone]


def goud_aws_machines(reservations: Iterable[Resource], protected: Iterable[str] = ()) -> dict[str, dict[str, Any]]:
    """Instances by name. `protected` are the ids of those that cannot be terminated."""
    kept = set(protected)
    return {
        str(tags(one).get("Name", one["InstanceId"])): {
            "name": tags(one).get("Name", one["InstanceId"]),
            "id": one["InstanceId"],
            "zone": one["Placement"]["AvailabilityZone"],
            "type": one["InstanceType"],
            "state": STATES.get(one["State"]["Name"], one["State"]["Name"]),
            "address": one.get("PublicIpAddress") or one.get("PrivateIpAddress", ""),
            "private": one.get("PrivateIpAddress", ""),
            "disks": [
                disk["Ebs"]["VolumeId"]
                for disk in one.get("BlockDeviceMappings", [])
                if disk["DeviceName"] == DATA_DEVICE
            ],
            "protected": one["InstanceId"] in kept,
            "hardened": (one.get("MetadataOptions") or {}).get("HttpTokens") == "required",
        }
        for one in goud_aws_instances(reservations)
    }


def goud_aws_disks(volumes: Iterable[Resource], reservations: Iterable[Resource]) -> dict[str, dict[str, Any]]:
    """Data volumes by name, with the names of the machines that have them."""
    names = {one["InstanceId"]: tags(one).get("Name", one["InstanceId"]) for one in goud_aws_instances(reservations)}
    found = {}
    for one in volumes:
        told = tags(one)
        if told.get("goud_role") != "data" or one["State"] in {"deleting", "deleted"}:
            continue
        holder = next((str(at["InstanceId"]) for at in one.get("Attachments", []) if at.get("InstanceId")), "")
        found[told["Name"]] = {
            "name": told["Name"],
            "id": one["VolumeId"],
            "zone": one["AvailabilityZone"],
            "size_gb": int(one["Size"]),
            "type": one["VolumeType"],
            "state": "ready" if one["State"] in {"available", "in-use"} else one["State"],
            "machine": names.get(holder, holder),
            "encrypted": bool(one.get("Encrypted")),
            # A plan of AWS Backup selects volumes by their tags, so the tag is the schedule.
            "schedules": [told["goud_schedule"]] if told.get("goud_schedule") else [],
        }
    return found


def goud_aws_snapshots(snapshots: Iterable[Resource], volumes: Iterable[Resource] = ()) -> list[dict[str, Any]]:
    """Snapshots, newest first. Those of AWS Backup carry the tags of their volume, its name among them."""
    names = {one["VolumeId"]: tags(one)["Name"] for one in volumes if tags(one).get("Name")}
    found = [
        {
            "name": one["SnapshotId"] if SCHEDULED in tags(one) else tags(one).get("Name", one["SnapshotId"]),
            "id": one["SnapshotId"],
            "disk": tags(one).get("goud_disk") or names.get(one.get("VolumeId"), one.get("VolumeId", "")),
            "size_gb": int(one["VolumeSize"]),
            "time": str(one["StartTime"]),
            "state": "complete" if one["State"] == "completed" else one["State"],
            "scheduled": SCHEDULED in tags(one),
        }
        for one in snapshots
    ]
    return sorted(found, key=lambda one: datetime.fromisoformat(str(one["time"])), reverse=True)


def _rules(group: Resource, names: Mapping[str, str]) -> list[str]:
    found = []
    for rule in group.get("IpPermissions", []):
        what = f"{rule['IpProtocol']} {rule.get('FromPort', '')}-{rule.get('ToPort', '')} from"
        found += [f"{what} {one['CidrIp']}" for one in rule.get("IpRanges", [])]
        found += [f"{what} {one['CidrIpv6']}" for one in rule.get("Ipv6Ranges", [])]
        found += [f"{what} {names.get(one['GroupId'], one['GroupId'])}" for one in rule.get("UserIdGroupPairs", [])]
    return sorted(found)


def goud_aws_network(found: Mapping[str, Any], cluster: str) -> dict[str, Any]:
    """What there is of a cluster's network: lists with `name`, `id` and what matters, for goud_plan."""
    vpcs = [{"name": cluster, "id": one["VpcId"], "range": one["CidrBlock"]} for one in found["vpcs"]]
    groups = {one["GroupId"]: str(one["GroupName"]) for one in found["groups"]}
    subnets = {one["SubnetId"]: f"{cluster}-{one['AvailabilityZone']}" for one in found["subnets"]}
    return {
        "vpcs": vpcs,
        "gateways": [{"name": cluster, "id": one["InternetGatewayId"]} for one in found["gateways"]],
        "subnets": [
            {
                "name": subnets[one["SubnetId"]],
                "id": one["SubnetId"],
                "range": one["CidrBlock"],
                "zone": one["AvailabilityZone"],
            }
            for one in found["subnets"]
        ],
        "tables": [
            {
                "name": cluster,
                "id": one["RouteTableId"],
                "out": any(
                    str(route.get("GatewayId", "")).startswith("igw-")
                    and route.get("DestinationCidrBlock") == "0.0.0.0/0"
                    for route in one.get("Routes", [])
                ),
                "subnets": sorted(
                    subnets.get(at["SubnetId"], "") for at in one.get("Associations", []) if at.get("SubnetId")
                ),
            }
            for one in found["tables"]
        ],
        "firewalls": [
            {"name": str(one["GroupName"]), "id": one["GroupId"], "rules": _rules(one, groups)}
            for one in found["groups"]
        ],
        "addresses": [
            {"name": f"{cluster}-edge", "id": one["AllocationId"], "address": one["PublicIp"]}
            for one in found["addresses"]
        ],
    }


def goud_aws_rules(rules: Iterable[Resource]) -> list[str]:
    """Wanted rules (`port`, and `ranges` or `group`) in the words of goud_aws_network."""
    found = []
    for rule in rules:
        first, _, last = str(rule["port"]).partition("-")
        sources = rule["ranges"] if "ranges" in rule else [rule["group"]]
        found += [f"tcp {first}-{last or first} from {source}" for source in sources]
    return sorted(found)


def goud_aws_group_rules(rules: Iterable[Resource]) -> list[dict[str, Any]]:
    """Wanted rules as amazon.aws.ec2_security_group takes them."""
    return [
        {"proto": "tcp", "ports": [str(rule["port"])]}
        | ({"cidr_ip": list(rule["ranges"])} if "ranges" in rule else {"group_name": rule["group"]})
        for rule in rules
        if rule.get("ranges") or rule.get("group")
    ]


def goud_aws_left(there: Mapping[str, Iterable[Resource]]) -> list[str]:
    """`group goud-node`, of everything in a network."""
    singular = {"addresses": "address"}
    return [
        f"{singular.get(kind, kind.removesuffix('s'))} {one['name']}" for kind, all_ in there.items() for one in all_
    ]


def goud_aws_host_keys(machines: Iterable[Resource], told: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What goud_host_keys wants, from the consoles' texts by machine name. The last boot's keys count."""
    found = []
    for one in machines:
        texts = HOST_KEYS.findall(str((told.get(one["name"]) or {}).get("Output") or ""))
        keys = [line.strip() for line in texts[-1].splitlines()] if texts else []
        found.append({"alias": one["name"], "address": one["address"], "keys": [key for key in keys if key]})
    return found


def goud_aws_ended(reservations: Iterable[Resource], names: Iterable[str]) -> list[str]:
    """Why the instances of these names are gone, one line each."""
    wanted = set(names)
    found = {}
    for held in reservations:
        for one in held["Instances"]:
            name = tags(one).get("Name", "")
            if name in wanted:
                found[name] = f"{name}: {(one.get('StateReason') or {}).get('Message') or one['State']['Name']}"
    return [found.get(name, f"{name}: it is not listed") for name in sorted(wanted)]


def goud_aws_protection_calls(reservations: Iterable[Resource]) -> dict[str, Any]:
    """The calls that tell which instances cannot be terminated."""
    return {
        one["InstanceId"]: {
            "service": "ec2",
            "call": "describe_instance_attribute",
            "key": "DisableApiTermination",
            "arguments": {"InstanceId": one["InstanceId"], "Attribute": "disableApiTermination"},
        }
        for one in goud_aws_instances(reservations)
    }


def goud_aws_protected(answers: Mapping[str, Any]) -> list[str]:
    """Ids of the instances that cannot be terminated."""
    return [name for name, answer in answers.items() if (answer or {}).get("Value")]


def goud_aws_console_calls(machines: Iterable[Resource]) -> dict[str, Any]:
    """The calls that tell what the machines' consoles say, by machine name."""
    return {
        one["name"]: {"service": "ec2", "call": "get_console_output", "arguments": {"InstanceId": one["id"]}}
        for one in machines
    }


def goud_aws_refused(wanted: Iterable[Resource], offer: Mapping[str, Any], region: str) -> list[str]:
    """One sentence for each zone and kind of machine that Amazon does not have."""
    wanted = list(wanted)
    zones = {one["ZoneName"] for one in offer.get("zones") or []}
    found = [
        f"Amazon has no zone {zone} in {region} (there are {', '.join(sorted(zones))}): correct cloud_zones."
        for zone in sorted({one["zone"] for one in wanted} - zones)
    ]
    kinds = {one["InstanceType"] for one in offer.get("kinds") or []}
    found += [
        f"Amazon has no machine type {kind} in {region}: name another (cloud_vm_node_type)."
        for kind in sorted({one["machine_type"] for one in wanted} - kinds)
    ]
    if not offer.get("images"):
        found.append("Amazon lists no image of Debian 13: name one (cloud_vm_image).")
    return found


class FilterModule:
    """Registers the filters above."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        own = (
            goud_aws_console_calls, goud_aws_disks, goud_aws_ended, goud_aws_group_rules,
            goud_aws_host_keys, goud_aws_left, goud_aws_machines, goud_aws_network, goud_aws_protected,
            goud_aws_protection_calls, goud_aws_refused, goud_aws_rules, goud_aws_snapshots,
        )  # fmt: skip
        return {one.__name__: one for one in own}
