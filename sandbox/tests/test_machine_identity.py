"""A machine at each provider asks who it is, and writes to a bucket as that, with nothing but the environment.

What is run there is what any client does: a token from the metadata server, then the storage API.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from goud_sandbox import authority, control
from goud_sandbox.settings import Settings

from .aws import IMAGE
from .aws_machines import AwsBox
from .machines import REGION, USER, ZONE, wait_until

pytestmark = [pytest.mark.sandbox, pytest.mark.filterwarnings("default")]

PLACE = Settings(name="testid", project="box", loopback="127.0.115", proxy_port=18200)
METADATA = "http://169.254.169.254"
GOOGLE = """
import json, os, ssl, sys, urllib.error, urllib.request

def call(url, data=None, method=None, **headers):
    fields = {key.replace("_", "-"): value for key, value in headers.items()}
    request = urllib.request.Request(url, data, fields, method=method)
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, ""

root = "http://metadata.google.internal/computeMetadata/v1/"
assert call(root + "instance/name")[0] == 403
name = call(root + "instance/name", Metadata_Flavor="Google")[1]
token = json.loads(call(root + "instance/service-accounts/default/token", Metadata_Flavor="Google")[1])
bearer = {"Authorization": "Bearer " + token["access_token"]}
upload = "https://storage.googleapis.com/upload/storage/v1/b/backups/o?uploadType=media&name=chain%2F"
download = "https://storage.googleapis.com/storage/v1/b/backups/o/chain%2F"
answer = {"name": name}
for key in ("manifest", "latest.json"):
    answer[key] = [
        call(upload + key, b"first", "POST", **bearer)[0],
        call(upload + key, b"second", "POST", **bearer)[0],
        call(download + key + "?alt=media", **bearer)[1],
        call(download + key, None, "DELETE", **bearer)[0] if key == "manifest" else None,
    ]
print(json.dumps(answer))
"""
AMAZON = """
import json, os, subprocess

def curl(*arguments):
    return subprocess.run(["curl", "-s", "-m", "20", *arguments], capture_output=True, text=True, check=True).stdout

