"""What the role cloud_bucket grants is what the backup engine needs on machines, and no more.

The role runs as an operator runs it; then the engine's own targets work as a node and as the edge: credentials from
their metadata servers, rights by the bucket's policies.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from goud_sandbox import authority
from goud_sandbox.proxy import Proxy
from goud_sandbox.serving import server

from .aws import KEY, REGION, Account
from .conftest import PROJECT, TOKEN, Cloud
from .test_metadata import address, metadata_host

pytestmark = pytest.mark.sandbox  # it needs none of it, but a playbook takes its time

ROOT = Path(__file__).resolve().parents[2]
PROGRAMS = Path(sys.executable).parent
BUCKET = "demo-backups"
PLAY = """
- hosts: localhost
  connection: local
  gather_facts: false
  vars:
    cloud_bucket_cluster: goud
    cloud_bucket_name: demo-backups
  tasks:
    - ansible.builtin.include_role: {name: cloud_bucket, tasks_from: "{{ entry }}"}
    - ansible.builtin.copy: {content: "{{ fact | to_json }}", dest: "{{ fact_file }}"}
      when: fact | length > 0
      changed_when: false
"""
ENGINE = """
import json, sys, time
from goud_backup.errors import GoudError
from goud_backup.repository.locks import Lock
from goud_backup.targets import open_target
target = open_target(sys.argv[1])
def outcome(operation, *arguments, **options):
    try:
        operation(*arguments, **options)
    except GoudError as error:
        return type(error).__name__
    return "done"
answer = {"reach": outcome(target.create)}
backup = json.dumps({"id": time.strftime("%Y%m%dT%H%M%SZ-abcdef", time.gmtime())}).encode()
for key in sys.argv[2:]:
    answer[key] = [outcome(target.put, key, b"one"), outcome(target.put, key, backup), outcome(target.delete, key)]
def lock():
    with Lock(target, "backup", "test") as holder:
        holder.check()
