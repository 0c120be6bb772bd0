"""What is wanted in a cloud against what exists: both as the provider's API writes it."""

from __future__ import annotations

import ipaddress
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from ansible.errors import AnsibleFilterError

Resource = Mapping[str, Any]
BACKUP_ID = re.compile(r"(\d{8}T\d{6}Z)-[0-9a-f]{6}", re.ASCII)


def goud_differences(settings: Any, content: Any, path: str = "") -> list[str]:
    """Dotted names of what is asked for and differs. The rest does not count, nor a list's order."""
    if isinstance(settings, Mapping):
        fields = content if isinstance(content, Mapping) else {}
        return [
            name
            for key, value in settings.items()
            for name in goud_differences(value, fields.get(key), f"{path}.{key}".strip("."))
        ]
    if isinstance(settings, Sequence) and not isinstance(settings, str):
        return [] if _same_lists(settings, content) else [path]
    return [] if _text(settings) == _text(content) else [path]


def _same_lists(values: Sequence[Any], content: Any) -> bool:
    rest = list(content or []) if not isinstance(content, (str, Mapping)) else [content]
    if len(values) != len(rest):
        return False
    for value in values:
        match = next((other for other in rest if not goud_differences(value, other)), None)
        if match is None:
            return False
        rest.remove(match)
    return True


def _text(value: Any) -> str:
    """One spelling for what an API writes in two: numbers as texts, links by their last part, nothing as nothing."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    text = str(value)
    return (
        text.rsplit("/", 1)[-1] if text.startswith(("https://", "projects/", "zones/", "regions/", "global/")) else text
    )


def goud_plan(targets: Iterable[Resource], resources: Iterable[Resource], key: str = "name") -> dict[str, list[Any]]:
    """What has to be done: `create` and `change` (the targets), `extra` (names); `sentences` has one for each."""
    resource_by_name = {str(resource[key]): resource for resource in resources}
    target_by_name = {str(resource[key]): resource for resource in targets}
    create = [resource for name, resource in target_by_name.items() if name not in resource_by_name]
    differing = {
        name: goud_differences(resource, resource_by_name[name])
        for name, resource in target_by_name.items()
        if name in resource_by_name
    }
    change = [target_by_name[name] for name, fields in differing.items() if fields]
    extra = sorted(set(resource_by_name) - set(target_by_name))
    sentences = [f"{resource[key]}: create" for resource in create]
    sentences += [f"{name}: change {', '.join(fields)}" for name, fields in differing.items() if fields]
    sentences += [f"{name}: remove" for name in extra]
    return {"create": create, "change": change, "extra": extra, "sentences": sentences}


def singular(kind: str) -> str:
    """The name of one of a kind."""
    return {"addresses": "address"}.get(kind, kind.removesuffix("s"))


def goud_plans(
    targets: Mapping[str, Iterable[Resource]], resources: Mapping[str, Iterable[Resource]]
) -> dict[str, Any]:
    """goud_plan for several kinds of resources at once; each sentence begins with the kind."""
    plans = {kind: goud_plan(kind_targets, resources[kind]) for kind, kind_targets in targets.items()}
    return {
        kind: {**plan, "sentences": [f"{singular(kind)} {sentence}" for sentence in plan["sentences"]]}
        for kind, plan in plans.items()
    }


def goud_zone_subnets(zones: Sequence[str], cluster: str, network: str) -> list[dict[str, str]]:
    """A subnet in each zone. The range follows the zone's last letter, so that a zone more moves no other's range."""
    letters = [ord(zone[-1]) - ord("a") for zone in zones]
    ranges = goud_subnets(network, max(letters, default=0) + 1)
    return [
        {"name": f"{cluster}-{zone}", "zone": zone, "range": ranges[letter]}
        for zone, letter in zip(zones, letters, strict=True)
    ]


def goud_subnets(network: str, count: int, prefix: int = 24) -> list[str]:
    """The first `count` ranges of that prefix length in a range."""
    try:
        whole = ipaddress.ip_network(network)
        ranges = [str(subnet) for subnet, _ in zip(whole.subnets(new_prefix=prefix), range(count), strict=False)]
    except ValueError as error:
        raise AnsibleFilterError(f"{network} cannot be divided into ranges of /{prefix}: {error}") from error
    if len(ranges) < count:
        raise AnsibleFilterError(f"{network} has no room for {count} ranges of /{prefix}: take a larger range")
    return ranges


def goud_open_ranges(ranges: Iterable[str]) -> list[str]:
    """Those that let in a large part of the world (more than a /8 holds), and those that are no ranges."""
    wide = []
    for network in ranges:
        try:
            if ipaddress.ip_network(network).num_addresses > 2**24:
                wide.append(network)
        except ValueError:
            wide.append(network)
    return wide


def goud_data_disks(machines: Iterable[Resource], cluster: str) -> list[dict[str, Any]]:
    """The data disks that belong to machines which ask for one (data_gb)."""
    return [
        {
            "name": f"{cluster}-{machine['name']}-data",
            "machine": machine["name"],
            "zone": machine["zone"],
            "size_gb": int(machine["data_gb"]),
        }
        for machine in machines
        if int(machine.get("data_gb") or 0) > 0
    ]


def goud_backup_time(content: Any, store_time: str | None) -> str:
    """When the backup was made that latest.json names, in ISO 8601; empty where it names none, or does not exist.

    `content` is the document or its text, `store_time` the time of its object in the store. The id tells the time:
    the object is written again when a backup is abandoned or pruned. By the clock of whoever made the backup it is,
    so a backup counts as no younger than the object.
    """
    try:
        document = json.loads(content) if isinstance(content, str) else content
        match = BACKUP_ID.fullmatch(str(document["id"]))
        if match is None or not store_time:
            return ""
        created = datetime.strptime(match[1], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
        written = datetime.fromisoformat(store_time)
        return f"{min(created, written):%Y-%m-%dT%H:%M:%SZ}"
    except (ValueError, KeyError, TypeError):
        return ""


def goud_bucket(
    name: str, labels: Mapping[str, str] | None, cluster: str, keys: Iterable[str], root: str
) -> dict[str, Any]:
    """A bucket that exists, for a destroy: `buckets` names it when its label says that it is this cluster's.

    Else `foreign` does, with the reason. `keys` are the first parts of its objects' names (folders end with a slash);
    `beside` are those that do not lead to the repository's `root`. `owner` is what the label says, or empty.
    """
    owner = (labels or {}).get("goud_cluster")
    reason = "it has no label goud_cluster" if owner is None else f"goud_cluster is '{owner}'"
    foreign = [] if owner == cluster else [f"{name} (not of this cluster: {reason})"]
    beside = sorted(key for key in keys if not (key.endswith("/") and root.startswith(key))) if root else []
    return {"buckets": [] if foreign else [name], "foreign": foreign, "beside": beside, "owner": owner or ""}


class FilterModule:
    """Registers the filters above."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        names = (
            goud_backup_time, goud_bucket, goud_data_disks, goud_differences, goud_open_ranges, goud_plan, goud_plans,
            goud_subnets, goud_zone_subnets,
        )  # fmt: skip
        return {function.__name__: function for function in names}
