"""What machines are told of themselves, asked by Google's and Amazon's own libraries, and what is refused."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import boto3  # type: ignore[import-untyped] # it has no types
import google.auth.transport.requests
import pytest
import requests
from google.auth import compute_engine, exceptions
from google.auth.compute_engine import _metadata

from goud_sandbox.doors import application
from goud_sandbox.metadata import Question, Reply
from goud_sandbox.serving import server

from .aws import REGION, ZONE, Account, refusal
from .conftest import PROJECT, Cloud

LIBRARY: Any = _metadata  # it is typed in part only
CREDENTIALS: Any = compute_engine.Credentials
FLAVOR = {"metadata-flavor": "Google"}
ROOT = "/computeMetadata/v1"
SCOPES = ["https://www.googleapis.com/auth/cloud-platform"]
WRITER = f"writer@{PROJECT}.iam.gserviceaccount.com"
TRUST = {
    "Version": "2012-10-17",
    "Statement": [{"Effect": "Allow", "Action": "sts:AssumeRole", "Principal": {"Service": "ec2.amazonaws.com"}}],
}
POLICY = {
    "Version": "2012-10-17",
    "Statement": [
        {"Effect": "Allow", "Action": ["s3:GetObject", "s3:PutObject"], "Resource": "arn:aws:s3:::backups/*"}
    ],
}


@contextmanager
def metadata_host(answer: Callable[[Question], Reply | None], machine: str) -> Iterator[str]:
    """The metadata servers on loopback, where whoever asks is that machine."""

    def as_machine(question: Question) -> Reply | None:
        return answer(Question(machine, question.method, question.path, question.query, question.headers))

    with socket.create_server(("127.0.0.1", 0)) as listener:
        http_server = server(application(lambda _: None, as_machine), "127.0.0.1", 0)
        thread = threading.Thread(target=lambda: http_server.run(sockets=[listener]), daemon=True)
        thread.start()
        yield f"127.0.0.1:{listener.getsockname()[1]}"
        http_server.should_exit = True
        thread.join()


# Google ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def machine(cloud: Cloud) -> str:
    """An instance with a service account; its address."""
    cloud.call("POST", f"/v1/projects/{PROJECT}/serviceAccounts", {"accountId": "writer"})
    cloud.network()
    metadata = {"items": [{"key": "ssh-keys", "value": "me:ssh-ed25519 A"}]}
    cloud.instance("vm", serviceAccounts=[{"email": WRITER, "scopes": SCOPES}], metadata=metadata)
    return address(cloud, "vm")


def address(cloud: Cloud, name: str) -> str:
    path = f"/compute/v1/projects/{PROJECT}/zones/europe-west4-a/instances/{name}"
    return str(cloud.call("GET", path)["networkInterfaces"][0]["networkIP"])


def ask(cloud: Cloud, machine: str, path: str, headers: dict[str, str] = FLAVOR, **query: str) -> Reply:
    reply = cloud.google.metadata(Question(machine, "GET", f"{ROOT}/{path}", query, headers))
    assert reply is not None
    return reply


def test_googles_library_finds_project_and_account_and_gets_a_token(
    cloud: Cloud, machine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with metadata_host(cloud.google.metadata, machine) as host, requests.Session() as session:
        monkeypatch.setattr(_metadata, "_GCE_METADATA_HOST", host)
        monkeypatch.setenv("GCE_METADATA_IP", host)
        session.trust_env = False
        request = google.auth.transport.requests.Request(session)
        assert LIBRARY.ping(request)
        assert LIBRARY.get_project_id(request) == PROJECT
        credentials = CREDENTIALS()
        credentials.refresh(request)
        assert credentials.service_account_email == WRITER
        assert credentials.valid
    assert cloud.google.iam.caller(f"Bearer {credentials.token}") == WRITER


def test_an_instance_knows_itself_only(cloud: Cloud, machine: str) -> None:
    cloud.instance("other")
    assert ask(cloud, machine, "instance/name").text == "vm"
    assert ask(cloud, address(cloud, "other"), "instance/name").text == "other"
    assert ask(cloud, address(cloud, "other"), "instance/service-accounts/").text == ""
    assert ask(cloud, address(cloud, "other"), "instance/service-accounts/default/token").status == 404
    assert cloud.google.metadata(Question("192.0.2.1", "GET", "/")) is None


def test_the_basics_are_there(cloud: Cloud, machine: str) -> None:
    number = ask(cloud, machine, "project/numeric-project-id").text
    assert ask(cloud, machine, "instance/zone").text == f"projects/{number}/zones/europe-west4-a"
    assert ask(cloud, machine, "instance/hostname").text == f"vm.europe-west4-a.c.{PROJECT}.internal"
    assert ask(cloud, machine, "instance/id").text.isdigit()
    assert ask(cloud, machine, "instance/attributes/ssh-keys").text == "me:ssh-ed25519 A"
    assert "service-accounts/\n" in ask(cloud, machine, "instance/").text
    assert ask(cloud, machine, "instance/service-accounts/default/scopes").text == f"{SCOPES[0]}\n"
    document = json.loads(ask(cloud, machine, "instance/", recursive="true").text)
    assert document["serviceAccounts"]["default"] == {"aliases": ["default"], "email": WRITER, "scopes": SCOPES}
    assert document["attributes"] == {"ssh-keys": "me:ssh-ed25519 A"}


def test_google_refuses_what_a_browser_or_a_proxy_could_be_made_to_ask(cloud: Cloud, machine: str) -> None:
    assert ask(cloud, machine, "instance/name", {}).status == 403
    assert ask(cloud, machine, "instance/name", FLAVOR | {"x-forwarded-for": "1.2.3.4"}).status == 403
    assert ask(cloud, machine, "instance/nothing").status == 404
    redirect = ask(cloud, machine, "instance/service-accounts", recursive="true")
    assert (redirect.status, redirect.headers["Location"]) == (301, f"{ROOT}/instance/service-accounts/?recursive=true")
    assert ask(cloud, machine, "instance/name").headers["Metadata-Flavor"] == "Google"


def test_a_token_is_the_same_until_it_nears_its_end_and_goes_with_its_account(cloud: Cloud, machine: str) -> None:
    def token() -> Any:
        return json.loads(ask(cloud, machine, "instance/service-accounts/default/token").text)

    first = token()
    assert token()["access_token"] == first["access_token"]
    assert 3500 < first["expires_in"] <= 3600
    cloud.call("DELETE", f"/v1/projects/{PROJECT}/serviceAccounts/{WRITER}")
    assert ask(cloud, machine, "instance/service-accounts/default/token").status == 404
    cloud.call("POST", f"/v1/projects/{PROJECT}/serviceAccounts", {"accountId": "writer"})
    assert token()["access_token"] != first["access_token"]


def test_an_expired_token_is_no_token(cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    token, ends = cloud.google.iam.issue(WRITER)
    assert cloud.google.iam.is_valid(token)
    monkeypatch.setattr(time, "time", lambda: ends + 1)
    assert not cloud.google.iam.is_valid(token)
    cloud.client.headers["authorization"] = f"Bearer {token}"
    assert cloud.refusal("GET", "/storage/v1/b", project=PROJECT)[0] == 401


def test_a_stopped_instance_asks_nothing(cloud: Cloud, machine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    cloud.google.on_power_off("gcp-europe-west4-a-vm")
    assert cloud.google.metadata(Question(machine, "GET", "/")) is None
    with metadata_host(cloud.google.metadata, machine) as host, requests.Session() as session:
        monkeypatch.setattr(_metadata, "_GCE_METADATA_HOST", host)
        session.trust_env = False
        with pytest.raises(exceptions.TransportError):
            LIBRARY.get_project_id(google.auth.transport.requests.Request(session))


# Amazon ---------------------------------------------------------------------------------------------------------


def role(account: Account, name: str, policy: dict[str, Any] = POLICY, trust: dict[str, Any] = TRUST) -> None:
    iam = account.client("iam")
    iam.create_role(RoleName=name, AssumeRolePolicyDocument=json.dumps(trust))
    iam.put_role_policy(RoleName=name, PolicyName="backups", PolicyDocument=json.dumps(policy))
    iam.create_instance_profile(InstanceProfileName=name)
    iam.add_role_to_instance_profile(InstanceProfileName=name, RoleName=name)


def guest(account: Account, profile: str = "", tokens: str = "required", **fields: Any) -> tuple[str, str]:
    """An instance's id and address."""
    options: dict[str, Any] = {"MetadataOptions": {"HttpTokens": tokens, **fields}}
    if profile:
        options["IamInstanceProfile"] = {"Name": profile}
    instance = account.running_instance(**options)
    return instance, str(account.describe_instance(instance)["PrivateIpAddress"])


