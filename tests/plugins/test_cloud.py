"""Plans and refusals of the cloud's roles: what is wanted against what exists, without a cloud."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import documentation

PLUGINS = documentation.ROOT / "ansible/plugins"


def plugin(kind: str, name: str) -> ModuleType:
    """A plugin that is on no path, because its folder is Ansible's."""
    spec = importlib.util.spec_from_file_location(name, Path(PLUGINS, kind, f"{name}.py"))
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


cloud = plugin("filter", "goud_cloud")
resources = plugin("filter", "goud_resources")
amazon = plugin("filter", "goud_amazon")
environment = plugin("inventory", "goud_environment")


@pytest.mark.parametrize(
    ("settings", "content", "paths"),
    [
        ({"a": 1}, {"a": "1", "more": 2}, []),
        ({"a": {"b": True}}, {"a": {"b": "true"}}, []),
        ({"a": {"b": True}}, {}, ["a.b"]),
        ({"network": "projects/p/global/networks/n"}, {"network": "https://x/projects/p/global/networks/n"}, []),
        ({"ranges": ["a", "b"]}, {"ranges": ["b", "a"]}, []),
        ({"ranges": ["a"]}, {"ranges": ["a", "b"]}, ["ranges"]),
        ({"allowed": [{"ports": ["22"]}]}, {"allowed": [{"ports": ["22"], "x": 1}]}, []),
        ({"range": "10.0.0.0/8"}, {"range": "10.1.0.0/8"}, ["range"]),
    ],
)
def test_differences(settings: Any, content: Any, paths: list[str]) -> None:
    assert cloud.goud_differences(settings, content) == paths


def test_a_plan_creates_changes_and_removes() -> None:
    targets = [{"name": "new"}, {"name": "other", "x": 1}, {"name": "same", "x": 1}]
    existing = [{"name": "other", "x": 2}, {"name": "same", "x": 1}, {"name": "old"}]
    plan = cloud.goud_plan(targets, existing)
    assert plan["create"] == [{"name": "new"}]
    assert plan["change"] == [{"name": "other", "x": 1}]
    assert plan["extra"] == ["old"]
    assert plan["sentences"] == ["new: create", "other: change x", "old: remove"]


@pytest.mark.parametrize(
    ("ranges", "open_ranges"),
    [
        (["192.0.2.7/32", "10.0.0.0/8"], []),
        (["0.0.0.0/0"], ["0.0.0.0/0"]),
        (["0.0.0.0/1", "128.0.0.0/1"], ["0.0.0.0/1", "128.0.0.0/1"]),
        (["nonsense"], ["nonsense"]),
    ],
)
def test_open_ranges_are_found(ranges: list[str], open_ranges: list[str]) -> None:
    assert cloud.goud_open_ranges(ranges) == open_ranges


def test_a_zone_more_moves_no_range() -> None:
    two = cloud.goud_zone_subnets(["r1a", "r1c"], "c", "10.0.0.0/16")
    three = cloud.goud_zone_subnets(["r1a", "r1b", "r1c"], "c", "10.0.0.0/16")
    assert [subnet["range"] for subnet in two] == ["10.0.0.0/24", "10.0.2.0/24"]
    assert all(subnet in three for subnet in two)
    with pytest.raises(Exception, match="no room"):
        cloud.goud_zone_subnets(["r1a", "r1b"], "c", "10.0.0.0/24")


DISK = {
    "name": "c-node1-data", "selfLink": "https://x/disks/c-node1-data", "zone": "https://x/zones/z-a", "sizeGb": "20",
    "type": "https://x/diskTypes/pd-ssd", "status": "READY", "labels": {"goud_role": "data"},
    "users": ["https://x/instances/c-node1"], "resourcePolicies": ["https://x/resourcePolicies/c-daily"],
}  # fmt: skip
TARGET = {"name": "c-node1-data", "machine": "node1", "zone": "z-a", "size_gb": 20}


