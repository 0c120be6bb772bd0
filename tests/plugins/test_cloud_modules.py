"""The cloud's modules: refusals become sentences, buckets and host keys are what was asked for."""

from __future__ import annotations

import base64
import io
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import goud_google
import pytest

sys.modules.setdefault("ansible.module_utils.goud_google", goud_google)  # where Ansible puts it

import goud_aws_read  # noqa: E402 - after the line above
import goud_gcs_bucket  # noqa: E402 - after the line above
import goud_host_keys  # noqa: E402 - after the line above

KEY = "ssh-ed25519 " + base64.b64encode(b"one").decode()
OTHER = "ssh-ed25519 " + base64.b64encode(b"two").decode()


class Answer:
    def __init__(self, status: int, document: Any) -> None:
        self.status_code, self.text = status, json.dumps(document)

    def json(self) -> Any:
        return json.loads(self.text)


class Session:
    """Answers in order; keeps what it was asked."""

    def __init__(self, *answers: Answer) -> None:
        self._answers: Iterator[Answer] = iter(answers)
        self.calls: list[tuple[str, str, Any]] = []

    def request(self, method: str, url: str, **more: Any) -> Answer:
        self.calls.append((method, url, more.get("json")))
        return next(self._answers)


def error(status: int, message: str, reason: str = "") -> Answer:
    return Answer(status, {"error": {"code": status, "message": message, "errors": [{"reason": reason}]}})


def test_lists_are_read_to_the_last_page() -> None:
    first = {
        "kind": "compute#diskAggregatedList",
        "items": {"zones/a": {"disks": [1]}, "zones/b": {"warning": {}}},
        "nextPageToken": "2",
    }
    last = {"kind": "compute#diskAggregatedList", "items": {"zones/b": {"disks": [2]}}}
    assert goud_google.pages(Session(Answer(200, first), Answer(200, last)), "https://x/y") == [1, 2]


def test_what_lies_below_a_prefix_is_listed_as_that() -> None:
    first = {"kind": "storage#objects", "prefixes": ["a/", "b/"], "nextPageToken": "2"}
    last = {"kind": "storage#objects", "items": [{"name": "note"}], "prefixes": ["c/"]}
    listing = goud_google.pages(Session(Answer(200, first), Answer(200, last)), "https://x/y")
    assert [entry["name"] for entry in listing] == ["a/", "b/", "note", "c/"]


def test_absence_is_an_answer_and_a_refusal_a_sentence() -> None:
    assert goud_google.pages(Session(error(404, "no")), "https://x/y") is None
    with pytest.raises(
        goud_google.Refused, match=r"Google refused GET y: no such token. the credentials are not valid"
    ):
        goud_google.pages(Session(error(401, "no such token.")), "https://x/y")
    with pytest.raises(goud_google.Refused, match="larger quota"):
        goud_google.call(Session(error(403, "Quota 'CPUS' exceeded.", "quotaExceeded")), "POST", "https://x/y")


def test_an_operation_that_ends_in_an_error_is_an_error() -> None:
    operation = {"status": "RUNNING", "selfLink": "https://x/op"}
    answer = {
        "status": "DONE",
        "operationType": "resize",
        "targetLink": "https://x/d",
        "error": {"errors": [{"message": "broken"}]},
    }
    with pytest.raises(goud_google.Refused, match="Google failed resize of d: broken"):
        goud_google.finish(Session(Answer(200, answer)), operation, 5)


PARAMETERS: dict[str, Any] = {
    "name": "b", "location": "europe-west4", "storage_class": "STANDARD", "labels": {"a": "b"}, "lifecycle_rules": [],
    "retention_days": 0, "retention_locked": False, "soft_delete_days": 7, "kms_key": "",
    "grants": [{"member": "m", "role": "r"}],
}  # fmt: skip


def bucket(**change: Any) -> dict[str, Any]:
    return goud_gcs_bucket.bucket_settings(PARAMETERS) | {"location": "EUROPE-WEST4", "metageneration": "1"} | change


def test_a_bucket_is_protected_from_its_first_moment() -> None:
    session = Session(error(404, "no"), Answer(200, bucket()), Answer(200, {"bindings": []}), Answer(200, {}))
    assert goud_gcs_bucket.settle(session, PARAMETERS, "p", check=False)["changed"]
    method, _, body = session.calls[1]
    assert method == "POST"
    assert body["iamConfiguration"]["uniformBucketLevelAccess"]["enabled"]
    assert body["iamConfiguration"]["publicAccessPrevention"] == "enforced"
    assert body["versioning"]["enabled"]


def test_a_bucket_as_asked_is_left_alone() -> None:
    session = Session(Answer(200, bucket()), Answer(200, {"bindings": [{"role": "r", "members": ["m"]}]}))
    assert not goud_gcs_bucket.settle(session, PARAMETERS, "p", check=False)["changed"]
    assert [call[0] for call in session.calls] == ["GET", "GET"]


def test_check_mode_only_reads() -> None:
    session = Session(Answer(200, bucket(versioning={"enabled": False})), Answer(200, {"bindings": []}))
    result = goud_gcs_bucket.settle(session, PARAMETERS, "p", check=True)
    assert result["differences"] == ["versioning.enabled", "policy"]
    assert {call[0] for call in session.calls} == {"GET"}


