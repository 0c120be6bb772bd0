"""Cloud Storage by Google's own client library, and its policies by its own tokens."""

from __future__ import annotations

import base64
import hashlib
import json
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import jwt
import pytest

from goud_sandbox.gcp.buckets import merge

from .conftest import PROJECT, Cloud

B = "/storage/v1/b"


@pytest.fixture
def bucket(cloud: Cloud) -> str:
    cloud.call("POST", B, {"name": "backups", "location": "europe-west4"}, project=PROJECT)
    return "backups"


def put(cloud: Cloud, name: str, data: bytes, expect: int = 200, **query: str) -> dict[str, Any]:
    params = {"uploadType": "media", "name": name, **query}
    answer = cloud.client.request("POST", "/upload/storage/v1/b/backups/o", content=data, params=params)
    assert answer.status_code == expect, answer.text
    return dict(answer.json())


def read(cloud: Cloud, name: str, **query: str) -> bytes:
    answer = cloud.client.request("GET", f"{B}/backups/o/{name}", params={"alt": "media", **query})
    assert answer.status_code == 200, answer.text
    return bytes(answer.content)


@pytest.mark.usefixtures("bucket")
def test_generations_guard_against_lost_updates(cloud: Cloud) -> None:
    first = put(cloud, "lock", b"one", ifGenerationMatch="0")
    put(cloud, "lock", b"two", expect=412, ifGenerationMatch="0")
    assert read(cloud, "lock") == b"one"
    second = put(cloud, "lock", b"two", ifGenerationMatch=first["generation"])
    assert int(second["generation"]) > int(first["generation"])
    put(cloud, "lock", b"three", expect=412, ifGenerationMatch=first["generation"])
    refusal = cloud.refusal("DELETE", f"{B}/backups/o/lock", ifGenerationMatch=first["generation"])
    assert refusal[:2] == (412, "conditionNotMet")
    cloud.call("DELETE", f"{B}/backups/o/lock", expect=204, ifGenerationMatch=second["generation"])
    assert cloud.refusal("GET", f"{B}/backups/o/lock")[0] == 404


@pytest.mark.usefixtures("bucket")
def test_a_wrong_checksum_is_refused(cloud: Cloud) -> None:
    put(cloud, "good", b"123456789")
    blob = cloud.call("GET", f"{B}/backups/o/good")
    assert blob["crc32c"] == base64.b64encode(bytes.fromhex("e3069283")).decode()
    assert blob["md5Hash"] == base64.b64encode(hashlib.md5(b"123456789").digest()).decode()  # noqa: S324 -- the API's
    metadata = json.dumps({"name": "bad", "crc32c": blob["crc32c"]})
    body = f"\r\n--x\r\ncontent-type: application/json\r\n\r\n{metadata}\r\n--x\r\n\r\nother\r\n--x--\r\n"
    headers = {"content-type": "multipart/related; boundary=x"}
    path = "/upload/storage/v1/b/backups/o?uploadType=multipart"
    answer = cloud.client.request("POST", path, content=body.encode(), headers=headers)
    assert answer.status_code == 400
    assert "doesn't match" in answer.text
    assert cloud.refusal("GET", f"{B}/backups/o/bad")[0] == 404


@pytest.mark.usefixtures("bucket")
def test_versions_keep_what_was_overwritten_and_deleted(cloud: Cloud) -> None:
    cloud.call("PATCH", f"{B}/backups", {"versioning": {"enabled": True}})
    first = put(cloud, "a", b"one")
    put(cloud, "a", b"two")
    cloud.call("DELETE", f"{B}/backups/o/a", expect=204)
    assert cloud.refusal("GET", f"{B}/backups/o/a")[0] == 404
    assert cloud.call("GET", f"{B}/backups/o")["items"] == []
    assert len(cloud.call("GET", f"{B}/backups/o", versions="true")["items"]) == 2
    assert read(cloud, "a", generation=first["generation"]) == b"one"