def test_disks_as_asked_need_nothing() -> None:
    inventory = resources.goud_gcp_disks([DISK, {**DISK, "labels": {}, "name": "boot"}])
    assert list(inventory) == ["c-node1-data"]
    assert inventory["c-node1-data"]["machine"] == "c-node1"
    plan = resources.goud_disk_plan([TARGET], inventory, "pd-ssd", "c-daily")
    assert plan == {"create": [], "unscheduled": [], "faults": [], "sentences": []}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"size_gb": 40}, "expand.yml grows it"),
        ({"zone": "z-b"}, "is in z-a, not in z-b"),
    ],
)
def test_disks_with_data_are_not_bent(change: dict[str, Any], words: str) -> None:
    plan = resources.goud_disk_plan([TARGET | change], resources.goud_gcp_disks([DISK]), "pd-ssd", "c-daily")
    (fault,) = plan["faults"]
    assert words in fault
    assert plan["create"] == []


def test_a_grown_disk_stays_grown() -> None:
    inventory = resources.goud_gcp_disks([{**DISK, "sizeGb": "100"}])
    assert resources.goud_disk_plan([TARGET], inventory, "pd-ssd", "c-daily")["sentences"] == []


def machine(**change: Any) -> dict[str, Any]:
    return {
        "name": "node1", "full_name": "c-node1", "role": "node", "zone": "z-a", "machine_type": "m",
        "disk": "c-node1-data",
    } | change  # fmt: skip


def instances_with(**change: Any) -> dict[str, Any]:
    base = {"zone": "z-a", "type": "m", "state": "running", "hardened": True, "protected": True, "address": "192.0.2.1"}
    return {"c-node1": base | change}


def test_machines_are_created_started_protected_and_given_their_disk() -> None:
    free = {"c-node1-data": {"machine": ""}}
    plan = resources.goud_machine_plan([machine()], {}, free, True)
    assert [entry["full_name"] for entry in plan["create"]] == ["c-node1"]
    plan = resources.goud_machine_plan([machine()], instances_with(state="stopped", protected=False), free, True)
    assert plan["sentences"] == ["c-node1: start", "c-node1: protect from deletion", "c-node1-data: attach to c-node1"]


@pytest.mark.parametrize(
    ("instances", "holder", "words"),
    [
        (instances_with(type="small"), "c-node1", "is a small, not a m"),
        (instances_with(zone="z-b"), "c-node1", "a machine cannot move"),
        (instances_with(hardened=False), "c-node1", "rebuild it"),
        (instances_with(), "c-node2", "is attached to c-node2"),
    ],
)
def test_machines_that_stand_are_not_bent(instances: dict[str, Any], holder: str, words: str) -> None:
    plan = resources.goud_machine_plan([machine()], instances, {"c-node1-data": {"machine": holder}}, True)
    assert words in plan["faults"][0]


def snapshot(disk: str, day: int, state: str = "complete") -> dict[str, Any]:
    return {"name": f"{disk}-{day}", "disk": disk, "time": f"2026-01-{day:02d}T00:00:00+00:00", "state": state}


def test_pruning_keeps_the_last_and_the_young() -> None:
    snapshots = [snapshot("a", 30), snapshot("a", 20), snapshot("b", 5), snapshot("a", 2), snapshot("a", 1)]
    prunable = resources.goud_prunable(snapshots, 2, 15, "2026-01-31T00:00:00+00:00")
    assert [entry["name"] for entry in prunable] == ["a-2", "a-1"]
    assert resources.goud_prunable([snapshot("a", 1)], 0, 0, "2026-01-31T00:00:00+00:00") == []


def test_pruning_leaves_the_schedules_own_alone() -> None:
    snapshots = [snapshot("a", 3) | {"scheduled": True}, snapshot("a", 2), snapshot("a", 1) | {"scheduled": True}]
    assert resources.goud_prunable(snapshots, 1, 0, "2026-01-31T00:00:00+00:00") == []