code = ["-o", "/dev/null", "-w", "%{http_code}"]
root = "http://169.254.169.254/latest/"
assert curl(*code, root + "meta-data/instance-id") == "401"
token = curl("-X", "PUT", "-H", "X-aws-ec2-metadata-token-ttl-seconds: 60", root + "api/token")
session = ["-H", "X-aws-ec2-metadata-token: " + token]
credentials = json.loads(curl(*session, root + "meta-data/iam/security-credentials/writer"))
identity = ["--user", credentials["AccessKeyId"] + ":" + credentials["SecretAccessKey"]]
identity += ["-H", "x-amz-security-token: " + credentials["Token"]]
identity += ["-H", "content-type: application/octet-stream"]
signature = ["--aws-sigv4", "aws:amz:" + os.environ["AWS_REGION"] + ":s3", *identity]
url = os.environ["AWS_ENDPOINT_URL"] + "/backups/chain/manifest"
print(json.dumps({
    "name": curl(*session, root + "meta-data/instance-id"),
    "manifest": [
        curl(*code, *signature, "-X", "PUT", "--data-binary", "first", url),
        curl(*code, *signature, "-X", "PUT", "--data-binary", "second", url),
        curl(*signature, url),
        curl(*code, *signature, "-X", "DELETE", url),
    ],
    "elsewhere": curl(*code, *signature, "-X", "PUT", "--data-binary", "x", url.replace("backups", "other")),
}))
"""


class Place(AwsBox):
    """One sandbox, used as both providers."""

    defaults = PLACE

    def books(self) -> dict[str, str]:
        return {}

    def google(self, method: str, url: str, body: Any = None) -> Any:
        """A call of the operator; operations are waited for."""
        environment = control.environment(self.home)
        with httpx.Client(
            proxy=environment["HTTPS_PROXY"],
            verify=authority.context(self.home.tls / "authority.pem"),
            trust_env=False,
            timeout=60,
            headers={"Authorization": f"Bearer {environment['GCP_ACCESS_TOKEN']}"},
        ) as client:
            answer = client.request(method, url, json=body).raise_for_status().json()
            if answer.get("kind") == "compute#operation":
                answer = client.post(f"{answer['selfLink']}/wait").raise_for_status().json()
                assert answer.get("error") is None, answer
        return answer

    def run_program(self, address: str, user: str, program: str, environment: dict[str, str]) -> Any:
        """What the program prints on the machine, JSON, run with that environment."""
        variables = json.loads(environment["GOUD_BACKUP_ENVIRONMENT"])
        authorities = environment["GOUD_BACKUP_CA_FILE"]
        lines = [f"export {name}={shlex.quote(value)}" for name, value in variables.items()]
        if authorities:
            text = (self.home.tls / "authority.pem").read_text()
            assert authorities == str(self.home.tls / "authority.pem")
            lines += [f"printf %s {shlex.quote(text)} > /tmp/ca.pem", "export SSL_CERT_FILE=/tmp/ca.pem"]
        process = self.run_script(address, user, "\n".join([*lines, f"python3 -c {shlex.quote(program)}"]))
        assert process.returncode == 0, process.stderr
        return json.loads(process.stdout)

    def run_script(self, address: str, user: str, script: str) -> Any:
        """Run a script on a machine by its address."""
        user_before, self.user = self.user, user
        try:
            return self.ssh(address, script)
        finally:
            self.user = user_before

    def address(self, host: str) -> str:
        return host


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    place = Place(tmp_path_factory.mktemp("box"))
    try:
        yield place
    finally:
        place.close()


def up(place: Place, address: str, user: str) -> Callable[[], bool]:
    return lambda: place.run_script(address, user, "true").returncode == 0


def google_machine(place: Place) -> str:
    """A machine whose service account may create and read, and replace one name; its address."""
    root = f"https://compute.googleapis.com/compute/v1/projects/{place.settings.project}"
    address = place.google(
        "POST",
        f"https://iam.googleapis.com/v1/projects/{place.settings.project}/serviceAccounts",
        {"accountId": "writer"},
    )["email"]
    storage = "https://storage.googleapis.com/storage/v1/b"
    place.google(
        "POST", storage, {"name": "backups", "iamConfiguration": {"uniformBucketLevelAccess": {"enabled": True}}}
    )
    members = [f"serviceAccount:{address}"]
    expression = "resource.name == 'projects/_/buckets/backups/objects/chain/latest.json'"
    bindings = [
        {"role": "roles/storage.objectCreator", "members": members},
        {"role": "roles/storage.objectViewer", "members": members},
        {
            "role": "roles/storage.objectUser",
            "members": members,
            "condition": {"title": "latest", "expression": expression},
        },
    ]
    place.google("PUT", f"{storage}/backups/iam", {"version": 3, "bindings": bindings})
    place.google("POST", f"{root}/global/networks", {"name": "net", "autoCreateSubnetworks": False})
    place.google(
        "POST",
        f"{root}/regions/{REGION}/subnetworks",
        {"name": "sub", "network": "global/networks/net", "ipCidrRange": "10.213.17.0/24"},
    )
    allowed = [{"IPProtocol": "tcp", "ports": ["22"]}]
    rule = {"name": "ssh", "network": "global/networks/net", "sourceRanges": ["127.0.0.0/8"], "allowed": allowed}
    place.google("POST", f"{root}/global/firewalls", rule)
    image = {"sourceImage": "projects/debian-cloud/global/images/family/debian-13"}
    key = (place.folder / "key.pub").read_text()
    body = {
        "name": "one",
        "machineType": f"zones/{ZONE}/machineTypes/e2-small",
        "disks": [{"boot": True, "autoDelete": True, "initializeParams": image}],
        "networkInterfaces": [
            {"subnetwork": f"regions/{REGION}/subnetworks/sub", "accessConfigs": [{"type": "ONE_TO_ONE_NAT"}]}
        ],
        "serviceAccounts": [{"email": address, "scopes": ["https://www.googleapis.com/auth/cloud-platform"]}],
        "metadata": {"items": [{"key": "ssh-keys", "value": f"{USER}:{key}"}]},
    }
    place.google("POST", f"{root}/zones/{ZONE}/instances", body)
    instance = place.google("GET", f"{root}/zones/{ZONE}/instances/one")
    return str(instance["networkInterfaces"][0]["accessConfigs"][0]["natIP"])


def test_a_machine_at_google_is_its_service_account(place: Place) -> None:
    address = google_machine(place)
    wait_until(up(place, address, USER), 60, "the machine")
    answer = place.run_program(address, USER, GOOGLE, control.environment(place.home))
    assert answer["name"] == "one"
    assert answer["manifest"] == [200, 403, "first", 403]
    assert answer["latest.json"] == [200, 200, "second", None]
    # Neither another link-local address nor this host's loopback is behind a door.
    assert place.run_script(address, USER, "curl -s -m 10 http://169.254.169.252/").returncode != 0
    admin = f"http://127.0.0.1:{place.settings.admin_port}/status"
    refusal = place.run_script(
        address, USER, f"curl -s -m 10 -p -x http://169.254.169.253:3128 {admin} -w '%{{http_connect}}'"
    )
    assert refusal.stdout.strip() == "403"


def amazon_machine(place: Place) -> tuple[str, str]:
    """A machine whose profile's role may put and get; its id and address."""
    service = "ec2.amazonaws.com"
    trust = {"Effect": "Allow", "Action": "sts:AssumeRole", "Principal": {"Service": service}}
    statement = {"Effect": "Allow", "Action": ["s3:GetObject", "s3:PutObject"], "Resource": "arn:aws:s3:::backups/*"}
    iam, ec2, s3 = place.service("iam"), place.service("ec2"), place.service("s3")
    iam.create_role(RoleName="writer", AssumeRolePolicyDocument=json.dumps({"Statement": [trust]}))
    iam.put_role_policy(
        RoleName="writer",
        PolicyName="p",
        PolicyDocument=json.dumps({"Version": "2012-10-17", "Statement": [statement]}),
    )
    iam.create_instance_profile(InstanceProfileName="writer")
    iam.add_role_to_instance_profile(InstanceProfileName="writer", RoleName="writer")
    for name in ("backups", "other"):
        s3.create_bucket(Bucket=name, CreateBucketConfiguration={"LocationConstraint": "eu-west-1"})
    vpc = ec2.create_vpc(CidrBlock="10.214.0.0/16")["Vpc"]["VpcId"]
    subnet = ec2.create_subnet(VpcId=vpc, CidrBlock="10.214.1.0/24")["Subnet"]["SubnetId"]
    group = ec2.create_security_group(GroupName="ssh", Description="ssh", VpcId=vpc)["GroupId"]
    ranges = [{"CidrIp": "127.0.0.0/8"}]
    permissions = [{"IpProtocol": "tcp", "FromPort": 22, "ToPort": 22, "IpRanges": ranges}]
    ec2.authorize_security_group_ingress(GroupId=group, IpPermissions=permissions)
    ec2.import_key_pair(KeyName="deploy", PublicKeyMaterial=(place.folder / "key.pub").read_bytes())
    nic = {"DeviceIndex": 0, "SubnetId": subnet, "Groups": [group], "AssociatePublicIpAddress": True}
    instance = ec2.run_instances(
        ImageId=IMAGE,
        InstanceType="t3.small",
        MinCount=1,
        MaxCount=1,
        KeyName="deploy",
        NetworkInterfaces=[nic],
        IamInstanceProfile={"Name": "writer"},
        MetadataOptions={"HttpTokens": "required", "HttpEndpoint": "enabled"},
    )["Instances"][0]["InstanceId"]

    def describe() -> Any:
        return ec2.describe_instances(InstanceIds=[instance])["Reservations"][0]["Instances"][0]

    wait_until(lambda: bool(describe()["State"]["Name"] == "running"), 60, "the instance")
    return str(instance), str(describe()["PublicIpAddress"])


def test_a_machine_at_amazon_is_its_profiles_role(place: Place) -> None:
    instance, address = amazon_machine(place)
    wait_until(up(place, address, "admin"), 60, "the machine")
    answer = place.run_program(address, "admin", AMAZON, control.aws_environment(place.home))
    assert answer == {"name": instance, "manifest": ["200", "200", "second", "403"], "elsewhere": "403"}
    # No way round the session's token: version 1 is refused, the other provider's server is not there.
    command = f"curl -s -o /dev/null -w '%{{http_code}}' -H 'Metadata-Flavor: Google' {METADATA}/computeMetadata/v1/"
    assert place.run_script(address, "admin", command).stdout == "401"
