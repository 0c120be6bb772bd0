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


def tags(resource: Resource) -> dict[str, str]:
    """A resource's tags as a mapping."""
    return {str(tag["Key"]): str(tag["Value"]) for tag in resource.get("Tags") or ()}


def goud_aws_instances(reservations: Iterable[Resource]) -> list[Resource]:
    """The instances that exist; those that are gone stay listed for an hour."""
    final_states = {"terminated", "shutting-down"}
    return [
        instance
        for reservation in reservations
        for instance in reservation["Instances"]
        if instance["State"]["Name"] not in final_states
    ]


def goud_aws_machines(reservations: Iterable[Resource], protected: Iterable[str] = ()) -> dict[str, dict[str, Any]]:
    """Instances by name. `protected` are the ids of those that cannot be terminated."""
    protected_ids = set(protected)
    return {
        str(tags(instance).get("Name", instance["InstanceId"])): {
            "name": tags(instance).get("Name", instance["InstanceId"]),
            "id": instance["InstanceId"],
            "zone": instance["Placement"]["AvailabilityZone"],
            "type": instance["InstanceType"],
            "state": STATES.get(instance["State"]["Name"], instance["State"]["Name"]),
            "address": instance.get("PublicIpAddress") or instance.get("PrivateIpAddress", ""),
            "private": instance.get("PrivateIpAddress", ""),
            "disks": [
                disk["Ebs"]["VolumeId"]
                for disk in instance.get("BlockDeviceMappings", [])
                if disk["DeviceName"] == DATA_DEVICE
            ],
            "protected": instance["InstanceId"] in protected_ids,
            "hardened": (instance.get("MetadataOptions") or {}).get("HttpTokens") == "required",
        }
        for instance in goud_aws_instances(reservations)
    }


def goud_aws_disks(volumes: Iterable[Resource], reservations: Iterable[Resource]) -> dict[str, dict[str, Any]]:
    """Data volumes by name, with the names of the machines that have them."""
    names = {
        instance["InstanceId"]: tags(instance).get("Name", instance["InstanceId"])
        for instance in goud_aws_instances(reservations)
    }
    disks = {}
    for volume in volumes:
        labels = tags(volume)
        if labels.get("goud_role") != "data" or volume["State"] in {"deleting", "deleted"}:
            continue
        holders = (attachment.get("InstanceId") for attachment in volume.get("Attachments", []))
        holder = next((str(identity) for identity in holders if identity), "")
        disks[labels["Name"]] = {
            "name": labels["Name"],
            "id": volume["VolumeId"],
            "zone": volume["AvailabilityZone"],
            "size_gb": int(volume["Size"]),
            "type": volume["VolumeType"],
            "state": "ready" if volume["State"] in {"available", "in-use"} else volume["State"],
            "machine": names.get(holder, holder),
            "encrypted": bool(volume.get("Encrypted")),
            # A plan of AWS Backup selects volumes by their tags, so the tag is the schedule.
            "schedules": [labels["goud_schedule"]] if labels.get("goud_schedule") else [],
        }
    return disks


def goud_aws_snapshots(snapshots: Iterable[Resource], volumes: Iterable[Resource] = ()) -> list[dict[str, Any]]:
    """Snapshots, newest first. Those of AWS Backup carry the tags of their volume, its name among them."""
    names = {volume["VolumeId"]: tags(volume)["Name"] for volume in volumes if tags(volume).get("Name")}
    rows = [
        {
            "name": snapshot["SnapshotId"]
            if SCHEDULED in tags(snapshot)
            else tags(snapshot).get("Name", snapshot["SnapshotId"]),
            "id": snapshot["SnapshotId"],
            "disk": tags(snapshot).get("goud_disk")
            or names.get(snapshot.get("VolumeId"), snapshot.get("VolumeId", "")),
            "size_gb": int(snapshot["VolumeSize"]),
            "time": str(snapshot["StartTime"]),
            "state": "complete" if snapshot["State"] == "completed" else snapshot["State"],
            "scheduled": SCHEDULED in tags(snapshot),
        }
        for snapshot in snapshots
    ]
    return sorted(rows, key=lambda snapshot: datetime.fromisoformat(str(snapshot["time"])), reverse=True)


def _rules(group: Resource, names: Mapping[str, str]) -> list[str]:
    lines = []
    for rule in group.get("IpPermissions", []):
        what = f"{rule['IpProtocol']} {rule.get('FromPort', '')}-{rule.get('ToPort', '')} from"
        lines += [f"{what} {source['CidrIp']}" for source in rule.get("IpRanges", [])]
        lines += [f"{what} {source['CidrIpv6']}" for source in rule.get("Ipv6Ranges", [])]
        lines += [
            f"{what} {names.get(source['GroupId'], source['GroupId'])}" for source in rule.get("UserIdGroupPairs", [])
        ]
    return sorted(lines)


