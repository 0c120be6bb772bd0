"""What is wanted in a cloud against what is there: both as the provider's API writes it."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from ansible.errors import AnsibleFilterError

Resource = Mapping[str, Any]


def goud_differences(wanted: Any, present: Any, path: str = "") -> list[str]:
    """Dotted names of what is asked for and is otherwise. The rest does not count, nor a list's order."""
    if isinstance(wanted, Mapping):
        here = present if isinstance(present, Mapping) else {}
        return [
            one
            for key, value in wanted.items()
            for one in goud_differences(value, here.get(key), f"{path}.{key}".strip("."))
        ]
    if isinstance(wanted, Sequence) and not isinstance(wanted, str):
        return [] if _same_lists(wanted, present) else [path]
    return [] if _text(wanted) == _text(present) else [path]


def _same_lists(wanted: Sequence[Any], present: Any) -> bool:
    there = list(present or []) if not isinstance(present, (str, Mapping)) else [present]
    if len(wanted) != len(there):
        return False
    for one in wanted:
        match = next((other for other in there if not goud_differences(one, other)), None)
        if match is None:
            return False
        there.remove(match)
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


def goud_plan(wanted: Iterable[Resource], present: Iterable[Resource], key: str = "name") -> dict[str, list[Any]]:
    """What has to be done: `create` and `change` (the wanted ones), `extra` (names); `told` has a sentence for each."""
    there = {str(one[key]): one for one in present}
    asked = {str(one[key]): one for one in wanted}
    create = [one for name, one in asked.items() if name not in there]
    differing = {name: goud_differences(one, there[name]) for name, one in asked.items() if name in there}
    change = [asked[name] for name, fields in differing.items() if fields]
    extra = sorted(set(there) - set(asked))
    told = [f"{one[key]}: create" for one in create]
    told += [f"{name}: change {', '.join(fields)}" for name, fields in differing.items() if fields]
    told += [f"{name}: remove" for name in extra]
    return {"create": create, "change": change, "extra": extra, "told": told}


def singular(kind: str) -> str:
    """The name of one of a kind."""
    return {"addresses": "address"}.get(kind, kind.removesuffix("s"))


def goud_plans(wanted: Mapping[str, Iterable[Resource]], there: Mapping[str, Iterable[Resource]]) -> dict[str, Any]:
    """goud_plan for several kinds of resources at once; each sentence begins with the kind."""
    plans = {kind: goud_plan(resources, there[kind]) for kind, resources in wanted.items()}
    return {kind: {**plan, "told": [f"{singular(kind)} {one}" for one in plan["told"]]} for kind, plan in plans.items()}


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
        ranges = [str(one) for one, _ in zip(whole.subnets(new_prefix=prefix), range(count), strict=False)]
    except ValueError as error:
        raise AnsibleFilterError(f"{network} cannot be divided into ranges of /{prefix}: {error}") from error
    if len(ranges) < count:
        raise AnsibleFilterError(f"{network} has no room for {count} ranges of /{prefix}: take a larger range")
    return ranges


def goud_open_ranges(ranges: Iterable[str]) -> list[str]:
    """Those that let in a large part of the world (more than a /8 holds), and those that are no ranges."""
    found = []
    for one in ranges:
        try:
            if ipaddress.ip_network(one).num_addresses > 2**24:
                found.append(one)
        except ValueError:
            found.append(one)
    return found


def goud_data_disks(machines: Iterable[Resource], cluster: str) -> list[dict[str, Any]]:
    """The data disks that belong to machines which ask for one (data_gb)."""
    return [
        {
            "name": f"{cluster}-{one['name']}-data",
            "machine": one["name"],
            "zone": one["zone"],
            "size_gb": int(one["data_gb"]),
        }
        for one in machines
        if int(one.get("data_gb") or 0) > 0
    ]


class FilterModule:
    """Registers the filters above."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        names = (
            goud_data_disks, goud_differences, goud_open_ranges, goud_plan, goud_plans, goud_subnets, goud_zone_subnets,
        )  # fmt: skip
        return {one.__name__: one for one in names}