def test_a_snapshot_of_the_schedule_is_known_by_its_tag_and_named_by_its_id() -> None:
    base = {"State": "completed", "StartTime": "2026-01-02T00:00:00+00:00", "VolumeSize": 20, "VolumeId": "vol-1"}
    name = {"Key": "Name", "Value": "c-node1-data"}
    by_plan = base | {"SnapshotId": "snap-1", "Tags": [name, {"Key": amazon.SCHEDULED, "Value": "vol-1:snap-1"}]}
    by_hand = base | {"SnapshotId": "snap-2", "Tags": [{"Key": "Name", "Value": "before"}]}
    rows = amazon.goud_aws_snapshots([by_plan, by_hand], [{"VolumeId": "vol-1", "Tags": [name]}])
    assert [(row["name"], row["disk"], row["scheduled"]) for row in rows] == [
        ("snap-1", "c-node1-data", True),
        ("before", "c-node1-data", False),
    ]


def test_an_incomplete_snapshot_does_not_count_as_kept() -> None:
    snapshots = [snapshot("a", 30, "creating"), snapshot("a", 1)]
    assert resources.goud_prunable(snapshots, 1, 0, "2026-01-31T00:00:00+00:00") == []


def test_google_is_asked_for_what_it_has() -> None:
    machines = resources.goud_wanted_machines(
        [{"name": "node1", "role": "node", "zone": "r-x", "data_gb": 5}], "c", {"node": "m"}
    )
    region = {"zones": ["https://x/zones/r-a"], "quotas": [{"metric": "CPUS", "limit": 4, "usage": 3}]}
    (refusal,) = resources.goud_gcp_refused(machines, {"region": region}, "r")
    assert "no zone r-x in r (there are r-a)" in refusal
    machines = [{**machines[0], "zone": "r-a", "kind_path": "r-a/machineTypes/m"}]
    (refusal,) = resources.goud_gcp_refused(machines, {"region": region, "r-a/machineTypes/m": {"guestCpus": 2}}, "r")
    assert "quota CPUS of r has no room: 4 are allowed, 3 used, 2 more needed" in refusal
    (refusal,) = resources.goud_gcp_refused(machines, {"region": region}, "r")
    assert "no machine type m in r-a" in refusal


def test_host_keys_come_from_the_last_boot() -> None:
    block = "-----BEGIN SSH HOST KEY KEYS-----\n{}\n-----END SSH HOST KEY KEYS-----\n"
    text = block.format("ssh-ed25519 OLD root@a") + "boot\n" + block.format("ssh-ed25519 NEW root@a")
    (entry,) = amazon.goud_aws_host_keys([{"name": "m", "address": "192.0.2.1"}], {"m": {"Output": text}})
    assert entry["keys"] == ["ssh-ed25519 NEW root@a"]
    (entry,) = amazon.goud_aws_host_keys([{"name": "m", "address": "192.0.2.1"}], {"m": {}})
    assert entry["keys"] == []


def test_rules_of_groups_compare_with_what_is_wanted() -> None:
    rules = [
        {"port": "2379-2380", "group": "c-node"},
        {"port": "22", "ranges": ["192.0.2.7/32"]},
        {"port": "8080", "ranges": []},
    ]
    group = {
        "GroupId": "sg-1", "GroupName": "c-node",
        "IpPermissions": [
            {"IpProtocol": "tcp", "FromPort": 22, "ToPort": 22, "IpRanges": [{"CidrIp": "192.0.2.7/32"}]},
            {"IpProtocol": "tcp", "FromPort": 2379, "ToPort": 2380, "UserIdGroupPairs": [{"GroupId": "sg-1"}]},
        ],
    }  # fmt: skip
    empty: dict[str, list[Any]] = {kind: [] for kind in ("vpcs", "gateways", "subnets", "tables", "addresses")}
    (firewall,) = amazon.goud_aws_network(empty | {"groups": [group]}, "c")["firewalls"]
    assert firewall["rules"] == amazon.goud_aws_rules(rules)