def put(account: Account, machine: str, ttl: str = "60", **headers: str) -> Reply:
    fields = {"x-aws-ec2-metadata-token-ttl-seconds": ttl, **headers}
    reply = account.amazon.metadata(Question(machine, "PUT", "/latest/api/token", headers=fields))
    assert reply is not None
    return reply


def get(account: Account, machine: str, path: str, token: str | None = None) -> Reply:
    headers = {} if token is None else {"x-aws-ec2-metadata-token": token}
    reply = account.amazon.metadata(Question(machine, "GET", f"/latest/{path}", headers=headers))
    assert reply is not None
    return reply


def test_amazons_library_becomes_the_instances_role_and_no_more(
    account: Account, monkeypatch: pytest.MonkeyPatch
) -> None:
    role(account, "writer")
    account.client("s3").create_bucket(Bucket="backups", CreateBucketConfiguration={"LocationConstraint": REGION})
    instance, machine = guest(account, "writer")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE", "AWS_EC2_METADATA_DISABLED"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with metadata_host(account.amazon.metadata, machine) as host:
        monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", f"http://{host}")
        session = boto3.session.Session(region_name=REGION)
        credentials = session.get_credentials()
        assert credentials.method == "iam-role"
        secrets = credentials.get_frozen_credentials()
    keys = (secrets.access_key, secrets.secret_key, secrets.token)
    arn = account.client("sts", *keys).get_caller_identity()["Arn"]
    assert arn == f"arn:aws:sts::123456789012:assumed-role/writer/{instance}"
    storage = account.client("s3", *keys)
    storage.put_object(Bucket="backups", Key="one", Body=b"kept")
    storage.put_object(Bucket="backups", Key="one", Body=b"kept")  # overwriting is not deleting at Amazon
    assert refusal(storage.delete_object, Bucket="backups", Key="one")[0] == "AccessDenied"
    assert refusal(storage.list_objects_v2, Bucket="backups")[0] == "AccessDenied"


