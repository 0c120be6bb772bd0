"""The role that makes and removes a bucket, against the account's own storage: the cluster's, and nobody else's."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import documentation

from .aws import KEY, REGION, Account

MAKE = """---
- hosts: localhost
  gather_facts: false
  roles: [cloud_bucket]
"""
REMOVE = """---
- hosts: localhost
  gather_facts: false
  tasks:
    - ansible.builtin.include_role: {name: cloud_bucket, tasks_from: find}
    - ansible.builtin.debug: {msg: "{{ cloud_bucket_left | to_json }}"}
    - ansible.builtin.include_role: {name: cloud_bucket, tasks_from: remove}
"""


@pytest.mark.parametrize("labels", [{"goud_cluster": "mine"}, {"goud_cluster": "another"}, {"team": "mine"}, {}])
def test_a_bucket_that_is_not_the_clusters_stays(account: Account, tmp_path: Path, labels: dict[str, str]) -> None:
    storage = account.client("s3")
    storage.create_bucket(Bucket="backups", CreateBucketConfiguration={"LocationConstraint": REGION})
    tags = [{"Key": name, "Value": value} for name, value in labels.items()]
    if tags:
        storage.put_bucket_tagging(Bucket="backups", Tagging={"TagSet": tags})
    for key in ("chain/latest.json", "others/latest.json"):
        storage.put_object(Bucket="backups", Key=key, Body=b"x")
    result = play(account, tmp_path, REMOVE)
    assert result.returncode == 0, result.stdout + result.stderr
    names = [bucket["Name"] for bucket in storage.list_buckets()["Buckets"]]
    assert names == ([] if labels.get("goud_cluster") == "mine" else ["backups"])
    assert "others/" in result.stdout
    assert ("not of this cluster" in result.stdout) == bool(names)


@pytest.mark.parametrize("mode", [[], ["--check"]])
def test_a_bucket_of_another_cluster_is_not_taken_over(account: Account, tmp_path: Path, mode: list[str]) -> None:
    storage = account.client("s3")
    storage.create_bucket(Bucket="backups", CreateBucketConfiguration={"LocationConstraint": REGION})
    tags = {"TagSet": [{"Key": "goud_cluster", "Value": "another"}]}
    storage.put_bucket_tagging(Bucket="backups", Tagging=tags)
    result = play(account, tmp_path, MAKE, *mode)
    assert result.returncode == 2, result.stdout + result.stderr
    assert "is another cluster's: its label goud_cluster is 'another', not 'mine'" in " ".join(result.stdout.split())
    assert storage.get_bucket_tagging(Bucket="backups")["TagSet"] == tags["TagSet"]


def play(account: Account, tmp_path: Path, text: str, *mode: str) -> subprocess.CompletedProcess[str]:
    playbook = tmp_path / "probe.yml"
    playbook.write_text(text)
    settings: dict[str, Any] = {
        "cloud_bucket_provider": "aws", "cloud_bucket_cluster": "mine", "cloud_bucket_name": "backups",
        "cloud_bucket_location": REGION, "cloud_bucket_allow_destroy": True,
        "ansible_python_interpreter": sys.executable,
    }  # fmt: skip
    credentials = {"AWS_ACCESS_KEY_ID": KEY.id, "AWS_SECRET_ACCESS_KEY": KEY.secret, "AWS_REGION": REGION}
    surroundings = {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{account.amazon.port}", "ANSIBLE_NOCOLOR": "1"}
    return subprocess.run(
        [Path(sys.executable).with_name("ansible-playbook"), playbook, "-i", "localhost,", "-c", "local",
         "-e", json.dumps(settings), "-v", *mode],
        cwd=documentation.ROOT, check=False, capture_output=True, text=True,
        env={**os.environ, **credentials, **surroundings, "GOUD_REPORTS": str(tmp_path / "reports")},
    )  # fmt: skip