def test_the_environment_names_what_is_missing() -> None:
    rules = {
        "PROJECT": {"needed": "the project"},
        "KIND": {"needed": "the kind"},
        "TOKEN": {"needed": "a token", "when": {"KIND": "token"}},
        "FILE": {"needed": "a file", "when": {"KIND": "file"}, "or": ["CONTENTS"]},
        "CLUSTER": {"default": "goud"},
    }
    values, missing = environment.resolve(rules, {"KIND": "token"})
    assert missing == ["PROJECT (the project)", "TOKEN (a token)"]
    assert values["CLUSTER"] == "goud"
    assert environment.resolve(rules, {"PROJECT": "p", "KIND": "file", "CONTENTS": "x"})[1] == []
    assert environment.filled({"projects": ["${PROJECT}"], "n": 1}, {"PROJECT": "p"}) == {"projects": ["p"], "n": 1}


@pytest.mark.parametrize(
    ("content", "store_time", "time"),
    [
        ({"id": "20260131T020000Z-0a1b2c"}, "2026-01-31T02:00:07.123Z", "2026-01-31T02:00:00Z"),
        ('{"format":"goud-backup/1","id":"20260131T020000Z-0a1b2c"}', "2026-01-31 02:00:07+00:00",
         "2026-01-31T02:00:00Z"),
        ({"id": "20260131T020000Z-0a1b2c"}, "2026-02-20T09:00:00.000Z", "2026-01-31T02:00:00Z"),
        ({"id": "20300131T020000Z-0a1b2c"}, "2026-02-20T09:00:00.000Z", "2026-02-20T09:00:00Z"),
        ({"id": "20260131T020000Z-0a1b2c"}, None, ""),
        (None, None, ""),
        ("not json", "2026-02-20 09:00:00+00:00", ""),
        ({"id": "another"}, "2026-02-20T09:00:00.000Z", ""),
        ({"id": "20261331T020000Z-0a1b2c"}, "2026-02-20T09:00:00.000Z", ""),
        ([], "2026-02-20T09:00:00.000Z", ""),
    ],
)  # fmt: skip
def test_a_backup_is_as_old_as_its_id_says_and_no_younger_than_the_name_that_is_stored(
    content: Any, store_time: str | None, time: str
) -> None:
    """A fork and a prune write latest.json again: that makes no fresh backup of an old one."""
    assert cloud.goud_backup_time(content, store_time) == time


@pytest.mark.parametrize(
    ("labels", "owned", "why"),
    [
        ({"goud_cluster": "mine", "goud_role": "backup"}, True, ""),
        ({"goud_cluster": "another"}, False, "goud_cluster is 'another'"),
        ({"goud_cluster": ""}, False, "goud_cluster is ''"),
        ({"team": "mine"}, False, "it has no label goud_cluster"),
        ({}, False, "it has no label goud_cluster"),
        (None, False, "it has no label goud_cluster"),
    ],
)
def test_a_bucket_is_the_clusters_whose_label_it_carries(labels: Any, owned: bool, why: str) -> None:
    bucket = cloud.goud_bucket("b", labels, "mine", ["chain/"], "chain/")
    assert bucket["owner"] == (labels or {}).get("goud_cluster", "")
    assert bucket["buckets"] == (["b"] if owned else [])
    assert bucket["foreign"] == ([] if owned else [f"b (not of this cluster: {why})"])


@pytest.mark.parametrize(
    ("keys", "root", "beside"),
    [
        (["chain/", "chains/", "other/", "note.txt"], "chain/", ["chains/", "note.txt", "other/"]),
        (["a/", "b/"], "a/chain/", ["b/"]),
        (["a/", "b/", "latest.json"], "", []),
        ([], "chain/", []),
    ],
)
def test_what_else_is_in_a_bucket_is_named(keys: list[str], root: str, beside: list[str]) -> None:
    assert cloud.goud_bucket("b", {"goud_cluster": "c"}, "c", keys, root)["beside"] == beside