def goud_aws_network(resources: Mapping[str, Any], cluster: str) -> dict[str, Any]:
    """What exists of a cluster's network: lists with `name`, `id` and what matters, for goud_plan."""
    vpcs = [{"name": cluster, "id": vpc["VpcId"], "range": vpc["CidrBlock"]} for vpc in resources["vpcs"]]
    groups = {group["GroupId"]: str(group["GroupName"]) for group in resources["groups"]}
    subnets = {subnet["SubnetId"]: f"{cluster}-{subnet['AvailabilityZone']}" for subnet in resources["subnets"]}
    return {
        "vpcs": vpcs,
        "gateways": [{"name": cluster, "id": gateway["InternetGatewayId"]} for gateway in resources["gateways"]],
        "subnets": [
            {
                "name": subnets[subnet["SubnetId"]],
                "id": subnet["SubnetId"],
                "range": subnet["CidrBlock"],
                "zone": subnet["AvailabilityZone"],
            }
            for subnet in resources["subnets"]
        ],
        "tables": [
            {
                "name": cluster,
                "id": table["RouteTableId"],
                "out": any(
                    str(route.get("GatewayId", "")).startswith("igw-")
                    and route.get("DestinationCidrBlock") == "0.0.0.0/0"
                    for route in table.get("Routes", [])
                ),
                "subnets": sorted(
                    subnets.get(association["SubnetId"], "")
                    for association in table.get("Associations", [])
                    if association.get("SubnetId")
                ),
            }
            for table in resources["tables"]
        ],
        "firewalls": [
            {"name": str(group["GroupName"]), "id": group["GroupId"], "rules": _rules(group, groups)}
            for group in resources["groups"]
        ],
        "addresses": [
            {"name": f"{cluster}-edge", "id": address["AllocationId"], "address": address["PublicIp"]}
            for address in resources["addresses"]
        ],
    }


def goud_aws_rules(rules: Iterable[Resource]) -> list[str]:
    """Wanted rules (`port`, and `ranges` or `group`) in the words of goud_aws_network."""
    lines = []
    for rule in rules:
        first, _, last = str(rule["port"]).partition("-")
        sources = rule["ranges"] if "ranges" in rule else [rule["group"]]
        lines += [f"tcp {first}-{last or first} from {source}" for source in sources]
    return sorted(lines)


def goud_aws_group_rules(rules: Iterable[Resource]) -> list[dict[str, Any]]:
    """Wanted rules as amazon.aws.ec2_security_group takes them."""
    return [
        {"proto": "tcp", "ports": [str(rule["port"])]}
        | ({"cidr_ip": list(rule["ranges"])} if "ranges" in rule else {"group_name": rule["group"]})
        for rule in rules
        if rule.get("ranges") or rule.get("group")
    ]


def goud_aws_left(resources: Mapping[str, Iterable[Resource]]) -> list[str]:
    """`group goud-node`, of everything in a network."""
    singular = {"addresses": "address"}
    return [
        f"{singular.get(kind, kind.removesuffix('s'))} {resource['name']}"
        for kind, group in resources.items()
        for resource in group
    ]


def goud_aws_host_keys(machines: Iterable[Resource], consoles: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What goud_host_keys wants, from the consoles' texts by machine name. The last boot's keys count."""
    entries = []
    for machine in machines:
        texts = HOST_KEYS.findall(str((consoles.get(machine["name"]) or {}).get("Output") or ""))
        keys = [line.strip() for line in texts[-1].splitlines()] if texts else []
        entries.append({"alias": machine["name"], "address": machine["address"], "keys": [key for key in keys if key]})
    return entries


def goud_aws_ended(reservations: Iterable[Resource], names: Iterable[str]) -> list[str]:
    """Why the instances of these names are gone, one line each."""
    names = set(names)
    reasons = {}
    for reservation in reservations:
        for instance in reservation["Instances"]:
            name = tags(instance).get("Name", "")
            if name in names:
                reasons[name] = (
                    f"{name}: {(instance.get('StateReason') or {}).get('Message') or instance['State']['Name']}"
                )
    return [reasons.get(name, f"{name}: it is not listed") for name in sorted(names)]


def goud_aws_protection_calls(reservations: Iterable[Resource]) -> dict[str, Any]:
    """The calls that tell which instances cannot be terminated."""
    return {
        instance["InstanceId"]: {
            "service": "ec2",
            "call": "describe_instance_attribute",
            "key": "DisableApiTermination",
            "arguments": {"InstanceId": instance["InstanceId"], "Attribute": "disableApiTermination"},
        }
        for instance in goud_aws_instances(reservations)
    }


def goud_aws_protected(answers: Mapping[str, Any]) -> list[str]:
    """Ids of the instances that cannot be terminated."""
    return [name for name, answer in answers.items() if (answer or {}).get("Value")]


def goud_aws_console_calls(machines: Iterable[Resource]) -> dict[str, Any]:
    """The calls that tell what the machines' consoles say, by machine name."""
    return {
        machine["name"]: {"service": "ec2", "call": "get_console_output", "arguments": {"InstanceId": machine["id"]}}
        for machine in machines
    }


def goud_aws_refused(machines: Iterable[Resource], offer: Mapping[str, Any], region: str) -> list[str]:
    """One sentence for each zone and kind of machine that Amazon does not have."""
    machines = list(machines)
    zones = {zone["ZoneName"] for zone in offer.get("zones") or []}
    refusals = [
        f"Amazon has no zone {zone} in {region} (there are {', '.join(sorted(zones))}): correct cloud_zones."
        for zone in sorted({machine["zone"] for machine in machines} - zones)
    ]
    kinds = {kind["InstanceType"] for kind in offer.get("kinds") or []}
    refusals += [
        f"Amazon has no machine type {kind} in {region}: name another (cloud_vm_node_type)."
        for kind in sorted({machine["machine_type"] for machine in machines} - kinds)
    ]
    if not offer.get("images"):
        refusals.append("Amazon lists no image of Debian 13: name one (cloud_vm_image).")
    return refusals


class FilterModule:
    """Registers the filters above."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        functions = (
            goud_aws_console_calls, goud_aws_disks, goud_aws_ended, goud_aws_group_rules,
            goud_aws_host_keys, goud_aws_left, goud_aws_machines, goud_aws_network, goud_aws_protected,
            goud_aws_protection_calls, goud_aws_refused, goud_aws_rules, goud_aws_snapshots,
        )  # fmt: skip
        return {function.__name__: function for function in functions}