answer["lock"] = [outcome(lock), outcome(lock)]
answer["list"] = len(list(target.list("")))
print(json.dumps(answer))
"""
REPLACED = ["latest.json", "checks/one.json"]
KEPT = ["manifests/one.json", "objects/aa/one", "segments/one.seg", "keep/one", "marks.json", "goud-repository.json"]


class Site:
    """An operator's environment, and what its machines have in theirs."""

    def __init__(
        self, folder: Path, operator: dict[str, str], machine: dict[str, str], settings: dict[str, str]
    ) -> None:
        self.folder = folder
        self.operator = operator
        self.machine = machine
        self.settings = settings
        (folder / "play.yml").write_text(PLAY)

    def role(self, entry: str, fact: str = "''", **variables: str) -> tuple[subprocess.CompletedProcess[str], Any]:
        """Run an entry point of the role; the fact it ends with, None when it failed."""
        fact_file = self.folder / "fact.json"
        fact_file.unlink(missing_ok=True)
        settings = self.settings | {"entry": entry, "fact_file": str(fact_file)} | variables
        command = [str(PROGRAMS / "ansible-playbook"), "-i", "localhost,", str(self.folder / "play.yml")]
        command += ["-e", json.dumps(settings), "-e", json.dumps({"fact": f"{{{{ {fact} }}}}"})]
        environment = clean() | self.operator | {"ANSIBLE_CONFIG": str(ROOT / "ansible.cfg")}
        environment |= {
            "ANSIBLE_HOME": str(self.folder / "ansible"),
            "ANSIBLE_STDOUT_CALLBACK": "ansible.builtin.default",
        }
        environment |= {"ANSIBLE_ROLES_PATH": str(ROOT / "roles"), "ANSIBLE_PYTHON_INTERPRETER": sys.executable}
        process = subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=120
        )
        return process, json.loads(fact_file.read_text()) if fact_file.exists() else None

    def engine(self, url: str, keys: list[str], **variables: str) -> dict[str, Any]:
        """What the engine may do as a machine whose metadata server is in ``more``."""
        environment = clean() | self.machine | variables | {"PYTHONPATH": str(ROOT / "node/src")}
        process = subprocess.run(
            [sys.executable, "-c", ENGINE, url, *keys],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        assert process.returncode == 0, process.stderr
        answer: dict[str, Any] = json.loads(process.stdout)
        return answer


def clean() -> dict[str, str]:
    """Our environment without a cloud's variables and proxies."""
    return {
        name: value
        for name, value in os.environ.items()
        if not name.upper().startswith(("AWS_", "GCP_", "GCE_", "GOOGLE_", "HTTP", "NO_PROXY"))
    }


def has_changes(process: subprocess.CompletedProcess[str]) -> bool:
    assert process.returncode == 0, process.stdout + process.stderr
    return "changed=0" not in process.stdout


# Google ---------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def google_proxy(cloud: Cloud, tls: Path) -> Iterator[str]:
    """Google's API behind its proxy, as a whole sandbox has it; the proxy's URL."""
    authority.make(tls)
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        free.close()
        files = {"ssl_certfile": str(tls / "server.pem"), "ssl_keyfile": str(tls / "server.key")}
        api = server(cloud.google.app, "127.0.0.1", 0, **files)

        async def serve() -> None:
            proxy = asyncio.create_task(Proxy(port, listener.getsockname()[1], "").run())
            await api.serve(sockets=[listener])
            proxy.cancel()

        thread = threading.Thread(target=lambda: asyncio.run(serve()), daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{port}"
        api.should_exit = True
        thread.join()


@pytest.fixture
def google(cloud: Cloud, tmp_path: Path) -> Iterator[Site]:
    tls = tmp_path / "tls"
    with google_proxy(cloud, tls) as proxy:
        network = {"HTTPS_PROXY": proxy, "NO_PROXY": "127.0.0.1", "REQUESTS_CA_BUNDLE": str(tls / "authority.pem")}
        operator = network | {"GCP_AUTH_KIND": "accesstoken", "GCP_ACCESS_TOKEN": TOKEN, "GCP_PROJECT": PROJECT}
        settings = {
            "cloud_bucket_provider": "gcp",
            "cloud_bucket_project": PROJECT,
            "cloud_bucket_location": "europe-west4",
        }
        yield Site(tmp_path, operator, network, settings)


def google_machine(cloud: Cloud, name: str, account: str) -> str:
    cloud.instance(name, serviceAccounts=[{"email": account, "scopes": []}])
    return address(cloud, name)


def test_at_google_nodes_write_and_only_the_edge_deletes(cloud: Cloud, google: Site) -> None:
    process, identities = google.role("main", "[cloud_bucket_machine_identity, cloud_bucket_pruner_machine_identity]")
    assert has_changes(process)
    assert identities == [f"goud-{name}@{PROJECT}.iam.gserviceaccount.com" for name in ("backup", "prune")]
    assert not has_changes(google.role("main")[0])
    cloud.network()
    with metadata_host(cloud.google.metadata, google_machine(cloud, "node", identities[0])) as host:
        server = {"GCE_METADATA_HOST": host, "GCE_METADATA_IP": host}
        answer = google.engine(f"gs://{BUCKET}/chain", [*REPLACED, *KEPT], **server)
        foreign = google.engine(f"gs://{BUCKET}/elsewhere", ["latest.json"], **server)
    assert (answer["reach"], answer["lock"]) == ("done", ["done", "done"])
    for key in REPLACED:
        assert answer[key] == ["done", "done", "done"], key
    for key in KEPT:
        assert answer[key] == ["done", "AccessRefused", "AccessRefused"], key
    assert foreign["latest.json"] == ["done", "AccessRefused", "AccessRefused"]
    _, latest = google.role("latest", "cloud_bucket_latest")
    assert latest["found"] is False  # the node took it away, and the one elsewhere is another's
    write(cloud, "chain/latest.json")
    _, latest = google.role("latest", "cloud_bucket_latest")
    assert (latest["found"], 0 <= float(latest["age_hours"]) < 1) == (True, True)
    with metadata_host(cloud.google.metadata, google_machine(cloud, "edge", identities[1])) as host:
        answer = google.engine(f"gs://{BUCKET}/chain", KEPT, GCE_METADATA_HOST=host, GCE_METADATA_IP=host)
    assert all(answer[key] == ["done", "done", "done"] for key in KEPT), answer


def write(cloud: Cloud, name: str) -> None:
    params = {"uploadType": "media", "name": name}
    backup = {"id": time.strftime("%Y%m%dT%H%M%SZ-abcdef", time.gmtime())}
    assert cloud.client.request("POST", f"/upload/storage/v1/b/{BUCKET}/o", json=backup, params=params).is_success


def test_at_google_a_retention_that_would_stop_backups_is_refused(cloud: Cloud, google: Site) -> None:
    process, _ = google.role("main", cloud_bucket_retention_days="7")
    assert process.returncode != 0
    assert "cloud_bucket_soft_delete_days" in process.stdout
    assert cloud.call("GET", "/storage/v1/b", project=PROJECT)["items"] == []


# Amazon ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def amazon(account: Account, tmp_path: Path) -> Site:
    network = {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{account.amazon.port}", "AWS_DEFAULT_REGION": REGION}
    network |= {"NO_PROXY": "127.0.0.1"}
    operator = network | {"AWS_ACCESS_KEY_ID": KEY.id, "AWS_SECRET_ACCESS_KEY": KEY.secret, "AWS_REGION": REGION}
    settings = {"cloud_bucket_provider": "aws", "cloud_bucket_location": REGION}
    return Site(tmp_path, operator | {"AWS_EC2_METADATA_DISABLED": "true"}, network, settings)


def amazon_machine(account: Account, profile: str) -> str:
    instance = account.running_instance(
        IamInstanceProfile={"Name": profile}, MetadataOptions={"HttpTokens": "required"}
    )
    return str(account.describe_instance(instance)["PrivateIpAddress"])


def test_at_amazon_nodes_write_and_only_the_edge_deletes(account: Account, amazon: Site) -> None:
    process, identities = amazon.role("main", "[cloud_bucket_machine_identity, cloud_bucket_pruner_machine_identity]")
    assert has_changes(process)
    assert identities == ["goud-backup", "goud-prune"]
    iam = account.client("iam")  # as it was when nobody but an operator could be the pruner
    iam.remove_role_from_instance_profile(InstanceProfileName="goud-prune", RoleName="goud-prune")
    iam.delete_instance_profile(InstanceProfileName="goud-prune")
    for changes in (True, False):
        assert has_changes(amazon.role("main")[0]) is changes
    node = amazon_machine(account, identities[0])
    with metadata_host(account.amazon.metadata, node) as host:
        endpoint = f"http://{host}"
        answer = amazon.engine(f"s3://{BUCKET}/chain", [*REPLACED, *KEPT], AWS_EC2_METADATA_SERVICE_ENDPOINT=endpoint)
    assert (answer["reach"], answer["lock"]) == ("done", ["done", "done"])
    for key in [*REPLACED, *KEPT]:
        assert answer[key] == ["done", "done", "AccessRefused"], key  # what was replaced stays as a version
    _, latest = amazon.role("latest", "cloud_bucket_latest")
    assert (latest["found"], float(latest["age_hours"]) < 1) == (True, True)
    account.ec2.terminate_instances(InstanceIds=[instance["InstanceId"] for instance in instances(account)])
    with metadata_host(account.amazon.metadata, amazon_machine(account, identities[1])) as host:
        endpoint = f"http://{host}"
        answer = amazon.engine(f"s3://{BUCKET}/chain", KEPT, AWS_EC2_METADATA_SERVICE_ENDPOINT=endpoint)
    assert all(answer[key] == ["done", "done", "done"] for key in KEPT), answer


def instances(account: Account) -> list[Any]:
    reservations = account.ec2.describe_instances()["Reservations"]
    return [instance for reservation in reservations for instance in reservation["Instances"]]
