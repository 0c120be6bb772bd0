"""Conditions in a bucket's policy: what they allow, what Google would refuse, what is not understood."""

from __future__ import annotations

from typing import Any

import pytest

from goud_sandbox.gcp.conditions import predicate
from goud_sandbox.gcp.errors import ApiError

from .conftest import PROJECT, Cloud

B = "/storage/v1/b"
NAMES = "projects/_/buckets/backups/objects/chain"
EXPRESSION = f"resource.name == '{NAMES}/latest.json' || resource.name.startsWith('{NAMES}/locks/')"
CONDITION = {"title": "what is replaced", "expression": EXPRESSION}


def member(cloud: Cloud) -> tuple[str, str]:
    """A service account as policies name it, and its token."""
    address = cloud.call("POST", f"/v1/projects/{PROJECT}/serviceAccounts", {"accountId": "node"})["email"]
    return f"serviceAccount:{address}", cloud.google.iam.issue(address)[0]


def policy(member: str) -> dict[str, Any]:
    roles = ("roles/storage.objectCreator", "roles/storage.objectViewer", "roles/storage.legacyBucketReader")
    bindings: list[dict[str, Any]] = [{"role": role, "members": [member]} for role in roles]
    return {
        "version": 3,
        "bindings": [*bindings, {"role": "roles/storage.objectUser", "members": [member], "condition": CONDITION}],
    }


@pytest.fixture
def bucket(cloud: Cloud) -> str:
    uniform = {"uniformBucketLevelAccess": {"enabled": True}}
    cloud.call("POST", B, {"name": "backups", "iamConfiguration": uniform}, project=PROJECT)
    return "backups"


def write(cloud: Cloud, name: str, **query: str) -> int:
    params = {"uploadType": "media", "name": name, **query}
    return cloud.client.request("POST", "/upload/storage/v1/b/backups/o", content=b"x", params=params).status_code


@pytest.mark.usefixtures("bucket")
def test_a_conditional_grant_holds_for_the_names_it_says(cloud: Cloud) -> None:
    account, token = member(cloud)
    cloud.call("PUT", f"{B}/backups/iam", policy(account))
    cloud.client.headers["authorization"] = f"Bearer {token}"
    for name in ("chain/latest.json", "chain/locks/backup.json"):
        assert [write(cloud, name), write(cloud, name)] == [200, 200]
    for name in ("chain/manifests/1.json", "chain/objects/aa/aa", "chain/latest.json.old", "locks/backup.json"):
        assert [write(cloud, name), write(cloud, name)] == [200, 403]
        assert cloud.refusal("DELETE", f"{B}/backups/o/{name.replace('/', '%2F')}")[0] == 403
        assert cloud.client.request("GET", f"{B}/backups/o/{name.replace('/', '%2F')}").status_code == 200
    copy = f"{B}/backups/o/chain%2Flatest.json/rewriteTo/b/backups/o/chain%2Fmanifests%2F1.json"
    assert cloud.refusal("POST", copy, {})[0] == 403
    assert cloud.refusal("POST", f"{B}/backups/o/chain%2Fmanifests%2F1.json/compose", {"sourceObjects": []})[0] == 403
    assert cloud.call("GET", f"{B}/backups/o", prefix="chain/locks/")["items"]


@pytest.mark.usefixtures("bucket")
def test_conditions_need_version_three_and_uniform_access(cloud: Cloud) -> None:
    document = policy("serviceAccount:a@b")
    assert "version 3" in cloud.refusal("PUT", f"{B}/backups/iam", document | {"version": 1})[2]
    binding = {"role": "r", "members": ["m"], "condition": {"expression": EXPRESSION}}
    assert "title" in cloud.refusal("PUT", f"{B}/backups/iam", {"version": 3, "bindings": [binding]})[2]
    cloud.call("POST", B, {"name": "with-acls"}, project=PROJECT)
    assert "uniform" in cloud.refusal("PUT", f"{B}/with-acls/iam", document)[2]


@pytest.mark.usefixtures("bucket")
def test_who_asks_for_an_old_version_sees_no_condition(cloud: Cloud) -> None:
    cloud.call("PUT", f"{B}/backups/iam", policy("serviceAccount:a@b"))
    new = cloud.call("GET", f"{B}/backups/iam", optionsRequestedPolicyVersion="3")
    assert (new["version"], new["bindings"][-1]["condition"]) == (3, CONDITION)
    old = cloud.call("GET", f"{B}/backups/iam")
    assert (old["version"], [binding for binding in old["bindings"] if "condition" in binding]) == (1, [])
    assert old["bindings"][-1]["role"].startswith("roles/storage.objectUser_withcond_")


@pytest.mark.parametrize(
    ("expression", "yes", "no"),
    [
        ("resource.name.startsWith('a/')", "a/b", "b/a/"),
        ('resource.name == "a"', "a", "ab"),
        ("resource.name != 'a'", "b", "a"),
        ("resource.name.endsWith('.json') && resource.name.startsWith('a')", "a.json", "b.json"),
        ("resource.name == 'a' || resource.name == 'b' && resource.name == 'c'", "a", "b"),
        ("resource.type == 'storage.googleapis.com/Object'", "x/objects/y", "x"),
    ],
)
def test_expressions_mean_what_they_say(expression: str, yes: str, no: str) -> None:
    assert (predicate(expression)(yes), predicate(expression)(no)) == (True, False)


@pytest.mark.parametrize(
    "expression", ["", "true", "resource.name.matches('a')", "(resource.name == 'a')", "request.time < '2030'", "a ||"]
)
def test_what_is_not_understood_is_refused(expression: str) -> None:
    with pytest.raises(ApiError, match="does not understand"):
        predicate(expression)