def test_a_bucket_does_not_move() -> None:
    with pytest.raises(goud_google.Refused, match="cannot move"):
        goud_gcs_bucket.settle(Session(Answer(200, bucket(location="US"))), PARAMETERS, "p", check=False)


def test_members_have_their_roles_and_no_others() -> None:
    policy = {"bindings": [{"role": "admin", "members": ["m", "someone"]}]}
    bindings = goud_gcs_bucket.policy_with(policy, PARAMETERS["grants"])
    assert bindings == [{"role": "admin", "members": ["someone"]}, {"role": "r", "members": ["m"]}]


CONDITION = {"title": "t", "description": "d", "expression": "resource.name == 'a'"}


def test_conditions_take_a_policy_of_version_three_and_are_told_apart() -> None:
    grants = [*PARAMETERS["grants"], {"member": "m", "role": "r", "condition": CONDITION}]
    policy = {"version": 1, "etag": "e", "bindings": [{"role": "r", "members": ["m"]}]}
    session = Session(Answer(200, bucket()), Answer(200, policy), Answer(200, {}))
    result = goud_gcs_bucket.settle(session, PARAMETERS | {"grants": grants}, "p", check=False)
    assert result["differences"] == ["policy"]
    assert "optionsRequestedPolicyVersion=3" in session.calls[1][1]
    body = session.calls[2][2]
    assert (body["version"], body["etag"]) == (3, "e")
    assert body["bindings"] == [
        {"role": "r", "members": ["m"]},
        {"role": "r", "condition": CONDITION, "members": ["m"]},
    ]
    again = Session(Answer(200, bucket()), Answer(200, body))
    assert not goud_gcs_bucket.settle(again, PARAMETERS | {"grants": grants}, "p", check=False)["changed"]


def test_a_condition_that_is_no_longer_asked_for_goes() -> None:
    policy = {"version": 3, "bindings": [{"role": "r", "members": ["m", "someone"], "condition": CONDITION}]}
    assert goud_gcs_bucket.policy_with(policy, PARAMETERS["grants"]) == [
        {"role": "r", "members": ["someone"], "condition": CONDITION},
        {"role": "r", "members": ["m"]},
    ]


def test_what_was_deleted_is_kept_for_a_while() -> None:
    assert goud_gcs_bucket.bucket_settings(PARAMETERS)["softDeletePolicy"] == {"retentionDurationSeconds": "604800"}
    other = goud_gcs_bucket.bucket_settings(PARAMETERS | {"soft_delete_days": 0})
    assert goud_gcs_bucket.differences(other, bucket()) == ["softDeletePolicy.retentionDurationSeconds"]


def test_amazons_errors_are_sentences() -> None:
    assert goud_aws_read.absent("NoSuchBucket")
    assert goud_aws_read.absent("InvalidVolume.NotFound")
    assert not goud_aws_read.absent("AuthFailure")
    assert "Set AWS_ACCESS_KEY_ID" in goud_aws_read.sentence("ec2 describe_vpcs", "AuthFailure", "no.")


def scan(tmp_path: Path, *keys: str) -> str:
    program = tmp_path / "ssh-keyscan"
    lines = "".join(f"echo '192.0.2.1 {key}'\n" for key in keys)
    program.write_text(f"#!/bin/sh\n{lines}")
    program.chmod(0o755)
    return str(program)


def test_known_hosts_holds_aliases_and_no_comments() -> None:
    machine = {"alias": "c-node1", "address": "192.0.2.1", "keys": [f"{KEY} root@x", "nonsense", "ssh-ed25519 ***"]}
    assert goud_host_keys.document([machine]) == f"c-node1 {KEY}\n"
    with pytest.raises(goud_host_keys.WrongKey, match="tells no usable host key of c-node1"):
        goud_host_keys.document([machine | {"keys": []}])


def test_a_machine_answers_with_the_key_that_was_told(tmp_path: Path) -> None:
    machine = {"alias": "c-node1", "address": "192.0.2.1", "keys": [KEY]}
    goud_host_keys.prove(scan(tmp_path, OTHER, KEY), machine, 0)
    with pytest.raises(goud_host_keys.WrongKey, match="shows a host key that the provider does not tell"):
        goud_host_keys.prove(scan(tmp_path, OTHER), machine, 0)
    with pytest.raises(goud_host_keys.WrongKey, match=r"does not answer at 192.0.2.1"):
        goud_host_keys.prove(scan(tmp_path), machine, 0)


def test_the_file_is_for_its_owner_only(tmp_path: Path) -> None:
    path = tmp_path / "known_hosts"
    goud_host_keys.write(path, "x\n")
    assert path.read_text() == "x\n"
    assert path.stat().st_mode & 0o777 == 0o600


class Bucket:
    """A client of S3 with one object of so many bytes."""

    def __init__(self, size: int) -> None:
        self.size = size

    def can_paginate(self, call: str) -> bool:
        return call.startswith("list")

    def get_object(self, **_: str) -> dict[str, Any]:
        return {"Body": io.BytesIO(b"x" * self.size), "ResponseMetadata": {}}


@pytest.mark.parametrize(("size", "length"), [(5, 5), (1 << 20, 65536)])
def test_the_content_of_an_object_is_text_of_a_bounded_length(size: int, length: int) -> None:
    request = {"service": "s3", "call": "get_object", "key": "Body", "arguments": {"Bucket": "b", "Key": "k"}}
    assert goud_aws_read.read(Bucket(size), request) == "x" * length