@pytest.mark.usefixtures("bucket")
def test_retention_refuses_deletion_and_a_lock_refuses_a_shorter_one(cloud: Cloud) -> None:
    cloud.call("PATCH", f"{B}/backups", {"retentionPolicy": {"retentionPeriod": "3600"}})
    document = put(cloud, "kept", b"data")
    expiry = datetime.fromisoformat(document["retentionExpirationTime"])
    assert expiry > datetime.now(UTC) + timedelta(minutes=59)
    assert cloud.refusal("DELETE", f"{B}/backups/o/kept")[:2] == (403, "retentionPolicyNotMet")
    put(cloud, "kept", b"other", expect=403)
    assert read(cloud, "kept") == b"data"
    generation = cloud.call("GET", f"{B}/backups")["metageneration"]
    cloud.call("POST", f"{B}/backups/lockRetentionPolicy", ifMetagenerationMatch=generation)
    assert cloud.refusal("PATCH", f"{B}/backups", {"retentionPolicy": None})[0] == 403
    assert cloud.refusal("PATCH", f"{B}/backups", {"retentionPolicy": {"retentionPeriod": "60"}})[0] == 403
    cloud.call("PATCH", f"{B}/backups", {"retentionPolicy": {"retentionPeriod": "7200"}})


@pytest.mark.usefixtures("bucket")
def test_a_hold_refuses_deletion(cloud: Cloud) -> None:
    put(cloud, "held", b"data")
    cloud.call("PATCH", f"{B}/backups/o/held", {"temporaryHold": True})
    assert cloud.refusal("DELETE", f"{B}/backups/o/held")[:2] == (403, "objectUnderActiveHold")
    cloud.call("PATCH", f"{B}/backups/o/held", {"temporaryHold": False})
    cloud.call("DELETE", f"{B}/backups/o/held", expect=204)


@pytest.mark.usefixtures("bucket")
def test_resumable_uploads_go_on_where_they_were(cloud: Cloud) -> None:
    path = "/upload/storage/v1/b/backups/o"
    answer = cloud.client.request("POST", path, params={"uploadType": "resumable", "name": "big/one"}, json={})
    session = answer.headers["location"].split("googleapis.com")[1]
    half = cloud.client.request("PUT", session, content=b"12345", headers={"content-range": "bytes 0-4/9"})
    assert (half.status_code, half.headers["range"]) == (308, "bytes=0-4")
    status = cloud.client.request("PUT", session, headers={"content-range": "bytes */9"})
    assert (status.status_code, status.headers["range"]) == (308, "bytes=0-4")
    wrong = cloud.client.request("PUT", session, content=b"9", headers={"content-range": "bytes 8-8/9"})
    assert (wrong.status_code, wrong.headers["range"]) == (308, "bytes=0-4")
    result = cloud.client.request("PUT", session, content=b"6789", headers={"content-range": "bytes 5-8/9"})
    assert result.json()["size"] == "9"
    assert read(cloud, "big%2Fone") == b"123456789"
    part = cloud.client.request(
        "GET", f"{B}/backups/o/big%2Fone", params={"alt": "media"}, headers={"range": "bytes=2-4"}
    )
    assert (part.status_code, part.content, part.headers["content-range"]) == (206, b"345", "bytes 2-4/9")


@pytest.mark.usefixtures("bucket")
def test_lists_have_folders_and_pages(cloud: Cloud) -> None:
    for name in ("a/1", "a/2", "b/1", "top"):
        put(cloud, name, b"x")
    listing = cloud.call("GET", f"{B}/backups/o", delimiter="/")
    assert ([item["name"] for item in listing["items"]], listing["prefixes"]) == (["top"], ["a/", "b/"])
    page = cloud.call("GET", f"{B}/backups/o", prefix="a/", maxResults="1")
    rest = cloud.call("GET", f"{B}/backups/o", prefix="a/", maxResults="1", pageToken=page["nextPageToken"])
    assert [item["name"] for item in page["items"] + rest["items"]] == ["a/1", "a/2"]


@pytest.mark.usefixtures("bucket")
def test_compose_and_rewrite_keep_the_bytes(cloud: Cloud) -> None:
    put(cloud, "one", b"hello ")
    put(cloud, "two", b"world")
    parts = {"sourceObjects": [{"name": "one"}, {"name": "two"}]}
    cloud.call("POST", f"{B}/backups/o/both/compose", parts)
    cloud.call("POST", f"{B}/backups/o/both/rewriteTo/b/backups/o/folder%2Fcopy", {})
    assert read(cloud, "folder%2Fcopy") == b"hello world"


@pytest.mark.usefixtures("bucket")
def test_a_bucket_with_objects_stays(cloud: Cloud) -> None:
    put(cloud, "one", b"x")
    assert cloud.refusal("DELETE", f"{B}/backups")[0] == 409
    cloud.call("DELETE", f"{B}/backups/o/one", expect=204)
    cloud.call("DELETE", f"{B}/backups", expect=204)


