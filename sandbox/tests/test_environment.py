"""What `env` tells an operator for processes on machines, and what the inventories make of it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from goud_sandbox import control
from goud_sandbox.doors import doors
from goud_sandbox.settings import Home, Settings

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def home(tmp_path: Path) -> Home:
    home = Home(tmp_path)
    Settings(proxy_port=9000, aws_port=9003, metadata_port=9004, aws_region="eu-north-1").save(home.settings)
    home.token.write_text("token\n")
    home.aws_key.write_text('{"id": "AKIA", "secret": "s"}')
    return home


def test_machines_are_led_to_addresses_that_the_doors_are_at(home: Home) -> None:
    google, amazon = control.environment(home), control.aws_environment(home)
    ports = {(door.address, door.port): door.bridge_port for door in doors(Settings.load(home.settings))}
    assert ports == {
        ("169.254.169.254", 80): 9004,
        ("169.254.169.253", 3128): 9000,
        ("169.254.169.253", 80): 9003,
    }
    proxy = json.loads(google["GOUD_BACKUP_ENVIRONMENT"])
    assert proxy["HTTPS_PROXY"] == "http://169.254.169.253:3128"
    endpoint = json.loads(amazon["GOUD_BACKUP_ENVIRONMENT"])
    assert (endpoint["AWS_ENDPOINT_URL"], endpoint["AWS_REGION"]) == ("http://169.254.169.253", "eu-north-1")
    for variables in (proxy, endpoint):  # nobody asks a metadata server through a proxy
        assert {"169.254.169.254", "metadata.google.internal"} <= set(variables["NO_PROXY"].split(","))
    assert Path(google["GOUD_BACKUP_CA_FILE"]).name == "authority.pem"
    assert amazon["GOUD_BACKUP_CA_FILE"] == ""


def backup_variables(provider: str, **environment: str) -> Any:
    """What the provider's inventory says of backups."""
    variables = ROOT / "inventories" / provider / "group_vars" / "all.yml"
    names = ", ".join(f"'{name}': chain_backup_{name}" for name in ("environment", "repository", "ca_file"))
    command = [str(Path(sys.executable).parent / "ansible"), "localhost", "-i", "localhost,", "-e", f"@{variables}"]
    command += ["-m", "ansible.builtin.debug", "-a", f"msg={{{{ {{{names}}} }}}}"]
    shell = {
        key: value for key, value in os.environ.items() if not key.startswith(("GOUD_", "AWS_", "GCP_", "ANSIBLE_"))
    }
    plain = {"ANSIBLE_STDOUT_CALLBACK": "ansible.builtin.oneline", "ANSIBLE_LOAD_CALLBACK_PLUGINS": "1"}
    process = subprocess.run(
        command, cwd="/", env=shell | plain | environment, capture_output=True, text=True, check=False, timeout=60
    )
    assert process.returncode == 0, process.stdout + process.stderr
    return json.loads(process.stdout.split("=>", 1)[1])["msg"]


def test_the_inventories_hand_it_on_and_need_nothing_of_it() -> None:
    environment = {
        "GOUD_BACKUP_ENVIRONMENT": '{"HTTPS_PROXY": "http://proxy.test:3128"}',
        "GOUD_BACKUP_CA_FILE": "/ca.pem",
    }
    assert backup_variables("gcp", GCP_PROJECT="p", **environment) == {
        "environment": {"HTTPS_PROXY": "http://proxy.test:3128"},
        "repository": "gs://p-goud-gcp-backups/chain",
        "ca_file": "/ca.pem",
    }
    assert backup_variables("aws", AWS_REGION="eu-west-1") == {
        "environment": {"AWS_DEFAULT_REGION": "eu-west-1"},
        "repository": "s3://goud-aws-backups/chain",
        "ca_file": "",
    }