def test_version_two_asks_for_a_token_of_the_same_machine(account: Account) -> None:
    instance, machine = guest(account)
    neighbour = account.running_instance(SubnetId=account.describe_instance(instance)["SubnetId"])
    other = str(account.describe_instance(neighbour)["PrivateIpAddress"])
    token = put(account, machine)
    assert token.headers["X-Aws-Ec2-Metadata-Token-Ttl-Seconds"] == "60"
    assert get(account, machine, "meta-data/instance-id", token.text).text == instance
    assert get(account, machine, "meta-data/instance-id").status == 401
    assert get(account, machine, "meta-data/instance-id", "made-up").status == 401
    assert get(account, other, "meta-data/instance-id", token.text).status == 401
    for ttl in ("", "0", "21601", "x"):
        assert put(account, machine, ttl).status == 400
    assert put(account, machine, **{"x-forwarded-for": "1.2.3.4"}).status == 403


def test_version_one_is_answered_where_the_instance_lets_it(account: Account) -> None:
    instance, machine = guest(account, tokens="optional")
    assert get(account, machine, "meta-data/instance-id").text == instance
    account.ec2.modify_instance_metadata_options(InstanceId=instance, HttpTokens="required")
    assert get(account, machine, "meta-data/instance-id").status == 401
    account.ec2.modify_instance_metadata_options(InstanceId=instance, HttpEndpoint="disabled")
    assert put(account, machine).status == 403


def test_an_instance_tells_where_and_what_it_is(account: Account) -> None:
    instance, machine = guest(account)
    token = put(account, machine).text
    assert get(account, machine, "meta-data/placement/availability-zone", token).text == ZONE
    assert get(account, machine, "meta-data/placement/region", token).text == REGION
    assert "placement/" in get(account, machine, "meta-data/", token).text.splitlines()
    document = json.loads(get(account, machine, "dynamic/instance-identity/document", token).text)
    assert (document["instanceId"], document["region"], document["privateIp"]) == (instance, REGION, machine)
    assert get(account, machine, "meta-data/iam/security-credentials/", token).status == 404  # it has no profile


def test_credentials_stay_until_they_near_their_end_and_then_are_refused(account: Account) -> None:
    role(account, "writer")
    account.client("s3").create_bucket(Bucket="backups", CreateBucketConfiguration={"LocationConstraint": REGION})
    _, machine = guest(account, "writer")
    token = put(account, machine).text
    path = "meta-data/iam/security-credentials/"
    assert get(account, machine, path, token).text == "writer"
    first = json.loads(get(account, machine, f"{path}writer", token).text)
    assert json.loads(get(account, machine, f"{path}writer", token).text)["Token"] == first["Token"]
    storage = account.client("s3", first["AccessKeyId"], first["SecretAccessKey"], first["Token"])
    storage.put_object(Bucket="backups", Key="one", Body=b"x")
    account.expire(first["AccessKeyId"])
    assert refusal(storage.put_object, Bucket="backups", Key="one", Body=b"x")[0] == "ExpiredToken"
    assert json.loads(get(account, machine, f"{path}writer", token).text)["Token"] != first["Token"]


def test_a_role_that_does_not_trust_machines_gives_no_credentials(account: Account) -> None:
    trust = json.loads(json.dumps(TRUST).replace("ec2.amazonaws.com", "backup.amazonaws.com"))
    role(account, "stranger", trust=trust)
    _, machine = guest(account, "stranger")
    token = put(account, machine).text
    answer = json.loads(get(account, machine, "meta-data/iam/security-credentials/stranger", token).text)
    assert (answer["Code"], "AccessKeyId" in answer) == ("AssumeRoleUnauthorizedAccess", False)