def service_account(cloud: Cloud, name: str) -> tuple[str, str]:
    """Its address and an access token, got as Google's libraries get one."""
    account = cloud.call("POST", f"/v1/projects/{PROJECT}/serviceAccounts", {"accountId": name})
    key_document = cloud.call("POST", f"/v1/projects/{PROJECT}/serviceAccounts/{account['email']}/keys", {})
    key = json.loads(base64.b64decode(key_document["privateKeyData"]))
    claims = {"iss": key["client_email"], "aud": key["token_uri"], "iat": time.time(), "exp": time.time() + 60}
    assertion = jwt.encode(claims, key["private_key"], "RS256", {"kid": key["private_key_id"]})
    form = {"grant_type": "urn:ietf:params:oauth:grant-type:jwt-bearer", "assertion": assertion}
    answer = cloud.client.request("POST", "/token", data=form)
    assert answer.status_code == 200, answer.text
    return str(account["email"]), str(answer.json()["access_token"])


@pytest.fixture
def as_node(cloud: Cloud, bucket: str) -> Iterator[None]:
    """Calls come from a service account that may create and read, and nothing more."""
    email, token = service_account(cloud, "node")
    member = f"serviceAccount:{email}"
    roles = ("roles/storage.objectCreator", "roles/storage.objectViewer")
    policy = {"bindings": [{"role": role, "members": [member]} for role in roles]}
    cloud.call("PUT", f"{B}/{bucket}/iam", policy)
    before = cloud.client.headers["authorization"]
    cloud.client.headers["authorization"] = f"Bearer {token}"
    yield
    cloud.client.headers["authorization"] = before


@pytest.mark.usefixtures("as_node")
def test_a_service_account_may_do_what_its_roles_say_and_no_more(cloud: Cloud) -> None:
    put(cloud, "backup", b"data")
    assert read(cloud, "backup") == b"data"
    assert cloud.refusal("DELETE", f"{B}/backups/o/backup")[:2] == (403, "forbidden")
    put(cloud, "backup", b"overwritten", expect=403)
    assert read(cloud, "backup") == b"data"
    assert cloud.refusal("DELETE", f"{B}/backups")[0] == 403
    assert cloud.refusal("GET", f"/compute/v1/projects/{PROJECT}/zones/europe-west4-a/disks")[0] == 403


def test_a_token_needs_a_key_that_was_not_deleted(cloud: Cloud) -> None:
    email, token = service_account(cloud, "gone")
    cloud.call("DELETE", f"/v1/projects/{PROJECT}/serviceAccounts/{email}")
    cloud.client.headers["authorization"] = f"Bearer {token}"
    assert cloud.refusal("GET", B, project=PROJECT)[0] == 401


def test_records_change_together_or_not_at_all(cloud: Cloud) -> None:
    zones = f"/dns/v1/projects/{PROJECT}/managedZones"
    cloud.call("POST", zones, {"name": "zone", "dnsName": "example.test."})
    new = {"name": "a.example.test.", "type": "A", "ttl": 60, "rrdatas": ["192.0.2.1"]}
    cloud.call("POST", f"{zones}/zone/changes", {"additions": [new]})
    record = {**new, "rrdatas": ["192.0.2.2"]}
    wrong = {"deletions": [record], "additions": [record]}
    assert cloud.refusal("POST", f"{zones}/zone/changes", wrong)[0] == 404
    records = cloud.call("GET", f"{zones}/zone/rrsets", name="a.example.test.", type="A")["rrsets"]
    assert records[0]["rrdatas"] == ["192.0.2.1"]
    assert cloud.call("GET", f"{zones}/zone/rrsets/a.example.test./A") == records[0]
    assert cloud.refusal("GET", f"{zones}/zone/rrsets/b.example.test./A")[:2] == (404, "notFound")
    assert cloud.refusal("DELETE", f"{zones}/zone")[:2] == (400, "containerNotEmpty")
    cloud.call("POST", f"{zones}/zone/changes", {"deletions": [new]})
    cloud.call("DELETE", f"{zones}/zone", expect=204)


def test_a_patch_removes_what_is_null() -> None:
    assert merge({"a": {"b": 1, "c": 2}, "d": 3}, {"a": {"b": None}, "d": None}) == {"a": {"c": 2}}


def test_bytes_are_on_disk(cloud: Cloud, tmp_path: Path, bucket: str) -> None:
    put(cloud, "one", b"x" * 100)
    assert [path.stat().st_size for path in (tmp_path / "objects").iterdir()] == [100]
    cloud.call("DELETE", f"{B}/{bucket}/o/one", expect=204)
    assert list((tmp_path / "objects").iterdir()) == []
